"""Every objective of the joint composer by hand on linear-Gaussian views, and what its optimum makes of the posterior.

One shared dimension; view m is z = a s + b w + e, e ~ N(0, v), seen as x ~ N(z, 1 / L): its message is a potential with
eta = L x. With T = 1 / (v + 1 / L) the posterior under N(0, I) has precision 1 + sum a^2 T and information sum a T x.
Expectations over draws are Gauss-Hermite sums, exact for polynomials, so that values compare to 1e-9.
"""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch

from serket.composer.joint.experts import log_density
from serket.composer.joint.latent_vae import NOISE_FLOOR, Draws, Networks, Views
from serket.composer.joint.objectives import OBJECTIVES
from serket.composer.minibatch import Minibatch
from serket.composer.readings import features
from serket.messages import Gaussian
from tests.composer.problems import generator

LOADINGS, NOISE, SEEN = (1.3, -0.8, 0.6), (0.3, 0.5, 0.2), (4.0, 2.0, 8.0)
PRIVATE = (0.5, 0.4, -0.7)
KINDS = ["jmvae", "telbo", "mvae", "mmvae", "mopoe", "mvtcae", "mmjsd", "mmvae_plus", "dmvae"]


def total(view):
    """Precision with which x sees a s, without a private part."""
    return 1 / (NOISE[view] + 1 / SEEN[view])


def raw(precision):
    """What the encoder puts out for a precision."""
    return math.log(math.expm1(precision - 1e-6))


def views_of(data, present=None):
    """Messages about data ``(rows, views)``."""
    present = torch.ones(data.shape, dtype=torch.bool) if present is None else present
    told = []
    for view, column in enumerate(data.T):
        lam = torch.full_like(column, SEEN[view]).unsqueeze(1)
        told.append(Gaussian(lam * column.unsqueeze(1), lam).mask(present[:, view]))
    seen = tuple(map(features, told))
    return Views(tuple(told), seen, present.T, torch.zeros(data.T.shape, dtype=data.dtype))


def networks(experts, joint=None, private=None, count=3):
    """Linear maps: q_j(s | x_j) = N(c x_j, 1 / p) for (c, p) per view, and true decoders.

    Args:
        experts: (c, p) per view.
        joint: (c_1 .. c_M, p) of the joint encoder's potential, or None.
        private: (c, p) per view of the potential over w, or None.
    """
    weights, names, tensor = {}, tuple("abc"[:count]), partial(torch.tensor, dtype=torch.float64)
    for view, name in enumerate(names):
        known = SEEN[view] / (1 + SEEN[view])  # features: mean = known x, and known
        told = [experts[view]] + ([private[view]] if private else [])
        weights |= {
            f"{name}.encoder.0.weight": tensor([[p * c / known, 0.0] for c, p in told] + [[0.0, 0.0]] * len(told)),
            f"{name}.encoder.0.bias": tensor([0.0] * len(told) + [raw(p) for _, p in told]),
            f"{name}.decoder.0.weight": tensor([[LOADINGS[view]] + ([PRIVATE[view]] if private else [])]),
            f"{name}.decoder.0.bias": tensor([0.0]),
            f"{name}.log_variance": tensor([math.log(NOISE[view] - NOISE_FLOOR)]),
            f"{name}.log_auxiliary": tensor([-0.4]),
        }
    if joint:
        row = [[joint[-1] * c * (1 + SEEN[view]) / SEEN[view], 0.0] for view, c in enumerate(joint[:-1])]
        weights["joint.encoder.0.weight"] = tensor([sum(row, []), [0.0] * 2 * count])
        weights["joint.encoder.0.bias"] = tensor([0.0, raw(joint[-1])])
    return Networks(names, weights, 1, 1, 1 if private else 0)


