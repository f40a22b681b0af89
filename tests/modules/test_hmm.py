"""The hidden Markov model against every path, and against a scaled forward-backward written apart."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from serket.data.generate.corners import corners
from serket.errors import DataError, GraphError, ShapeError, StateError
from serket.messages import Categorical, Family
from serket.modules import HiddenMarkov
from serket.protocol import Evidence, Port, Role
from tests.modules import paths

LENGTHS = (4, 1, 6)
ROWS = sum(LENGTHS)
GROUPS = [slice(0, 4), slice(4, 5), slice(5, 11)]
SEQUENCE = torch.tensor([0] * 4 + [1] + [2] * 6)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def made(states=3, **options):
    return HiddenMarkov({"state": Port(Role.CHILD, Family.CATEGORICAL, states)}, **options)


def parameters(seed=0, states=3):
    g = generator(seed)
    root = torch.randn(states, 2, 2, generator=g, dtype=torch.float64)
    return {
        "log_initial": torch.randn(states, generator=g, dtype=torch.float64).log_softmax(-1),
        "log_transitions": (2 * torch.randn(states, states, generator=g, dtype=torch.float64)).log_softmax(-1),
        "means": 2 * torch.randn(states, 2, generator=g, dtype=torch.float64),
        "cholesky": torch.linalg.cholesky(root @ root.mT + 0.3 * torch.eye(2)),
    }


def densities(state, values):
    """log p(x | z) by scipy, ``(rows, K)``, zeros where a row is missing."""
    found = np.zeros((len(values), len(state["means"])))
    for k, (mean, factor) in enumerate(zip(state["means"].numpy(), state["cholesky"].numpy(), strict=True)):
        found[:, k] = multivariate_normal(mean, factor @ factor.T).logpdf(np.nan_to_num(values))
    found[np.isnan(values).any(1)] = 0
    return torch.from_numpy(found)


def problem(seed=1):
    values = 2 * torch.randn(ROWS, 2, generator=generator(seed), dtype=torch.float64)
    values[[2, 6, 7]] = torch.nan
    inbox = Categorical(torch.randn(ROWS, 3, generator=generator(seed + 1), dtype=torch.float64))
    return values, inbox


def test_replies_and_evidence_are_those_of_every_path():
    module, state = made(), parameters()
    module.load(state)
    values, inbox = problem()
    evidence = Evidence.of(values, sequence=SEQUENCE)
    reply = module.infer({"state": inbox}, evidence, generator=generator(0))
    initial, transitions = state["log_initial"].exp(), state["log_transitions"].exp()
    own = densities(state, values.numpy())
    for group in GROUPS:
        both = (own + inbox.logits)[group]
        for place in range(len(both)):
            others = both.clone()
            others[place] = own[group][place]  # the row's own data stay, its own inbox does not
            every, weight = paths.weights(initial, transitions, others)
            expected = paths.marginal(every, weight, place, 3)
            torch.testing.assert_close(
                reply.messages["state"].probs[group][place], expected / expected.sum(), rtol=0, atol=1e-12
            )
        partial = [paths.evidence(initial, transitions, both[: t + 1]) for t in range(len(both))]
        torch.testing.assert_close(reply.log_evidence[group].cumsum(0), torch.stack(partial), rtol=1e-12, atol=1e-12)


def test_filtering_online_is_the_forward_pass():
    module, state = made(), parameters()
    module.load(state)
    values, inbox = problem(3)
    evidence = Evidence.of(values, sequence=SEQUENCE)
    increments = module.infer({"state": inbox}, evidence, generator=generator(0)).log_evidence
    own = densities(state, values.numpy()) + inbox.logits
    for group in GROUPS:
        before = None
        for row in range(group.start, group.stop):
            before, increment = module.step(before, values[row : row + 1], inbox[row : row + 1])
            torch.testing.assert_close(increment[0], increments[row], rtol=1e-12, atol=1e-12)
            every, weight = paths.weights(
                state["log_initial"].exp(), state["log_transitions"].exp(), own[group.start : row + 1]
            )
            expected = paths.marginal(every, weight, row - group.start, 3)
            torch.testing.assert_close(before.logits.exp()[0], expected / expected.sum(), rtol=0, atol=1e-12)
    nothing, gained = module.step(before, None)
    assert gained.abs().max() < 1e-12
    torch.testing.assert_close(nothing.logits.exp(), before.logits.exp() @ state["log_transitions"].exp())


def test_corners_are_found_and_the_fit_goes_on_where_it_stood():
    data = corners(sequences=4, length=60, deviation=0.3, seed=5)
    points = torch.from_numpy(data["point"])
    points[10:15] = torch.nan
    evidence = Evidence.of(points, sequence=torch.from_numpy(data["point_sequence"]))
    silence = {"state": Categorical.vacuous((240,), 4, dtype=torch.float64)}
    module = made(4)
    report = module.fit(evidence, silence, generator=generator(0))
    assert report.converged and report.history["log_evidence"][-1] > report.history["log_evidence"][0]
    state = module.infer(silence, evidence, generator=generator(0)).messages["state"].probs.argmax(-1).numpy()
    table = np.zeros((4, 4))
    np.add.at(table, (state, data["label"]), 1)
    assert table.max(1).sum() / 240 > 0.99  # missing rows included: their neighbours know
    transitions = module.state()["log_transitions"].exp()
    assert float(transitions.max(-1).values.min()) > 0.95 and transitions.argmax(-1).unique().numel() == 4
    again = module.fit(evidence, silence, generator=generator(1), sweeps=5)
    assert again.steps <= 3 and again.history["log_evidence"][0] == pytest.approx(report.history["log_evidence"][-1])
    # Labels follow the inbox, where it says more.
    turned = (torch.from_numpy(data["label"]) + 1) % 4
    fresh = made(4)
    fresh.fit(
        evidence, {"state": Categorical(4 * torch.nn.functional.one_hot(turned, 4).double())}, generator=generator(0)
    )
    named = fresh.infer(silence, evidence, generator=generator(0)).messages["state"].probs.argmax(-1)
    assert float((named == turned).double().mean()) > 0.99


def test_imagined_data_are_the_mixture_of_the_beliefs():
    module, state = made(), parameters()
    module.load(state)
    values, inbox = problem()
    found = module.predict({"state": inbox}, generator=generator(0))
    expected = (inbox.probs.log() + densities(state, np.nan_to_num(values.numpy()))).logsumexp(-1)
    torch.testing.assert_close(found.log_prob(values.nan_to_num()), expected, rtol=1e-10, atol=1e-10)


def test_units_do_not_matter():
    data = corners(sequences=3, length=40, deviation=0.3, seed=2)
    points, ids = torch.from_numpy(data["point"]), torch.from_numpy(data["point_sequence"])
    silence = {"state": Categorical.vacuous((120,), 4, dtype=torch.float64)}
    beliefs = []
    for scale in (torch.tensor([1.0, 1.0]), torch.tensor([1e-4, 3e5])):
        module, evidence = made(4), Evidence.of((points + 7) * scale, sequence=ids)
        module.fit(evidence, silence, generator=generator(0))
        beliefs.append(module.infer(silence, evidence, generator=generator(0)).messages["state"].probs)
    torch.testing.assert_close(*beliefs, rtol=0, atol=1e-6)


def test_little_data_has_a_documented_answer():
    def fit(values, states=2, sequence=None, inbox=None):
        module, evidence = made(states), Evidence.of(values, sequence=sequence)
        silence = {"state": inbox or Categorical.vacuous((len(values),), states, dtype=torch.float64)}
        module.fit(evidence, silence, generator=generator(0))
        reply = module.infer(silence, evidence, generator=generator(0))
        assert bool(reply.messages["state"].logits.isfinite().all()) and bool(reply.log_evidence.isfinite().all())
        return module

    values = torch.randn(6, 2, generator=generator(0), dtype=torch.float64)
    fit(values, 1)
    fit(values, 2, torch.arange(6))  # sequences of length one
    fit(torch.cat([values, torch.full((1, 2), torch.nan)]), 2, torch.tensor([0] * 6 + [1]))
    constant = torch.cat([values[:, :1], torch.ones(6, 1)], 1)
    fit(constant, 2)
    with pytest.raises(DataError, match="too few rows") as caught:
        fit(values[:2], 3)
    assert "found 2 of 2" in str(caught.value).replace(":", "").replace("\n", " ") or "2 of 2" in str(caught.value)
    with pytest.raises(DataError, match="do not vary"):
        fit(torch.ones(5, 2, dtype=torch.float64))
    with pytest.raises(DataError, match="too few rows"):
        fit(torch.full((4, 2), torch.nan, dtype=torch.float64))


def test_states_called_by_other_names_say_the_same():
    module, order = made(), torch.tensor([2, 0, 1])
    module.load(parameters())
    values, inbox = problem()
    evidence = Evidence.of(values, sequence=SEQUENCE)
    before = module.infer({"state": inbox}, evidence, generator=generator(0))
    module.relabel("state", order)
    after = module.infer({"state": Categorical(inbox.logits[:, order])}, evidence, generator=generator(0))
    torch.testing.assert_close(after.messages["state"].logits, before.messages["state"].logits[:, order])
    torch.testing.assert_close(after.log_evidence, before.log_evidence)


def test_mistakes_are_told():
    with pytest.raises(GraphError, match="'kappa' of an hmm"):
        made(kappa=0)
    with pytest.raises(StateError, match="'cholesky'"):
        made().load({name: value for name, value in parameters().items() if name != "cholesky"})
    module = made()
    module.load(parameters())
    with pytest.raises(ShapeError, match="fitted on"):
        module.infer({"state": Categorical.vacuous((2,), 3)}, Evidence.of(torch.ones(2, 5)), generator=generator(0))
    with pytest.raises(DataError, match="nothing to fit"):
        module.fit(Evidence.none(5), {"state": Categorical.vacuous((5,), 3)}, generator=generator(0))
