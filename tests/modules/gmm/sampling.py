"""Joint draws, exact posteriors and chains of every kernel on tiny problems."""

import itertools
import math

import numpy as np
import torch
from scipy.special import betaln, gammaln

from serket.modules import chains as running
from serket.modules.chains import Chains, Plan
from serket.modules.mixture import Mixture
from serket.modules.niw import Prior
from serket.modules.seen import Seen
from tests.modules.gmm.toys import generator
from tests.statistical.checks import co_assignment, largest_z

ROWS, SIZE = 6, 2
PRESENT = torch.arange(ROWS) > 0
SAYS = torch.tensor([[0.8, 0.2], [0.3, 0.7], [0.6, 0.4]], dtype=torch.float64)  # p(o | k): what a module above sees
LAMBDA = torch.tensor([[2.0, 0.5], [0.5, 0.4]], dtype=torch.float64)
PER_ROW = torch.linspace(0.3, 2.0, ROWS, dtype=torch.float64)[:, None, None] * LAMBDA


def plan(components, collapsed=False, moves=0):
    return Plan(components, draws=1, sweeps=2, restarts=1, collapsed=collapsed, moves=moves)


KERNELS = {
    "blocked": ("points", plan(2), False),
    "blocked, sticks": ("points", plan(3), True),
    "blocked, split-merge": ("points", plan(3, moves=2), False),
    "collapsed": ("points", plan(2, True), False),
    "collapsed, sticks": ("points", plan(3, True), True),
    "collapsed, split-merge": ("points", plan(3, True, 2), False),
    "collapsed, split-merge, sticks": ("points", plan(3, True, 2), True),
    "per row": ("per row", plan(2), False),
    "shared": ("shared", plan(2), False),
    "given z": ("given z", plan(2), False),
    "collapsed, per row": ("per row", plan(2, True), False),
    "split-merge, shared": ("shared", plan(3, moves=1), False),
}
"""Form of the data, how to sample, and whether the weights are broken sticks."""


