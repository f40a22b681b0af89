"""Modules that are fitted already, kept until the run is whole, so that an interrupted fit resumes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from serket.errors import StateError
from serket.store.files import digest, pack, plain, unpack, write

__all__ = ["Partial", "fingerprint"]


def fingerprint(**parts: Any) -> str:
    """Return a short name for everything a fit depends on (type, options, hash of the data, seed, versions)."""
    return digest(json.dumps(plain(parts), sort_keys=True, default=str).encode())[:16]


class Partial:
    """The folder ``<directory>.partial``: a state per module and fingerprint, each with its hash beside it."""

    def __init__(self, directory: str | Path) -> None:
        directory = Path(directory).resolve()
        self.directory = directory.with_name(f"{directory.name}.partial")

    def put(self, name: str, fingerprint: str, state: Mapping[str, Tensor]) -> None:
        """Keep a state."""
        self.directory.mkdir(parents=True, exist_ok=True)
        data = pack(state)
        path = self._path(name, fingerprint)
        write(path, data)
        write(path.with_suffix(".sha256"), digest(data).encode())

    def get(self, name: str, fingerprint: str) -> dict[str, Tensor] | None:
        """Return the state kept under this fingerprint, if there is one.

        Raises:
            StateError: the file changed since it was written.
        """
        path = self._path(name, fingerprint)
        beside = path.with_suffix(".sha256")
        if not (path.is_file() and beside.is_file()):
            return None
        data = path.read_bytes()
        expected, found = beside.read_bytes(), digest(data).encode()
        if expected != found:
            raise StateError(
                "the file changed since it was written",
                where=str(path),
                expected=f"SHA-256 {expected[:12].decode(errors='replace')}",
                found=found[:12].decode(),
                fix=f"delete it, and '{name}' is fitted again",
            )
        return unpack(data, path)

    def remove(self) -> None:
        """Delete the folder; the run is whole."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _path(self, name: str, fingerprint: str) -> Path:
        return self.directory / f"{name}.{fingerprint}.safetensors"
