"""What each sensor of one set has added, and how far they contradict one another."""

from __future__ import annotations

import math
from collections.abc import Sequence

from serket.engine.result import stacked
from serket.messages import Message

__all__ = ["weighed"]


def weighed(
    belief: Message, cavities: Sequence[Message], alone: Sequence[Message], prior: Message | None
) -> tuple[list[float], float]:
    """Return what each message has added to a belief, and how far the messages contradict one another, in nats.

    With belief b, cavities n_a, prior p times each message m_a alone, and p the belief without any evidence, one row
    each, stacked so that one factorisation serves all: KL(b || n_a), 0 where it is not finite; and, of the finite ones,
    min_a [log int b - log int n_a] - [log int p m_a - log int p], +inf if there is none or no p.
    """
    rows = stacked([*cavities, belief, *alone, *([] if prior is None else [prior])])
    count = len(cavities)
    gained = [nats if math.isfinite(nats) else 0.0 for nats in belief.kl(rows[:count]).tolist()]
    if prior is None:
        return gained, math.inf
    log_z = rows.log_z().tolist()
    whole, blank = log_z[count], log_z[-1]
    pairs = zip(log_z[:count], log_z[count + 1 : -1], strict=True)
    ratios = [whole - without - (by_itself - blank) for without, by_itself in pairs]
    return gained, min((ratio for ratio in ratios if math.isfinite(ratio)), default=math.inf)
