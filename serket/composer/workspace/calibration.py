"""What subsets of the views infer, held against what all of them do, on rows that were held out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

from serket.composer.workspace.confidence import Confidence, confidence
from serket.composer.workspace.outlook import Outlook, outlook, residual_covariance, spread
from serket.composer.workspace.time import Scene
from serket.messages import Gaussian

__all__ = ["calibrated"]

MOST = 16
"""Subsets that are looked at, about."""


def calibrated(
    taught: Scene, held: Scene, told: Sequence[Gaussian], generator: torch.Generator
) -> tuple[Confidence, list[Outlook]]:
    """Measure how sure s and each view may be.

    Args:
        taught: rows that the networks were trained on.
        held: rows that they were not.
        told: messages of each view in the held-out rows, in the units of the space.
        generator: of the subsets, if the views are many.
    """
    looked = _subsets(held.present.shape[1], generator)
    sure = confidence(taught, held, looked)
    outlooks = []
    for view, message in enumerate(told):
        known = message[held.present[:, view]]
        population = residual_covariance(known, torch.zeros_like(known.info))

        def scatter(state: Tensor, view: int = view) -> Tensor:
            return held.space.scatter(held.weights, state, view)

        states, precisions, about, strengths = [], [], [], []
        for mask in looked:
            strength = held.heard(mask, sure.fading)
            rows = (strength.sum(1) > 0) & ~mask[view] & held.present[:, view]
            _, precision, state = sure.posterior(held.state(mask)[rows], strength[rows])
            states.append(state)
            precisions.append(precision)
            about.append(rows.nonzero().flatten())
            strengths.append(strength[rows])
        state = torch.cat(states)
        moved = spread(scatter, state, (1 + torch.cat(precisions)).rsqrt().unsqueeze(-1) * sure.inverse)
        outlooks.append(outlook(message[torch.cat(about)], scatter(state), moved, torch.cat(strengths), population))
    return sure, outlooks


def _subsets(views: int, generator: torch.Generator) -> list[Tensor]:
    """Return subsets of the views, ``(M,)`` bool, the full one last: all of them if few, else each view and some."""
    if 2**views <= MOST:
        return [torch.tensor(mask, device=generator.device) for mask in product((False, True), repeat=views)]
    share = torch.linspace(0.2, 0.9, MOST, device=generator.device)
    some = torch.rand(MOST, views, generator=generator, device=generator.device) < share.unsqueeze(1)
    eye = torch.eye(views, dtype=torch.bool, device=generator.device)
    return [*eye, *(one for one in some if not bool(one.all())), torch.ones_like(eye[0])]
