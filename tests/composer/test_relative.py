"""Relative representations: the formulas written out, retrieval and labelling with no training, honest intervals."""

import itertools

import pytest
import torch

import serket
from serket.composer import Relative, retrieve, vote
from serket.composer.relative.anchors import near
from serket.errors import DataError, ShapeError
from serket.messages import Family, Gaussian
from serket.protocol import Evidence, Port, Role
from tests.composer.problems import draw, generator, messages_about, random, views_of, with_gaps


def build(sizes, shared, **options):
    ports = {"shared": Port(Role.PARENT, Family.GAUSSIAN, shared)}
    return Relative(
        ports | {f"views[{m}]": Port(Role.CHILD, Family.GAUSSIAN, d) for m, d in enumerate(sizes)}, **options
    )


def inbox_of(told, shared):
    rows = len(told[0].info)
    return {"shared": Gaussian.standard((rows,), shared, dtype=torch.float64)} | {
        f"views[{m}]": one for m, one in enumerate(told)
    }


def fitted(composer, told, row_id=None):
    shared = composer.ports["shared"].size
    rows = Evidence.none(len(told[0].info))
    rows = rows if row_id is None else Evidence(row_id, None, rows.observed)
    report = composer.fit(rows, inbox_of(told, shared), generator=generator(0))
    return composer, report


def infer(composer, inbox, asked=None):
    rows = Evidence.none(len(inbox["shared"].info))
    return composer.infer(inbox, rows, generator=generator(0), ports=asked).messages


def world(seed, rows, sizes=(5, 6), shared=3, noise=60.0):
    """Messages about views that are linear in a shared latent, with private parts and noise."""
    g = generator(seed)
    _, z = draw(g, views_of(g, sizes, shared, 1), rows)
    return z, messages_about(g, z, precision=noise)


def clusters(seed, rows, groups=4):
    """Two latents of a category, of sizes 5 and 4, and the category."""
    g = generator(seed)
    centres = [4 * random(generator(90 + m), groups, d) for m, d in enumerate((5, 4))]
    label = torch.randint(groups, (rows,), generator=g)
    z = [c[label] + random(g, rows, c.shape[1]) for c in centres]
    return messages_about(g, z, precision=10.0), label


@pytest.mark.parametrize(("keep", "itself"), [(1, True), (4, True), (4, False), (12, True), (12, False)])
def test_weights_are_powers_of_cosines_less_the_best_left_out(keep, itself):
    g = generator(keep)
    anchors = random(g, 12, 3)
    points = anchors if not itself else random(g, 9, 3)
    found = near(points, anchors, torch.ones(len(points)).double(), keep=keep, power=3.0, itself=itself)
    for n, point in enumerate(points):
        cosines = {
            i: float(torch.cosine_similarity(point, a, dim=0)) for i, a in enumerate(anchors) if itself or i != n
        }
        best = sorted(cosines, key=lambda i: -cosines[i])
        left = max(0.0, cosines[best[keep]]) ** 3 if keep < len(best) else 0.0
        expected = {i: max(0.0, cosines[i]) ** 3 - left for i in best[:keep]}
        total = sum(max(0.0, value) for value in expected.values())
        for i, weight in zip(found.which[n].tolist(), found.weight[n].tolist(), strict=True):
            wanted = max(0.0, expected.get(i, 0.0)) / total
            assert weight == pytest.approx(wanted, abs=1e-7), (n, i)
        assert float(found.weight[n].sum()) == pytest.approx(1) and (
            itself or float(found.weight[n][found.which[n] == n].sum()) == 0
        )


def test_a_representation_is_continuous_where_anchors_come_and_go():
    """Along a circle the k nearest change; the representation does not jump."""
    anchors = random(generator(1), 30, 2)
    angle = torch.linspace(0, 6.28, 40_001).double()
    points = torch.stack([angle.cos(), angle.sin()], 1)
    one = near(points, anchors, torch.ones(len(points)).double(), keep=5, power=8.0)
    whole = torch.zeros(len(points), 30).double().scatter_add(1, one.which, one.weight)
    assert float((whole[1:] - whole[:-1]).abs().max()) < 0.01
    assert len(set(map(tuple, one.which.sort(1).values.tolist()))) > 20


