"""What happened while fitting, a line each, readable while it happens."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from serket.store.files import line, naming
from serket.store.manifest import EVENTS

__all__ = ["Events", "events_of"]


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


def events_of(directory: str | Path) -> list[dict[str, Any]]:
    """Return the events of a run, oldest first; lines that a crash damaged are left out."""
    path = Path(directory) / EVENTS
    found = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        with suppress(ValueError):
            found.append(json.loads(text))
    return found
