"""Products of many messages, with each left out in turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from serket.messages.base import Message

__all__ = ["leave_one_out"]

M = TypeVar("M", bound=Message)


def leave_one_out(start: M, messages: Sequence[M]) -> tuple[list[M], M]:
    """Return ``start`` times all messages but one, for each of them, and times them all.

    From running products from the left and from the right: linear in the number of messages, and no division, so that
    structural zeros and vanishing precisions do no harm. The order of the factors is fixed, and so are the bits.
    """
    left = [start]
    for message in messages:
        left.append(left[-1] * message)
    without: list[M] = []
    right: M | None = None
    for before, message in zip(reversed(left[:-1]), reversed(messages), strict=True):
        without.append(before if right is None else before * right)
        right = message if right is None else message * right
    return without[::-1], left[-1]
