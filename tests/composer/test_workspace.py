"""The workspace as a composer: calibrated on linear-Gaussian truth, wider where told less, and hard to break."""

import itertools

import pytest
import torch

import serket
from serket.composer.workspace.composer import Workspace
from serket.errors import DataError, GraphError
from serket.messages import Gaussian
from serket.protocol import Evidence, Port, Role
from tests.composer.problems import draw, generator, messages_about, random, views_of

SIZES, SHARED = (4, 3, 5), 3


def ports(sizes=SIZES, shared=SHARED):
    views = {f"views[{m}]": Port(Role.CHILD, "gaussian", size) for m, size in enumerate(sizes)}
    return {"shared": Port(Role.PARENT, "gaussian", shared), **views}


def inbox(told, shared=SHARED):
    rows = len(told[0].info)
    found = {"shared": Gaussian.standard((rows,), shared, dtype=torch.float64)}
    return found | {f"views[{m}]": one for m, one in enumerate(told)}


def world(rows, seed=0, sizes=SIZES):
    g = generator(seed)
    views = views_of(g, sizes, SHARED, 1)
    _, z = draw(g, views, rows)
    return z, messages_about(g, z)


def fitted(told, seed=0, epochs=30, **options):
    made = Workspace(ports([one.size for one in told]), **options)
    report = made.fit(Evidence.none(len(told[0].info)), inbox(told), generator=generator(seed), epochs=epochs)
    assert all(torch.tensor(curve).isfinite().all() for curve in report.history.values())
    return made


def answered(made, told, ports=None):
    return made.infer(inbox(told), Evidence.none(len(told[0].info)), generator=generator(0), ports=ports).messages


def only(told, kept):
    return [one.mask(torch.full((len(one.info),), m in kept)) for m, one in enumerate(told)]


def covered(message, truth):
    """How often the 90 % interval of a dimension holds the truth."""
    return float(((truth - message.mean()).abs() < 1.645 * message.variance().sqrt()).double().mean())


def coverages(made, z, told):
    """Coverage of each view by each subset of the others, and of the state of all by each subset."""
    unit = Gaussian.standard((len(z[0]),), SHARED, dtype=torch.float64)
    full = (answered(made, told)["shared"] * unit).mean()
    of_views, of_states = {}, {}
    for count in (1, 2):
        for kept in itertools.combinations(range(3), count):
            replies = answered(made, only(told, kept))
            of_states[kept] = covered(replies["shared"] * unit, full)
            for m in set(range(3)) - set(kept):
                of_views[kept, m] = covered(replies[f"views[{m}]"], z[m])
    return of_views, of_states


@pytest.mark.parametrize("form", [{}, pytest.param({"slots": 4, "width": 16}, marks=pytest.mark.stat)])
def test_replies_are_calibrated_on_linear_gaussian_truth(form):
    """Nominal 90 %, on rows not fitted: every view from every subset of the others, and the state of all views."""
    z, told = world(3000)
    made = fitted([one[:1400] for one in told], hidden=32, **form)
    views, states = coverages(made, [one[1400:] for one in z], [one[1400:] for one in told])
    for found in (views, states):
        assert all(0.83 < value < 0.95 for value in found.values()), found
        assert abs(sum(found.values()) / len(found) - 0.9) < 0.03, found


@pytest.mark.stat
def test_predictions_come_near_the_exact_ones():
    """Mean squared error of each view from the others, over what it is from its mean alone: 0.1 from the exact one."""
    from serket.composer.linear_gaussian import LinearGaussianComposer

    g = generator(0)
    views = views_of(g, SIZES, SHARED, 1)
    _, z = draw(g, views, 4000)
    told = messages_about(g, z)
    made, exact = fitted([one[:2000] for one in told], epochs=100), LinearGaussianComposer(ports(), private=1)
    exact.views = views
    for m in range(3):
        errors = []
        for composer in (made, exact):
            reply = answered(composer, [one[2000:] for one in told])[f"views[{m}]"]
            errors.append(float((z[m][2000:] - reply.mean()).square().mean() / z[m].var(0).mean()))
        assert errors[1] <= errors[0] < errors[1] + 0.15


