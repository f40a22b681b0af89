"""How states become posteriors over s, and how sure they are: measured on rows that the networks have not seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from serket.composer.workspace.time import Scene
from serket.messages import some_of

__all__ = ["Confidence", "confidence"]

FADINGS = (0.2, 0.5, 0.8, 0.9)
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
ENOUGH = 8000
"""Errors that precisions are fitted to, at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Confidence:
    """Posteriors over s: N(s', (1 + K)^-1), in units and axes in which s is N(0, I) over the population.

    s is the state that all views of a row together lead to, standardised. With c_m the strength of view m, plus that of
    its earlier frames as far as they have not faded, c = sum_m c_m, and x the standardised state of a subset:

    - s' = min(1, c) [x, c_1 x, .., c_M x, c_1, .., c_M, 1] reading: a ridge regression of s on what subsets lead to
    - K = max(1, c)^-overlap sum_m c_m reliance_m, a precision per dimension.

    Args:
        centre: ``(S,)``, mean of the states.
        basis: ``(S, S)``, from states to x.
        reading: ``(S + M S + M + 1, S)``.
        inverse: ``(S, S)``, from s to states.
        reliance: ``(M, S)``, precision that a view alone brings.
        overlap: 0 if what views tell adds up, 1 if they tell the same, below 0 if together they tell more.
        fading: what is left of a strength after a frame.
    """

    centre: Tensor
    basis: Tensor
    reading: Tensor
    inverse: Tensor
    reliance: Tensor
    overlap: Tensor
    fading: Tensor

    def posterior(self, state: Tensor, strength: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return s' and K, ``(rows, S)``, and the state at which to decode s'.

        Args:
            state: ``(rows, S)``, that a subset of the views led to.
            strength: c_m of each, ``(rows, M)``; 0 for those that were not heard.
        """
        total, told = torch.zeros_like(strength[:, :1]), torch.zeros_like(state)
        for view, one in enumerate(strength.split(1, 1)):
            total, told = total + one, told + one * self.reliance[view]
        hold = total.clamp_max(1)
        mean = hold * (_features((state - self.centre) @ self.basis, strength) @ self.reading)
        return mean, told * total.clamp_min(1) ** -self.overlap, self.centre + hold * (state - self.centre)

    def to(self, like: Tensor) -> Self:
        """Return it in another type, on another device."""
        return type(self)(**{one.name: getattr(self, one.name).to(like) for one in fields(self)})


def confidence(taught: Scene, held: Scene, looked: Sequence[Tensor]) -> Confidence:
    """Measure how states of subsets of the views relate to the states that all that are present lead to.

    Args:
        taught: rows to learn how to read states from.
        held: rows to measure on how sure that is.
        looked: subsets, ``(M,)`` bool, the full one last.
    """
    full = taught.state(looked[-1])
    centre = full.mean(0)
    values, vectors = torch.linalg.eigh((full - centre).T @ (full - centre) / len(full))
    # Directions that hardly vary are not blown up.
    scale = values.clamp_min(1e-3 * values[-1].clamp_min(1e-12)).sqrt()
    best, found = torch.inf, None
    for number in FADINGS if held.lengths is not None else (0.0,):
        fading = full.new_tensor(number)
        start = Confidence(centre, vectors / scale, vectors, vectors, torch.zeros(len(looked[-1]), len(scale)).to(full),
                           fading, fading)  # fmt: skip
        reading = _reading(start, taught, held, looked)
        errors, strength = _errors(start, reading, held, looked)
        _, turn = torch.linalg.eigh(errors.T @ errors)
        loss, reliance, overlap = _tuned(errors @ turn, strength)
        if loss < best:
            best = loss
            found = Confidence(centre, vectors / scale, reading @ turn, turn.T @ (vectors * scale).T, reliance, overlap,
                               fading)  # fmt: skip
    assert found is not None, "a likelihood is a number"
    return found


def _features(x: Tensor, strength: Tensor) -> Tensor:
    told = strength.clamp_max(1)
    return torch.cat([x, *(one * x for one in told.split(1, 1)), told, torch.ones_like(x[:, :1])], 1)


def _looks(scene: Scene, start: Confidence, looked: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return features, truths and strengths per subset, of the rows in which it is heard, but does not hear all."""
    found = []
    truth = (scene.state(looked[-1]) - start.centre) @ start.basis
    for mask in looked:
        strength = scene.heard(mask, start.fading)
        rows = (strength.sum(1) > 0) & ((mask & scene.present).sum(1) < scene.present.sum(1))
        x = (scene.state(mask)[rows] - start.centre) @ start.basis
        found.append((_features(x, strength[rows]), truth[rows], strength[rows]))
    return found


def _reading(start: Confidence, taught: Scene, held: Scene, looked: Sequence[Tensor]) -> Tensor:
    """Regress the state of all on those of subsets, and of all; the ridge is chosen by rows held out."""
    size = len(start.centre)
    whole = taught.heard(looked[-1], start.fading)
    truth = (taught.state(looked[-1]) - start.centre) @ start.basis
    looks = [*_looks(taught, start, looked), (_features(truth, whole), truth, whole)]
    count = max(1, sum(len(features) for features, _, _ in looks))
    square = torch.stack([features.T @ features for features, _, _ in looks]).sum(0) / count
    cross = torch.stack([features.T @ truth for features, truth, _ in looks]).sum(0) / count
    # Shrunk towards reading the state as it is.
    plain = torch.eye(len(square), size).to(square)
    judge = _looks(held, start, looked)
    best, found = torch.inf, plain
    for ridge in RIDGES:
        if sum(len(features) for features, _, _ in looks[:-1]) == 0:
            break
        change = torch.linalg.solve(square + ridge * torch.eye(len(square)).to(square), cross - square @ plain)
        error = float(torch.stack([(x @ (plain + change) - y).square().sum() for x, y, _ in judge]).sum())
        if error < best:
            best, found = error, plain + change
    return found


def _errors(start: Confidence, reading: Tensor, held: Scene, looked: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return errors of x, ``(n, S)``, over subsets and held-out rows, and the strengths behind them, ``(n, M)``."""
    looks = _looks(held, start, looked)
    errors = torch.cat([truth - features @ reading for features, truth, _ in looks])
    strength = torch.cat([strength for _, _, strength in looks])
    some = some_of(len(errors), ENOUGH)
    return errors[some], strength[some]


def _tuned(errors: Tensor, strength: Tensor, steps: int = 200) -> tuple[float, Tensor, Tensor]:
    """Return reliance and overlap under which the errors are likeliest, N(0, (1 + K)^-1), and minus that likelihood."""
    squares, total = errors.square(), strength.sum(1, keepdim=True).clamp_min(1)
    logs = torch.zeros(strength.shape[1] * errors.shape[1] + 1).to(errors).requires_grad_()
    descent = torch.optim.Adam([logs], lr=0.1)
    for step in range(steps + 1):
        reliance, overlap = logs[1:].reshape(strength.shape[1], -1).exp(), logs[0]
        precision = 1 + total**-overlap * (strength @ reliance)
        # A few rows' worth of doubt: log reliance ~ N(0, 2^2).
        loss = ((precision * squares - precision.log()).sum() / 2 + logs.square().sum() / 8) / max(1, len(errors))
        if step < steps:
            descent.zero_grad()
            torch.autograd.backward(loss, inputs=[logs])
            descent.step()
    return float(loss.detach()), reliance.detach(), overlap.detach()
