"""A live stream into an .npz recording, reading by reading."""

from __future__ import annotations

import shutil
import zipfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import IO, Any, Self

import numpy as np

from serket.errors import DataError
from serket.stream.observation import Observation

__all__ = ["Recorder"]


class Recorder:
    """Writes a recording that :func:`serket.stream.from_arrays` reads back to the same observations, to the bit.

    Readings wait in files beside it, stamps in memory (16 bytes a reading); they become the recording on exit, whatever
    ended the stream. ``left_out`` counts, by sensor, readings of another type or size than the sensor's first, which no
    array can hold beside it.

    Args:
        path: a file that does not exist; it gets the ending ``.npz``.
        sensors: in the order in which readings of one moment are read back; one without readings has no rows.

    Raises:
        DataError: something stands there.
        OSError: the folder cannot be written to.
    """

    def __init__(self, path: str | Path, sensors: Iterable[str]) -> None:
        path = Path(path)
        self.path = path if path.suffix == ".npz" else path.with_name(path.name + ".npz")
        if self.path.exists():
            raise DataError("a recording would replace what stands there", where=str(self.path), fix="another --record")
        self.left_out: Counter[str] = Counter()
        self._open = ExitStack()
        self._folder = Path(self._open.enter_context(TemporaryDirectory(prefix=".record-", dir=self.path.parent)))
        self._bodies: dict[str, IO[bytes]] = {}
        self._kinds: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
        self._stamps = {key: (array("q"), array("q")) for key in sensors}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._open:
            for body in self._bodies.values():
                body.close()
            if error is not None and not self._bodies:
                return  # it never began
            whole = self._folder / "whole"
            with zipfile.ZipFile(whole, "w") as file:
                for key, stamps in self._stamps.items():
                    self._write(file, key)
                    for name, values in zip(("stamp", "recv"), stamps, strict=True):
                        with file.open(f"{key}_{name}_ns.npy", "w", force_zip64=True) as member:
                            np.lib.format.write_array(member, np.array(values, dtype=np.int64))
            whole.replace(self.path)

    def through(self, events: Iterable[tuple[int, Observation | None]]) -> Iterator[tuple[int, Observation | None]]:
        """Yield events as they come, their observations written."""
        for moment, observation in events:
            if observation is not None:
                self.put(observation)
            yield moment, observation

    def put(self, observation: Observation) -> None:
        """Write one."""
        key, values = observation.sensor, np.asarray(observation.values)
        kind = values.dtype, observation.shape or values.shape
        if key not in self._kinds:
            self._kinds[key] = kind
            self._bodies[key] = self._open.enter_context((self._folder / f"{len(self._kinds)}").open("wb"))
        if kind != self._kinds[key]:
            self.left_out[key] += 1
            return
        self._bodies[key].write(values.tobytes())
        for kept, moment in zip(self._stamps[key], (observation.stamp_ns, observation.recv_ns), strict=True):
            kept.append(moment)

    def _write(self, file: zipfile.ZipFile, key: str) -> None:
        dtype, shape = self._kinds.get(key, (np.dtype(np.float32), (0,)))
        header = {"descr": dtype.str, "fortran_order": False, "shape": (len(self._stamps[key][0]), *shape)}
        with file.open(f"{key}.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            if key in self._bodies:
                with Path(self._bodies[key].name).open("rb") as body:
                    shutil.copyfileobj(body, member)
