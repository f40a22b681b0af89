"""From raw rows to what a frozen module makes of them: what is kept already is not embedded again."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from serket.data import Dataset
from serket.embedding.cache import Cache, session
from serket.engine.blame import blamed
from serket.errors import DataWarning, ShapeError, listed
from serket.protocol import Embeds, Evidence

__all__ = ["embedded", "filled"]

Array: TypeAlias = NDArray[Any]
Report: TypeAlias = Callable[[str, int, int, str], None]

BLOCK_BYTES = 1 << 23  # of raw rows that are embedded in one call
BLOCK_ROWS = 1024


def embedded(
    name: str,
    module: Embeds,
    dataset: Dataset,
    key: str,
    rows: Any = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    report: Report | None = None,
    cache: Cache | None = None,
) -> Evidence:
    """Return what a module that embeds sees of a key: values ``(rows, E)``, each observed row embedded once.

    Rows whose embedding is not finite are not observed; a warning names them, once per data set.

    Args:
        name: of the module's node.
        module: what embeds.
        dataset: with the raw rows.
        key: the array; missing, or observed in no row: evidence without values.
        rows: as in :meth:`serket.data.Dataset.evidence`.
        dtype: of the embeddings.
        device: where they go.
        report: called with ("embed NAME", rows done, rows in all, text), if any row is new.
        cache: where embeddings are kept; else that of the session.
    """
    silent = dataset.silent(rows, device)
    here = np.flatnonzero(dataset.present(key, rows))
    if not len(here):
        return silent
    numbers = dataset.numbers(rows)
    values: torch.Tensor | None = None
    observed = silent.observed.clone()
    unread: list[int] = []
    for done, part, _ in _embeddings(name, module, dataset, key, numbers[here], report, cache, device):
        if values is None:
            values = torch.zeros(len(numbers), part.shape[1], dtype=dtype, device=device)
        into = torch.from_numpy(part).to(device, dtype)
        finite = into.isfinite().all(-1)
        place = torch.from_numpy(here[done]).to(device)
        values[place], observed[place] = torch.where(finite[:, None], into, torch.zeros_like(into)), finite
        unread += numbers[here[done]][~finite.cpu().numpy()].tolist()
    assert values is not None
    _tell(name, dataset, key, unread, len(numbers))
    return replace(silent, values=values, observed=observed)


def filled(
    name: str,
    module: Embeds,
    dataset: Dataset,
    key: str,
    *,
    device: torch.device | str = "cpu",
    report: Report | None = None,
    cache: Cache | None = None,
) -> tuple[int, int, list[int]]:
    """Embed every observed row of a key that is not kept yet; nothing else is held in memory.

    Returns:
        How many rows were embedded, how many were there, and the numbers of those that came out as NaN or Inf.
    """
    here = np.flatnonzero(dataset.present(key))
    made, unread = 0, []
    for done, part, new in _embeddings(name, module, dataset, key, here, report, cache, device):
        made += new
        unread += here[done][~np.isfinite(part).all(1)].tolist()
    return made, len(here) - made, unread


def _embeddings(
    name: str,
    module: Embeds,
    dataset: Dataset,
    key: str,
    numbers: Array,
    report: Report | None,
    cache: Cache | None,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[slice, Array, int]]:
    """Yield, block by block, a slice of the row numbers, its embeddings ``(n, E)``, and how many of them are new."""
    array = dataset.arrays[key]
    with blamed(name, module):
        space = (cache or session()).space(module.fingerprint(), array.dtype, array.shape[1:])
    step = min(BLOCK_ROWS, max(1, BLOCK_BYTES // max(1, array[:1].nbytes)))
    start, busy = time.perf_counter(), False
    for first in range(0, len(numbers), step):
        done = slice(first, min(first + step, len(numbers)))
        rows = numbers[done]
        keys = dataset.row_keys(key, rows)
        values, found = space.get(keys)
        new = 0
        if not found.all():
            fresh, place = _once(keys[~found])
            chosen = np.flatnonzero(~found)[fresh]
            raw = torch.from_numpy(dataset.raw(key, rows[chosen])).to(device)
            made = _made(name, module, raw, None if values is None else values.shape[1])
            space.put(keys[chosen], made)
            values = np.zeros((len(rows), made.shape[1]), dtype=made.dtype) if values is None else values
            values[~found] = made[place]
            new, busy = len(chosen), True
        if report and busy:
            pace = done.stop / max(time.perf_counter() - start, 1e-9)
            report(f"embed {name}", done.stop, len(numbers), f"{pace:.3g} rows/s")
        assert values is not None
        yield done, values, new


def _once(keys: Array) -> tuple[Array, Array]:
    """Return the first place of every key that differs, ascending, and for each key which of these it is."""
    _, first, which = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return first[order], rank[which.reshape(-1)]


def _made(name: str, module: Embeds, raw: torch.Tensor, width: int | None) -> Array:
    with blamed(name, module), torch.no_grad():
        made = module.embed(raw).detach().cpu()
    expected = f"({len(raw)}, {'E' if width is None else width}), floating"
    if made.dim() != 2 or made.shape != (len(raw), width or made.shape[1]) or not made.is_floating_point():
        found = f"{tuple(made.shape)}, {made.dtype}"
        raise ShapeError("embed returned something else than embeddings", where=name, expected=expected, found=found)
    return np.asarray((made.float() if made.dtype == torch.bfloat16 else made).numpy())


def _tell(name: str, dataset: Dataset, key: str, unread: list[int], rows: int) -> None:
    """Warn of rows that came out as NaN or Inf, and note them on the data set, once."""
    known = dataset.unread.setdefault(name, {})
    new = [row for row in unread if row not in known]
    known.update(dict.fromkeys(new, key))
    if new:
        text = f"{name}: NaN or Inf from the encoder in {len(new)} of {rows} rows of {key} ({listed(new)}), so missing"
        warnings.warn(text, DataWarning, stacklevel=5)
