"""What data have to be: every check names the array, the rows and the fix (:class:`DataError`, :class:`ShapeError`)."""

from __future__ import annotations

import numpy as np

from serket.data.dataset import Array
from serket.data.hashing import blocks
from serket.data.source import Source
from serket.errors import DataError, ShapeError, listed

__all__ = ["label", "mask", "numbers", "row_count", "row_id", "split", "whole"]


def numbers(origin: Source, key: str) -> tuple[Array, bool]:
    """Return an array of floating (float32, float64) or whole numbers with at least one row; and whether it was text.

    Strings become their UTF-8 bytes, uint8, padded by zeros: ``(rows,)`` becomes ``(rows, longest)``.
    """
    array = origin.read(key)
    where = f"{origin.name}: {key}"
    text = array.dtype.kind in "SU" and array.size > 0
    if text:
        encoded = np.char.encode(array, "utf-8") if array.dtype.kind == "U" else array
        array = np.ascontiguousarray(encoded)[..., None].view(np.uint8)
    if array.dtype.kind not in "fiub":
        raise DataError(
            "not numbers",
            where=where,
            expected="floating or whole numbers",
            found=f"dtype {array.dtype}",
            fix="store numbers: array.astype(float)",
        )
    if array.ndim == 0 or array.size == 0:
        raise ShapeError("no rows", where=where, expected="(rows, D)", found=str(array.shape))
    if array.dtype.kind == "b":
        array = array.astype(np.uint8)
    if array.dtype.kind == "f" and array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float32 if array.dtype.itemsize < 4 else np.float64)
    return array, text


def row_count(origin: Source, arrays: dict[str, Array]) -> int:
    """Return how many rows all arrays have."""
    counts = {key: len(array) for key, array in arrays.items()}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{key} {count}" for key, count in counts.items())
        fix = "one row per moment in every array; fill what a sensor missed and mark it false in its _mask"
        raise ShapeError("arrays have different numbers of rows", where=origin.name, found=found, fix=fix)
    return next(iter(counts.values()))


def mask(origin: Source, key: str, array: Array, strict: bool) -> tuple[Array, list[int]]:
    """Return what is observed, and the rows with NaN or Inf among what is said to be: these are not."""
    name, rows = f"{key}_mask", len(array)
    given = origin.read(name) if name in origin else np.ones(rows, dtype=bool)
    where = f"{origin.name}: {name}"
    if given.dtype != bool:
        expected, found = "bool, true is observed", f"dtype {given.dtype}"
        raise DataError("not a mask", where=where, expected=expected, found=found, fix=f"{name}.astype(bool)")
    if given.shape not in ((rows,), array.shape):
        expected = f"({rows},) or {array.shape}, as {key} is"
        raise ShapeError(
            "the mask does not fit its array",
            where=where,
            expected=expected,
            found=str(given.shape),
            fix=f"one value per row of {key}, or per row and column",
        )
    observed, bad = given.reshape(rows, -1), np.zeros(rows, dtype=bool)
    for part in blocks(array) if array.dtype.kind == "f" else ():
        finite = np.isfinite(array[part].reshape(len(array[part]), -1))
        bad[part] = np.any(observed[part] & ~finite, axis=1)
    quarantined: list[int] = np.flatnonzero(bad).tolist()
    if quarantined and strict:
        where = f"{origin.name}: {key}, rows {listed(quarantined)}"
        expected = "finite numbers wherever the mask is true"
        raise DataError("NaN or Inf", where=where, expected=expected, fix=f"mark them false in {name}")
    return (observed & ~bad.reshape(rows, 1)).reshape(given.shape), quarantined


def whole(origin: Source, key: str, rows: int | None) -> Array:
    """Return ``(rows,)`` int64, of any length if rows is None."""
    array = origin.read(key)
    if array.ndim != 1 or (rows is not None and len(array) != rows):
        expected = f"({'any' if rows is None else rows},)"
        raise ShapeError("wrong shape", where=f"{origin.name}: {key}", expected=expected, found=str(array.shape))
    if array.dtype.kind not in "iu" and array.size:
        found = f"dtype {array.dtype}"
        raise DataError("not whole numbers", where=f"{origin.name}: {key}", found=found, fix=f"{key}.astype(int)")
    return array.astype(np.int64)


def row_id(origin: Source, rows: int) -> Array:
    """Return ``(rows,)`` int64, unique: the row numbers, if the source has no ids."""
    if "row_id" not in origin:
        return np.arange(rows)
    ids = whole(origin, "row_id", rows)
    _, first = np.unique(ids, return_index=True)
    if len(first) < rows:
        again = np.setdiff1d(np.arange(rows), first).tolist()
        raise DataError(
            "row ids occur twice", where=f"{origin.name}: row_id, rows {listed(again)}", expected="one id per row"
        )
    return ids


def label(origin: Source, rows: int) -> Array | None:
    """Return ``(rows,)`` classes, whole numbers or strings."""
    if "label" not in origin:
        return None
    classes = origin.read("label")
    where = f"{origin.name}: label"
    if classes.shape != (rows,):
        raise ShapeError("wrong shape", where=where, expected=f"({rows},)", found=str(classes.shape))
    if classes.dtype.kind == "f" and (classes == np.rint(classes)).all():
        return classes.astype(np.int64)
    if classes.dtype.kind not in "iubU":
        raise DataError("not classes", where=where, expected="whole numbers or strings", found=f"dtype {classes.dtype}")
    return classes


def split(origin: Source, rows: int, groups: Array, fraction: float, seed: int) -> tuple[Array, Array]:
    """Return train and test: the file's, or whole groups drawn at random."""
    given = {name: whole(origin, name, None) for name in ("train", "test") if name in origin}
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