class World:
    """The joint of parameters, labels, z, and what is seen of them, in many independent copies."""

    def __init__(self, form, components, sticks, seed, chains, rows=ROWS, present=None, dof=SIZE + 8.0):
        self.form, self.components, self.chains, self.rows = form, components, chains, rows
        self.prior = Prior(alpha=1.5, kappa=0.5, scatter=1.0, dof=dof, sticks=sticks)
        self.g = generator(seed)
        self.present = PRESENT if present is None else present
        self.precision = LAMBDA.expand(1, SIZE, SIZE) if form == "shared" else PER_ROW
        self.at = torch.arange(chains).unsqueeze(-1)

    def normal(self, *shape):
        return torch.randn(*shape, generator=self.g, dtype=torch.float64)

    def gamma(self, alpha, *shape):
        return torch._standard_gamma(torch.full(shape, alpha, dtype=torch.float64), generator=self.g)

    def weights(self):
        if not self.prior.sticks:
            gammas = self.gamma(self.prior.alpha, self.chains, self.components)
            return gammas / gammas.sum(-1, keepdim=True)
        one, other = (self.gamma(a, self.chains, self.components) for a in (1.0, self.prior.alpha))
        broken = one / (one + other)
        broken[:, -1] = 1.0
        left = torch.cat([torch.ones(self.chains, 1).double(), (1 - broken).cumprod(-1)[:, :-1]], -1)
        return broken * left

    def draw(self):
        """Parameters, labels and z from the prior; not by the code under test."""
        shape = (self.chains, self.components, SIZE)
        sigma = wishart_inverse(
            self.prior.scatter * torch.eye(SIZE).double().expand(*shape, SIZE), self.prior.dof, self.g
        )
        cholesky = torch.linalg.cholesky(sigma)
        means = (cholesky @ self.normal(*shape, 1)).squeeze(-1) / math.sqrt(self.prior.kappa)
        weights = self.weights()
        labels = weights.multinomial(self.rows, replacement=True, generator=self.g)
        mixture = Mixture(means, cholesky, weights.log())
        return Chains(mixture, self.latents(mixture, labels), labels, torch.zeros(self.chains).double())

    def latents(self, mixture, labels):
        noise = self.normal(self.chains, self.rows, SIZE, 1)
        return mixture.means[self.at, labels] + (mixture.cholesky[self.at, labels] @ noise).squeeze(-1)

    def data(self, state):
        """What is seen given parameters, labels and z; points are drawn anew."""
        heard = torch.rand(self.chains, self.rows, generator=self.g, dtype=torch.float64) < SAYS[state.labels, 0]
        says = SAYS[: self.components]
        bias = torch.where(heard.unsqueeze(-1), says[:, 0], says[:, 1]).log()
        if self.form == "points":
            z = self.latents(state.mixture, state.labels)
            points = torch.where(self.present.unsqueeze(-1), z, 0.0)
            return Seen(bias, self.present, points=points), z
        factor = torch.linalg.cholesky(self.precision).mT
        noise = self.normal(self.chains, self.rows, SIZE, 1)
        y = state.points + torch.linalg.solve_triangular(factor, noise, upper=True).squeeze(-1)
        info = (self.precision @ y.unsqueeze(-1)).squeeze(-1)
        return Seen(bias, self.present, info=info, precision=self.precision), state.points

    def functions(self, state, seen):
        mu, sigma = state.mixture.means, state.mixture.cholesky @ state.mixture.cholesky.mT
        weights, labels, z = state.mixture.log_weights.exp(), state.labels, state.points
        return {
            "mean": mu[:, 0, 0],
            "other mean": mu[:, 1, 1],
            "square of a mean": mu[:, 0, 0] ** 2,
            "means": mu.abs().sum((1, 2)),
            "product of means": mu[:, 0, 0] * mu[:, 0, 1],
            "log det": state.mixture.cholesky.diagonal(dim1=-2, dim2=-1).log().sum((1, 2)),
            "variance": sigma[:, 0, 0, 0].log(),
            "other variance": sigma[:, -1, 1, 1].log(),
            "correlation": sigma[:, 1, 0, 1] / (sigma[:, 1, 0, 0] * sigma[:, 1, 1, 1]).sqrt(),
            "mean in deviations": mu[:, 0, 0] ** 2 / sigma[:, 0, 0, 0],
            "weight": weights[:, 0],
            "last weight": weights[:, -1],
            "square of a weight": weights[:, 0] ** 2,
            "members by weight": (labels == 0).double().mean(-1) * weights[:, 0],
            "together": (labels[:, 1] == labels[:, 2]).double(),
            "components in use": torch.nn.functional.one_hot(labels, self.components).any(1).double().sum(-1),
            "z": z[:, 1, 0].tanh(),
            "squares of z": z[:, 1:, 0].square().mean(-1).log(),
            "distance": (z[:, 1, 0] - z[:, 2, 0]).abs().log(),
            "bias": seen.bias.gather(-1, labels.unsqueeze(-1)).sum((1, 2)),
            "bias of an absent row": seen.bias[:, 0].gather(-1, labels[:, :1]).squeeze(-1),
        }


def geweke(kernel, seed, chains=1000, sweeps=30):
    """Largest |z| between chains of {data | parameters; kernel} and fresh draws of the joint (REFERENCE, 10)."""
    form, plan, sticks = KERNELS[kernel]
    world = World(form, plan.components, sticks, seed, chains)
    state = world.draw()
    for step in range(sweeps):
        seen, z = world.data(state)
        state = Chains(state.mixture, z, state.labels, state.score)
        run = running.kernel(seen, world.prior, plan, world.g)
        state = run(state, form != "given z" or step == 0, True)
        if form != "points":  # rows that are not present are drawn anew: their z is nobody's
            fresh = world.latents(state.mixture, state.labels)
            points = torch.where(PRESENT.unsqueeze(-1), state.points, fresh)
            state = Chains(state.mixture, points, state.labels, state.score)
    other = world.draw()
    told, z = world.data(other)
    other = Chains(other.mixture, z, other.labels, other.score)
    return largest_z(world.functions(state, seen), world.functions(other, told))


def wishart_inverse(scatter, dof, g):
    """Sigma ~ IW(scatter, dof) for an integer dof, as the inverse of a sum of outer products."""
    root = torch.linalg.cholesky(torch.linalg.inv(scatter))
    noise = torch.randn(*scatter.shape[:-1], int(dof), generator=g, dtype=scatter.dtype)
    draws = root @ noise
    return torch.linalg.inv(draws @ draws.mT)


def log_marginal(x, prior):
    """log p(x_1..x_n) of one component in one dimension: Murphy 2007, section 9, eq. for p(D); mean 0."""
    n = len(x)
    kappa, dof = prior.kappa + n, prior.dof + n
    scatter = prior.scatter + (x**2).sum() - (x.sum() ** 2 / kappa)
    return (
        -n / 2 * math.log(math.pi)
        + gammaln(dof / 2)
        - gammaln(prior.dof / 2)
        + prior.dof / 2 * math.log(prior.scatter)
        - dof / 2 * math.log(scatter)
        + math.log(prior.kappa / kappa) / 2
    )


