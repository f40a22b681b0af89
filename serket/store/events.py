"""What happened while fitting, a line each, readable while it happens."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serket.store.files import line, naming

__all__ = ["Events"]


class Events:
    """An append-only file of JSON lines, ``{"time": UTC, "kind": .., ...}``; a crash can damage the last line only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def append(self, kind: str, **fields: Any) -> None:
        """Write one event."""
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        with naming(self.path), self.path.open("ab") as file:
            file.write(line({"time": time, "kind": kind, **fields}))