def test_replies_are_weighted_anchors():
    """Shared and view from the representation, the anchors and the errors, by loops; all messages as sure as anchors."""
    composer, _ = fitted(build((5, 6, 4), 3, keep=6), world(2, 60, (5, 6, 4))[1])
    told = [Gaussian(m.info, m.precision * 100) for m in world(2, 8, (5, 6, 4))[1]]
    inbox = inbox_of(told, 3)
    reply = infer(composer, inbox)
    for target, sources in (("shared", (0, 1, 2)), ("views[1]", (0, 2))):
        space = composer._spaces[target]
        marginals = {m: Gaussian.from_moments(composer._spaces[f"views[{m}]"].location,
                                              composer._spaces[f"views[{m}]"].scale ** 2) for m in sources}  # fmt: skip
        weights = composer.represent({f"views[{m}]": told[m] * marginals[m].expand(8) for m in sources})
        torch.testing.assert_close(weights.sum(1), torch.ones(8).double())
        for row in range(8):
            mean = sum(w * a for w, a in zip(weights[row], space.anchors, strict=True))
            scatter = sum(w * torch.outer(a - mean, a - mean) for w, a in zip(weights[row], space.anchors, strict=True))
            kind = len(sources) - 1
            covariance = (space.stretch[kind] * scatter + space.errors[kind]) / 2 + space.open
            belief = reply[target]
            if target == "shared":
                values, vectors = torch.linalg.eigh(covariance)
                covariance = vectors @ values.clamp(max=1).diag() @ vectors.T
                belief = belief * composer.own_prior["shared"].expand(8)
            mean = space.location + space.scale * mean
            covariance = space.scale.diag() @ covariance @ space.scale.diag()
            torch.testing.assert_close(belief.mean()[row], mean, rtol=1e-8, atol=1e-8)
            torch.testing.assert_close(belief.covariance()[row], covariance, rtol=1e-8, atol=1e-8)


def test_errors_are_those_of_anchors_left_out():
    """Two views: R of one from the other, by refitting nothing and leaving each anchor out by hand."""
    composer, report = fitted(build((5, 6), 3, keep=4, power=2.0), world(3, 25)[1])
    a, b = (composer._spaces[f"views[{m}]"].anchors for m in range(2))
    errors = []
    for n in range(25):
        rest = [i for i in range(25) if i != n]
        one = near(a[n : n + 1], a[rest], torch.ones(1).double(), keep=4, power=2.0)
        errors.append(b[n] - (one.weight[0].unsqueeze(1) * b[rest][one.which[0]]).sum(0))
    gap = torch.stack(errors)
    raw = gap.T @ gap
    expected = (raw + 6 * raw.diagonal().diag() / 25) / 31 + 1e-4 * torch.eye(6).double()
    torch.testing.assert_close(composer._spaces["views[1]"].errors[0], expected, rtol=1e-6, atol=1e-8)
    assert report.history["left_out_error"] == [pytest.approx(float(composer._spaces["shared"].errors[1].trace()) / 3)]


