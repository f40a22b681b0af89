"""The exception tree: every error says where, what was expected, what was found, what exists, and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

__all__ = [
    "ConvergenceWarning",
    "DataError",
    "DataWarning",
    "GraphError",
    "MessageError",
    "SerketError",
    "ShapeError",
    "StateError",
    "listed",
    "not_installed",
    "suggestion",
]


class SerketError(Exception):
    """A mistake the user can mend; the command line prints it and exits with status 2.

    Args:
        problem: one sentence saying what is wrong.
        where: ``file:line:column`` for YAML, ``module.port`` for messages, an array and its rows for data.
        expected: what would have been right.
        found: what was there.
        available: the names that exist.
        fix: what to write or run instead.
    """

    def __init__(
        self,
        problem: str,
        *,
        where: str | None = None,
        expected: str | None = None,
        found: str | None = None,
        available: Iterable[str] | None = None,
        fix: str | None = None,
    ) -> None:
        self.problem, self.where, self.expected, self.found, self.fix = problem, where, expected, found, fix
        self.available = None if available is None else tuple(available)
        super().__init__(problem)

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.problem}" if self.where else self.problem]
        available = None if self.available is None else ", ".join(self.available) or "nothing"
        parts = {"expected": self.expected, "found": self.found, "available": available, "fix": self.fix}
        return "\n".join(lines + [f"  {name}: {text}" for name, text in parts.items() if text is not None])


class GraphError(SerketError):
    """The graph cannot be read or built. Cause: the YAML, or how modules are bound. Cure: edit the file."""


class ShapeError(SerketError):
    """Two sizes that must agree do not. Cause: a variable, a port or an array of another size. Cure: change one."""


class MessageError(SerketError):
    """A message is not what its port promises. Cause: a reply, or an improper belief. Cure: mend the module."""


class DataError(SerketError):
    """The data cannot be used as they are. Cause: a missing array, wrong rows, NaN. Cure: mend the file."""


class StateError(SerketError):
    """A run directory is damaged, incomplete or of another graph. Cure: restore the file, or fit again."""


class ConvergenceWarning(UserWarning):
    """Messages still changed when the iterations ran out; the text names the slowest edge and what to try."""


class DataWarning(UserWarning):
    """Rows were set aside, masks widened, or something that was asked for is not there; the text says which."""


def not_installed(problem: str, extra: str) -> SerketError:
    """Return the error of a package that only an extra installs."""
    return SerketError(problem, found="it is not installed", fix=f"pip install 'serket-perception[{extra}]'")


def suggestion(word: str, known: Iterable[str]) -> str | None:
    """Return ``did you mean 'x'?`` for the closest known word, or None."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else None


def listed(rows: Sequence[int], most: int = 8) -> str:
    """Write row numbers for people: ``3, 7, 12 and 40 more``."""
    shown = ", ".join(str(int(row)) for row in rows[:most])
    return shown if len(rows) <= most else f"{shown} and {len(rows) - most} more"
