"""Fitting a Gaussian mixture: clusters found, labels kept, odd data taken or refused."""

import math

import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from serket.errors import DataError, GraphError, MessageError, ShapeError, StateError
from serket.graph import load_graph
from serket.messages import Categorical, Gaussian
from serket.messages.gaussian import factored
from serket.modules import chains
from serket.protocol import Evidence
from tests.modules.gmm.toys import (
    OWN,
    build,
    clusters,
    fitted,
    generator,
    inbox_of,
    loaded,
    messages,
    vacuous,
)

METHODS = pytest.mark.parametrize("method", ["blocked", "collapsed"])


@METHODS
@pytest.mark.parametrize("form", ["points", "messages"])
@pytest.mark.parametrize("seed", range(5))
def test_separated_clusters_are_recovered(form, seed, method):
    points, truth = clusters(seed)
    _, labels = fitted(points, seed, form, method=method)
    assert adjusted_rand_score(truth, labels) > 0.95


@METHODS
def test_chains_may_start_from_a_part_of_the_rows(monkeypatch, method):
    monkeypatch.setattr(chains, "_ENOUGH", 60)
    points, truth = clusters(0)
    points[::9] = math.nan
    _, labels = fitted(points, 0, method=method)
    here = torch.arange(200) % 9 > 0
    assert adjusted_rand_score(truth[here], labels[here]) > 0.95


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [2, 6])
def test_empty_clusters_come_back(monkeypatch, seed, size):
    monkeypatch.setattr(chains, "seeds", lambda z, p, k, chains, g: torch.zeros(chains, len(z), dtype=torch.int64))
    points, truth = clusters(seed)
    others = [clusters(seed + 10 * copy)[0] for copy in range(1, size // 2)]  # the same clusters, seen by more sensors
    _, labels = fitted(torch.cat([points, *others], 1), seed, sweeps=200)
    assert adjusted_rand_score(truth, labels) > 0.95


@METHODS
@pytest.mark.parametrize("form", ["points", "messages"])
def test_the_same_seed_gives_the_same_bytes(method, form):
    points, _ = clusters(0)
    options = {"form": form, "method": method, "split_merge": 1}
    one, other = fitted(points, 3, **options)[0].state(), fitted(points, 3, **options)[0].state()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(one["means"], fitted(points, 4, **options)[0].state()["means"])


@pytest.mark.parametrize("form", ["points", "messages"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_state_round_trip_is_bit_equal(form, dtype):
    points, _ = clusters(0, dtype=dtype)
    module, _ = fitted(points, form=form, sweeps=20)
    assert all(values.dtype == dtype and values.isfinite().all() for values in module.state().values())
    copy = build(4, 2 if form == "messages" else None)
    copy.load({name: values.clone() for name, values in module.state().items()})
    inbox = inbox_of(200, 4, 2 if form == "messages" else None, dtype=dtype)
    evidence = Evidence.none(200) if form == "messages" else Evidence.of(points)
    a = module.infer(inbox, evidence, generator=generator())
    b = copy.infer(inbox, evidence, generator=generator(1))
    assert torch.equal(a.log_evidence, b.log_evidence)
    assert torch.equal(module.own_prior["component"].logits, copy.own_prior["component"].logits)
    for name, message in a.messages.items():
        assert message.dtype == dtype
        for key, values in message.tensors().items():
            assert torch.equal(values, b.messages[name].tensors()[key])


@METHODS
@pytest.mark.parametrize("form", ["points", "messages"])
def test_a_warm_start_keeps_labels_and_a_restart_does_not_depend_on_it(form, method):
    points, _ = clusters(1)
    module, before = fitted(points, 0, form, method=method)
    _, after = fitted(points + 0.3, 7, form, module=module, method=method)
    assert float((before == after).double().mean()) > 0.98
    other = "collapsed" if method == "blocked" else "blocked"
    _, after = fitted(points, 8, form, module=module, method=other, split_merge=1)  # one method goes on from another
    assert float((before == after).double().mean()) > 0.98
    with pytest.raises(ShapeError):
        fitted(torch.cat([points, points], 1), 0, module=fitted(points, 0)[0])
    fitted(points.float(), 0, form, module=module)  # a refit may come in another precision
    assert module.state()["means"].dtype == torch.float32
    _, again = fitted(points, 11, form, module=module, method=method, restart=True)
    _, first = fitted(points, 11, form, method=method)
    assert torch.equal(again, first)


@METHODS
@pytest.mark.parametrize("warm", [False, True])
def test_labels_follow_an_informative_message(warm, method):
    points, truth = clusters(1)
    module = fitted(points, 0)[0] if warm else None
    names = torch.tensor([2, 0, 3, 1])[truth]
    says = torch.nn.functional.one_hot(names, 4).double() * 2.0
    says[torch.arange(200) % 8 < 4] = 0.0  # half of the rows of every cluster say nothing
    for owned in (OWN, frozenset()):
        _, labels = fitted(points, 5, bias=Categorical(says), owned=owned, module=module, method=method)
        assert float((labels == names).double().mean()) > 0.98


def test_draws_are_aligned_and_weights_are_learnt_only_if_owned():
    points, truth = clusters(2)
    points = torch.cat([points, points[truth == 0]] * 2)
    module, _ = fitted(points, 0)
    means = module.state()["means"]
    assert float((means - means[:1]).abs().max()) < 0.5
    probs = module.own_prior["component"].probs.sort().values
    torch.testing.assert_close(probs, torch.tensor([0.2, 0.2, 0.2, 0.4], dtype=probs.dtype), rtol=0, atol=0.05)
    module, _ = fitted(points, 0, owned=frozenset())
    assert bool(module.own_prior["component"].is_vacuous())


@METHODS
def test_missing_rows_do_not_matter(method):
    points, truth = clusters(3)
    hole = torch.cat([points, torch.full((50, 2), math.nan, dtype=points.dtype)])
    one, _ = fitted(points, 0, method=method)
    other, labels = fitted(hole, 0, method=method)
    assert all(torch.equal(one.state()[name], other.state()[name]) for name in one.state())
    # ... unless another module knows their class: then they count for the weights, and for nothing else.
    says = torch.zeros(250, 4, dtype=torch.float64)
    says[200:, 1] = 20.0
    module, _ = fitted(hole, 0, bias=Categorical(says), method=method)
    assert float(module.own_prior["component"].probs[1]) > 0.3


def test_degenerate_messages_are_taken():
    g = generator(0)
    points, truth = clusters(4)
    line = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    first = torch.arange(200) < 150
    precision = torch.where(first[:, None, None], 9 * torch.eye(2).double(), 9 * line.mT @ line)
    info = (precision @ points.unsqueeze(-1)).squeeze(-1)
    module = build(4, 2)
    inbox = {"component": vacuous(200, 4), "observation": Gaussian(info, precision).mask(torch.arange(200) < 190)}
    module.fit(Evidence.none(200), inbox, generator=g, owned=OWN, sweeps=40)
    logits = module.infer(inbox, Evidence.none(200), generator=g).messages["component"].logits
    assert bool(logits.isfinite().all()) and bool((logits[190:] == 0).all())
    assert adjusted_rand_score(truth[:150], logits[:150].argmax(-1)) > 0.95


@pytest.mark.parametrize("strength", [1.0, 1e4, 1e6])
@pytest.mark.parametrize("seed", range(8))
def test_messages_of_fewer_rows_than_dimensions_are_taken(seed, strength):
    """Three rows, four dimensions, a rank of one to three: rounding makes some eigenvalues of the sums negative."""
    g = generator(seed)
    root = (strength**0.5 * torch.randn(3, 4, 1 + seed % 3, generator=g)).float()
    precision = root @ root.mT
    info = (precision @ torch.randn(3, 4, 1, generator=g)).squeeze(-1)
    inbox = {"component": vacuous(3, 2, torch.float32), "observation": Gaussian(info, precision)}
    module = build(2, 4, draws=4)
    module.fit(Evidence.none(3), inbox, generator=g, owned=OWN, sweeps=16, restarts=2)
    reply = module.infer(inbox, Evidence.none(3), generator=g)
    assert bool(reply.messages["component"].logits.isfinite().all()) and bool(reply.log_evidence.isfinite().all())


def test_factors_forgive_rounding_and_nothing_more():
    """An exactly singular matrix, minus what rounding takes: slack in that row only, and an error beyond."""
    singular = torch.tensor([[1.0, 1.0], [1.0, 1.0]]) - 3e-7 * torch.eye(2)
    fine = torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    factors = factored(torch.stack([fine, 1e8 * singular]))
    assert torch.equal(factors[0], torch.linalg.cholesky(fine))
    torch.testing.assert_close(factors[1] @ factors[1].mT, 1e8 * singular, rtol=1e-4, atol=0)
    with pytest.raises(MessageError, match="negative precision"):
        factored(torch.stack([fine, fine - 2 * torch.eye(2)]))


def test_options_carry_their_bounds(tmp_path):
    """`serket check` refuses them where they stand, before anything runs."""
    for name, options in (("sweeps", "fit: {sweeps: 0}"), ("restarts", "fit: {restarts: 0}"), ("draws", "draws: 0"),
                          ("alpha", "alpha: 0.0"), ("scatter", "scatter: -1.0"), ("kappa", "kappa: 0.0")):  # fmt: skip
        path = tmp_path / f"{name}.yaml"
        path.write_text(
            "serket: 1\nvariables:\n  kind: {family: categorical, size: 3}\nmodules:\n"
            f"  kinds: {{type: gmm, data: x, ports: {{component: kind}}, {options}}}\n"
        )
        with pytest.raises(GraphError, match=rf"(?s)(?=.*{name})(?=.*{path.name}:5:\d+)"):
            load_graph(path)


@METHODS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_odd_data_are_taken(method, dtype):
    """Constant and tiny and huge columns, as many rows as components, one component, equal rows."""
    points, truth = clusters(0, dtype=dtype)
    other = clusters(1, dtype=dtype)[0]  # the same clusters, by another sensor
    columns = [points, torch.full((200, 1), 3.1), 1e-12 * other[:, :1], 1e12 * other[:, 1:]]
    _, labels = fitted(torch.cat([column.to(dtype) for column in columns], 1), 0, method=method)
    assert adjusted_rand_score(truth, labels) > 0.95
    for few, components in ((points[:4], 4), (points, 1), (points[:2], 1), (points[:8:4].repeat(40, 1), 4)):
        module, _ = fitted(few, 0, components=components, method=method, sweeps=20, module=build(components))
        assert all(bool(values.isfinite().all()) for values in module.state().values())


@METHODS
def test_what_cannot_be_fitted_is_refused(method):
    points, _ = clusters(0)
    for wrong in (torch.ones(20, 2).double(), points[:3], points[:1], torch.full_like(points, math.nan)):
        with pytest.raises(DataError):
            fitted(wrong, 0, method=method)
    with pytest.raises(DataError):
        build(4, 2).fit(
            Evidence.none(9),
            {"component": vacuous(9, 4), "observation": Gaussian.vacuous((9,), 2)},
            generator=generator(),
            method=method,
        )


def test_mistakes_are_named():
    points, _ = clusters(0)
    wrong = {"weights": "sticks"}, {"downward": "up"}, {"particles": 0}
    for options in ({"alpha": 0.0}, {"draws": 0}, {"scatter": -1.0}, {"kappa": math.nan}, *wrong):
        with pytest.raises(GraphError, match=next(iter(options))):
            build(4, **options)
    for options in ({"downward": "tilted"}, {"downward": "particles"}):
        with pytest.raises(GraphError, match="is not bound"):
            build(4, **options)
    with pytest.raises(GraphError, match="does not send"):
        build(4, 2, particles=10)
    for options in ({"sweeps": 0}, {"sweeps": 10}, {"restarts": 0}, {"method": "fast"}):
        with pytest.raises(GraphError, match=next(iter(options))):
            fitted(points, 0, **options)
    module = build(4)
    with pytest.raises(StateError, match="fitted"):
        module.infer(inbox_of(3, 4), Evidence.of(points[:3]), generator=generator())
    assert module.state() == {} and bool(module.own_prior["component"].is_vacuous())
    with pytest.raises(StateError, match="cholesky"):
        module.load({"means": torch.zeros(8, 4, 2), "location": torch.zeros(2), "scale": torch.ones(2)})
    module, state = loaded(2, 3, 2)
    with pytest.raises(ShapeError):
        module.infer(inbox_of(3, 3, 5), Evidence.none(3), generator=generator())
    with pytest.raises(MessageError, match="negative"):
        bad = Gaussian(torch.zeros(1, 2).double(), torch.full((1, 2), -100.0).double())
        module.infer({"component": vacuous(1, 3), "observation": bad}, Evidence.none(1), generator=generator())
    with pytest.raises(GraphError, match="observation"):
        module.predict(inbox_of(3, 3, 2), generator=generator())
    with pytest.raises(GraphError, match="both"):
        module.fit(
            Evidence.of(points), {"component": vacuous(200, 3), "observation": messages(200, 2)}, generator=generator()
        )


def test_other_names_reach_every_draw_however_many_were_loaded():
    _, state = loaded(2, 3, 2)
    module = build(3, 2)  # 8 draws, of which the state has 2
    module.load(state)
    module.relabel("component", torch.tensor([1, 2, 0]))
    for name in ("means", "cholesky", "log_weights"):
        torch.testing.assert_close(module.state()[name], state[name][:, [1, 2, 0]])


def test_predictions_can_be_sampled():
    points, _ = clusters(0)
    module, _ = fitted(points, 0, sweeps=20)
    says = Categorical(torch.tensor([[20.0, 0, 0, 0], [0, 0, 20.0, 0]], dtype=torch.float64))
    predicted = module.predict({"component": says}, generator=generator())
    assert predicted.batch_shape == (2,) and predicted.event_shape == (2,)
    reply = module.infer({"component": says}, Evidence.of(predicted.mean), generator=generator())
    assert reply.messages["component"].logits.argmax(-1).tolist() == [0, 2]
