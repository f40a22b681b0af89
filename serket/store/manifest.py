"""The manifest of a run: which files belong to it, under which hashes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serket.errors import StateError
from serket.store.files import digest, rendered

__all__ = ["EVENTS", "KIND", "MANIFEST", "files_of", "find", "parse", "sealed", "verified", "waiting"]

KIND = "serket run"
MANIFEST, EVENTS = "manifest.json", "events.jsonl"

_FIT = "serket run GRAPH --out DIR"
_RESTORE = "restore it from a copy, or delete the folder and fit again"
_GRAPH = f"{_RESTORE}; to change 'stream:', edit the graph file it was made from, and serket run that"


def sealed(manifest: Mapping[str, Any]) -> bytes:
    """Return the manifest's text with its own hash as the last entry."""
    bare = {key: value for key, value in manifest.items() if key != "sha256"}
    return rendered({**bare, "sha256": digest(rendered(bare))})


def parse(path: Path) -> dict[str, Any]:
    """Return the manifest in a folder.

    Raises:
        StateError: it is not Serket's, or any byte of it changed.
    """
    text = (path / MANIFEST).read_bytes()
    try:
        manifest: dict[str, Any] = json.loads(text)
        whole = manifest["kind"] == KIND and sealed(manifest) == text
    except (ValueError, TypeError, KeyError, RecursionError):
        whole = False
    if not whole:
        raise StateError("the manifest is not as Serket wrote it", where=str(path / MANIFEST), fix=_RESTORE)
    return manifest


def find(directory: str | Path) -> tuple[Path, dict[str, Any]]:
    """Return a run's absolute path and its manifest.

    Raises:
        StateError: there is no run, or its manifest is damaged.
    """
    path = Path(directory).resolve()
    if not (path / MANIFEST).is_file():
        # A process killed between the two renames of write_run leaves the older run under this name.
        aside = sorted(path.parent.glob(f".{path.name}.*.old"))
        fix = f"mv {aside[-1]} {path}" if aside and not path.exists() else _FIT
        raise StateError("no run directory", where=str(path), expected=f"a folder with {MANIFEST}", fix=fix)
    return path, parse(path)


def files_of(path: Path) -> set[str]:
    """Return the files of a folder by relative name, without those a crash or a Mac left behind."""
    found = {file.relative_to(path) for file in path.rglob("*") if file.is_file()}
    return {f.as_posix() for f in found if f.name != ".DS_Store" and not (f.name[0] == "." and f.suffix == ".waiting")}


def waiting(path: Path) -> Path:
    """Return where a file's next version waits until the manifest names it."""
    return path.with_name(f".{path.name}.waiting")


def verified(path: Path, expected: str) -> bytes:
    """Return a file's bytes, or those of its next version, whichever have the hash.

    Raises:
        StateError: neither has.
    """
    found = "no such file"
    for candidate in (waiting(path), path):
        if candidate.is_file():
            data = candidate.read_bytes()
            if digest(data) == expected:
                return data
            found = f"SHA-256 {digest(data)[:12]}"
    raise StateError(
        "the file is not as it was written",
        where=str(path),
        expected=f"SHA-256 {expected[:12]}",
        found=found,
        fix=_GRAPH if path.name == "graph.yaml" else _RESTORE,
    )
