"""One sweep of blocked Gibbs sampling over a Gaussian mixture, all chains at once (BDA3, chapter 22)."""

from __future__ import annotations

import torch
from torch import Tensor

from serket.messages.gaussian import factored
from serket.modules.mixture import (
    Mixture,
    blocks,
    log_density,
    log_integral,
    rows_of,
    solve,
)
from serket.modules.niw import Prior, draw_gaussians, draw_weights, posterior
from serket.modules.seen import Seen

__all__ = ["draw_labels", "draw_latents", "draw_mixture", "label_logits", "sweep"]


def sweep(
    mixture: Mixture,
    points: Tensor,
    seen: Seen,
    prior: Prior,
    generator: torch.Generator,
    integrate: bool = True,
) -> tuple[Mixture, Tensor, Tensor, Tensor]:
    """Draw k | theta, pi, then z | k, theta, then theta, pi | k, z.

    Args:
        mixture: where C chains stand.
        points: ``(C, N, D)``, z at present.
        seen: what is known of the rows.
        prior: the hyper-parameters.
        generator: the source of randomness.
        integrate: draw k_n with z_n integrated out: mixes faster, but factors K matrices a row instead of one.

    Returns:
        The mixture, points, labels ``(C, N)`` and, ``(C,)``, the log of the normalisers the labels were drawn with:
        the log-likelihood of theta and pi, if z is integrated out or observed.
    """
    logits = label_logits(mixture, points, seen, integrate)
    labels = draw_labels(logits, generator)
    if seen.info is not None and seen.precision is not None:
        points = draw_latents(mixture, labels, seen.info, seen.precision, generator)
    mixture = draw_mixture(points, labels, mixture.means.shape[-2], seen, prior, generator)
    return mixture, points, labels, logits.logsumexp(-1).sum(-1)


def draw_mixture(
    points: Tensor, labels: Tensor, components: int, seen: Seen, prior: Prior, generator: torch.Generator
) -> Mixture:
    """Draw theta, pi given points ``(C, N, D)`` and labels ``(C, N)``; weights that are not owned are uniform."""
    members = torch.nn.functional.one_hot(labels, components).to(points)
    told = torch.where(seen.present.unsqueeze(-1), members, 0.0)
    means, cholesky = draw_gaussians(posterior(points.expand(*labels.shape, -1), told, labels, prior), generator)
    counts = members.sum(-2)
    log_weights = draw_weights(counts, prior, generator) if seen.owned else torch.zeros_like(counts)
    return Mixture(means, cholesky, log_weights)


def label_logits(mixture: Mixture, points: Tensor, seen: Seen, integrate: bool) -> Tensor:
    """Log p(k_n = k | ...) up to a constant, ``(C, N, K)``: bias + log pi_k + log p(z_n or its message | k)."""
    if integrate and seen.info is not None and seen.precision is not None:
        likelihood = log_integral(mixture, seen.info, seen.precision)
    else:
        likelihood = log_density(mixture, points)
    likelihood = torch.where(seen.present.unsqueeze(-1), likelihood, 0.0)
    return likelihood + seen.bias + mixture.log_weights.unsqueeze(-2)


def draw_labels(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Draw from the categorical of each row by an exponential race: the largest logit minus log E, E ~ Exp(1)."""
    return (logits - torch.empty_like(logits).exponential_(generator=generator).log()).argmax(-1)


def draw_latents(
    mixture: Mixture, labels: Tensor, info: Tensor, precision: Tensor, generator: torch.Generator
) -> Tensor:
    """Draw z_n | k_n = k ~ N(P^-1 (Sigma_k^-1 mu_k + eta_n), P^-1), P = Sigma_k^-1 + Lambda_n, ``(C, N, D)``."""
    whiten = mixture.whitening()
    inverse = whiten.mT @ whiten
    shift = (inverse @ mixture.means.unsqueeze(-1)).squeeze(-1)
    chain = torch.arange(len(labels), device=labels.device).unsqueeze(-1)
    target = shift[chain, labels] + info
    noise = torch.randn(target.shape, generator=generator, dtype=target.dtype, device=target.device)
    parts = []
    for rows in blocks(labels.shape[-1], len(labels) * info.shape[-1] ** 2):
        factor = factored(inverse[chain, labels[:, rows]] + rows_of(precision, rows))
        half = solve(factor, target[:, rows]) + noise[:, rows]
        parts.append(solve(factor, half, transpose=True))
    return torch.cat(parts, -2)