@dataclass(frozen=True, eq=False)
class Grid(Draws):
    """Replicates of every row over a grid: one Gauss-Hermite rule per call of ``normal``, one column per choice.

    Args:
        nodes: per call, how many.
        picks: masks ``(choices, views)`` that ``one`` and ``some`` go through, each as likely.
    """

    nodes: tuple[int, ...] = ()
    picks: torch.Tensor | None = None

    def __post_init__(self):
        rules = [np.polynomial.hermite_e.hermegauss(n) for n in self.nodes]
        mesh = np.meshgrid(*[x for x, _ in rules], indexing="ij")
        mass = np.meshgrid(*[w / w.sum() for _, w in rules], indexing="ij")
        points = torch.tensor(np.stack([axis.ravel() for axis in mesh]))
        weights = torch.tensor(np.prod([axis.ravel() for axis in mass], axis=0))
        choices = 1 if self.picks is None else len(self.picks)
        object.__setattr__(self, "points", points.repeat(1, choices))
        object.__setattr__(self, "mass", weights.repeat(choices) / choices)
        per = weights.numel()
        chosen = None if self.picks is None else self.picks.repeat_interleave(per, 0)
        object.__setattr__(self, "chosen", chosen)
        object.__setattr__(self, "calls", iter(range(99)))

    def normal(self, like):
        noise = self.points[next(self.calls)]
        return noise.repeat(like.shape[-2] // len(noise)).unsqueeze(1).expand(like.shape).to(like)

    def one(self, present):
        return self.chosen.T.repeat(1, present.shape[1] // len(self.chosen)) & present

    some = one

    def expected(self, kind, nets, views, **settings):
        """The exact mean of an objective, per row."""
        rows, copies = views.present.shape[1], len(self.mass)
        wide = views[torch.arange(rows).repeat_interleave(copies)]
        object.__setattr__(self, "calls", iter(range(99)))
        return OBJECTIVES[kind].value(Minibatch(nets, wide, self, **settings)).view(rows, copies) @ self.mass


def subsets(present):
    """Non-empty subsets of the present views, as masks."""
    codes = [[bool(code >> view & 1) for view in range(len(present))] for code in range(1, 2 ** len(present))]
    return torch.tensor([code for code in codes if all(p or not c for c, p in zip(code, present, strict=True))])


def grid(kind, count=3, present=None, nodes=None):
    """A grid fit for an objective, on rows with this pattern."""
    present = [True] * count if present is None else present
    one = torch.eye(count, dtype=torch.bool)[torch.tensor(present)]
    picks = subsets(present) if kind in ("mvae", "mopoe") else one
    calls = {"jmvae": (3,), "telbo": (3, 3), "mvae": (3, 3, 3), "mopoe": (3,), "mvtcae": (3,), "mmjsd": (3,),
             "mmvae": (80,), "mmvae_plus": (80,) + (3,) * 2 * count, "dmvae": (3, 3) + (3,) * count}  # fmt: skip
    return Grid(generator(0), nodes or calls[kind], picks)


# Hand calculations: scalars, one row at a time.


def log_r(view, x, mean, variance, private=0.0, private_mean=0.0, private_variance=0.0):
    """E log r(s, w) under s ~ N(mean, variance), w likewise: log N(x; a s + b w, 1 / T), plus the message's scale."""
    t, lam = total(view), SEEN[view]
    gap = x - LOADINGS[view] * mean - private * private_mean
    spread = LOADINGS[view] ** 2 * variance + private**2 * private_variance
    scale = lam * x * x / 2 + math.log(2 * math.pi / lam) / 2
    return scale + (math.log(t / (2 * math.pi)) - t * (gap * gap + spread)) / 2


def kl(mean, variance, other_mean=0.0, other_variance=1.0):
    ratio = variance / other_variance
    return (ratio - math.log(ratio) - 1 + (mean - other_mean) ** 2 / other_variance) / 2


def pool(parts, prior=0.0):
    """Mean and variance of a product of (mean, precision), times N(0, 1 / prior)."""
    precision = prior + sum(p for _, p in parts)
    return sum(m * p for m, p in parts) / precision, 1 / precision


def elbo(x, q, views):
    return sum(log_r(view, x[view], *q) for view in views) - kl(*q)


def quadrature(function, mean, variance):
    """E of a function of s under N(mean, variance), on a fine grid."""
    s = mean + math.sqrt(variance) * torch.linspace(-12, 12, 4001, dtype=torch.float64)
    mass = torch.exp(-((s - mean) ** 2) / (2 * variance))
    return float((function(s) * mass).sum() / mass.sum())


def log_normal(s, mean, variance):
    return -((s - mean) ** 2) / (2 * variance) - math.log(2 * math.pi * variance) / 2


def by_hand(kind, x, experts, joint, private, alpha):
    """The objective of one row of three views, alpha as it stands."""
    every, n = (0, 1, 2), 3
    parts = [(c * x[view], p) for view, (c, p) in enumerate(experts)]
    single = [pool([part], 1.0) for part in parts]  # with the prior
    bare = [(mean, 1 / p) for mean, p in parts]
    if kind in ("jmvae", "telbo"):
        q = pool([(sum(c * one for c, one in zip(joint, x, strict=False)), joint[-1])], 1.0)
        if kind == "jmvae":
            return elbo(x, q, every) - alpha * sum(kl(*q, *one) for one in single)
        return elbo(x, q, every) + sum(elbo(x, single[view], [view]) for view in every)
    if kind == "mvae":
        parted = [[view for view in every if mask[view]] for mask in subsets([True] * n)]
        some = [elbo(x, pool([parts[view] for view in one], 1.0), one) for one in parted]
        return elbo(x, pool(parts, 1.0), every) + sum(elbo(x, single[v], [v]) for v in every) + sum(some) / len(some)
    if kind == "mvtcae":
        q = pool(parts)
        reading = sum(log_r(view, x[view], *q) for view in every)
        strays = sum(kl(*q, *one) for one in bare)
        return (n - alpha) / n * reading - (1 - alpha) * kl(*q) - alpha / n * strays
    if kind == "mopoe":
        masks = subsets([True] * n)
        products = [pool([parts[view] for view in every if mask[view]]) for mask in masks]
        return sum(elbo(x, q, every) for q in products) / len(products)
    if kind == "mmjsd":
        reading = sum(log_r(view, x[view], *q) for q in bare for view in every) / n
        f = pool([(mean, p / (n + 1)) for mean, p in parts], 1 / (n + 1))
        return reading - (sum(kl(*q, *f) for q in bare) + kl(0, 1, *f)) / (n + 1)
    if kind == "mmvae":

        def log_weight(s):
            mixture = torch.stack([log_normal(s, *q) for q in bare]).logsumexp(0) - math.log(n)
            return sum(log_r(view, x[view], s, 0.0) for view in every) + log_normal(s, 0, 1) - mixture

        return sum(quadrature(log_weight, *q) for q in bare) / n
    own = [pool([(c * x[view], p)], 1.0) for view, (c, p) in enumerate(private)]
    if kind == "mmvae_plus":

        def within(chosen):
            def log_weight(s):
                mixture = torch.stack([log_normal(s, *q) for q in bare]).logsumexp(0) - math.log(n)
                value = log_normal(s, 0, 1) - mixture - kl(*own[chosen])
                for view in every:
                    w = own[view] if view == chosen else (0.0, math.exp(-0.8))
                    value = value + log_r(view, x[view], s, 0.0, PRIVATE[view], *w)
                return value

            return log_weight

        return sum(quadrature(within(view), *bare[view]) for view in every) / n

    def whole(q):
        reading = sum(log_r(view, x[view], *q, PRIVATE[view], *own[view]) for view in every)
        return reading - kl(*q) - sum(kl(*one) for one in own)

    return whole(pool(parts, 1.0)) + sum(whole(q) for q in single)


EXPERTS = ((0.9, 1.4), (-0.5, 2.2), (0.7, 1.1))
JOINT = (0.5, -0.3, 0.4, 2.0)
OWN = ((0.3, 0.7), (0.6, 0.4), (-0.2, 1.1))
ROW = torch.tensor([[0.8, -1.1, 0.3], [-0.4, 0.2, 1.5]], dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_the_value_is_that_of_a_hand_calculation(kind):
    private = OWN if OBJECTIVES[kind].private else None
    nets = networks(EXPERTS, JOINT, private)
    points = grid(kind, nodes=(80,) + (2,) * 6 if kind == "mmvae_plus" else None)  # two nodes serve a quadratic
    found = points.expected(kind, nets, views_of(ROW), alpha=0.7)
    wanted = [by_hand(kind, row.tolist(), EXPERTS, JOINT, private, 0.7) for row in ROW]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_an_absent_view_is_really_absent(kind):
    """A row that lacks a view is worth what it is worth to networks that never had it."""
    private = OWN if OBJECTIVES[kind].private else None
    present = torch.tensor([[True, True, False]] * 2)
    nodes = {"mmvae_plus": (40, 2, 2, 2, 2, 2, 2)}.get(kind)
    fewer = None if nodes is None else nodes[:5]
    seen = views_of(ROW, present)
    nets = networks(EXPERTS, JOINT, private)
    found = grid(kind, 3, [True, True, False], nodes).expected(kind, nets, seen, alpha=0.7)
    if kind in ("jmvae", "telbo"):  # no joint encoder, for want of a view
        values = []
        for row in ROW.tolist():
            parts = [(c * row[view], p) for view, (c, p) in enumerate(EXPERTS[:2])]
            both = elbo(row, pool(parts, 1.0), [0, 1])
            values.append(both if kind == "jmvae" else sum(elbo(row, pool([parts[v]], 1.0), [v]) for v in (0, 1)))
        wanted = torch.tensor(values, dtype=torch.float64)
    else:
        two = views_of(ROW[:, :2])
        wanted = grid(kind, 2, None, fewer).expected(kind, networks(EXPERTS, None, private, 2), two, alpha=0.7)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


# Optima: encoders free, decoders true, data averaged exactly.


def data(private=False):
    """Points whose first and second moments are those of x: sums of quadratics over them are expectations."""
    a = torch.tensor(LOADINGS, dtype=torch.float64)
    own = [private * PRIVATE[view] ** 2 + 1 / total(view) for view in range(3)]
    covariance = a.outer(a) + torch.tensor(own, dtype=torch.float64).diag()
    root = torch.linalg.cholesky(covariance)
    return 3**0.5 * torch.cat([root.T, -root.T])


def optimum(kind, views=3, nodes=None, **settings):
    """Climb to the best encoders from plain ones; return per view and for the joint encoder (c, p)."""
    private = OWN[:views] if kind == "mmvae_plus" else None
    seen = views_of(data(private is not None)[:, :views])
    nets = networks(EXPERTS[:views], (*JOINT[:views], 2.0), private, views)
    learnt = [name for name in nets.weights if "encoder" in name]
    leaves = [nets.weights[name].requires_grad_() for name in learnt]
    descent = torch.optim.LBFGS(leaves, max_iter=300, tolerance_grad=1e-11, tolerance_change=0,
                                line_search_fn="strong_wolfe")  # fmt: skip
    points = grid(kind, views, nodes=nodes)

    def closure():
        descent.zero_grad()
        loss = -points.expected(kind, nets, seen, **settings).mean()
        loss.backward()
        return loss

    descent.step(closure)
    with torch.no_grad():
        one = views_of(torch.eye(views, dtype=torch.float64))
        experts, _ = nets.encode(one)
        nothing = nets.encode(views_of(torch.zeros(1, views, dtype=torch.float64)))[0].info
        everything = nets.encode_all(one)
        base = nets.encode_all(views_of(torch.zeros(1, views, dtype=torch.float64))).info[0, 0]
    found = []
    for view in range(views):
        p = float(experts.precision[view, 0, 0])
        found.append((float(experts.info[view, view, 0] - nothing[view, 0, 0]), p))
    return found, ([float(value) for value in everything.info[:, 0] - base], float(everything.precision[0, 0]))


def exact(view):
    """Information per x and precision of the true potential of a view."""
    return LOADINGS[view] * total(view), LOADINGS[view] ** 2 * total(view)


def potential(kind, found):
    """(c, p) of what an expert says beyond the prior."""
    info, precision = found
    alone = OBJECTIVES[kind].rule in ("product", "mixture", "mixture_of_products")  # the expert is a posterior
    return info, precision - alone


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("mmjsd", "mmvae_plus")])
def test_with_one_view_the_optimum_is_the_posterior(kind):
    found, (slopes, precision) = optimum(kind, 1, alpha=0.5)
    assert potential(kind, found[0]) == pytest.approx(exact(0), abs=2e-4)
    if OBJECTIVES[kind].joint:
        assert (slopes[0], precision) == pytest.approx(exact(0), abs=2e-4)


def test_with_one_view_the_optimum_of_mmvae_plus_is_the_mean_field_posterior():
    """q(s) q(w) cannot say that s and w explain each other away: the mean is right, the precision 1 + a^2 T, too sure."""
    ((info, precision),), _ = optimum("mmvae_plus", 1, nodes=(2, 2, 2))
    a, b, t = LOADINGS[0], PRIVATE[0], total(0)
    assert precision == pytest.approx(1 + a**2 * t, abs=2e-4)
    assert info / precision == pytest.approx(a / (a**2 + b**2 + 1 / t), abs=2e-4)
    marginal = 1 + a**2 / (b**2 + 1 / t)
    assert precision > 1.2 * marginal


@pytest.mark.parametrize("kind", ["telbo", "mvae", "jmvae"])
def test_the_optimum_is_the_posterior_of_every_subset(kind):
    """Every unimodal encoder is the true potential, so that products of them are right; of jmvae as alpha falls to 0."""
    found, (slopes, precision) = optimum(kind, alpha=1e-4)
    near = 2e-2 if kind == "jmvae" else 1e-4
    for view, one in enumerate(found):
        assert one == pytest.approx(exact(view), abs=near)
    if kind != "mvae":
        assert slopes == pytest.approx([exact(view)[0] for view in range(3)], abs=near)
        assert precision == pytest.approx(sum(exact(view)[1] for view in range(3)), abs=near)


def test_without_total_correlation_the_product_of_mvtcae_is_the_posterior():
    """The product over all views, without a prior expert, is right; how it is shared among experts nothing tells."""
    found, _ = optimum("mvtcae", alpha=0.0)
    assert [info for info, _ in found] == pytest.approx([exact(view)[0] for view in range(3)], abs=1e-4)
    assert sum(p for _, p in found) == pytest.approx(1 + sum(exact(view)[1] for view in range(3)), abs=1e-4)


TRUE = [1 + exact(view)[1] for view in range(3)]  # precision of p(s | x_m)
WHOLE = sum(TRUE) - 2  # and of p(s | X)
BIASES = {
    # The unimodal encoders are averages of the joint one, and pull it towards them: too wide.
    "jmvae": lambda one, joint: 1 + joint < 0.6 * WHOLE,
    # No prior in the product: a little too sure.
    "mvtcae": lambda one, joint: WHOLE < sum(one) < 1.1 * WHOLE,
    # An expert has to reconstruct what it does not see, and is rewarded for certainty: all are too sure.
    "mopoe": lambda one, joint: all(p > 1.3 * true for p, true in zip(one, TRUE, strict=True)),
    "mmvae": lambda one, joint: all(p > 1.5 * WHOLE for p in one),
    # What it is to reconstruct without a private part is blurred, and pulls less; still the same.
    "mmvae_plus": lambda one, joint: all(p > 1.5 * WHOLE for p in one),
    # All views end up about as sure as the best one.
    "mmjsd": lambda one, joint: max(one) < 1.1 * min(one) and min(one) > 0.9 * max(TRUE),
    # The product of such experts counts them again.
    "dmvae": lambda one, joint: 1 + sum(one) > 2 * WHOLE,
}


@pytest.mark.parametrize("kind", BIASES)
def test_the_known_bias_of_the_others(kind):
    nodes = (20,) + (2,) * 6 if kind == "mmvae_plus" else None
    found, (_, joint) = optimum(kind, nodes=nodes, alpha={"jmvae": 1.0, "mvtcae": 0.9}.get(kind, 0.0))
    assert BIASES[kind]([p for _, p in found], joint), (found, joint)


def test_doubly_reparameterised_gradients_are_right_in_the_mean():
    """The gradient of E log (w_1 + w_2) / 2 into an expert, from a grid over both draws, against plain differentiation."""
    x, count = torch.tensor([[0.8]], dtype=torch.float64), 120
    node, mass = np.polynomial.hermite_e.hermegauss(count)
    noise = torch.tensor(np.stack(np.meshgrid(node, node, indexing="ij")).reshape(2, -1, 1))
    mass = torch.tensor(np.outer(mass, mass).ravel() / mass.sum() ** 2)
    found, plain = [], []
    for hooked in (True, False):
        nets = networks(EXPERTS[:1], None, None, 1)
        leaves = [nets.weights[f"a.encoder.0.{part}"].requires_grad_() for part in ("weight", "bias")]
        views = views_of(x)[torch.zeros(len(mass), dtype=torch.int64)]

        class Fixed(Draws):
            def normal(self, like):
                return noise

            def one(self, present):
                return present

        b = Minibatch(nets, views, Fixed(generator(0)), samples=2)
        if hooked:
            value = OBJECTIVES["mmvae"].value(b)
        else:
            q = Gaussian(b.experts.info[0], b.experts.precision[0])
            s = q.mean() + noise / q.precision.sqrt()
            weights = (
                b.read_all(s) + log_density(Gaussian(torch.zeros_like(s), torch.ones_like(s)), s) - log_density(q, s)
            )
            value = weights.logsumexp(0) - math.log(2)
        (value @ mass).backward()
        (found if hooked else plain).extend(leaf.grad.flatten() for leaf in leaves)
    torch.testing.assert_close(torch.cat(found), torch.cat(plain), rtol=1e-6, atol=1e-8)
    assert float(torch.cat(plain).abs().max()) > 0.01


def test_views_are_drawn_per_row_and_evenly():
    """Where peers draw one modality for the whole batch."""
    present = torch.tensor([[True, True, True], [True, False, True], [False, True, False]]).T.repeat(1, 4000)
    one, some = Draws(generator(0)).one(present), Draws(generator(1)).some(present)
    assert bool((one.sum(0) == 1).all()) and bool(some.any(0).all())
    assert not bool((one & ~present).any()) and not bool((some & ~present).any())
    assert one[:, ::3].double().mean(1).tolist() == pytest.approx([1 / 3] * 3, abs=0.03)
    assert one[:, 1::3].double().mean(1).tolist() == pytest.approx([0.5, 0, 0.5], abs=0.03)
    codes = (some[:, ::3] * torch.tensor([[1], [2], [4]])).sum(0).bincount(minlength=8) / 4000
    assert codes.tolist() == pytest.approx([0] + [1 / 7] * 7, abs=0.03)
