"""Rows of several sensors, aligned, with what is observed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from serket.data.hashing import blocks, content_hash, row_keys
from serket.data.room import room
from serket.errors import DataError, listed, suggestion
from serket.protocol import Evidence

__all__ = ["Array", "Dataset", "Rows"]

Array: TypeAlias = NDArray[Any]
Rows: TypeAlias = slice | Array | torch.Tensor | Iterable[int]

_WIDER = {np.dtype("u2"): np.int32, np.dtype("u4"): np.int64, np.dtype("u8"): np.int64}  # torch computes with neither


@dataclass(frozen=True)
class Dataset:
    """Checked data; :func:`serket.data.load` makes it.

    Args:
        name: the embedded name, the file's name, or ``data`` for arrays given in Python.
        arrays: per key ``(rows, ...)`` or ``(rows,)``, floating or whole numbers.
        masks: per key bool, ``(rows,)`` or the shape of the array; true is observed. Quarantined rows are not.
        sequences: per key ``(rows,)``, the id of the sequence a row belongs to; only keys that have one.
        row_id: ``(rows,)`` int64, unique.
        train: row numbers, int64, ascending unless the file says otherwise.
        test: row numbers, int64.
        label: ``(rows,)``, for scores only.
        missing: keys that were asked for and are not there: missing in every row.
        quarantined: per key the numbers of rows with NaN or Inf where nothing says so in a mask.
        notes: what a reader of the results should know.
        text: keys that were strings, and are their UTF-8 bytes, padded by zeros.
        options: ``strict``, ``test_fraction`` and ``seed`` it was loaded with: they give the same split again.
    """

    name: str
    arrays: Mapping[str, Array]
    masks: Mapping[str, Array]
    sequences: Mapping[str, Array]
    row_id: Array
    train: Array
    test: Array
    label: Array | None = None
    missing: tuple[str, ...] = ()
    quarantined: Mapping[str, list[int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.row_id)

    @cached_property
    def sequence(self) -> Array | None:
        """The sequence of each row, ``(rows,)``, whichever key names it; None if none does.

        Raises:
            DataError: two keys name different ones.
        """
        for key, other in self.sequences.items():
            first = next(iter(self.sequences))
            if apart := np.flatnonzero(other != self.sequences[first]).tolist():
                raise DataError(
                    "two sensors say different sequences of a row",
                    where=f"{self.name}: {first}_sequence and {key}_sequence, rows {listed(apart)}",
                    expected="one sequence per row, whichever sensor names it",
                    fix=f"leave {key}_sequence out",
                )
        return next(iter(self.sequences.values()), None)

    @cached_property
    def sha256(self) -> str:
        """Hash of everything that was read, the split included."""
        parts = {"row_id": self.row_id, "train": self.train, "test": self.test, **self.arrays}
        parts |= {f"{key}_mask": mask for key, mask in self.masks.items()}
        parts |= {f"{key}_sequence": sequence for key, sequence in self.sequences.items()}
        return content_hash(parts if self.label is None else parts | {"label": self.label})

    def evidence(
        self,
        key: str,
        rows: Rows | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        masks: Literal["row", "dimension"] = "row",
    ) -> Evidence:
        """Return what a module sees: values ``(rows, D)``, sharing memory with the array where nothing has to change.

        Args:
            key: the array; one of ``missing`` gives evidence in which nothing is observed.
            rows: row numbers, a bool mask or a slice; None is all.
            dtype: of floating values; whole numbers stay whole.
            device: where it goes.
            masks: ``"row"`` observes a row only if all its dimensions are; ``"dimension"`` keeps a mask per dimension.

        Raises:
            DataError: no such key, or values beyond the range of dtype.
        """
        chosen, silent = _chosen(rows), self.silent(rows, device)
        if key in self.missing:
            return silent
        if key not in self.arrays:
            fix = suggestion(key, self.arrays)
            raise DataError(f"no array '{key}'", where=self.name, available=self.arrays, fix=fix)
        if key in self.text:
            fix = "store numbers: array.astype(float), or have a frozen text encoder read it"
            expected = "floating or whole numbers"
            raise DataError("not numbers", where=f"{self.name}: {key}", expected=expected, found="text", fix=fix)
        array = np.require(self.arrays[key][chosen], requirements=["C", "W"])
        given = _flat(torch.from_numpy(array.astype(_WIDER.get(array.dtype, array.dtype), copy=False)))
        values = given.to(device, dtype if given.is_floating_point() else given.dtype)
        mask = torch.from_numpy(self.masks[key][chosen].copy()).to(device)
        observed = _flat(mask) if masks == "dimension" else _flat(mask).all(-1, keepdim=True)
        if not observed.all():
            values = torch.where(observed, values, torch.zeros_like(values))
        if given.dtype != values.dtype and not (finite := values.isfinite().all(-1)).all():
            where = f"{self.name}: {key}, rows {listed((~finite).nonzero().flatten().tolist())}"
            raise DataError(f"values beyond {dtype}", where=where, fix="rescale the array")
        observed = observed if masks == "dimension" and mask.dim() > 1 else observed[:, 0]
        return replace(silent, values=values, observed=observed)

    def silent(self, rows: Rows | None = None, device: torch.device | str = "cpu") -> Evidence:
        """Return rows in which nothing is observed, without values."""
        chosen = _chosen(rows)
        row_id = torch.from_numpy(self.row_id[chosen].copy()).to(device)
        sequence = None if self.sequence is None else torch.from_numpy(self.sequence[chosen].copy()).to(device)
        return Evidence(row_id, None, torch.zeros(len(row_id), dtype=torch.bool, device=device), sequence)

    @cached_property
    def unread(self) -> dict[str, dict[int, str]]:
        """By module that embeds, the numbers of rows its encoder could not read so far, and of which key."""
        return {}

    def present(self, key: str, rows: Rows | None = None) -> Array:
        """Return in which rows all of a key is observed, ``(rows,)`` bool; no values are looked at."""
        chosen = _chosen(rows)
        if key in self.missing:
            return np.zeros(len(self.row_id[chosen]), dtype=bool)
        mask = self.masks[key][chosen]
        return np.asarray(mask.reshape(len(mask), -1).all(1)) if mask.size else np.zeros(len(mask), dtype=bool)

    def raw(self, key: str, rows: Rows) -> Array:
        """Return a copy of rows as they are stored: in the array's own type and shape, masked or not."""
        array = self.arrays[key][_chosen(rows)]
        return np.array(array, dtype=_WIDER.get(array.dtype, array.dtype), order="C")

    def row_keys(self, key: str, rows: Rows) -> Array:
        """Return what tells the raw content of rows, ``(rows, 2)`` uint64 (:func:`serket.data.hashing.row_keys`).

        Each row is hashed once, and no more of an array is read than was asked for.
        """
        array, chosen = self.arrays[key], self.numbers(rows)
        keys = self._row_keys.setdefault(key, room((self.rows, 2)))
        new = chosen[~keys[chosen].any(1)]  # no row has the key 0, or one of 2^128, which is then hashed again
        for part in blocks(np.broadcast_to(array[:1], (len(new), *array.shape[1:]))):
            keys[new[part]] = row_keys(array[new[part]])
        return keys[chosen]

    @cached_property
    def _row_keys(self) -> dict[str, NDArray[np.uint64]]:
        return {}

    def numbers(self, rows: Rows | None = None) -> Array:
        """Return the numbers of the rows chosen, as in :meth:`evidence`."""
        return np.arange(self.rows)[_chosen(rows)]

    def subset(self, rows: Rows) -> Dataset:
        """Return these rows, in this order; train and test keep those that are left."""
        chosen = self.numbers(rows)

        def left(old: Array | list[int]) -> Array:
            return np.flatnonzero(np.isin(chosen, old))

        return replace(
            self,
            arrays={key: array[chosen] for key, array in self.arrays.items()},
            masks={key: mask[chosen] for key, mask in self.masks.items()},
            sequences={key: sequence[chosen] for key, sequence in self.sequences.items()},
            row_id=self.row_id[chosen],
            train=left(self.train),
            test=left(self.test),
            label=None if self.label is None else self.label[chosen],
            quarantined={key: left(old).tolist() for key, old in self.quarantined.items()},
        )


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.unsqueeze(-1) if tensor.dim() == 1 else tensor.flatten(1)


def _chosen(rows: Rows | None) -> slice | Array:
    if rows is None or isinstance(rows, slice):
        return rows or slice(None)
    chosen = rows.cpu().numpy() if isinstance(rows, torch.Tensor) else np.asarray(rows)
    return chosen if chosen.size else np.zeros(0, dtype=np.int64)
