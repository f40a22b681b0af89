"""The message of a flow_vae against quadrature over its own decoder, where that of a vae errs; its evidence."""

from functools import cache
from types import SimpleNamespace

import pytest
import torch

from serket.errors import DataError, ShapeError, StateError
from serket.messages import Family, Gaussian
from serket.modules import VAE, FlowVAE
from serket.protocol import Evidence, Port, Role, extrinsic


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def standard(rows):
    return {"latent": Gaussian.standard((rows,), 2, dtype=torch.float64)}


def untrained(kind, **options):
    return kind({"latent": Port(Role.PARENT, Family.GAUSSIAN, 2)}, hidden=[32], noise=0.0, **options)


@cache
def fitted(kind):
    """Sum, product and size of two causes, in noise: what is left open about them is bent and correlated."""
    g = generator(3)
    z = torch.randn(900, 2, generator=g).double()
    clean = torch.stack([z.sum(1), z[:, 0] * z[:, 1], z[:, 0].abs()], -1)
    values = clean + 0.5 * torch.randn(900, 3, generator=g)
    module = untrained(kind)
    module.fit(Evidence.of(values[:800]), standard(800), generator=generator(1), epochs=60, learning_rate=3e-3)
    return module, values[800:]


@cache
def quadrature(kind, info=(0.0, 0.0), precision=1.0):
    """Mean, covariance, and log of the integral of p(x | z) exp(info' z - precision z'z / 2), of every row."""
    module, values = fitted(kind)
    axis = torch.linspace(-6, 6, 241, dtype=torch.float64)
    z = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    inputs = module.likelihood.inputs(values, module.weights)
    with torch.no_grad():
        decoded = module._decode(module.weights, z)
        told = torch.stack(
            [module.likelihood.log_prob(decoded, row.expand(len(z), -1), module.weights) for row in inputs]
        )
    log_joint = told + z @ torch.tensor(info, dtype=torch.float64) - precision * z.square().sum(-1) / 2
    share = log_joint.softmax(-1)
    mean = share @ z
    covariance = torch.einsum("np,pi,pj->nij", share, z, z) - mean.unsqueeze(-1) * mean.unsqueeze(-2)
    return mean, covariance, log_joint.logsumexp(-1) + 2 * (axis[1] - axis[0]).log()


def error(kind):
    module, values = fitted(kind)
    reply = module.infer(standard(100), Evidence.of(values), generator=generator())
    message = extrinsic(reply, {}, getattr(module, "own_prior", {}))["latent"]
    belief = message * standard(100)["latent"]
    mean, covariance, _ = quadrature(kind)
    return (belief.mean() - mean).abs().flatten(), (belief.covariance() - covariance).abs().flatten()


def test_mean_and_covariance_are_those_of_the_posterior():
    mean, covariance = error(FlowVAE)
    assert float(mean.median()) < 0.003 and float(covariance.median()) < 0.003
    assert float(mean.quantile(0.95)) < 0.01 and float(covariance.quantile(0.95)) < 0.01
    assert float(mean.max()) < 0.02 and float(covariance.max()) < 0.03


def test_a_gaussian_that_fits_badly_is_no_proposal():
    """Two narrow modes far apart, found by q: the Gaussian over both hits neither, and the moments are those of q's draws."""
    module, _ = fitted(FlowVAE)
    z = torch.randn(256, 1, 2, generator=generator()).double()
    z = 0.01 * z + torch.where(torch.arange(256) % 2 == 0, 3.0, -3.0).reshape(-1, 1, 1)

    def log_p(at):
        modes = torch.stack([at - 3, at + 3]).square().sum(-1) / -(2 * 0.01**2)
        return modes.logsumexp(0)

    class Two(FlowVAE):
        def _draw(self, weights, inputs, noise):
            return z, log_p(z)

    two = Two(module.ports)
    two.likelihood = SimpleNamespace(
        log_prob=lambda decoded, seen, weights: log_p(decoded) + decoded.square().sum(-1) / 2
    )
    two._decode = lambda weights, latent: latent
    message = two._projected({}, torch.zeros(1, 3, dtype=torch.float64))
    assert message.covariance()[0].flatten().tolist() == pytest.approx([9] * 4, rel=0.01)
    assert message.mean()[0].tolist() == pytest.approx([0, 0], abs=0.02)


def test_a_vae_cannot_say_so():
    """Else the test above tells nothing: the posteriors of such data are correlated, and bend."""
    mean, covariance = error(VAE)
    assert float(mean.median()) > 0.01 and float(covariance.quantile(0.95)) > 0.03
    _, covariance, _ = quadrature(FlowVAE)
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    assert float((covariance[:, 0, 1] / variance.prod(-1).sqrt()).abs().max()) > 0.3


@pytest.mark.parametrize("info, precision", [((0.0, 0.0), 1.0), ((0.8, -0.5), 2.0)])
def test_evidence_is_the_integral_under_the_inbox(info, precision):
    """A lower bound in the mean, close to the integral: by 16 draws, over 100 rows, also under another inbox."""
    module, values = fitted(FlowVAE)
    inbox = Gaussian(torch.tensor([info], dtype=torch.float64).expand(100, 2),
                     torch.full((100, 2), precision, dtype=torch.float64))  # fmt: skip
    reply = module.infer({"latent": inbox}, Evidence.of(values), generator=generator())
    gap = quadrature(FlowVAE, info, precision)[2] - reply.log_evidence
    assert reply.bound == "lower" and -0.01 < float(gap.mean()) < 0.1


def test_where_few_draws_count_the_weights_are_tempered():
    """Data far from all seen in training: the covariance stays proper, and is not that of a single draw."""
    module, values = fitted(FlowVAE)
    reply = module.infer(standard(3), Evidence.of(8 * values[:3]), generator=generator())
    spread = torch.linalg.eigvalsh(reply.messages["latent"].covariance())
    assert bool((spread > 1e-4).all())


def test_mistakes_are_said():
    module, values = fitted(FlowVAE)
    with pytest.raises(StateError, match="fitted before"):
        untrained(FlowVAE).infer(standard(100), Evidence.of(values), generator=generator())
    with pytest.raises(ShapeError, match="as in training"):
        module.infer(standard(100), Evidence.of(values[:, :2]), generator=generator())
    with pytest.raises(DataError, match="without data"):
        untrained(FlowVAE).fit(Evidence.of(values * torch.nan), standard(100), generator=generator())
