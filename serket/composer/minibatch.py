"""What the objectives of a VAE over latents are computed from."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from serket.composer.joint.experts import Rule, combined, divergence, log_density, log_mixture, standard
from serket.composer.joint.latent_vae import Draws, Networks, Views
from serket.messages import Gaussian

__all__ = ["Importance", "Minibatch"]


class Minibatch:
    """What an objective is computed from.

    Args:
        networks: encoders and decoders.
        views: what is seen of the rows, at least one view of each.
        draws: the randomness.
        alpha, beta: weights of divergences.
        samples: importance samples a row.
    """

    def __init__(
        self, networks: Networks, views: Views, draws: Draws, alpha: float = 0.0, beta: float = 1.0, samples: int = 1
    ) -> None:
        self.networks, self.views, self.draws = networks, views, draws
        self.alpha, self.beta, self.samples = alpha, beta, samples
        self.present = views.present
        self.experts, self.private = networks.encode(views)
        self.count = self.present.sum(0).to(self.experts.info)
        self.prior = standard(self.experts.info[0])

    def combined(self, rule: Rule, views: Tensor) -> Gaussian:
        """Return q(s | a set of views), ``(rows, S)``."""
        return combined(rule, self.experts, views)

    def from_prior(self, q: Gaussian) -> Tensor:
        """beta KL(q || p)."""
        return self.beta * divergence(q, standard(q.info))

    def draw(self, q: Gaussian) -> Tensor:
        """Draw from a Gaussian, with gradients."""
        return q.info / q.precision + self.draws.normal(q.info) * q.precision.rsqrt()

    def read(self, view: int, s: Tensor, views: Tensor | None = None, w: Tensor | None = None) -> Tensor:
        """log r_m(s), or 0 in rows that do not see the view."""
        here = self.present[view] if views is None else views[view]
        return torch.where(here, self.networks.read(self.views, view, s, w), 0.0)

    def read_all(self, s: Tensor) -> Tensor:
        """sum_m log r_m(s)."""
        total = torch.zeros(())
        for view in range(len(self.present)):
            total = self.read(view, s) + total
        return total

    def summed(self, values: Tensor) -> Tensor:
        """Sum ``(views, rows)`` over the present views."""
        return torch.where(self.present, values, 0.0).sum(0)


class Importance:
    """K draws of s a row from one expert, weighted against the mixture of all, with doubly reparameterised gradients.

    d/dphi E log (1/K) sum_k w_k = E sum_k (w_k / sum w)^2 d log w_k / ds ds/dphi (Tucker 2019): densities of q
    are taken at fixed parameters, and the gradient into a draw is weighted once more.
    """

    def __init__(self, b: Minibatch, chosen: Tensor) -> None:
        self.b = b
        self.weights: Tensor | None = None
        fixed = Gaussian(b.experts.info.detach(), b.experts.precision.detach())
        self.s = self.sample(b.combined("product", chosen))
        self.log_ratio = log_density(standard(self.s), self.s) - log_mixture(fixed, b.present, self.s)

    def sample(self, q: Gaussian) -> Tensor:
        """Draw ``(K, rows, D)``."""
        draws = self.b.draw(Gaussian(*(part.expand(self.b.samples, *part.shape) for part in (q.info, q.precision))))
        if draws.requires_grad and self.b.samples > 1:
            draws.register_hook(lambda gradient: gradient * self.weights)
        return draws

    def bound(self, log_weights: Tensor) -> Tensor:
        """log (1/K) sum_k w_k, ``(rows,)``."""
        self.weights = log_weights.detach().softmax(0).unsqueeze(-1)
        return log_weights.logsumexp(0) - math.log(len(log_weights))