def log_prior(counts, prior):
    """Log p(labels), weights integrated out, up to a constant."""
    if not prior.sticks:
        return gammaln(prior.alpha + counts).sum()
    after = counts[::-1].cumsum()[::-1]
    return sum(betaln(1 + n, prior.alpha + rest) for n, rest in zip(counts[:-1], after[1:], strict=True))


def posterior_exact(x, bias, prior, together=False):
    """Every configuration of labels and its posterior probability."""
    rows, components = bias.shape
    configurations = np.array(list(itertools.product(range(components), repeat=rows)))
    logs = []
    for labels in configurations:
        counts = np.bincount(labels, minlength=components)
        value = log_prior(counts, prior) + bias[np.arange(rows), labels].sum()
        logs.append(value + sum(log_marginal(x[labels == k], prior) for k in range(components) if counts[k]))
    weights = np.exp(np.array(logs) - np.max(logs))
    return torch.as_tensor(configurations), torch.as_tensor(weights / weights.sum())


def tiny(rows, components, sticks):
    prior = Prior(alpha=0.7, kappa=0.3, scatter=0.2, dof=3.0, sticks=sticks)
    x = torch.tensor([-1.2, -1.0, -0.7, 0.1, 0.4, 1.1, 1.3, 1.5], dtype=torch.float64)[:rows]
    bias = torch.randn(rows, components, generator=generator(3), dtype=torch.float64)
    seen = Seen(bias, torch.ones(rows, dtype=torch.bool), points=x.unsqueeze(-1))
    configurations, weights = posterior_exact(x.numpy(), bias.numpy(), prior)
    together = (configurations.unsqueeze(-1) == configurations.unsqueeze(-2)).double()
    return seen, prior, configurations, weights, (weights[:, None, None] * together).sum(0)


def co_assignment_error(kernel, rows, chains, sweeps):
    """Largest difference of co-assignment frequency between chains of a kernel and enumeration."""
    _, plan, sticks = KERNELS[kernel]
    seen, prior, _, _, exact = tiny(rows, plan.components, sticks)
    g = generator(4)
    labels = torch.randint(plan.components, (chains, rows), generator=g)
    mixture = running.gibbs.draw_mixture(seen.points, labels, plan.components, seen, prior, g)
    state = Chains(mixture, seen.points.expand(chains, rows, 1), labels, torch.zeros(chains).double())
    step = running.kernel(seen, prior, plan, g)
    total, burn = torch.zeros(rows, rows, dtype=torch.float64), sweeps // 5
    for now in range(sweeps):
        state = step(state, True, False)
        if now >= burn:
            total += co_assignment(state.labels)
    return float((total / (sweeps - burn) - exact).abs().max())


def sbc_ranks(kernel, replications, draws=19, burn=60, thin=10, rows=12, seed=0):
    """Ranks of what is true among draws of the posterior, one chain a replication, label-invariant quantities."""
    form, plan, sticks = KERNELS[kernel]
    world = World(form, plan.components, sticks, seed, replications, rows, torch.arange(rows) > 0)
    if form == "per row":
        world.precision = torch.linspace(0.3, 2.0, rows, dtype=torch.float64)[:, None, None] * LAMBDA
    true = world.draw()
    seen, z = world.data(true)
    true, state = Chains(true.mixture, z, true.labels, true.score), world.draw()  # the chain starts elsewhere
    state = Chains(state.mixture, z if form == "points" else state.points, state.labels, state.score)
    step = running.kernel(seen, world.prior, plan, world.g)
    below = torch.zeros_like(invariants(true))
    for now in range(1, burn + draws * thin + 1):
        keep = now > burn and (now - burn) % thin == 0
        state = step(state, True, keep)
        below += invariants(state) < invariants(true) if keep else 0
    return below.numpy()


def invariants(state):
    mu, factor = state.mixture.means, state.mixture.cholesky.diagonal(dim1=-2, dim2=-1)
    weights = state.mixture.log_weights.exp()
    ordered = mu[..., 0].sort(-1).values
    entropy = -(weights * state.mixture.log_weights.clamp_min(-700)).sum(-1)
    return torch.stack(
        [ordered[:, 0], ordered[:, -1], mu[..., 1].square().sum(-1), factor.log().sum((1, 2)), entropy], -1
    )
