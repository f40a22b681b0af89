"""What came in, what went into a set, and what was dropped, and why: the three always add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

__all__ = ["Count", "Ledger", "REASONS"]

REASONS = {
    "duplicate": "the same sensor and stamp came before",
    "out_of_order": "an observation with a later stamp came before, by more than reorder_ms",
    "unreadable": "its message is not what its own fields say",
    "not_finite": "NaN or infinity in it",
    "shape": "not as many numbers as the module was trained on",
    "clock": "its stamp is off its clock by more than jump_ms",
    "queue": "the sensor's queue was full",
    "late": "its set had gone out",
    "overload": "its set waited while max_in_flight others did",
    "gate": "too far from what was believed without it",
    "error": "its module failed",
    "incomplete": "its set lacked a required sensor, or had fewer than min_present",
}


@dataclass(slots=True)
class Count:
    """The account of one sensor: ``received == used + held + sum(dropped)`` at any time."""

    received: int = 0
    used: int = 0
    held: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def balanced(self) -> bool:
        """Tell whether nothing was lost without a reason."""
        return self.received == self.used + self.held + self.dropped.total()

    def as_dict(self) -> dict[str, int | dict[str, int]]:
        """Return it for JSON, reasons in order."""
        return {
            "received": self.received,
            "used": self.used,
            "held": self.held,
            "dropped": {reason: self.dropped[reason] for reason in REASONS if self.dropped[reason]},
        }


class Ledger:
    """The accounts of all sensors.

    Args:
        counts: by sensor.
        tell: is told of every drop that no inference tells of: the sensor and the reason.
    """

    def __init__(self, counts: Mapping[str, Count], tell: Callable[[str, str], None]) -> None:
        self._counts, self._tell = counts, tell

    def drop(self, name: str, reason: str, *, held: bool = False) -> None:
        """Count a reading as dropped, and tell of it; ``held`` tells whether it was in here."""
        count = self._counts[name]
        count.dropped[reason] += 1
        count.held -= held
        self._tell(name, reason)

    def settle(self, names: Iterable[str], reason: str) -> None:
        """Drop readings that were held, one of each sensor."""
        for name in names:
            self.drop(name, reason, held=True)

    def judge(self, name: str, reason: str | None) -> None:
        """Count a reading that was inferred from: as used, or as dropped for what the inference tells."""
        count = self._counts[name]
        count.held -= 1
        if reason is None:
            count.used += 1
        else:
            count.dropped[reason] += 1

    def take_back(self, name: str, reason: str) -> None:
        """Hold a reading again that was dropped."""
        count = self._counts[name]
        count.dropped[reason] -= 1
        count.held += 1
