"""From a source to a data set."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from serket.data import checks
from serket.data.dataset import Dataset
from serket.data.source import Given, Source, opened
from serket.errors import DataError, listed, suggestion

__all__ = ["load"]

MEASURED = ("digits", "tabletop")
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
        source: the name of an embedded data set, the path of an .npz file or of a folder of .npy files, or arrays,
            tensors or lists by key. Large arrays that lie uncompressed on disk stay there, and are mapped.
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
    names = list(dict.fromkeys(keys))
    with opened(source, near) as origin:
        read = {key: checks.numbers(origin, key) for key in _present(origin, names, missing_ok)}
        arrays = {key: array for key, (array, _) in read.items()}
        rows = checks.row_count(origin, arrays)
        masked = {key: checks.mask(origin, key, array, strict) for key, array in arrays.items()}
        sequences = {k: checks.whole(origin, f"{k}_sequence", rows) for k in names if f"{k}_sequence" in origin}
        groups = next(iter(sequences.values()), np.arange(rows))
        train, test = checks.split(origin, rows, groups, test_fraction, seed)
        if source in MEASURED:
            # Kept as small numbers to save room; measurements all the same.
            arrays = {key: array.astype(np.float32, copy=False) for key, array in arrays.items()}
        data = Dataset(
            name=origin.name,
            arrays=arrays,
            masks={key: mask for key, (mask, _) in masked.items()},
            sequences=sequences,
            row_id=checks.row_id(origin, rows),
            train=train,
            test=test,
            label=checks.label(origin, rows),
            missing=tuple(key for key in names if key not in origin),
            quarantined={key: bad for key, (_, bad) in masked.items() if bad},
            text=tuple(key for key, (_, text) in read.items() if text),
            options={"strict": strict, "test_fraction": test_fraction, "seed": seed},
        )
        return replace(data, notes=(*_notes(data, test_fraction), *_unused(origin, names)))


def _notes(data: Dataset, test_fraction: float) -> list[str]:
    notes = [
        f"{key}: NaN or Inf in {len(bad)} of {data.rows} rows ({listed(bad)}), so missing; mark them in {key}_mask"
        for key, bad in data.quarantined.items()
    ]
    notes += [f"{key}: not in {data.name}, so missing in every row" for key in data.missing]
    return notes if len(data.test) or data.rows == 1 or test_fraction == 0 else [*notes, "test: no rows"]


def _present(origin: Source, keys: list[str], missing_ok: bool) -> list[str]:
    for key in keys:
        if key in RESERVED:
            fix = f"store it under another key, such as {key}s"
            raise DataError(f"'{key}' is reserved", where=origin.name, fix=fix)
    present = [key for key in keys if key in origin]
    views = [n for n in origin.names if n not in RESERVED and not n.endswith(("_mask", "_sequence"))]
    absent = [key for key in keys if key not in origin]
    if not present or (absent and not missing_ok):
        key = absent[0] if absent else "data"
        fix = suggestion(key, views) or f"give it; rows that were not measured are NaN, or false in {key}_mask"
        raise DataError(f"no array '{key}'", where=origin.name, available=views, fix=fix)
    return present


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
