"""What a fitted VAE over latents answers: towards a view, and how likely the messages are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from serket.composer.joint.experts import standard
from serket.composer.joint.latent_vae import Networks, Views
from serket.composer.readings import cubature, pushed
from serket.messages import Gaussian

__all__ = ["log_evidence", "over_prior", "predicted"]


def over_prior(q: Gaussian, prior: Gaussian) -> Gaussian:
    """Return q / prior; dimensions in which q is wider than the prior say nothing.

    To keep their mean, as exp(eta' s), reads better, but is no likelihood: what learns from it above has no bound.
    """
    return (q / prior.to(q.dtype, q.device).expand(len(q.info))).semidefinite_part()


def predicted(networks: Networks, name: str, rest: Gaussian) -> Gaussian:
    """Return p(z | rest) = integral of p(z | s, w) rest(s) N(w; 0, I) by moments over cubature points.

    Args:
        networks: with the units of each view among the weights.
        name: of the view.
        rest: what all others say of s; N(0, I) joins in where that is improper.
    """
    points = cubature(networks.shared + networks.private, rest.info).unsqueeze(1).expand(-1, len(rest.info), -1)
    s = _proper(rest)[0].shift(points[..., : networks.shared])
    decoded = networks.decode(name, s, points[..., networks.shared :] if networks.private else None)
    units = networks.weights[f"{name}.location"], networks.weights[f"{name}.scale"]
    return pushed(decoded, networks.variance(name), *units)


def log_evidence(
    networks: Networks, views: Views, privates: Sequence[Gaussian], above: Gaussian, told: Gaussian, noise: Tensor
) -> Tensor:
    """log (1/K) sum_k inbox(s_k) prod_m r_m(s_k, w_k) p(w_k) / (q(s_k) q(w_k)), a lower bound in the mean (Burda 2016).

    Args:
        networks: decoders.
        views: what is seen.
        privates: potentials over w, q(w) being N(0, I) times them.
        above: the inbox of s, bare.
        told: what the views say of s; q(s) is the inbox times it.
        noise: standard normal, ``(K, rows, S + P M)``.

    Returns:
        Nats, ``(rows,)``; +inf where q is improper.
    """
    q, proper = _proper(above * told)
    s, left = q.shift(noise[..., : networks.shared]), noise[..., networks.shared :]
    total = q.log_z() - _bare(q, s) + _bare(above, s)
    for view, private in enumerate(privates):
        w = None
        if networks.private:
            own = private * standard(private.info)
            w, left = own.shift(left[..., : networks.private]), left[..., networks.private :]
            total = total + own.log_z() - standard(own.info).log_z() - _bare(private, w)
        total = total + torch.where(views.present[view], networks.read(views, view, s, w), 0.0)
    return torch.where(proper, total.logsumexp(0) - math.log(len(noise)), math.inf)


def _proper(message: Gaussian) -> tuple[Gaussian, Tensor]:
    """Return the message, with N(0, I) in the rows where it is improper; and which rows are proper."""
    proper = message.is_proper()
    return message.where(proper, message * standard(message.info)), proper


def _bare(message: Gaussian, s: Tensor) -> Tensor:
    """Return eta' s - s' Lambda s / 2, ``(draws, rows)``."""
    pulled = message.precision * s if message.diagonal else (s.unsqueeze(-2) @ message.precision).squeeze(-2)
    return ((message.info - pulled / 2) * s).sum(-1)
