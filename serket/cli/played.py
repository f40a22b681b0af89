"""Sources of a stream on the command line: found again, told when they changed, and what was wrong with them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serket.cli.shared import err
from serket.errors import DataError
from serket.report.status import say

if TYPE_CHECKING:
    from serket.stream import Pipeline
    from serket.stream.counters import Count

__all__ = ["LAST", "LIVE", "advise", "last_of", "lasting", "remember", "useless"]

LAST = "stream/last.json"
LIVE = "ros2"
FIXES = {
    "duplicate": "its stamps stand still: stamp each reading when it is measured",
    "out_of_order": "its stamps run backwards: sort a recording by them, or state reorder_ms",
    "shape": "record what the model was fitted on",
    "clock": "its stamps stray from the times of receipt: mend its clock, or state a greater jump_ms",
    "queue": "a longer queue, or a faster machine",
    "late": "it comes later than its set can wait: state its offset_ms, a longer timeout_ms, or late: reprocess",
    "overload": "fewer readings a second, or a faster machine",
}
Sizes = Mapping[str, tuple[int, ...]]


def lasting(source: str, folder: Path | None) -> str:
    """Return a source as it is found from any folder: a name, or an absolute path."""
    found = _path(source, folder)
    return source if found is None or _named(source) else str(found.resolve())


def remember(run: str, told: dict[str, Any]) -> None:
    """Keep in a run what was played on it, with a hash of the source, for :func:`last_of`."""
    from serket.store import update_file

    if Path(run).is_dir():
        told = told | {"sha256": _hash(told["source"])}
        update_file(run, LAST, json.dumps(told).encode())


def last_of(run: str) -> dict[str, Any]:
    """Return what was played last on a run.

    Raises:
        DataError: nothing was, it was not on a run directory, it was live and not recorded, or the source has changed.
    """
    if not Path(run).is_dir():
        raise DataError(
            "a graph keeps nothing of what was streamed",
            where=run,
            expected="a run directory, in which stream keeps what it played",
            fix=f"serket replay {run} --source FILE",
        )
    last = Path(run) / LAST
    if not last.is_file():
        raise DataError(
            "nothing was streamed yet", where=run, fix=f"serket stream {run} --source FILE, or --source here"
        )
    told: dict[str, Any] = json.loads(last.read_text())
    if told["source"] == LIVE:
        raise DataError(
            "what was streamed last was live, and not recorded",
            where=run,
            fix=f"serket stream {run} --source ros2 --record FILE, or --source FILE here",
        )
    found = _hash(told["source"])
    if told.get("sha256") and found and found != told["sha256"]:
        raise DataError(
            "the source is not what was streamed",
            where=told["source"],
            expected=f"SHA-256 {told['sha256'][:16]}",
            found=found[:16],
            fix=f"serket replay {run} --source {told['source']} plays it as it is",
        )
    return told


def advise(pipeline: Pipeline, sizes: Sizes) -> None:
    """Warn of every sensor of which at least half was dropped for one reason, and say what to do.

    Args:
        pipeline: after the stream.
        sizes: the shape of each sensor's first reading.
    """
    from serket.stream.counters import REASONS

    for name, count in pipeline.counts.items():
        for reason, number in count.dropped.items():
            if 2 * number < count.received:
                continue
            text = f"{name}: {number} of {count.received} readings dropped ({reason}): {REASONS[reason]}"
            width = pipeline.widths[name]
            if reason == "shape" and name in sizes and width is not None:
                text += f": {' x '.join(map(str, sizes[name]))} for {width}"
            fix = f"; {FIXES[reason]}" if reason in FIXES else ""
            say(err, f"warning: {text}{fix}")


def useless(source: str, counts: Mapping[str, Count]) -> DataError:
    """Return what to say of a stream of which nothing was used."""
    from serket.stream.counters import REASONS

    told = []
    for name, count in counts.items():
        lost = [f"{number} {reason} ({REASONS[reason]})" for reason, number in count.dropped.most_common() if number]
        told.append(f"{name}: {count.received} received" + "".join(f", {one}" for one in lost))
    return DataError(
        "no reading was used",
        where=source,
        expected="a reading at least that goes into a set and is believed",
        found="; ".join(told),
        fix="mend what the reasons name: the source, or the graph's stream: (docs/streams.md)",
    )


def _named(source: str) -> bool:
    from serket.data import EMBEDDED, GENERATED

    return source in EMBEDDED or source in GENERATED


def _path(source: str, folder: Path | None = None) -> Path | None:
    from serket.data import EMBEDDED

    if source in EMBEDDED:
        return EMBEDDED[source]
    tried = [Path(source).expanduser(), *([folder / source] if folder is not None else [])]
    return next((path for path in tried if path.exists()), None)


def _hash(source: str) -> str | None:
    """Return the SHA-256 of a file, or of the names and bytes of all files in a folder; None where there is none."""
    path = _path(source)
    if path is None:
        return None
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file()):
        with file.open("rb") as opened:
            told = hashlib.file_digest(opened, "sha256").hexdigest()
        digest.update(f"{file.relative_to(path) if file != path else ''} {told}\n".encode())
    return digest.hexdigest()
