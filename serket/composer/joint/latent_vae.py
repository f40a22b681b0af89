"""A VAE over the latents of other modules: an encoder and a decoder per view, and what they make of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from serket.composer.factor_analysis import in_units
from serket.composer.joint.networks import initial, layers
from serket.composer.readings import features, log_reading, semidefinite
from serket.messages import Gaussian, Message
from serket.protocol import Reader

__all__ = ["NOISE_FLOOR", "Draws", "Networks", "Views", "seen"]

NOISE_FLOOR = 1e-3
"""The least variance of p(z | s), in units in which z has variance 1."""


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """What is seen of some rows, in units in which every z has mean 0 and variance 1.

    Args:
        messages: per view, ``(rows, D)``.
        features: per view, ``(rows, 2 D)``: mean, and known share of each dimension.
        present: ``(views, rows)`` bool.
        constants: ``(views, rows)``, nats, added to what the views' messages say.
        readers: by view, what reads a prediction of z in its place: a thawed module.
    """

    messages: tuple[Gaussian, ...]
    features: tuple[Tensor, ...]
    present: Tensor
    constants: Tensor
    readers: Mapping[str, Reader] = field(default_factory=dict)

    def __getitem__(self, rows: Tensor) -> Views:
        return Views(
            tuple(message[rows] for message in self.messages),
            tuple(each[rows] for each in self.features),
            self.present[:, rows],
            self.constants[:, rows],
        )

    def noisy(self, deviation: float, draws: Draws) -> Views:
        """Add noise to what encoders see of the present views' means."""
        seen = []
        for each, here in zip(self.features, self.present, strict=True):
            mean, known = each.chunk(2, -1)
            noise = deviation * draws.normal(mean)
            seen.append(torch.cat([torch.where(here.unsqueeze(-1), mean + noise, mean), known], -1))
        return replace(self, features=tuple(seen))


@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """The randomness of an objective, in one place: rows draw apart, one view or subset per row, never per batch."""

    generator: torch.Generator

    def normal(self, like: Tensor) -> Tensor:
        """Return standard normal numbers in the shape of ``like``."""
        return torch.randn(like.shape, generator=self.generator, dtype=like.dtype, device=like.device)

    def one(self, present: Tensor) -> Tensor:
        """Return a mask ``(views, rows)`` with one of the present views of every row, each as likely."""
        uniform = torch.rand(present.shape, generator=self.generator, device=present.device)
        return F.one_hot(torch.where(present, uniform, -1.0).argmax(0), len(present)).T.bool() & present

    def some(self, present: Tensor) -> Tensor:
        """Return a mask ``(views, rows)`` with a non-empty subset of each row's present views, all as likely."""
        shape, device = present.shape, present.device
        # Coins until no row is empty: conditioned on that, every subset is as likely.
        chosen = (torch.rand(shape, generator=self.generator, device=device) < 0.5) & present
        empty = present.any(0) & ~chosen.any(0)
        while bool(empty.any()):
            again = (torch.rand(shape, generator=self.generator, device=device) < 0.5) & present
            chosen = torch.where(empty, again, chosen)
            empty = present.any(0) & ~chosen.any(0)
        return chosen


