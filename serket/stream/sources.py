"""Observations from arrays: recordings with stamps, data sets with a rate."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from serket.data import checks
from serket.data.source import Source, opened
from serket.errors import DataError, suggestion
from serket.graph.stream import StreamEntry, nanoseconds
from serket.stream.clocks import check_spans
from serket.stream.observation import Observation

__all__ = ["from_arrays"]

Array = npt.NDArray[Any]


def from_arrays(
    source: str | Path | Mapping[str, Any],
    keys: tuple[str, ...],
    *,
    hz: float | None = None,
    sequence: int | None = None,
    near: Path | None = None,
    entry: StreamEntry | None = None,
) -> Iterator[Observation]:
    """Yield the observations of a recording, in the order of receipt.

    A recording is an ``.npz`` file with, for each sensor KEY, the readings ``KEY`` ``(N, D)``, the stamps
    ``KEY_stamp_ns`` ``(N,)`` and, optionally, ``KEY_recv_ns``; sensors may have different N. Without times of receipt a
    reading was received when it was measured: at its stamp less ``offset_ms``. Without stamps the rows of all sensors
    are taken at ``hz``, side by side; rows of NaN then are no readings. Rows that are false in ``KEY_mask``, wholly or
    in part, never are.

    Args:
        source: a path, the name of a data set, or arrays by key.
        keys: the sensors that are read.
        hz: rows per second of arrays without stamps.
        sequence: only the rows of this one, where an array ``<key>_sequence`` tells.
        near: a folder in which a relative path is tried, too.
        entry: the graph's ``stream:``, of which ``offset_ms`` and ``jump_ms`` count here; its defaults if None.

    Raises:
        ShapeError: a mask that does not fit its array.
        DataError: no sensor in it, a mask that is not bool, no stamps and no rate, stamps that are no whole numbers,
            or, without times of receipt, stamps of sensors that lie more than ``jump_ms`` apart, with no time in
            common: of two clocks.
    """
    entry = entry or StreamEntry.model_validate({})
    with opened(source, near, "--source") as arrays:
        here = [key for key in keys if key in arrays]
        if not here:
            raise DataError(
                "the source has none of the model's sensors",
                where=arrays.name,
                expected=" or ".join(keys),
                available=arrays.names,
                fix=next((text for key in keys if (text := suggestion(key, arrays.names))), "name its arrays so"),
            )
        found = [_readings(arrays, key, hz, sequence, entry) for key in here]
        supposed = [one for one in found if one.supposed and len(one.received)]
        spans = {one.key: (int(one.received.min()), int(one.received.max())) for one in supposed}
        check_spans(spans, nanoseconds(entry.jump_ms), arrays.name)
    order = np.concatenate([one.received for one in found])
    which = np.concatenate([np.full(len(one.stamps), i) for i, one in enumerate(found)])
    place = np.concatenate([np.arange(len(one.stamps)) for one in found])
    for row in np.argsort(order, kind="stable"):
        one, at = found[which[row]], place[row]
        yield Observation(one.key, int(one.stamps[at]), int(one.received[at]), one.values[at], shape=one.shape)


class _Readings(NamedTuple):
    key: str
    values: Array  # (N, D)
    stamps: Array
    received: Array
    supposed: bool  # whether the times of receipt are, from the stamps
    shape: tuple[int, ...]


def _readings(arrays: Source, key: str, hz: float | None, sequence: int | None, entry: StreamEntry) -> _Readings:
    """Read a sensor's readings and their times: stamped, or rows at a rate."""
    values = arrays.read(key)
    measured = _measured(arrays, key, values.shape)
    shape = values.shape[1:] if values.ndim > 2 else ()
    values = values.reshape(len(values), math.prod(values.shape[1:]))
    if f"{key}_stamp_ns" in arrays:
        stamps = _stamps(arrays, f"{key}_stamp_ns", len(values))
        supposed = f"{key}_recv_ns" not in arrays
        if supposed:
            received = stamps - round(entry.sensor(key).offset_ms * 1e6)
        else:
            received = _stamps(arrays, f"{key}_recv_ns", len(values))
        if not measured.all():
            values, stamps, received = values[measured], stamps[measured], received[measured]
        return _Readings(key, values, stamps, received, supposed, shape)
    if hz is None:
        raise DataError(
            f"'{key}' has no stamps",
            where=arrays.name,
            expected=f"{key}_stamp_ns, whole nanoseconds, one per row",
            fix="add it, or tell how many rows there are a second: --hz 30",
        )
    rows = _rows(arrays, len(values), sequence)
    values, seen = values[rows], measured[rows]
    if values.dtype.kind == "f":
        seen &= np.isfinite(values).all(1)
    stamps = np.round(np.flatnonzero(seen) * 1e9 / hz).astype(np.int64)
    return _Readings(key, values[seen], stamps, stamps, False, shape)


def _measured(arrays: Source, key: str, shape: tuple[int, ...]) -> Array:
    """Return ``(N,)``: the rows that are wholly true in the mask, as a fit takes them; all, where there is none."""
    name = f"{key}_mask"
    if name not in arrays or not shape[0]:
        return np.ones(shape[0], dtype=bool)
    mask, _ = checks.mask(arrays, key, np.broadcast_to(np.uint8(0), shape), strict=False)  # NaN is counted, not hidden
    return np.asarray(mask.reshape(len(mask), -1).all(1))


def _rows(arrays: Source, count: int, sequence: int | None) -> Array:
    """Return the row numbers of a sequence, or of all."""
    if sequence is None:
        return np.arange(count)
    named = next((name for name in arrays.names if name.endswith("_sequence")), None)
    rows = np.flatnonzero(arrays.read(named) == sequence) if named else np.arange(0)
    if not len(rows):
        ids = np.unique(arrays.read(named)).tolist() if named else []
        raise DataError(
            f"no sequence {sequence}",
            where=arrays.name,
            available=[f"{ids[0]} to {ids[-1]}"] if ids else ["none: no array ends in _sequence"],
            fix="choose one of these, or leave --sequence out",
        )
    return rows


def _stamps(arrays: Source, name: str, rows: int) -> Array:
    stamps, where = arrays.read(name), f"{arrays.name}: {name}"
    if stamps.dtype.kind not in "iu":
        raise DataError(
            "stamps are no whole numbers",
            where=where,
            expected="whole nanoseconds, int64",
            found=f"{stamps.dtype}, such as {stamps.reshape(-1)[0] if stamps.size else 'none'}",
            fix="store nanoseconds; of float seconds at least numpy.round(seconds * 1e9).astype('int64')",
        )
    if stamps.shape != (rows,):
        raise DataError("not one stamp per reading", where=where, expected=f"({rows},)", found=str(stamps.shape))
    return stamps.astype(np.int64, copy=False)
