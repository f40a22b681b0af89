"""What came in, what went into a set, and what was dropped, and why: the three always add up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["Count", "REASONS"]

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
    "gate": "too far from what the other sensors say",
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
