"""Replies of the Gaussian mixture against quadrature and closed forms."""

import math

import pytest
import torch

from serket.messages import Categorical, Gaussian
from serket.protocol import Evidence
from tests.modules.gmm.toys import (
    generator,
    inbox_of,
    loaded,
)


def quadrature(state, message, points):
    """Log (1/S) sum_s of the integral of N(z; mu_k, Sigma_k) m(z), on a grid ``(G, D)`` of volume one cell each."""
    grid, cell = points
    means = state["location"] + state["scale"] * state["means"]
    factors = state["scale"].unsqueeze(-1) * state["cholesky"]
    density = torch.distributions.MultivariateNormal(means.unsqueeze(-2), scale_tril=factors.unsqueeze(-3))
    log_n = density.log_prob(grid)  # (S, K, G)
    potential = message.info @ grid.mT - ((grid @ message.precision) * grid).sum(-1) / 2  # (rows, G)
    each = (log_n.unsqueeze(0) + potential[:, None, None] + math.log(cell)).logsumexp(-1)  # (rows, S, K)
    weights = (log_n.unsqueeze(0) + math.log(cell)).exp()
    return each.logsumexp(1) - math.log(len(means)), weights


def grid(size):
    line = torch.linspace(-40, 40, 8001 if size == 1 else 1001, dtype=torch.float64)
    cell = float(line[1] - line[0])
    return torch.cartesian_prod(*[line] * size).reshape(-1, size), cell**size


@pytest.mark.parametrize(("size", "draws"), [(1, 1), (1, 3), (2, 1), (2, 3)])
def test_replies_equal_quadrature(size, draws):
    module, state = loaded(draws, 3, size)
    inbox = inbox_of(4, 3, size)
    reply = module.infer(inbox, Evidence.none(4), generator=generator())
    exact, weights = quadrature(state, inbox["observation"], grid(size))
    torch.testing.assert_close(reply.messages["component"].logits, exact, rtol=0, atol=1e-6)
    torch.testing.assert_close(reply.log_evidence, (inbox["component"].logits + exact).logsumexp(-1), rtol=0, atol=1e-6)
    density = (inbox["component"].probs[:, None, :, None] * weights).mean(1).sum(1)  # (rows, G)
    mean = density @ grid(size)[0]
    second = torch.einsum("ng,gi,gj->nij", density, grid(size)[0], grid(size)[0])
    torch.testing.assert_close(reply.messages["observation"].mean(), mean, rtol=0, atol=1e-6)
    covariance = second - mean.unsqueeze(-1) * mean.unsqueeze(-2)
    torch.testing.assert_close(reply.messages["observation"].covariance(), covariance, rtol=1e-6, atol=1e-6)


