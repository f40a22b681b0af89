"""The objectives of joint multimodal VAEs, each one function of what a minibatch offers.

Notation: s is shared, w_m private, X the present views of a row, n their number, p = N(0, I). log r_m(s) = log of the
integral of p(z_m | s) m_m(z_m) over z_m stands for log p(x_m | s). Expectations are by reparameterised draws. Where a
paper averages over experts or subsets, one is drawn per row: the same value in the mean, at a cost linear in views.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from serket.composer.joint.experts import (
    Rule,
    divergence,
    log_density,
    product,
    standard,
)
from serket.composer.minibatch import Importance, Minibatch
from serket.errors import GraphError
from serket.messages import Gaussian

__all__ = ["OBJECTIVES", "Objective", "chosen"]


def jmvae(b: Minibatch) -> Tensor:
    """E_q sum_m log r_m - KL(q || p) - alpha sum_j KL(q || q_j), q by the joint encoder (Suzuki 2016).

    The joint encoder needs every view. A row that lacks some is worth the ELBO under the product of its unimodal
    encoders, by which subsets are inferred.
    """
    complete = b.present.all(0)
    q = (b.prior * b.networks.encode_all(b.views)).where(complete, b.combined("product_with_prior", b.present))
    unimodal = b.experts * standard(b.experts.info)
    strays = torch.where(complete, b.summed(divergence(q, unimodal)), 0.0)
    return b.read_all(b.draw(q)) - b.from_prior(q) - b.alpha * strays


def telbo(b: Minibatch) -> Tensor:
    """ELBO(X; q) + sum_j ELBO(x_j; q_j), q by the joint encoder; the second leaves decoders alone (Vedantam 2018).

    Its two stages at once: the unimodal encoders follow the decoders, which learn from complete rows only.
    """
    complete = b.present.all(0)
    q = b.prior * b.networks.encode_all(b.views)
    together = torch.where(complete, b.read_all(b.draw(q)) - b.from_prior(q), 0.0)
    unimodal = b.experts * standard(b.experts.info)
    s, fixed = b.draw(unimodal), b.networks.frozen()
    alone = torch.stack([fixed.read(b.views, view, s[view]) for view in range(len(s))])
    return together + b.summed(alone - b.from_prior(unimodal))


def mvae(b: Minibatch) -> Tensor:
    """ELBO(X) + sum_j ELBO(x_j) + ELBO(X_A) for a random subset A, q_A = p prod_j t_j (Wu & Goodman 2018)."""
    subset = b.draws.some(b.present)
    whole, part = (b.combined("product_with_prior", views) for views in (b.present, subset))
    unimodal = b.experts * standard(b.experts.info)
    s, s_part, s_alone = b.draw(whole), b.draw(part), b.draw(unimodal)
    total = -b.from_prior(whole) - b.from_prior(part) - b.summed(b.from_prior(unimodal))
    for view in range(len(subset)):
        together, partly, alone = b.networks.read(b.views, view, torch.stack([s, s_part, s_alone[view]]))
        total = total + torch.where(b.present[view], together + alone, 0.0) + torch.where(subset[view], partly, 0.0)
    return total


def mvtcae(b: Minibatch) -> Tensor:
    """(n - alpha) / n E_q log r - beta [(1 - alpha) KL(q || p) + alpha / n sum_j KL(q || q_j)] (Hwang 2021).

    q = prod_j q_j, without the prior; the last term is the conditional bottleneck of each view.
    """
    q, n = b.combined("product", b.present), b.count
    strays = b.beta * b.summed(divergence(q, b.experts)) / n
    reading = (n - b.alpha) / n * b.read_all(b.draw(q))
    return reading - (1 - b.alpha) * b.from_prior(q) - b.alpha * strays


def mopoe(b: Minibatch) -> Tensor:
    """Mean over subsets A of E_q_A log r - KL(q_A || p), q_A = prod_j q_j over A (Sutter 2021).

    By convexity the mean of the divergences is no less than that of the mixture: a lower bound of its ELBO.
    """
    q = b.combined("product", b.draws.some(b.present))
    return b.read_all(b.draw(q)) - b.from_prior(q)


def mmjsd(b: Minibatch) -> Tensor:
    """E_q log r - JS(q_1 .. q_n, p), q the mixture of the q_j (Sutter 2020).

    JS = (1 / (n + 1)) [sum_j KL(q_j || f) + KL(p || f)], f the geometric mean of all n + 1: the dynamic prior.
    """
    q, n = b.combined("product", b.draws.one(b.present)), b.count
    whole, share = product(b.experts, b.present), (1 / (n + 1)).unsqueeze(-1)
    mean = Gaussian(whole.info * share, (whole.precision + 1) * share)
    strays = b.summed(divergence(b.experts, mean)) + divergence(b.prior, mean)
    return b.read_all(b.draw(q)) - b.beta * strays / (n + 1)


def mmvae(b: Minibatch) -> Tensor:
    """Mean over j of E_{s_1..s_K ~ q_j} log (1/K) sum_k p(s_k) prod_m r_m(s_k) / q(s_k), q the mixture (Shi 2019).

    Doubly reparameterised gradients (Tucker 2019), Gaussian experts where the paper has Laplace.
    """
    draw = Importance(b, b.draws.one(b.present))
    return draw.bound(b.read_all(draw.s) + b.beta * draw.log_ratio)


def mmvae_plus(b: Minibatch) -> Tensor:
    """As ``mmvae``, with private w_m ~ q(w_m | x_m) for the view drawn, w_n ~ r_n for the others (Palumbo 2023).

    (p(s) p(w_j) / (q(s) q(w_j)))^beta r_j(s, w_j) prod_{n != j} r_n(s, w_n): what others are predicted by cannot pass
    through w. r_n = N(0, diag) is learnt; imagining draws w from N(0, I).
    """
    chosen = b.draws.one(b.present)
    draw = Importance(b, chosen)
    total = b.beta * draw.log_ratio
    for view, name in enumerate(b.networks.names):
        q = b.private[view] * standard(b.private[view].info)
        w = draw.sample(q)
        fixed = Gaussian(q.info.detach(), q.precision.detach())
        ratio = log_density(standard(w), w) - log_density(fixed, w)
        total = total + torch.where(chosen[view], b.beta * ratio, 0.0)
        other = b.networks.weights[f"{name}.log_auxiliary"].exp() * b.draws.normal(w)
        total = total + b.read(view, draw.s, None, torch.where(chosen[view].unsqueeze(-1), w, other))
    return draw.bound(total)


def dmvae(b: Minibatch) -> Tensor:
    """ELBO(X; q) + sum_j ELBO(X; q_j), q = p prod_j t_j, q_j = p t_j, private q(w_m | x_m) (Lee & Pavlovic 2021)."""
    own = [potential * standard(potential.info) for potential in b.private]
    kept = torch.stack([b.from_prior(q) for q in own])
    whole, chosen = (b.combined("product_with_prior", views) for views in (b.present, b.draws.one(b.present)))
    total = -(1 + b.count) * b.summed(kept) - b.from_prior(whole) - b.count * b.from_prior(chosen)
    s = torch.stack([b.draw(whole), b.draw(chosen)])
    for view in range(len(own)):
        w = b.draw(own[view])
        together, across = b.networks.read(b.views, view, s, w.expand(2, *w.shape))
        total = total + torch.where(b.present[view], together + b.count * across, 0.0)
    return total


@dataclass(frozen=True, slots=True)
class Objective:
    """What a name stands for.

    Args:
        value: of a minibatch, nats a row, ``(rows,)``.
        rule: how a subset of the views is inferred.
        joint: whether a joint encoder infers the full set.
        private: dimensions of w by default, or None.
        alpha: by default, or None.
        samples: importance samples by default, or None.
    """

    value: Callable[[Minibatch], Tensor]
    rule: Rule
    joint: bool = False
    private: int | None = None
    alpha: float | None = None
    samples: int | None = None


OBJECTIVES: Mapping[str, Objective] = {
    "jmvae": Objective(jmvae, "product_with_prior", joint=True, alpha=0.1),
    "telbo": Objective(telbo, "product_with_prior", joint=True),
    "mvae": Objective(mvae, "product_with_prior"),
    "mmvae": Objective(mmvae, "mixture", samples=5),
    "mopoe": Objective(mopoe, "mixture_of_products"),
    "mvtcae": Objective(mvtcae, "product", alpha=0.9),
    "mmjsd": Objective(mmjsd, "mixture"),
    "mmvae_plus": Objective(mmvae_plus, "mixture", private=8, samples=5),
    "dmvae": Objective(dmvae, "product_with_prior", private=8),
}


def chosen(objective: str, option: str, given: float | None) -> float | None:
    """Return an option of an objective or its default.

    Raises:
        GraphError: it has no effect on this objective.
    """
    default: float | None = getattr(OBJECTIVES[objective], option)
    if given is not None and default is None:
        users = ", ".join(name for name, one in OBJECTIVES.items() if getattr(one, option) is not None)
        raise GraphError(
            f"'{option}' has no effect on objective {objective}",
            expected=f"no '{option}', or one of the objectives that use it: {users}",
            found=f"{option}: {given:g}",
            fix="remove it, or change the objective",
        )
    return default if given is None else given