def test_units_of_a_latent_do_not_matter():
    _, told = world(4, 80)
    scale, move = torch.tensor([1e-3, 1.0, 50.0, 1e4, 2.0]).double(), torch.tensor([0.0, 5.0, -1.0, 1e4, 3.0]).double()
    other = [
        Gaussian(told[0].info / scale + told[0].precision * move / scale**2, told[0].precision / scale**2),
        told[1],
    ]
    one, two = fitted(build((5, 6), 3), told)[0], fitted(build((5, 6), 3), other)[0]
    left, right = infer(one, inbox_of(told, 3)), infer(two, inbox_of(other, 3))
    for name in ("shared", "views[1]"):
        torch.testing.assert_close(left[name].info, right[name].info, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(move + scale * left["views[0]"].mean(), right["views[0]"].mean(), rtol=1e-5, atol=1e-5)


def test_rows_of_another_modality_are_retrieved_without_training():
    """Of 300 unseen rows of another view, turned, stretched and moved, the partner of a query is the first found."""
    g = generator(5)
    z = random(g, 900, 4)
    turn = torch.linalg.qr(random(g, 4, 4))[0]
    told = messages_about(g, [z, 30 * z @ turn + 7], precision=3000.0)
    train, test = slice(0, 600), slice(600, 900)
    composer, _ = fitted(build((4, 4), 4), [m[train] for m in told], row_id=torch.arange(600) + 7000)
    assert composer.anchor_rows.tolist() == list(range(7000, 7600))
    heard = [composer.represent({f"views[{m}]": told[m][test]}) for m in (0, 1)]
    partner = torch.arange(300).unsqueeze(1)
    found = retrieve(heard[0], heard[1], 10)
    assert found.shape == (300, 10) and float((found == partner).any(1).double().mean()) > 0.99  # chance: 0.03
    assert float((found[:, :1] == partner).double().mean()) > 0.9
    shared = []
    for m in (0, 1):
        alone = [one[test].mask(torch.full((300,), k == m)) for k, one in enumerate(told)]
        inbox = inbox_of(alone, 4)
        shared.append((infer(composer, inbox, frozenset({"shared"}))["shared"] * inbox["shared"]).mean())
    assert float((retrieve(*shared, 10) == partner).any(1).double().mean()) > 0.9
    # The same modality finds itself, first.
    assert torch.equal(retrieve(heard[0], heard[0], 1), partner)
    with pytest.raises(ShapeError, match="not over the same anchors"):
        retrieve(heard[0], heard[1][:, :9])


def test_labels_of_a_few_anchors_name_rows_of_any_view():
    """Ten labels a category, on training rows; unseen rows named from either view, or from both."""
    told, label = clusters(6, 500)
    train, test = slice(0, 400), slice(400, 500)
    composer, _ = fitted(build((5, 4), 4, keep=120, power=4.0), [m[train] for m in told])
    sparse = torch.full((400,), -1)
    for k in range(4):
        few = (label[train] == k).nonzero().flatten()[:10]
        sparse[few] = k
    for views in ((0,), (1,), (0, 1)):
        named = vote(composer.represent({f"views[{m}]": told[m][test] for m in views}), sparse[composer.anchor_rows], 4)
        assert float((named.probs.argmax(1) == label[test]).double().mean()) > 0.9, views
    nobody = vote(torch.zeros(2, 400).double(), sparse, 4)
    assert bool(nobody.is_vacuous().all())
    for wrong in (sparse[:-1], sparse + 1):
        with pytest.raises(DataError, match=r"(?s)labels do not fit the anchors.*400 labels below 4.*anchor_rows"):
            vote(torch.zeros(2, 400).double(), wrong, 4)


@pytest.mark.parametrize("views", [2, 4])
def test_intervals_hold_what_they_claim(views):
    """90 % intervals of each view from the others, one and all, and of shared, on unseen rows."""
    sizes = (5, 6, 4, 5)[:views]
    z, told = world(7, 1500, sizes, noise=100.0)
    composer, _ = fitted(build(sizes, 3), [m[:1000] for m in told])
    test = [m[1000:] for m in told]
    for kept, target in itertools.product(({0}, set(range(views))), range(views)):
        if not kept - {target}:
            continue
        inbox = inbox_of([m.mask(torch.full((500,), k in kept)) for k, m in enumerate(test)], 3)
        reply = infer(composer, inbox)[f"views[{target}]"]
        inside = (z[target][1000:] - reply.mean()).abs() < 1.6449 * reply.variance().sqrt()
        assert 0.86 < float(inside.double().mean()) < 0.96, (kept, target)


def test_what_tells_next_to_nothing_counts_for_nothing():
    """Precision from full to none: the belief at shared goes to its prior, that of a view to its marginal, smoothly."""
    _, told = world(8, 200)
    composer, _ = fitted(build((5, 6), 3), told)
    inbox = inbox_of([m[:20] for m in told], 3) | {"shared": composer.own_prior["shared"].expand(20)}
    gaps = []
    for t in (1.0, 1e-2, 1e-4, 1e-9):
        weak = inbox | {"views[0]": inbox["views[0]"] ** t, "views[1]": inbox["views[1]"].mask(torch.zeros(20) > 0)}
        reply = infer(composer, weak)
        moved = (reply["shared"] * inbox["shared"]).mean()
        space = composer._spaces["views[1]"]
        gaps.append((float(moved.norm()), float((reply["views[1]"].variance() / space.scale**2 - 1).abs().max())))
    assert gaps == sorted(gaps, reverse=True) and gaps[0][0] > 1 and max(gaps[3]) < 1e-9
    # A whisper beside a clear voice is not heard, either.
    beside = inbox | {"views[1]": inbox["views[1]"] ** 1e-4}
    alone = inbox | {"views[1]": inbox["views[1]"].mask(torch.zeros(20) > 0)}
    a, b = ((infer(composer, one)["shared"] * inbox["shared"]).mean() for one in (beside, alone))
    torch.testing.assert_close(a, b, rtol=0, atol=0.02)


def test_views_hear_what_is_said_of_shared():
    """A sharp message at an anchor's coordinates brings that anchor's views back, better than the marginal does."""
    _, told = world(9, 400, noise=200.0)
    composer, _ = fitted(build((5, 6), 3), told)
    silent = [m.mask(torch.zeros(400) > 0) for m in told]
    places = composer._spaces["shared"].anchors
    inbox = inbox_of(silent, 3) | {"shared": Gaussian.from_moments(places, torch.full_like(places, 1e-3))}
    truth = composer._spaces["views[0]"]
    gap = (infer(composer, inbox)["views[0]"].mean() - truth.location) / truth.scale - truth.anchors
    assert float(gap.square().mean()) < 0.5 * float(truth.anchors.square().mean())


def test_anchors_are_complete_rows_and_at_most_so_many():
    _, told = world(10, 90)
    gappy = with_gaps(generator(1), told, 0.3)
    complete = (~gappy[0].is_vacuous() & ~gappy[1].is_vacuous()).nonzero().flatten()
    composer, _ = fitted(build((5, 6), 3), gappy)
    assert torch.equal(composer.anchor_rows, complete)
    few, _ = fitted(build((5, 6), 3, anchors=10), gappy)
    assert len(few.anchor_rows) == 10 and set(few.anchor_rows.tolist()) <= set(complete.tolist())
    with pytest.raises(
        DataError, match=r"(?s)views\[0\], views\[1\]: .*need anchors.*found: 1 of 90 rows.*complete rows"
    ):
        fitted(build((5, 6), 3), [gappy[0], told[1].mask(torch.arange(90) == complete[0])])
    # Two anchors, one neighbour: enough to answer.
    pair, _ = fitted(build((5, 6), 3, keep=1), [m.mask(torch.arange(90) < 2) for m in told])
    reply = infer(pair, inbox_of(told, 3))
    assert all(bool(one.info.isfinite().all() & one.precision.isfinite().all()) for one in reply.values())


def test_a_graph_retrieves_and_labels_through_beliefs():
    """Sensors, a relative composer, and what a user writes: beliefs given one sense, its representation, its uses."""
    g = generator(11)
    label = torch.arange(240) % 4
    centres = [4 * random(g, 4, 3), 4 * random(g, 4, 3)]
    data = {name: (c[label] + random(g, 240, 3)).numpy() for name, c in zip("ab", centres, strict=True)}
    sensor = {"type": "linear_gaussian", "matrix": torch.eye(3).tolist(), "noise": (0.2 * torch.eye(3)).tolist()}
    graph = serket.load_graph({
        "serket": 1,
        "variables": {name: {"family": "gaussian", "size": 3} for name in ("za", "zb", "s")},
        "modules": {name: {**sensor, "data": name, "ports": {"given": f"z{name}"}} for name in "ab"},
        "composers": {"body": {"type": "relative", "ports": {"shared": "s", "views": ["za", "zb"]}}},
    })  # fmt: skip
    train = {name: values[:200] for name, values in data.items()}
    model = serket.fit(graph, train)
    body = model.modules["body"]
    given = [model.infer({name: data[name][200:]})[f"z{name}"] for name in "ab"]
    a, b = (body.represent({f"views[{m}]": belief}) for m, belief in enumerate(given))
    assert float((label[200:][retrieve(a, b, 5)] == label[200:].unsqueeze(1)).double().mean()) > 0.9
    assert float((vote(a, label[body.anchor_rows], 4).probs.argmax(1) == label[200:]).double().mean()) > 0.95
    # A sense that is not there represents nothing.
    assert not bool(
        body.represent({"views[1]": model.infer({"a": data["a"][200:]}, active=frozenset({"body"}))["zb"]}).any()
    )
