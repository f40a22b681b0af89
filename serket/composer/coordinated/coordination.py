"""Encoders and decoders of several views, trained so that they meet in one space."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from serket.composer.coordinated.closeness import Code, contrastive, kl, wasserstein
from serket.composer.coordinated.soft_layers import SoftLayers
from serket.composer.coordinated.view import Reading
from serket.errors import MessageError
from serket.protocol import Progress

__all__ = ["TERMS", "Autoencoder", "Term", "coordinate", "terms"]

Term = Literal["reconstruction", "prior", "kl", "wasserstein", "contrastive", "cross_generation"]
TERMS: tuple[Term, ...] = get_args(Term)
LEAST_NOISE = 1e-3  # variance of a decoder, in units of the view's


@dataclass(frozen=True, slots=True, eq=False)
class Autoencoder:
    """q(s | z) and p(z | s) of one view, in units in which z has mean 0 and variance 1."""

    encoder: SoftLayers
    decoder: SoftLayers
    log_noise: Tensor

    def to(self, like: Tensor) -> Autoencoder:
        """Return the pair in another type, on another device."""
        return Autoencoder(self.encoder.to(like), self.decoder.to(like), self.log_noise.to(like))

    def surprise(self, z: Tensor, s: Tensor) -> Tensor:
        """Return -log p(z | s), nats, ``(rows,)``."""
        noise = self.log_noise.exp() + LEAST_NOISE
        return ((z - self.decoder(s)).square() / noise + noise.log() + math.log(2 * math.pi)).sum(-1) / 2


def terms(
    views: Sequence[Autoencoder],
    z: Sequence[Tensor],
    present: Sequence[Tensor],
    noise: Sequence[Tensor],
    log_scale: Tensor,
    shift: int,
    wanted: frozenset[str] = frozenset(TERMS),
) -> dict[str, Tensor]:
    """Return every term of the objective, nats per row in which it is defined, to be minimised.

    With q_m = q(s | z_m), a draw s_m from it, and n = m + shift (modulo M), over the views present:
    reconstruction sum_m -log p(z_m | s_m), prior sum_m KL(q_m || N(0, I)), kl sum_m KL(q_m || q_n), wasserstein
    sum_m W2^2(q_m, q_n), contrastive sum_m InfoNCE(q_m, q_n), cross_generation sum_m -log p(z_n | s_m).
    A shift drawn from 1 .. M - 1 makes the last four 1 / (M - 1) of the sum over all ordered pairs, in expectation.

    Args:
        views: of M views.
        z: ``(rows, D_m)`` each, in standard units; rows that are absent hold anything finite.
        present: ``(rows,)`` bool each.
        noise: standard normal ``(rows, K)`` each, which makes the draws.
        log_scale: of the contrastive term.
        shift: in 1 .. M - 1.
        wanted: names of the terms to compute.
    """
    codes = [Code.of(view.encoder(one)) for view, one in zip(views, z, strict=True)]
    draws = [code.mean + code.variance.sqrt() * one for code, one in zip(codes, noise, strict=True)]
    found: dict[str, Tensor] = {name: z[0].new_zeros(()) for name in TERMS if name in wanted}

    def add(name: str, rows: Tensor, value: Tensor) -> None:
        found[name] = found[name] + torch.where(rows, value, 0.0).sum() / rows.sum().clamp_min(1)

    for m, code in enumerate(codes):
        n = (m + shift) % len(views)
        both = present[m] & present[n]
        if "reconstruction" in wanted:
            add("reconstruction", present[m], views[m].surprise(z[m], draws[m]))
        if "prior" in wanted:
            add("prior", present[m], kl(code))
        if "kl" in wanted:
            add("kl", both, kl(code, codes[n]))
        if "wasserstein" in wanted:
            add("wasserstein", both, wasserstein(code, codes[n]))
        if "contrastive" in wanted:
            add("contrastive", both, contrastive(code, codes[n], both, log_scale))
        if "cross_generation" in wanted:
            add("cross_generation", both, views[n].surprise(z[n], draws[m]))
    return found


def coordinate(
    views: Sequence[Autoencoder],
    readings: Sequence[Reading],
    log_scale: Tensor,
    losses: Mapping[str, float],
    *,
    generator: torch.Generator,
    epochs: int,
    batch: int,
    learning_rate: float,
    progress: Progress | None,
) -> tuple[list[Autoencoder], Tensor, dict[str, list[float]]]:
    """Minimise the weighted terms by Adam, on fresh draws of every z from what its message says of it.

    Args:
        views: to go on from.
        readings: what is known of z.
        log_scale: of the contrastive term, learnt too.
        losses: weight of each term.
        generator: of order, draws and shifts.
        epochs: passes over the rows.
        batch: rows per step.
        learning_rate: of Adam, at first; it falls to zero in a straight line.
        progress: called after every tenth epoch.

    Returns:
        The views, the scale, and a curve per term.

    Raises:
        MessageError: the objective is no longer a number.
    """
    learnt = [value.clone().requires_grad_() for view in views for value in _parameters(view)]
    scale = log_scale.clone().requires_grad_()
    views, size = _rebuilt(learnt), len(views[0].encoder.offset) // 2
    between = frozenset(TERMS[2:]) if len(views) == 1 else frozenset()
    wanted = frozenset(name for name, weight in losses.items() if weight > 0) - between
    descent = torch.optim.Adam([*learnt, scale], lr=learning_rate, fused=True)
    like = readings[0].mean
    pairs = torch.stack([one.present for one in readings]).sum(0) > 1
    steps = epochs * len(_batches(pairs, batch, generator=torch.Generator(like.device)))
    fall = torch.optim.lr_scheduler.LambdaLR(descent, lambda step: 1 - step / steps)
    curves: dict[str, list[float]] = {name: [] for name in TERMS if name in wanted}

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=like.dtype, device=like.device)

    for epoch in range(epochs):
        totals = dict.fromkeys(curves, 0.0)
        batches = _batches(pairs, batch, generator)
        for chosen in batches:
            z = [
                one.mean[chosen] + one.variance[chosen].sqrt() * normal(len(chosen), one.mean.shape[1])
                for one in readings
            ]
            noise = [normal(len(chosen), size) for _ in views]
            shift = 1 + int(torch.randint(max(len(views) - 1, 1), (), generator=generator, device=like.device))
            found = terms(views, z, [one.present[chosen] for one in readings], noise, scale, shift, wanted)
            descent.zero_grad(set_to_none=True)
            torch.autograd.backward(torch.stack([losses[name] * value for name, value in found.items()]).sum())
            descent.step()
            fall.step()
            for name, value in found.items():
                totals[name] += float(value.detach()) / len(batches)
        for name, total in totals.items():
            curves[name].append(total)
        if not all(math.isfinite(total) for total in totals.values()):
            raise MessageError(
                f"training diverged in epoch {epoch + 1}: the objective is no number",
                fix=f"lower fit.learning_rate, now {learning_rate:g}",
            )
        if progress and (epoch + 1) % 10 == 0:
            progress(epoch + 1, epochs, ", ".join(f"{name} {total:.3g}" for name, total in totals.items()))
    return _rebuilt([value.detach() for value in learnt]), scale.detach(), curves


def _batches(pairs: Tensor, size: int, generator: torch.Generator) -> list[Tensor]:
    """Return the rows of every batch of an epoch; where pairs are scarce, pairs drawn anew join each, half as many.

    Or the criterion would hardly be heard among rows of one view.
    """

    def shuffled(rows: Tensor) -> Tensor:
        found = rows.nonzero().flatten()
        return found[torch.randperm(len(found), generator=generator, device=rows.device)]

    if 2 * int(pairs.sum()) >= len(pairs):
        return list(shuffled(torch.ones_like(pairs)).split(size))
    return [torch.cat([one, shuffled(pairs)[: size // 2]]) for one in shuffled(~pairs).split(size)]


def _parameters(view: Autoencoder) -> list[Tensor]:
    return [*view.encoder.tensors().values(), *view.decoder.tensors().values(), view.log_noise]


def _rebuilt(parameters: Sequence[Tensor]) -> list[Autoencoder]:
    """Undo :func:`_parameters`, which gives eleven tensors a view."""
    each = [parameters[at : at + 11] for at in range(0, len(parameters), 11)]
    return [Autoencoder(SoftLayers(*one[:5]), SoftLayers(*one[5:10]), one[10]) for one in each]
