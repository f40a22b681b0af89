"""How well the stream is: levels with reasons, slow to rise and slower to clear."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["BEFORE", "CLEAR_AFTER", "Found", "Health", "Level", "RAISE_AFTER"]

EVENTS = ("clocks",)  # what happens once, and counts at once
RAISE_AFTER = 2  # times that a reason is found, before it counts
CLEAR_AFTER = 5  # times in a row that it is not, before it is forgotten

BEFORE = " (before)"  # after the text of a reason that was looked for at this output, and not found


class Level(StrEnum):
    """OK; DEGRADED: the belief stands on less than it should; ERROR: it should not be acted on."""

    OK = "OK"
    DEGRADED = "DEGRADED"
    ERROR = "ERROR"

    @property
    def rank(self) -> int:
        """As a number: 0 is OK, as in ``diagnostic_msgs/DiagnosticStatus``."""
        return list(Level).index(self)


Found = Mapping[tuple[str, str], tuple[Level, str]]
"""Levels and texts, by the sensor whose readings tell ("": every output tells) and by what it is, which stays."""


@dataclass(slots=True)
class _Reason:
    level: Level
    text: str
    seen: int = 0
    missed: int = 0
    active: bool = False


class Health:
    """Rolls reasons up into one level: the worst of those that hold.

    A reason counts from the second time on that it is found, and is forgotten after five times in a row without it, so
    that one in five is enough to keep it. Outputs are what is counted; of what is wrong with a sensor's readings, only
    those at which a reading of it was judged: a slow sensor's lie is as much of a lie. An ERROR counts at once, and so
    does what happens once: that time started anew.
    """

    def __init__(self) -> None:
        self._reasons: dict[tuple[str, str], _Reason] = {}

    def update(self, found: Found, unheard: Collection[str] = ()) -> tuple[Level, tuple[str, ...]]:
        """Take what was found at one output; return the level and the texts, worst first.

        What holds though it was looked for and not found ends in ``BEFORE``.

        Args:
            found: what is wrong.
            unheard: sensors of which no reading was judged since the last output: what theirs have stays as it was.
        """
        for key, (level, text) in found.items():
            if key[0] in unheard:
                continue
            reason = self._reasons.setdefault(key, _Reason(level, text))
            reason.level, reason.text, reason.missed = level, text, 0
            reason.seen += 1
            reason.active |= reason.seen >= RAISE_AFTER or level == Level.ERROR or key[1] in EVENTS
        if not self._reasons:
            return Level.OK, ()
        for key in [key for key in self._reasons if key not in found and key[0] not in unheard]:
            reason = self._reasons[key]
            reason.missed += 1
            if reason.missed >= CLEAR_AFTER:
                del self._reasons[key]
        active = [reason for reason in self._reasons.values() if reason.active]
        active.sort(key=lambda reason: reason.level != Level.ERROR)
        if not active:
            return Level.OK, ()
        return active[0].level, tuple(reason.text + (BEFORE if reason.missed else "") for reason in active)
