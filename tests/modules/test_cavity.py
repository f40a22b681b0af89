"""What a network's step computes of its inbox equals the messages' own algebra."""

import pytest
import torch

from serket.messages import Gaussian
from serket.modules.cavity import Cavity

ROWS, SIZE = 5, 3


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def differences(form):
    root = normal(1, ROWS, SIZE, SIZE)
    inbox = Gaussian(normal(2, ROWS, SIZE), root @ root.mT + torch.eye(SIZE))
    inbox = inbox if form == "full" else Gaussian(inbox.info, inbox.precision.diagonal(dim1=-2, dim2=-1))
    potential = Gaussian(normal(3, ROWS, SIZE), normal(4, ROWS, SIZE) ** 2)
    q = inbox * potential
    latent, divergence = Cavity.of(inbox).meet(potential, torch.zeros(1, ROWS, SIZE).double())
    unit = torch.eye(SIZE).double().unsqueeze(1).expand(SIZE, ROWS, SIZE)
    spread = (Cavity.of(inbox).meet(potential, unit)[0] - latent).permute(
        1, 2, 0
    )  # columns of a root of the covariance
    return [float((a - b).abs().max()) for a, b in (
        (divergence, q.kl(inbox)), (latent[0], q.mean()), (spread @ spread.mT, q.covariance()))]  # fmt: skip


@pytest.mark.parametrize("form", ["full", "diagonal"])
def test_draws_and_divergence_are_those_of_the_product(form):
    assert max(differences(form)) < 1e-12


def scaled(factor):
    return lambda true: lambda self, potential, noise: (lambda z, kl: (z, factor * kl))(*true(self, potential, noise))


def variance_for_deviation(true):
    def wrong(self, potential, noise):
        latent, divergence = true(self, potential, noise)
        centre, _ = true(self, potential, torch.zeros_like(noise))
        return centre + (latent - centre).square() * noise.sign(), divergence

    return wrong


@pytest.mark.parametrize("form", ["full", "diagonal"])
@pytest.mark.parametrize(
    "mutation", [scaled(0.0), scaled(2.0), variance_for_deviation], ids=["none", "twice", "variance"]
)
def test_planted_mistakes_are_caught(monkeypatch, mutation, form):
    monkeypatch.setattr(Cavity, "meet", mutation(Cavity.meet))
    assert max(differences(form)) > 1e-2


@pytest.mark.parametrize("form", ["full", "diagonal"])
def test_another_q_is_held_against_the_inbox(form):
    root = normal(1, ROWS, SIZE, SIZE)
    inbox = Gaussian(normal(2, ROWS, SIZE), root @ root.mT + torch.eye(SIZE))
    inbox = inbox if form == "full" else Gaussian(inbox.info, inbox.precision.diagonal(dim1=-2, dim2=-1))
    q, cavity = Gaussian(normal(3, ROWS, SIZE), normal(4, ROWS, SIZE) ** 2 + 0.1), Cavity.of(inbox)
    latent, divergence = cavity.judge(q, torch.ones(1, ROWS, SIZE).double())
    torch.testing.assert_close(divergence, q.kl(inbox))
    torch.testing.assert_close(latent[0], q.mean() + q.variance().sqrt())
    pooled, means = cavity.pooled(), inbox.mean()
    torch.testing.assert_close(pooled.mean(), means.mean(0))
    torch.testing.assert_close(pooled.variance(), inbox.variance().mean(0) + means.var(0, correction=0))