def small(seed=0, **options):
    _, told = world(200, seed)
    return fitted(told, epochs=5, hidden=8, **options), told


@pytest.mark.parametrize("form", [{}, {"slots": 3, "width": 6, "top": 1}])
def test_weak_messages_tell_less(form):
    made, told = small(**form)
    said = [answered(made, [one**power for one in told])["shared"].precision for power in (1.0, 0.1, 1e-3, 1e-9)]
    for more, less in itertools.pairwise(said):
        assert bool((less <= more + 1e-12).all()) and float(less.mean()) < float(more.mean())
    # Next to nothing is next to nothing: what is sent goes to zero with what is heard, and so does its pull.
    faint = answered(made, [one**1e-9 for one in told])["shared"]
    assert float(faint.info.abs().max()) < 1e-3 and float(faint.precision.max()) < 1e-3
    unit = Gaussian.standard((200,), SHARED, dtype=torch.float64)
    everything, two = answered(made, told)["shared"] * unit, answered(made, only(told, (0, 1)))["shared"] * unit
    assert float(everything.variance().mean()) < float(two.variance().mean()) < 1


def test_what_is_said_of_shared_moves_the_views_and_narrows_them():
    made, told = small()
    quiet = only(told, ())
    near, far = inbox(quiet), inbox(quiet)
    near["shared"] = Gaussian.from_moments(random(generator(1), 200, SHARED), 0.01 * torch.ones(200, SHARED).double())
    far["shared"] = Gaussian.from_moments(near["shared"].mean(), 0.5 * torch.ones(200, SHARED).double())
    ask = dict(generator=generator(0), ports=frozenset({"views[0]"}))
    a, b = (made.infer(one, Evidence.none(200), **ask).messages["views[0]"] for one in (near, far))
    assert bool((a.variance() < b.variance()).all())
    torch.testing.assert_close(a.mean(), b.mean())
    population = made.infer(inbox(quiet), Evidence.none(200), **ask).messages["views[0]"]
    assert float((a.mean() - population.mean()).abs().max()) > 1e-3
    # Where nobody says anything: the population of the messages it was fitted on.
    whole = torch.stack([m.mean() for m in (told[0],)]).squeeze(0)
    torch.testing.assert_close(population.mean()[0], whole.mean(0), rtol=0.2, atol=0.2)
    full = inbox(quiet) | {"shared": far["shared"].full()}
    again = made.infer(full, Evidence.none(200), **ask).messages["views[0]"]
    torch.testing.assert_close(again.precision, b.precision, rtol=1e-8, atol=1e-8)


def scores(told, z, pairs, seed):
    """R2 of view 1 from view 0 on rows not fitted: taught by pairs alone, and by pairs and rows of one view each."""
    rows, found = 1000, []
    alone = torch.arange(rows) >= pairs
    either = torch.arange(rows) % 2 == 0
    parted = [told[0][:rows].mask(~alone | either), told[1][:rows].mask(~alone | ~either)]
    for taught in ([one[:pairs] for one in told], parted):
        epochs = 60 if len(taught[0].info) > pairs else 60 * rows // pairs // 4
        made = fitted(taught, seed, epochs=epochs, hidden=64)
        guess = answered(made, only([one[rows:] for one in told], (0,)))["views[1]"].mean()
        truth = z[1][rows:]
        found.append(1 - float((truth - guess).square().sum() / (truth - truth.mean(0)).square().sum()))
    return found


@pytest.mark.stat
def test_unpaired_rows_help_where_pairs_are_few():
    gains = []
    for seed in range(3):
        z, told = world(2000, seed, (8, 8))
        paired, both = scores(told, z, 40, seed)
        gains.append(both - paired)
    assert sorted(gains)[1] > 0, gains


