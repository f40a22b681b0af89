"""The run directory: everything a fitted model is, under hashes."""

from __future__ import annotations

import json
import platform
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

from serket.errors import StateError
from serket.store.files import digest, line, naming, pack, rendered, sync, unpack, write
from serket.store.manifest import EVENTS, KIND, MANIFEST, files_of, find, parse, sealed, verified, waiting

__all__ = ["StoredRun", "claim", "read_run", "state_hash", "update_file", "write_run"]


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run as read back: the graph's YAML, a state per module, metrics and manifest."""

    directory: Path
    graph_yaml: str
    states: Mapping[str, Mapping[str, Tensor]]
    metrics: dict[str, Any]
    manifest: dict[str, Any]


def claim(directory: str | Path) -> Path:
    """Return the absolute path if a run may be written there: on nothing, an empty folder, or an older run.

    Raises:
        StateError: something stands there that a run would destroy.
    """
    path = Path(directory).resolve()
    if not path.exists():
        return path
    if not path.is_dir():
        raise StateError("a file stands where the run should", where=str(path), fix="choose another --out")
    if (path / MANIFEST).is_file():
        strangers = sorted(set(files_of(path)) - {*parse(path)["files"], MANIFEST, EVENTS})
    else:
        strangers = sorted(entry.name for entry in path.iterdir())
    if strangers:
        raise StateError(
            "the folder holds files that are not of a run, and a run replaces its folder",
            where=str(path),
            found=", ".join(strangers[:4]) + (f" and {len(strangers) - 4} more" if len(strangers) > 4 else ""),
            fix="move them away, or choose another --out",
        )
    return path


def state_hash(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the file that a state is written to."""
    return digest(pack(state))


def write_run(
    directory: str | Path,
    *,
    graph_yaml: str,
    states: Mapping[str, Mapping[str, Tensor]],
    metrics: Mapping[str, Any],
    manifest: Mapping[str, Any],
    figures: Callable[[Path], None] | None = None,
    events: Path | Iterable[Mapping[str, Any]] = (),
) -> Path:
    """Write a run beside its place and move it there whole, in place of an older run; return its absolute path.

    Args:
        directory: where it is to stand.
        graph_yaml: the resolved graph.
        states: per module.
        metrics: any JSON; numbers that are not finite become null.
        manifest: seed, device, data and what else should be known; files, hashes, versions and time are added.
        figures: called with the folder to draw into.
        events: a file of JSON lines to copy, or events.

    Raises:
        StateError: something stands there that is not a run's; it is left alone.
    """
    final = claim(directory)
    token = uuid.uuid4().hex[:8]
    new, old = (final.with_name(f".{final.name}.{token}.{end}") for end in ("new", "old"))
    with naming(final):
        try:
            _fill(new, graph_yaml, states, metrics, manifest, figures, events)
            _swap(new, final, old)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    return final


def _fill(
    new: Path,
    graph_yaml: str,
    states: Mapping[str, Mapping[str, Tensor]],
    metrics: Mapping[str, Any],
    manifest: Mapping[str, Any],
    figures: Callable[[Path], None] | None,
    events: Path | Iterable[Mapping[str, Any]],
) -> None:
    """Write a whole run, the manifest last."""
    (new / "modules").mkdir(parents=True)
    (new / "figures").mkdir()
    (new / "graph.yaml").write_bytes(graph_yaml.encode())
    (new / "metrics.json").write_bytes(rendered(metrics))
    for name, state in states.items():
        (new / "modules" / f"{name}.safetensors").write_bytes(pack(state))
    log = events.read_bytes() if isinstance(events, Path) else b"".join(map(line, events))
    (new / EVENTS).write_bytes(log)
    if figures is not None:
        figures(new / "figures")
    hashes = {name: digest((new / name).read_bytes()) for name in sorted(files_of(new)) if name != EVENTS}
    versions = {name: version(name) for name in ("torch", "numpy", "safetensors")}
    versions |= {"serket": version("serket-perception"), "python": platform.python_version()}
    created = datetime.now(UTC).isoformat(timespec="seconds")
    added = {"kind": KIND, "format": 1, "created": created, "versions": versions, "files": hashes}
    (new / MANIFEST).write_bytes(sealed({**added, **manifest, **added}))
    for path in [*new.rglob("*"), new]:
        sync(path)


def _swap(new: Path, final: Path, old: Path) -> None:
    """Move a run to its place; what stood there is aside, or back if that fails."""
    try:
        if final.exists():
            final.rename(old)
        new.rename(final)
    except BaseException:
        if old.exists() and not final.exists():
            old.rename(final)
        raise
    sync(final.parent)


def read_run(directory: str | Path) -> StoredRun:
    """Read a run; nothing is parsed before every file has the hash it was written with.

    Raises:
        StateError: no run, or a file that is missing, changed or added.
    """
    path, manifest = find(directory)
    data = {name: verified(path / name, expected) for name, expected in manifest["files"].items()}
    if extra := sorted(name for name in files_of(path) if name.startswith("modules/") and name not in data):
        raise StateError("a module that is not of this run", where=str(path / extra[0]), fix="delete it")
    states = {Path(n).stem: unpack(data[n], path / n) for n in data if n.startswith("modules/")}
    return StoredRun(path, data["graph.yaml"].decode(), states, json.loads(data["metrics.json"]), manifest)


def update_file(directory: str | Path, name: str, data: bytes) -> None:
    """Replace, or add, one file of a run together with its hash.

    The new bytes wait beside the file while the manifest is replaced: a crash before that leaves the old run, a crash
    after it the new one, for :func:`read_run` looks under either name.

    Raises:
        StateError: no run, or its manifest is damaged.
    """
    path, manifest = find(directory)
    beside = waiting(path / name)
    beside.parent.mkdir(exist_ok=True)
    write(beside, data)
    write(path / MANIFEST, sealed({**manifest, "files": {**manifest["files"], name: digest(data)}}))
    beside.replace(path / name)
    sync(beside.parent)
