"""From a source to a data set: every check on the way, each with the array and the rows it is about."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from serket.data.dataset import Array, Dataset
from serket.data.source import EMBEDDED, Given, Source, opened
from serket.errors import DataError, ShapeError, listed, suggestion

__all__ = ["load"]

RESERVED = ("label", "row_id", "train", "test")


def load(
    source: Given,
    keys: Iterable[str],
    *,
    strict: bool = False,
    missing_ok: bool = False,
    test_fraction: float = 0.2,
    seed: int = 0,
    near: Path | None = None,
) -> Dataset:
    """Read the arrays asked for and what goes with them: labels, row ids, the split, masks, sequences.

    Args:
        source: the name of an embedded data set, the path of an .npz file, or arrays, tensors or lists by key.
        keys: the arrays to read; nothing else is.
        strict: refuse NaN and Inf that no mask explains, instead of treating their rows as missing.
        missing_ok: a key the source does not have is missing in every row, as long as one is there.
        test_fraction: share of the rows (of the sequences, where there are any) to test on, if the source has no split.
        seed: of that split.
        near: folder tried after the current one for relative paths: that of the graph file.

    Raises:
        DataError: the source cannot be read, or an array cannot be used.
        ShapeError: arrays disagree about rows, or have none.
    """
    with opened(source, near) as origin:
        names = list(dict.fromkeys(keys))
        present = _present(origin, names, missing_ok)
        arrays = {key: _numbers(origin, key) for key in present}
        rows = _rows(origin, arrays)
        masks, quarantined = {}, {}
        for key, array in arrays.items():
            masks[key], bad = _mask(origin, key, array, strict)
            if bad:
                quarantined[key] = bad
        sequences = {k: _whole(origin, f"{k}_sequence", rows) for k in present if f"{k}_sequence" in origin}
        row_id = _row_id(origin, rows)
        label = _label(origin, rows)
        groups = next(iter(sequences.values()), np.arange(rows))
        train, test = _split(origin, rows, groups, test_fraction, seed)
        notes = [
            f"{key}: NaN or Inf in {len(bad)} of {rows} rows ({listed(bad)}), taken as missing; mark them in {key}_mask"
            for key, bad in quarantined.items()
        ]
        missing = tuple(key for key in names if key not in origin)
        notes += [f"{key}: not in {origin.name}, so missing in every row" for key in missing]
        notes += _unused(origin, names) if len(test) else ["test: no rows", *_unused(origin, names)]
    if isinstance(source, str) and source in EMBEDDED:
        # Kept as small whole numbers where they are whole; measurements all the same.
        arrays = {key: array.astype(np.float32, copy=False) for key, array in arrays.items()}
    return Dataset(
        name=origin.name,
        arrays=arrays,
        masks=masks,
        sequences=sequences,
        row_id=row_id,
        train=train,
        test=test,
        label=label,
        missing=missing,
        quarantined=quarantined,
        notes=tuple(notes),
    )


def _present(origin: Source, keys: list[str], missing_ok: bool) -> list[str]:
    for key in keys:
        if key in RESERVED:
            raise DataError(
                f"'{key}' is reserved", where=origin.name, fix=f"store it under another key, such as {key}s"
            )
    present = [key for key in keys if key in origin]
    views = [n for n in origin.names if n not in RESERVED and not n.endswith(("_mask", "_sequence"))]
    absent = [key for key in keys if key not in origin]
    if not present or (absent and not missing_ok):
        key = absent[0] if absent else "data"
        raise DataError(f"no array '{key}'", where=origin.name, available=views, fix=suggestion(key, views))
    return present


def _numbers(origin: Source, key: str) -> Array:
    array = origin.read(key)
    where = f"{origin.name}: {key}"
    if array.dtype.kind not in "fiub":
        raise DataError("not numbers", where=where, expected="floating or whole numbers", found=f"dtype {array.dtype}")
    if array.ndim == 0 or array.size == 0:
        raise ShapeError("no rows", where=where, expected="(rows, D)", found=str(array.shape))
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind == "f" and array.dtype not in (np.float32, np.float64):
        return array.astype(np.float32 if array.dtype.itemsize < 4 else np.float64)
    return array


def _rows(origin: Source, arrays: dict[str, Array]) -> int:
    counts = {key: len(array) for key, array in arrays.items()}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{key} {count}" for key, count in counts.items())
        fix = "one row per moment in every array; fill what a sensor missed and mark it false in its _mask"
        raise ShapeError("arrays have different numbers of rows", where=origin.name, found=found, fix=fix)
    return next(iter(counts.values()))


def _mask(origin: Source, key: str, array: Array, strict: bool) -> tuple[Array, list[int]]:
    """Return what is observed, and the rows with NaN or Inf among what is said to be."""
    mask = np.ones(len(array), dtype=bool)
    name = f"{key}_mask"
    where = f"{origin.name}: {name}"
    if name in origin:
        mask = origin.read(name)
        if mask.dtype != bool:
            found = f"dtype {mask.dtype}"
            raise DataError(
                "not a mask", where=where, expected="bool, true is observed", found=found, fix=f"{name}.astype(bool)"
            )
        if mask.shape not in ((len(array),), array.shape):
            expected = f"({len(array)},) or {array.shape}, as {key} is"
            raise ShapeError("the mask does not fit its array", where=where, expected=expected, found=str(mask.shape))
    flat = array.reshape(len(array), -1)
    bad = (~np.isfinite(flat) & mask.reshape(len(array), -1)).any(1)
    quarantined: list[int] = np.flatnonzero(bad).tolist()
    if quarantined and strict:
        raise DataError(
            f"NaN or Inf in {len(quarantined)} rows",
            where=f"{origin.name}: {key}, rows {listed(quarantined)}",
            expected="finite numbers wherever the mask is true",
            fix=f"mark them false in {name}",
        )
    return (mask & ~bad.reshape(-1, *(1,) * (mask.ndim - 1)), quarantined)


def _whole(origin: Source, key: str, rows: int | None) -> Array:
    array = origin.read(key)
    if array.ndim != 1 or (rows is not None and len(array) != rows):
        expected = f"({'any' if rows is None else rows},)"
        raise ShapeError("wrong shape", where=f"{origin.name}: {key}", expected=expected, found=str(array.shape))
    if array.dtype.kind not in "iu" and array.size:
        found = f"dtype {array.dtype}"
        raise DataError("not whole numbers", where=f"{origin.name}: {key}", found=found, fix=f"{key}.astype(int)")
    return array.astype(np.int64)


def _row_id(origin: Source, rows: int) -> Array:
    if "row_id" not in origin:
        return np.arange(rows)
    row_id = _whole(origin, "row_id", rows)
    _, first = np.unique(row_id, return_index=True)
    if len(first) < rows:
        again = np.setdiff1d(np.arange(rows), first).tolist()
        raise DataError(
            "row ids occur twice", where=f"{origin.name}: row_id, rows {listed(again)}", expected="one id per row"
        )
    return row_id


def _label(origin: Source, rows: int) -> Array | None:
    if "label" not in origin:
        return None
    label = origin.read("label")
    where = f"{origin.name}: label"
    if label.shape != (rows,):
        raise ShapeError("wrong shape", where=where, expected=f"({rows},)", found=str(label.shape))
    if label.dtype.kind == "f" and (label == np.rint(label)).all():
        return label.astype(np.int64)
    if label.dtype.kind not in "iubU":
        raise DataError("not classes", where=where, expected="whole numbers or strings", found=f"dtype {label.dtype}")
    return label


def _split(origin: Source, rows: int, groups: Array, fraction: float, seed: int) -> tuple[Array, Array]:
    """Return train and test: the file's, or whole groups drawn at random."""
    given = {name: _whole(origin, name, None) for name in ("train", "test") if name in origin}
    if given:
        for name, chosen in given.items():
            if outside := chosen[(chosen < 0) | (chosen >= rows)].tolist():
                where = f"{origin.name}: {name}"
                raise DataError("no such rows", where=where, expected=f"0 to {rows - 1}", found=listed(outside))
        named = np.concatenate([*given.values()])
        train, test = (given.get(name, np.setdiff1d(np.arange(rows), named)) for name in ("train", "test"))
        used, times = np.unique(np.concatenate([train, test]), return_counts=True)
        if (times > 1).any():
            twice = listed(used[times > 1].tolist())
            raise DataError("rows used twice", where=f"{origin.name}: train and test", found=f"rows {twice}")
        return train, test
    if not 0 <= fraction < 1:
        raise DataError("no such share of rows", where="test_fraction", expected="0 <= share < 1", found=str(fraction))
    order = np.random.default_rng(seed).permutation(np.unique(groups))
    share = min(max(round(fraction * len(order)), fraction > 0), len(order) - 1)
    held_out = np.isin(groups, order[:share])
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def _unused(origin: Source, keys: list[str]) -> list[str]:
    """Note arrays that nothing reads and that are named almost as one that would be read."""
    meant = [*RESERVED, *(f"{key}{end}" for key in keys for end in ("_mask", "_sequence"))]
    wanted = [name for name in meant if name not in origin]
    notes = []
    for name in origin.names:
        of_another = name.removesuffix("_mask").removesuffix("_sequence") in {*origin.names} - {name}
        close = difflib.get_close_matches(name, wanted, n=1, cutoff=0.8)
        if close and not of_another and name not in (*keys, *meant):
            notes.append(f"{name}: not used; did you mean '{close[0]}'?")
    return notes