@dataclass(frozen=True, slots=True, eq=False)
class Networks:
    """q_j(s | view j), q(w_j | view j), q(s | all views) and p(z_j | s, w_j) = N(f_j(s, w_j), diag v_j).

    Args:
        names: of the views; weights are called ``view.encoder.0.weight`` and so on.
        weights: by name.
        depth: layers of every network.
        shared: dimensions of s.
        private: dimensions of w.
    """

    names: tuple[str, ...]
    weights: Mapping[str, Tensor]
    depth: int
    shared: int
    private: int

    @classmethod
    def initial(
        cls,
        sizes: Mapping[str, int],
        hidden: Sequence[int],
        shared: int,
        private: int,
        joint: bool,
        like: Tensor,
        generator: torch.Generator,
    ) -> Networks:
        """Draw the weights; half of a standardised dimension's variance is left to noise at the start."""
        weights: dict[str, Tensor] = {}
        for name, size in sizes.items():
            into = [2 * size, *hidden, 2 * (shared + private)]
            weights |= initial(f"{name}.encoder", into, like, generator)
            weights |= initial(f"{name}.decoder", [shared + private, *hidden[::-1], size], like, generator)
            weights[f"{name}.log_variance"] = like.new_full((size,), -0.7)
        if joint:
            weights |= initial("joint.encoder", [2 * sum(sizes.values()), *hidden, 2 * shared], like, generator)
        return cls(tuple(sizes), weights, len(hidden) + 1, shared, private)

    def encode(self, views: Views) -> tuple[Gaussian, list[Gaussian]]:
        """Return q_j over s, stacked ``(views, rows, S)``, and per view the potential over w, ``(rows, P)``."""
        infos, precisions, privates = [], [], []
        for name, seen, here in zip(self.names, views.features, views.present, strict=True):
            out = layers(self.weights, f"{name}.encoder", seen, self.depth)
            info, raw = out.chunk(2, -1)
            precision = F.softplus(raw) + 1e-6
            infos.append(info[:, : self.shared])
            precisions.append(precision[:, : self.shared])
            privates.append(Gaussian(info[:, self.shared :], precision[:, self.shared :]).mask(here))
        return Gaussian(torch.stack(infos), torch.stack(precisions)), privates

    def encode_all(self, views: Views) -> Gaussian:
        """Return the joint encoder's potential over s, ``(rows, S)``: only rows that see every view mean anything."""
        info, raw = layers(self.weights, "joint.encoder", torch.cat(views.features, -1), self.depth).chunk(2, -1)
        return Gaussian(info, F.softplus(raw) + 1e-6)

    def decode(self, name: str, s: Tensor, w: Tensor | None = None) -> Tensor:
        """Return f(s, w), ``(..., rows, D)``."""
        return layers(self.weights, f"{name}.decoder", s if w is None else torch.cat([s, w], -1), self.depth)

    def variance(self, name: str) -> Tensor:
        """Return v, ``(D,)``."""
        return NOISE_FLOOR + self.weights[f"{name}.log_variance"].exp()

    def read(self, views: Views, view: int, s: Tensor, w: Tensor | None = None) -> Tensor:
        """log of the integral of p(z | s, w) m(z) over z, nats, ``(..., rows)``."""
        name, decoded = self.names[view], self.decode(self.names[view], s, w)
        if name not in views.readers:
            return log_reading(views.messages[view], decoded, self.variance(name)) + views.constants[view]
        scale = self.weights[f"{name}.scale"]
        mean = (self.weights[f"{name}.location"] + scale * decoded).flatten(0, -2)
        told = Gaussian.from_moments(mean, (scale.square() * self.variance(name)).expand_as(mean))
        return views.readers[name](told).view(decoded.shape[:-1])

    def frozen(self) -> Networks:
        """Return the same networks, through whose weights no gradient flows."""
        return replace(self, weights={name: value.detach() for name, value in self.weights.items()})


def seen(names: Sequence[str], inbox: Mapping[str, Message], weights: Mapping[str, Tensor]) -> tuple[Views, Tensor]:
    """Return the views in their units, and what their integrals lack of those over z, nats, ``(views, rows)``.

    Raises:
        MessageError: a message has negative precision.
    """
    messages, constants = [], []
    for name in names:
        message = semidefinite(name, cast(Gaussian, inbox[name]))
        units = (weights[f"{name}.{part}"].to(message.info) for part in ("location", "scale"))
        told, constant = in_units(message, *units)
        messages.append(told)
        constants.append(constant)
    lacking = torch.stack(constants)
    present = torch.stack([~message.is_vacuous() for message in messages])
    return Views(tuple(messages), tuple(map(features, messages)), present, torch.zeros_like(lacking)), lacking
