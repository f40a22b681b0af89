"""Recognisers that ship: each offers an n-best list."""

from __future__ import annotations

import torch
from torch import Tensor

from serket.registry import hypotheses

__all__ = ["KEYPAD_DEVIATION", "KEYPAD_PRIOR", "first_tone", "keypad_tones", "tone_pairs"]

KEYPAD_DEVIATION = 0.6
"""Of the energy in a band, in units of a tone's energy."""
KEYPAD_PRIOR = (0.27, 0.2, 0.14, 0.09, 0.07, 0.05, 0.04, 0.04, 0.03, 0.03, 0.02, 0.02)
"""What :func:`tone_pairs` believes of the keys before it hears anything: 1 2 3 4 5 6 7 8 9 * 0 #."""


def keypad_tones() -> Tensor:
    """Return the energies of a telephone's keys, ``(12, 7)``: a tone of four for the row, one of three for the column.

    The bands hold both tones of a key, as telephones send them (ITU-T Q.23).
    """
    key = torch.arange(12)
    return torch.cat([torch.eye(4)[key // 3], torch.eye(3)[key % 3]], -1)


@hypotheses("tone_pairs")
def tone_pairs(values: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Offer the five likeliest keys for energies ``(rows, 7)``, with log-posteriors under :data:`KEYPAD_PRIOR`."""
    gap = values.unsqueeze(1) - keypad_tones().to(values)
    log_likelihood = -gap.square().sum(-1) / (2 * KEYPAD_DEVIATION**2)
    posterior = (log_likelihood + torch.tensor(KEYPAD_PRIOR).log().to(values)).log_softmax(-1)
    best = posterior.topk(5)
    return best.indices, best.values


@hypotheses("first_tone_pair")
def first_tone(values: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Offer the first of :func:`tone_pairs` alone, as if it were all there is to say."""
    keys, weights = tone_pairs(values, generator)
    return keys[:, :1], weights[:, :1]