def odd(case):
    _, told = world(60)
    if case == "one view":
        return told[:1]
    if case == "the same twice":
        return [told[0], told[0]]
    if case == "a view with one row":
        return [told[0], told[1].mask(torch.arange(60) == 7)]
    if case == "a constant latent":
        return [told[0], Gaussian(torch.full((60, 2), 3.0).double(), torch.ones(60, 2).double())]
    if case == "no complete row":
        return [told[0].mask(torch.arange(60) % 2 == 0), told[1].mask(torch.arange(60) % 2 == 1)]
    return [one.mask(torch.arange(60) < 2) for one in told]


@pytest.mark.parametrize("form", [{}, {"slots": 2, "width": 4}])
@pytest.mark.parametrize("case", ["one view", "the same twice", "a view with one row", "a constant latent",
                                  "no complete row", "two rows"])  # fmt: skip
def test_odd_rows_are_learnt_from(case, form):
    told = odd(case)
    made = fitted(told, epochs=3, hidden=4, **form)
    replies = answered(made, told)
    assert all(bool(values.isfinite().all()) for one in replies.values() for values in one.tensors().values())
    assert all(bool(one.is_semidefinite().all()) for one in replies.values())
    if case in ("one view", "no complete row"):  # nothing told how views relate: a view hears its population
        alike = replies["views[0]"].precision
        torch.testing.assert_close(alike, alike[:1].expand_as(alike))


def test_nothing_to_learn_from_is_refused():
    _, told = world(5)
    with pytest.raises(DataError, match="rows to learn from"):
        fitted([one.mask(torch.arange(5) == 0) for one in told])


GRAPH = """serket: 1
variables: {{a: {{family: gaussian, size: 2}}, b: {{family: gaussian, size: 2}}, s: {{family: gaussian, size: 2}}}}
modules: {{eye: {{type: vae, data: x, ports: {{latent: a}}}}, ear: {{type: vae, data: y, ports: {{latent: b}}}}}}
composers:
  stage: {{type: workspace, ports: {{shared: s, views: [a, b]}}, {options}}}
"""


@pytest.mark.parametrize(("options", "told"), [
    ("losses: {translations: 1}", "translation, demi_cycle, cycle, contrastive, fused"),
    ("losses: {cycle: -1}", "a number from zero up"),
    ("losses: {cycle: 0}", "a weight above zero"),
    ("memory: true", "slots: 8"),
    ("top: 1", "top would have no effect: a latent state has neither"),
    ("top: 2, width: 32", "top, width would have no effect"),
])  # fmt: skip
def test_mistakes_in_the_file_are_told_with_their_place(options, told):
    with pytest.raises(GraphError) as caught:
        serket.graph.parse_graph(GRAPH.format(options=options)).build()
    assert told in str(caught.value) and ":5:" in str(caught.value.where) and caught.value.fix


def test_detach_without_memory_is_refused():
    _, told = world(40)
    with pytest.raises(GraphError, match="fit.detach would have no effect: it belongs to memory: true"):
        Workspace(ports(), slots=2).fit(Evidence.none(40), inbox(told), generator=generator(0), detach=True)


def test_the_plate_is_that_of_the_options():
    still = serket.graph.parse_graph(GRAPH.format(options="slots: 2"))
    moving = serket.graph.parse_graph(GRAPH.format(options="slots: 2, memory: true"))
    assert not still.nodes["stage"].couples_rows and moving.nodes["stage"].couples_rows
    assert (
        "quadratic" in Workspace(ports(), slots=2).cost and Workspace(ports()).cost == "linear, fitted in views squared"
    )


def test_a_refit_goes_on_from_where_it_stands():
    made, told = small()
    before = answered(made, told)["views[0]"].mean()
    made.fit(Evidence.none(200), inbox(told), generator=generator(1), epochs=1, learning_rate=1e-6)
    after = answered(made, told)["views[0]"].mean()
    assert float((after - before).abs().mean()) < 0.05 * float(before.std())
