"""The rows before a workspace: what each view says, what earlier frames left behind, and how it fades."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self, cast

import torch
from torch import Tensor

from serket.composer.workspace.latent import Space
from serket.composer.workspace.reading import Reading
from serket.composer.workspace.slots import SlotSpace

__all__ = ["Scene", "faded", "remembered"]


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """Rows as a trained space sees them.

    Args:
        space: latent or of slots.
        weights: of the space.
        tokens: what each view says, encoded.
        strength: ``(rows, M)``.
        present: ``(rows, M)`` bool.
        lengths: of the sequences, if the space remembers.
        memory: what earlier frames left in the slots, all views heard; None if the space does not remember.
    """

    space: Space
    weights: Mapping[str, Tensor]
    tokens: Sequence[Tensor]
    strength: Tensor
    present: Tensor
    lengths: Tensor | None
    memory: Tensor | None

    @classmethod
    def of(
        cls, space: Space, weights: Mapping[str, Tensor], readings: Sequence[Reading], lengths: Tensor | None
    ) -> Self:
        """Encode what is read, and remember."""
        tokens = [space.token(weights, view, one.inputs()) for view, one in enumerate(readings)]
        strength = torch.stack([one.strength for one in readings], 1)
        present = torch.stack([one.present for one in readings], 1)
        memory = None
        if lengths is not None:
            memory = remembered(cast(SlotSpace, space), weights, tokens, strength, present, lengths)
        return cls(space, weights, tokens, strength, present, lengths, memory)

    def state(self, keep: Tensor) -> Tensor:
        """Return the state that the views kept, ``(rows, M)`` or ``(M,)``, lead to, with what is remembered."""
        return self.space.gather(self.weights, self.tokens, self.strength, keep & self.present, self.memory)

    def heard(self, keep: Tensor, fading: Tensor) -> Tensor:
        """Return how strongly each view was heard, ``(rows, M)``: now if it is kept, and in earlier frames."""
        now = torch.where(keep & self.present, self.strength, 0.0)
        return now if self.lengths is None else now + faded(self.strength, self.lengths, fading)

    def remembers(self) -> Tensor:
        """Tell whether anything was said in earlier frames, ``(rows,)`` bool."""
        if self.lengths is None:
            return torch.zeros_like(self.present[:, 0])
        return faded(self.present.to(self.strength), self.lengths, self.strength.new_ones(())).sum(1) > 0


def remembered(
    space: SlotSpace,
    weights: Mapping[str, Tensor],
    tokens: Sequence[Tensor],
    strength: Tensor,
    keep: Tensor,
    lengths: Tensor,
    detach: bool = False,
) -> Tensor:
    """Return the slots that every row finds, ``(rows, N, d)``: what the earlier frames of its sequence left behind.

    Args:
        space: of slots.
        weights: of the space.
        tokens: one per view, ``(rows, d)``, rows in time order, one sequence after the other.
        strength: ``(rows, M)``.
        keep: ``(rows, M)`` bool.
        lengths: of the sequences, ``(sequences,)``.
        detach: let no gradient pass from a frame to earlier ones.
    """

    def step(memory: Tensor, strength: Tensor, keep: Tensor, *now: Tensor) -> Tensor:
        after = space.write(weights, now, strength, keep, memory)
        return after.detach() if detach else after

    return _before(step, space.blank(weights, len(lengths)), lengths, strength, keep, *tokens)


def faded(strength: Tensor, lengths: Tensor, rate: Tensor) -> Tensor:
    """Return the strengths of earlier frames, each times ``rate`` per frame since, summed, ``(rows, M)``."""
    start = strength.new_zeros(len(lengths), strength.shape[1])
    return _before(lambda past, now: rate * (past + now), start, lengths, strength)


def _before(step: Callable[..., Tensor], start: Tensor, lengths: Tensor, *rows: Tensor) -> Tensor:
    """Run ``step(state, row's values)`` over all sequences at once; return the state before each row."""
    longest = int(lengths.max()) if len(lengths) else 0
    there = torch.arange(longest, device=lengths.device) < lengths.unsqueeze(1)
    padded = [values.new_zeros(*there.shape, *values.shape[1:]).index_put((there,), values) for values in rows]
    states = [start]
    for time in range(longest - 1):
        states.append(step(states[-1], *(values[:, time] for values in padded)))
    return torch.stack(states, 1)[there] if longest else start[:0]
