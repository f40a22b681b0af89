"""What each sensor of one set has added, and how far they contradict one another."""

from __future__ import annotations

import math
from collections.abc import Sequence

from serket.engine.result import stacked
from serket.messages import Message

__all__ = ["gains", "least_ratio"]


def gains(belief: Message, cavities: Sequence[Message]) -> list[float]:
    """Return KL(belief || cavity) of each cavity, nats; 0 where it is not finite. One row each."""
    told = belief.expand(len(cavities)).kl(stacked(cavities)).tolist()
    return [nats if math.isfinite(nats) else 0.0 for nats in told]


def least_ratio(belief: Message, cavities: Sequence[Message], messages: Sequence[Message], prior: Message) -> float:
    """Return min_a [log int b - log int n_a] - [log int p m_a - log int p], nats, of the finite ones, else +inf.

    With belief b, cavities n_a, messages m_a, and p the belief without any evidence, one row each; one factorisation of
    them all.
    """
    alone = [prior * message for message in messages]
    whole, blank, *rest = stacked([belief, prior, *cavities, *alone]).log_z().tolist()
    pairs = zip(rest[: len(alone)], rest[len(alone) :], strict=True)
    ratios = [whole - without - (by_itself - blank) for without, by_itself in pairs]
    return min((ratio for ratio in ratios if math.isfinite(ratio)), default=math.inf)
