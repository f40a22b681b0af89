"""How well the stream is: levels with reasons, slow to rise and slower to clear."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["CLEAR_AFTER", "Health", "Level", "RAISE_AFTER"]

RAISE_AFTER = 2  # outputs in a row with a reason, before it counts
CLEAR_AFTER = 5  # outputs in a row without it, before it is forgotten


class Level(StrEnum):
    """OK; DEGRADED: the belief stands on less than it should; ERROR: it should not be acted on."""

    OK = "OK"
    DEGRADED = "DEGRADED"
    ERROR = "ERROR"


@dataclass(slots=True)
class _Reason:
    level: Level
    text: str
    seen: int = 0
    missed: int = 0
    active: bool = False


class Health:
    """Rolls reasons up into one level: the worst of those that hold.

    A reason counts from its second output in a row on, and is forgotten after five in a row without it. An ERROR counts
    at once.
    """

    def __init__(self) -> None:
        self._reasons: dict[str, _Reason] = {}

    def update(self, found: Mapping[str, tuple[Level, str]]) -> tuple[Level, tuple[str, ...]]:
        """Take the reasons found at one output, by a key that stays; return the level and the texts, worst first."""
        for key, (level, text) in found.items():
            reason = self._reasons.setdefault(key, _Reason(level, text))
            reason.level, reason.text, reason.missed = level, text, 0
            reason.seen += 1
            reason.active |= reason.seen >= RAISE_AFTER or level == Level.ERROR
        if not self._reasons:
            return Level.OK, ()
        for key in [key for key in self._reasons if key not in found]:
            reason = self._reasons[key]
            reason.seen, reason.missed = 0, reason.missed + 1
            if reason.missed >= CLEAR_AFTER or not reason.active:
                del self._reasons[key]
        active = [reason for reason in self._reasons.values() if reason.active]
        active.sort(key=lambda reason: reason.level != Level.ERROR)
        if not active:
            return Level.OK, ()
        return active[0].level, tuple(reason.text for reason in active)
