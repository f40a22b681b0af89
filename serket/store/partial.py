"""Modules that are fitted already, kept until the run is whole, so that an interrupted fit resumes."""

from __future__ import annotations

import json
import os
import shutil
import weakref
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from serket.errors import StateError
from serket.store.files import digest, pack, plain, unpack, write

try:
    import fcntl
except ImportError:  # Windows: no lock
    fcntl = None  # type: ignore[assignment]

__all__ = ["Partial", "fingerprint"]

LOCK = "lock"


def fingerprint(**parts: Any) -> str:
    """Return a short name for everything a fit depends on (type, options, hash of the data, seed, versions)."""
    return digest(json.dumps(plain(parts), sort_keys=True, default=str).encode())[:16]


class Partial:
    """The folder ``<directory>.partial``: a state per module and fingerprint, each with its hash beside it.

    ``with Partial(directory) as kept:`` keeps every other run out until the block, or the process, ends.
    """

    def __init__(self, directory: str | Path) -> None:
        directory = Path(directory).resolve()
        self.directory = directory.with_name(f"{directory.name}.partial")
        self._handle: int | None = None

    def __enter__(self) -> Self:
        """Lock the folder, made if need be; the system lets go of the lock however the process ends.

        Raises:
            StateError: another run has the lock.
        """
        if fcntl is None:
            return self
        with suppress(BlockingIOError):
            while self._handle is None:
                self._handle = self._locked()
            # The lock would live on in the processes that modules are fitted in, should this one be killed.
            this = weakref.ref(self)
            os.register_at_fork(after_in_child=lambda: (kept := this()) and kept._close())
            return self
        raise StateError(
            "another run is writing here",
            where=str(self.directory),
            fix="wait until it is done, or choose another --out",
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _locked(self) -> int | None:
        """Return the locked file, or None if another run, as it ended, deleted it in this very moment."""
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(self.directory / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), os.stat(self.directory / LOCK)):
                return handle
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        return None

    def _close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

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

    def unlock(self) -> None:
        """Delete the folder if it holds nothing but the lock: nothing was kept."""
        if {entry.name for entry in self.directory.iterdir()} <= {LOCK}:
            self.remove()

    def remove(self) -> None:
        """Delete the folder, the lock after all that it protects; the run is whole."""
        with suppress(OSError):
            for entry in sorted(self.directory.iterdir(), key=lambda entry: entry.name == LOCK):
                shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink()
            self.directory.rmdir()

    def _path(self, name: str, fingerprint: str) -> Path:
        return self.directory / f"{name}.{fingerprint}.safetensors"