def test_reply_from_data_is_the_averaged_density():
    module, state = loaded(3, 4, 2, port=False)
    x = torch.randn(5, 2, generator=generator(5), dtype=torch.float64)
    inbox = inbox_of(5, 4)
    reply = module.infer(inbox, Evidence.of(x), generator=generator())
    factors = state["scale"].unsqueeze(-1) * state["cholesky"]
    density = torch.distributions.MultivariateNormal(
        state["location"] + state["scale"] * state["means"], None, None, factors
    )
    exact = density.log_prob(x[:, None, None]).logsumexp(1) - math.log(3)
    torch.testing.assert_close(reply.messages["component"].logits, exact, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(reply.log_evidence, (exact + inbox["component"].logits).logsumexp(-1))
    normalised = {"component": Categorical(inbox["component"].log_probs())}
    expected = module.infer(normalised, Evidence.of(x), generator=generator()).log_evidence
    torch.testing.assert_close(module.predict(inbox, generator=generator()).log_prob(x), expected)
    assert reply.bound == "estimate" and (reply.info["monte_carlo_error"] > 0).all()


def test_replies_do_not_echo_their_own_inbox():
    module, _ = loaded(3, 3, 2)
    a, b = inbox_of(6, 3, 2, seed=1), inbox_of(6, 3, 2, seed=2)
    ask = lambda box: module.infer(box, Evidence.none(6), generator=generator()).messages  # noqa: E731
    one, other = ask(a), ask({**a, "component": b["component"]})
    assert torch.equal(one["component"].logits, other["component"].logits)
    other = ask({**a, "observation": b["observation"]})
    assert torch.equal(one["observation"].info, other["observation"].info)
    assert torch.equal(one["observation"].precision, other["observation"].precision)


def test_rows_that_say_nothing_hear_nothing():
    module, _ = loaded(3, 3, 2)
    told = torch.tensor([True, False, True, False])
    inbox = inbox_of(4, 3, 2)
    masked = {**inbox, "observation": inbox["observation"].mask(told)}
    reply = module.infer(masked, Evidence.none(4), generator=generator())
    full = module.infer(inbox, Evidence.none(4), generator=generator())
    assert bool((reply.messages["component"].logits[~told] == 0).all())
    torch.testing.assert_close(reply.messages["component"].logits[told], full.messages["component"].logits[told])
    torch.testing.assert_close(reply.log_evidence[~told], inbox["component"].log_z()[~told])

    module, _ = loaded(3, 3, 2, port=False)
    x = torch.randn(4, 2, dtype=torch.float64, generator=generator())
    hole = torch.where(told.unsqueeze(-1), x, math.nan)
    reply = module.infer(inbox_of(4, 3), Evidence.of(hole), generator=generator())
    skipped = module.infer(inbox_of(4, 3), Evidence.of(x, told), generator=generator())
    assert torch.equal(reply.messages["component"].logits, skipped.messages["component"].logits)
    assert bool((reply.messages["component"].logits[~told] == 0).all())
    for evidence in (Evidence.none(4), Evidence.of(x).nothing()):
        assert bool(
            module.infer(inbox_of(4, 3), evidence, generator=generator()).messages["component"].is_vacuous().all()
        )


@pytest.mark.parametrize("port", [True, False])
@pytest.mark.parametrize("same", [True, False])
def test_a_batch_is_its_rows(port, same):
    module, _ = loaded(3, 4, 3, port=port)
    inbox = inbox_of(7, 4, 3 if port else None)
    if port and same:
        inbox["observation"] = Gaussian(inbox["observation"].info, inbox["observation"].precision[:1].expand(7, 3, 3))
    if port:
        inbox["observation"] = inbox["observation"].mask(torch.arange(7) != 2)
    evidence = Evidence.none(7) if port else Evidence.of(torch.randn(7, 3, dtype=torch.float64, generator=generator()))
    whole = module.infer(inbox, evidence, generator=generator())
    for row in range(7):
        one = slice(row, row + 1)
        alone = module.infer({name: m[one] for name, m in inbox.items()}, evidence[one], generator=generator())
        torch.testing.assert_close(alone.log_evidence, whole.log_evidence[one], rtol=1e-12, atol=1e-12)
        for name, message in alone.messages.items():
            for key, values in message.tensors().items():
                torch.testing.assert_close(values, whole.messages[name][one].tensors()[key], rtol=1e-12, atol=1e-12)


def test_only_what_is_asked_for_is_answered():
    module, _ = loaded(2, 3, 2)
    inbox = inbox_of(3, 3, 2)
    for asked in (frozenset(), frozenset({"component"}), frozenset({"observation"})):
        reply = module.infer(inbox, Evidence.none(3), generator=generator(), ports=asked)
        assert set(reply.messages) == asked and reply.log_evidence is not None
    module, _ = loaded(2, 3, 2, port=False)
    assert set(module.infer(inbox_of(3, 3), Evidence.none(3), generator=generator()).messages) == {"component"}


def test_single_precision_follows_double():
    module, _ = loaded(3, 3, 4)
    double = inbox_of(20, 3, 4)
    double["observation"] = Gaussian(1e3 * double["observation"].info, 1e3 * double["observation"].precision)
    single = {"component": Categorical(double["component"].logits.float())}
    single["observation"] = Gaussian(*(part.float() for part in double["observation"].tensors().values()))
    double = {"component": Categorical(single["component"].logits.double())}
    double["observation"] = Gaussian(*(part.double() for part in single["observation"].tensors().values()))
    a = module.infer(single, Evidence.none(20), generator=generator())
    b = module.infer(double, Evidence.none(20), generator=generator())
    logits, exact = a.messages["component"].log_probs(), b.messages["component"].log_probs()
    assert logits.dtype == torch.float32 and a.messages["observation"].dtype == torch.float32
    assert float((logits - exact).abs().max() / exact.abs().max()) < 1e-3
    torch.testing.assert_close(
        a.messages["observation"].mean().double(), b.messages["observation"].mean(), rtol=1e-4, atol=1e-4
    )
