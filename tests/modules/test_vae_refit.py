"""A VAE refitted under components: what its own input tells of the component, with and without ``alone``."""

import pytest
import torch

from serket.messages import Family, Gaussian
from serket.modules import VAE
from serket.protocol import Evidence, Port, Role

SEEDS = [0, 1, *(pytest.param(seed, marks=pytest.mark.stat) for seed in range(2, 4))]


def refitted(seed, alone):
    """Separation of two groups, between over within, in codes of held-out rows; variance within, after and before."""
    g = torch.Generator().manual_seed(seed)
    group = torch.arange(300) % 2
    z = torch.randn(300, 2, generator=g) + 1.2 * (2 * group - 1).unsqueeze(1) * torch.tensor([1.0, 0.0])
    x = torch.tanh(z @ torch.randn(2, 8, generator=g)) + 0.2 * torch.randn(300, 8, generator=g)
    module = VAE({"latent": Port(Role.PARENT, Family.GAUSSIAN, 2)}, hidden=[32], noise=0.2)

    def codes(rows):
        nothing = {"latent": Gaussian.vacuous((300,), 2)}
        told = module.infer(nothing, Evidence.of(x), generator=torch.Generator()).messages["latent"]
        return (told * Gaussian.standard((300,), 2)).mean()[rows]

    def moments(values, of):
        means = torch.stack([values[of == k].mean(0) for k in (0, 1)])
        covariances = torch.stack([values[of == k].T.cov() for k in (0, 1)])
        return means, covariances

    def separation():
        means, covariances = moments(codes(slice(200, None)), group[200:])
        within = float(covariances.diagonal(dim1=-2, dim2=-1).mean(0).sum())
        return float((means[0] - means[1]).square().sum()) / within, within

    train = slice(0, 200)
    fit = {"generator": g, "epochs": 60, "batch": 50}
    module.fit(Evidence.of(x[train]), {"latent": Gaussian.vacuous((200,), 2)}, learning_rate=3e-3, **fit)
    _, before = separation()
    means, covariances = moments(codes(train), group[train])
    component = Gaussian.from_moments(means[group[train]], covariances[group[train]])
    report = module.fit(Evidence.of(x[train]), {"latent": component}, learning_rate=1e-3, alone=alone, **fit)
    assert report.history["elbo"][-1] > report.history["elbo"][0]
    return *separation(), before


@pytest.mark.parametrize("seed", SEEDS)
def test_a_sense_learns_what_others_told_it_and_does_not_collapse(seed):
    (together, _, _), (alone, within, before) = refitted(seed, 0.0), refitted(seed, 1.0)
    assert alone > together and within > 0.5 * before
