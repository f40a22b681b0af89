"""The Markov chain against every path of it, and its sampler against what samplers are held against."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import one_hot

from serket.errors import DataError, GraphError, StateError
from serket.messages import Categorical, Family
from serket.modules import Markov, forward_backward
from serket.modules.forward_backward import Chain, advanced, backward, counted, forward, pairs
from serket.modules.layout import Layout
from serket.modules.niw import draw_dirichlet
from serket.protocol import Evidence, Port, Role
from tests.modules import paths
from tests.statistical.checks import largest_z, uniform_p

LENGTHS = (3, 1, 6, 2, 5)
GROUPS = [slice(sum(LENGTHS[:i]), sum(LENGTHS[: i + 1])) for i in range(len(LENGTHS))]
ROWS = sum(LENGTHS)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def made(states=3, **options):
    return Markov({"state": Port(Role.CHILD, Family.CATEGORICAL, states)}, **options)


def parameters(seed, draws=1, states=3):
    """Asymmetric ones, so that a transposed matrix shows."""
    g = generator(seed)
    initial = (2 * torch.randn(draws, states, generator=g, dtype=torch.float64)).softmax(-1)
    return initial, (2 * torch.randn(draws, states, states, generator=g, dtype=torch.float64)).softmax(-1)


def loaded(initial, transitions):
    module = made(initial.shape[-1])
    module.load({"log_initial": initial.log(), "log_transitions": transitions.log()})
    return module


def rows_of(lengths=LENGTHS):
    return Evidence.none(sum(lengths), sequence=torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)))


def messages(seed, rows=ROWS, states=3):
    """Some vacuous, some with constants, one with a structural zero."""
    logits = 2 * torch.randn(rows, states, generator=generator(seed), dtype=torch.float64)
    if rows == ROWS:
        logits[[1, 8]] = 0
        logits[4] += 300
        logits[6, 1] = -torch.inf
    return logits


def told(module, logits, evidence=None):
    return module.infer(
        {"state": Categorical(logits)}, rows_of() if evidence is None else evidence, generator=generator(0)
    )


def check_replies(draws=1, states=3):
    initial, transitions = parameters(1, draws, states)
    logits = messages(2, states=states)
    reply = told(loaded(initial, transitions), logits)
    for group in GROUPS:
        here = logits[group] - torch.where(logits[group] > 100, 300.0, 0.0)  # the scale of a message says nothing
        for place in range(len(here)):
            each = [paths.reply(initial[s], transitions[s], here, place) for s in range(draws)]
            expected = torch.stack(each).mean(0)
            torch.testing.assert_close(
                reply.messages["state"].probs[group][place], expected / expected.sum(), rtol=0, atol=1e-12
            )


def check_evidence(draws=1):
    initial, transitions = parameters(3, draws)
    logits = messages(4)
    found = told(loaded(initial, transitions), logits)
    for group in GROUPS:
        partial = [
            torch.stack([paths.evidence(initial[s], transitions[s], logits[group][:t]).exp() for s in range(draws)])
            for t in range(1, len(logits[group]) + 1)
        ]
        partial = torch.stack([one.mean().log() for one in partial])
        torch.testing.assert_close(found.log_evidence[group].cumsum(0), partial, rtol=1e-12, atol=1e-12)


def check_counts():
    """Posteriors of pairs, the counts of the E-step, and posteriors of rows."""
    initial, transitions = parameters(5)
    logits = messages(6)
    layout = Layout.of(rows_of())
    one, packed = Chain(initial.log(), transitions.log()), layout.packed(logits)
    first, moves, total, posterior = forward_backward.counted(one, packed, layout.steps)
    expected_first, expected = torch.zeros(3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    found = {}
    after = backward(one, packed, layout.steps)[0]
    for step, pair in pairs(one, forward(one, packed, layout.steps), after, packed, layout.steps):
        found |= dict(zip(layout.order[step].tolist(), pair[0], strict=True))
    evidence = 0.0
    for group in GROUPS:
        every, weight = paths.weights(initial[0], transitions[0], logits[group])
        expected_first += paths.marginal(every, weight, 0, 3) / weight.sum()
        evidence += weight.sum().log()
        for place in range(len(logits[group])):
            row = paths.marginal(every, weight, place, 3) / weight.sum()
            torch.testing.assert_close(layout.unpacked(posterior())[0, group][place], row, rtol=0, atol=1e-12)
        for place in range(len(logits[group]) - 1):
            between = paths.pair(every, weight, place, 3)
            torch.testing.assert_close(found[group.start + place + 1], between, rtol=0, atol=1e-12)
            expected += between
    torch.testing.assert_close(first[0], expected_first, rtol=0, atol=1e-12)
    torch.testing.assert_close(moves[0], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(total[0], evidence, rtol=1e-12, atol=0)


EMISSION = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.5, 0.3]], dtype=torch.float64)  # p(x | z), three readings


def draw_readings(states, g):
    flat = EMISSION[states].reshape(-1, 3).multinomial(1, generator=g)
    return flat.reshape(states.shape)


def drawn_prior(chains, layout, alpha, g):
    """Parameters from the prior, and packed paths drawn one step at a time."""
    one = Chain(
        draw_dirichlet(torch.full((chains, 2), alpha, dtype=torch.float64), g),
        draw_dirichlet(torch.full((chains, 2, 2), alpha, dtype=torch.float64), g),
    )
    states = torch.zeros(chains, len(layout.order), dtype=torch.int64)
    for t, step in enumerate(layout.steps):
        count = step.stop - step.start
        if t == 0:
            probs = one.initial.exp().unsqueeze(1).expand(-1, count, -1)
        else:
            start = layout.steps[t - 1].start
            probs = one.transitions.exp()[torch.arange(chains).unsqueeze(1), states[:, start : start + count]]
        states[:, step] = probs.reshape(-1, 2).multinomial(1, generator=g).reshape(chains, count)
    return one, states


def functions(one, states, readings, layout):
    first, moves = forward_backward.tallied(states, 2, layout.steps)
    return {
        "initial": one.initial[:, 0].exp(),
        "stay 0": one.transitions[:, 0, 0].exp(),
        "leave 1": one.transitions[:, 1, 0].exp(),
        "log stay 1": one.transitions[:, 1, 1],
        "product": one.transitions[:, 0, 1].exp() * one.initial[:, 1].exp(),
        "squares": one.transitions.exp().square().sum((-2, -1)),
        "ones": states.double().mean(-1),
        "stays": moves.diagonal(dim1=-2, dim2=-1).sum(-1) / moves.sum((-2, -1)).clamp_min(1),
        "starts": first[:, 0],
        "moves 0 to 1": moves[:, 0, 1],
        "readings": readings.double().mean(-1),
        "agreement": (readings == states).double().mean(-1),
    }


def geweke(seed, chains=1000, sweeps=30):
    layout, g, alpha = Layout.of(rows_of((7, 1, 4))), generator(seed), 0.7
    one, states = drawn_prior(chains, layout, alpha, g)
    fresh, fresh_states = drawn_prior(chains, layout, alpha, g)
    prior = functions(fresh, fresh_states, draw_readings(fresh_states, g), layout)
    for _ in range(sweeps):
        readings = draw_readings(states, g)
        one, states, _ = forward_backward.sweep(one, EMISSION.T[readings].log(), layout.steps, alpha, g)
    return largest_z(functions(one, states, draw_readings(states, g), layout), prior)


def check_geweke():
    assert geweke(0) <= 4


def check_sampled_paths(chains=4000, keep=12, limit=0.02):
    """Pairs of rows in one state, pi and A summed out: p(path) is a product of Polya urns."""
    layout, alpha, g = Layout.of(rows_of((4, 2))), 0.7, generator(3)
    logits = 1.5 * torch.randn(6, 2, generator=g, dtype=torch.float64)
    every = paths.paths(2, 6)
    packed = every[:, layout.order]
    first, moves = forward_backward.tallied(packed, 2, layout.steps)
    log_weight = _polya(first, alpha) + _polya(moves, alpha).sum(-1) + logits[torch.arange(6), every].sum(-1)
    weight = log_weight.softmax(0)
    exact = (weight[:, None, None] * (every[:, :, None] == every[:, None, :])).sum(0)
    exact_ones = (weight[:, None] * every).sum(0)
    one, _ = drawn_prior(chains, layout, alpha, g)
    together, ones = torch.zeros(6, 6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    for step in range(40 + keep):
        one, states, _ = forward_backward.sweep(one, layout.packed(logits), layout.steps, alpha, g)
        if step >= 40:
            found = states[:, layout.order.argsort()]
            together += (found[:, :, None] == found[:, None, :]).double().mean(0) / keep
            ones += found.double().mean(0) / keep
    assert float((together - exact).abs().max()) < limit
    assert float((ones - exact_ones).abs().max()) < limit


def _polya(counts, alpha):
    size = counts.shape[-1]
    alpha = torch.tensor(alpha, dtype=torch.float64)
    terms = (counts + alpha).lgamma() - alpha.lgamma()
    return terms.sum(-1) + (size * alpha).lgamma() - (counts.sum(-1) + size * alpha).lgamma()


def check_online():
    initial, transitions = parameters(7, draws=3)
    module, logits = loaded(initial, transitions), messages(8)
    reply = told(module, logits)
    for group in GROUPS:
        before = None
        for row in range(group.start, group.stop):
            before, increment = module.step(before, Categorical(logits[row : row + 1]))
            torch.testing.assert_close(increment[0], reply.log_evidence[row], rtol=1e-12, atol=1e-12)
            here = logits[group.start : row + 1] - torch.where(logits[group.start : row + 1] > 100, 300.0, 0.0)
            every = [paths.weights(initial[s], transitions[s], here) for s in range(3)]
            expected = sum(paths.marginal(*one, len(here) - 1, 3) for one in every)
            torch.testing.assert_close(before.logits.exp()[0], expected / expected.sum(), rtol=0, atol=1e-12)


CHECKS = [check_replies, check_evidence, check_counts, check_online, check_geweke, check_sampled_paths]


@pytest.mark.parametrize("draws", [1, 3])
def test_replies_are_those_of_every_path(draws):
    check_replies(draws)


def test_one_state():
    module = loaded(torch.ones(1, 1, dtype=torch.float64), torch.ones(1, 1, 1, dtype=torch.float64))
    twos = torch.full((3, 1), 2.0, dtype=torch.float64)
    learnt = made(1)
    learnt.fit(rows_of((2, 1)), {"state": Categorical(twos)}, generator=generator(0))
    assert all(torch.equal(value, module.state()[name]) for name, value in learnt.state().items())
    reply = told(module, twos, rows_of((2, 1)))
    assert reply.messages["state"].logits.tolist() == [[0]] * 3 and reply.log_evidence.tolist() == [2] * 3


@pytest.mark.parametrize("draws", [1, 3])
def test_evidence_is_that_of_every_path(draws):
    check_evidence(draws)


def test_posteriors_of_pairs_and_counts_are_those_of_every_path():
    check_counts()


def test_filtering_online_is_the_forward_pass():
    check_online()


def test_many_sequences_filter_side_by_side():
    initial, transitions = parameters(9)
    module, logits = loaded(initial, transitions), messages(10)
    whole = told(module, logits[:6], rows_of((3, 3))).log_evidence
    before = None
    for t in range(3):
        before, increment = module.step(before, Categorical(logits[[t, 3 + t]]))
        torch.testing.assert_close(increment, whole[[t, 3 + t]], rtol=1e-12, atol=1e-12)


def test_log_space_holds_where_probabilities_vanish():
    """2000 rows whose messages all but exclude what the chain expects: no underflow, no NaN."""
    initial = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    transitions = torch.tensor([[[1 - 1e-12, 1e-12], [1e-12, 1 - 1e-12]]], dtype=torch.float64)
    logits = torch.zeros(2000, 2, dtype=torch.float64)
    logits[::2, 0], logits[1::2, 1] = -900, -900
    reply = told(loaded(initial, transitions), logits, Evidence.none(2000))
    assert bool(reply.messages["state"].logits.isfinite().all()) and bool(reply.log_evidence.isfinite().all())
    # The cheapest path jumps with every message.
    assert float(reply.log_evidence.sum()) == pytest.approx(-0.693 + 1999 * torch.tensor(1e-12).log().item(), rel=1e-3)


def test_what_contradicts_the_chain_is_passed_over_and_told():
    initial = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    transitions = torch.tensor([[[0.5, 0.5], [0.5, 0.5]]], dtype=torch.float64)
    logits = torch.zeros(3, 2, dtype=torch.float64)
    logits[0, 0] = -torch.inf
    reply = told(loaded(initial, transitions), logits, Evidence.none(3))
    assert reply.log_evidence[0] == -torch.inf and bool(reply.log_evidence[1:].isfinite().all())
    assert not bool(reply.messages["state"].logits.isnan().any())


def simulated(rows=6000, seed=0):
    initial, transitions = parameters(11)
    g = generator(seed)
    state = [0]
    for _ in range(rows - 1):
        state.append(int(transitions[0, state[-1]].multinomial(1, generator=g)))
    logits = 2 * one_hot(torch.tensor(state), 3).double() + torch.randn(rows, 3, generator=g, dtype=torch.float64)
    emission = torch.eye(3, dtype=torch.float64) * 2
    # p(y | z) = N(y; 2 e_z, 1): the message of y.
    return transitions[0], (logits.unsqueeze(1) - emission).square().sum(-1) / -2


@pytest.mark.parametrize("method", ["baum_welch", "gibbs"])
def test_transitions_are_learnt(method):
    truth, logits = simulated()
    evidence = Evidence.none(6000, sequence=torch.arange(6000) // 200)
    module = made()
    fit = {"sweeps": 40, "method": method}
    report = module.fit(evidence, {"state": Categorical(logits)}, generator=generator(0), **fit)
    learnt = module.state()["log_transitions"].exp().mean(0)
    assert float((learnt - truth).abs().max()) < 0.05
    assert report.history["log_evidence"][-1] > report.history["log_evidence"][0] + 0.1
    assert module.exact == (method == "baum_welch") and told(module, logits, evidence).bound == (
        "exact" if module.exact else "estimate")  # fmt: skip


def test_baum_welch_never_falls_and_continues_where_it_stood():
    _, logits = simulated(400)
    evidence, inbox = Evidence.none(400, sequence=torch.arange(400) // 40), {"state": Categorical(logits)}
    module = made(alpha=1e-9)
    short = module.fit(evidence, inbox, generator=generator(0), sweeps=3).history["log_evidence"]
    rest = module.fit(evidence, inbox, generator=generator(0), sweeps=200)
    assert rest.converged and rest.history["log_evidence"][0] > short[-1]
    assert all(
        b >= a - 1e-12 for a, b in zip(rest.history["log_evidence"], rest.history["log_evidence"][1:], strict=False)
    )
    again = made(alpha=1e-9)
    again.fit(evidence, inbox, generator=generator(0), sweeps=200)
    for name, value in again.state().items():
        torch.testing.assert_close(value.exp(), module.state()[name].exp(), rtol=0, atol=1e-2)
    module.fit(evidence, inbox, generator=generator(0), sweeps=200, restart=True)
    assert all(torch.equal(value, module.state()[name]) for name, value in again.state().items())


def test_the_m_step_is_the_posterior_mean_of_the_counts():
    initial, transitions = parameters(12)
    module, logits = made(alpha=0.3), messages(13)
    module.load({"log_initial": initial.log(), "log_transitions": transitions.log()})
    first, moves, _, _ = counted(
        Chain(initial.log(), transitions.log()), Layout.of(rows_of()).packed(logits), Layout.of(rows_of()).steps
    )
    module.fit(rows_of(), {"state": Categorical(logits)}, generator=generator(0), sweeps=1)
    expected = (moves[0] + 0.3) / (moves[0].sum(-1, keepdim=True) + 0.9)
    torch.testing.assert_close(module.state()["log_transitions"][0].exp(), expected, rtol=1e-10, atol=0)
    expected = (first[0] + 0.3) / (len(LENGTHS) + 0.9)
    torch.testing.assert_close(module.state()["log_initial"][0].exp(), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("method", ["baum_welch", "gibbs"])
def test_little_data_has_a_documented_answer(method):
    options = {"generator": generator(0), "method": method}
    alone = made(draws=8)
    logits = messages(14, rows=4)
    alone.fit(rows_of((1, 1, 1, 1)), {"state": Categorical(logits)}, **options)
    assert all(bool(value.isfinite().all()) for value in alone.state().values())
    if method == "baum_welch":  # nothing was seen to follow anything
        torch.testing.assert_close(alone.state()["log_transitions"].exp(), torch.full((1, 3, 3), 1 / 3).double())
    with pytest.raises(DataError, match="hears nothing") as caught:
        made().fit(rows_of((3, 2)), {"state": Categorical.vacuous((5,), 3)}, **options)
    assert "none in 5 rows" in str(caught.value) and caught.value.fix


def test_no_rows():
    empty = Evidence.none(0)
    reply = told(loaded(*parameters(1)), torch.zeros(0, 3, dtype=torch.float64), empty)
    assert reply.messages["state"].logits.shape == (0, 3) and reply.log_evidence.shape == (0,)
    with pytest.raises(DataError):
        made().fit(empty, {"state": Categorical.vacuous((0,), 3)}, generator=generator(0))


def test_mistakes_are_told():
    with pytest.raises(GraphError, match="'alpha' of markov"):
        made(alpha=0)
    with pytest.raises(GraphError, match="too few sweeps") as caught:
        made().fit(rows_of(), {"state": Categorical(messages(0))}, generator=generator(0), method="gibbs", sweeps=9)
    assert "sweeps >= 16" in str(caught.value)
    with pytest.raises(StateError, match="log_transitions"):
        made().load({"log_initial": torch.zeros(1, 3)})
    with pytest.raises(StateError, match="fitted before"):
        made().step(None, Categorical.vacuous((1,), 3))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_geweke(seed):
    assert geweke(seed) <= 4


def test_sampled_paths_have_their_exact_frequencies():
    check_sampled_paths()


@pytest.mark.stat
def test_sampled_paths_have_their_exact_frequencies_long():
    check_sampled_paths(chains=20000, keep=40, limit=0.01)


def calibration(replications, seed, rows=20, draws=19):
    """Ranks of pi and A among draws given data made with them; all replications are chains side by side."""
    layout, g, alpha = Layout.of(rows_of((rows, rows // 2))), generator(seed), 1.0
    truth, states = drawn_prior(replications, layout, alpha, g)
    logits = EMISSION.T[draw_readings(states, g)].log()
    one, _ = drawn_prior(replications, layout, alpha, g)
    kept = []
    for step in range(60 + 12 * draws):
        one, _, _ = forward_backward.sweep(one, logits, layout.steps, alpha, g)
        if step >= 60 and (step - 60) % 12 == 11:
            kept.append(one)

    def quantities(c):
        return torch.stack([c.initial[:, 0], c.transitions[:, 0, 0], c.transitions[:, 1, 0]], 1)

    ranks = torch.stack([quantities(c) < quantities(truth) for c in kept]).sum(0)
    return uniform_p(ranks, draws)


def test_simulation_based_calibration():
    assert calibration(200, 0) > 1e-3


@pytest.mark.stat
def test_simulation_based_calibration_long():
    assert calibration(1000, 1) > 1e-3


def _transposed(monkeypatch):
    honest = forward_backward._stepped
    monkeypatch.setattr(forward_backward, "_stepped", lambda logits, into: honest(logits, into.mT))


def _own_inbox_left(monkeypatch):
    honest = forward_backward.forward

    def forward(*given):
        found = honest(*given)
        return replace(found, predicted=found.filtered)

    monkeypatch.setattr(forward_backward, "forward", forward)


def _no_backward(monkeypatch):
    def backward(one, logits, steps):
        none = logits.new_zeros(len(one.initial), *logits.shape[-2:])
        return none, none[..., 0]

    monkeypatch.setattr(forward_backward, "backward", backward)


def _joined(monkeypatch):
    honest = Layout.of.__func__
    monkeypatch.setattr(Layout, "of", classmethod(lambda cls, e: honest(cls, replace(e, sequence=None))))


def _products_of_marginals(monkeypatch):
    def pairs(one, ahead, after, logits, steps):
        posterior = (ahead.filtered + after).softmax(-1)
        for earlier, step in zip(steps, steps[1:], strict=False):
            first = posterior[:, earlier.start : earlier.start + step.stop - step.start]
            yield step, first.unsqueeze(-1) * posterior[:, step].unsqueeze(-2)

    monkeypatch.setattr(forward_backward, "pairs", pairs)


def _label_off_by_one(monkeypatch):
    honest = forward_backward.tallied
    monkeypatch.setattr(forward_backward, "tallied", lambda states, *given: honest(states.roll(1, -1), *given))


def _no_initial(monkeypatch):
    honest = forward_backward.advanced

    def advanced(one, before, logits):
        return honest(Chain(torch.zeros_like(one.initial).log_softmax(-1), one.transitions), before, logits)

    monkeypatch.setattr(forward_backward, "advanced", advanced)


def _prior_dropped(monkeypatch):
    honest = forward_backward.draw_dirichlet
    monkeypatch.setattr(forward_backward, "draw_dirichlet", lambda alpha, g: honest(alpha + 0.5, g))


def _sampled_forward(monkeypatch):
    """Each state drawn from its filtered distribution, without what was drawn for the next one."""

    def draw_paths(one, logits, steps, g):
        ahead = forward(one, logits, steps)
        race = ahead.filtered - torch.empty_like(ahead.filtered).exponential_(generator=g).log()
        return race.argmax(-1), ahead.increments.sum(-1)

    monkeypatch.setattr(forward_backward, "draw_paths", draw_paths)


PLANTED = [
    (_transposed, {"replies", "evidence", "counts"}),
    (_own_inbox_left, {"replies"}),
    (_no_backward, {"replies", "counts"}),
    (_joined, {"replies", "evidence"}),
    (_products_of_marginals, {"counts"}),
    (_label_off_by_one, {"geweke"}),
    (_no_initial, {"replies", "evidence", "counts"}),
    (_prior_dropped, {"geweke", "sampled_paths"}),
    (_sampled_forward, {"geweke", "sampled_paths"}),
]


@pytest.mark.parametrize(("plant", "by"), PLANTED, ids=lambda one: getattr(one, "__name__", None))
def test_planted_bugs_are_caught(plant, by, monkeypatch):
    plant(monkeypatch)
    for check in CHECKS:
        if (name := check.__name__.removeprefix("check_")) in by:
            try:
                check()
            except AssertionError:
                continue
            pytest.fail(f"{name} did not see {plant.__name__}")


def test_advancing_is_the_first_message_times_the_initial_law():
    initial, transitions = parameters(15)
    state, predicted, _ = advanced(Chain(initial.log(), transitions.log()), None, torch.zeros(1, 3).double())
    torch.testing.assert_close(state.filtered[0, 0].exp(), initial[0])
    torch.testing.assert_close(predicted[0, 0].exp(), initial[0])
