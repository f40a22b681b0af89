"""Every composer in every case, over splits and seeds, on the same frozen messages."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from serket import store
from serket.comparison.bench import Bench
from serket.comparison.cases import Case, cases
from serket.comparison.setting import Keeper, Setting, pictured, readers_of
from serket.comparison.specs import specs
from serket.comparison.table import Cell, Comparison
from serket.data import IMAGES, Dataset, another_split
from serket.errors import DataError, SerketError
from serket.graph import Graph, load_graph
from serket.inputs import Array, dataset_for

__all__ = ["compare"]


def compare(
    graph: Graph | str | Path | Mapping[str, Any],
    data: Dataset | Mapping[str, Array] | str | Path | None = None,
    composers: str | Iterable[str] = ("product", "linear_gaussian"),
    *,
    seeds: int = 3,
    splits: int | Sequence[int] = 5,
    pairs: Iterable[int | str] = ("all",),
    missing: float | None = None,
    labels: Iterable[int] = (),
    strict: bool = False,
    test_fraction: float = 0.2,
    workers: int | None = None,
    report: Callable[[int, int, str], None] | None = None,
    kept: store.Partial | None = None,
) -> Comparison:
    """Fit one composer after another on the messages of the same frozen modules, and measure each on the same rows.

    Per split and seed the modules are trained once, each alone on all training rows it sees; their states are the
    same to the bit under every composer, but for those a composer thaws. Options that a type names in ``choices`` are
    chosen by :func:`serket.comparison.measures.criterion` on 15 % of the training rows, each candidate fitted on the
    others; then the composer is fitted on all. With labels ``validation`` is the mean of the measures on those rows
    (:func:`serket.comparison.measures.overall`), without it is the criterion. Nothing is chosen on test rows. Split 0
    is the data's own.

    Args:
        graph: a graph, or what :func:`serket.load_graph` takes; a composer in it says where the others go.
        data: as in :func:`serket.fit`.
        composers: names of types, with options after colons: ``joint:objective=mopoe:fit.epochs=50``.
        seeds: how many seeds, from 0.
        splits: how many splits, or their numbers.
        pairs: cases of few pairs (:func:`serket.data.few_pairs`), or ``"all"``.
        missing: a case more, of so large a share of views missing (:func:`serket.data.missing_at_random`).
        labels: labels a class that a probe on the first view is taught, to be read from each other one.
        strict, test_fraction: as in :func:`serket.fit`.
        workers: processes for modules; one per core if None.
        report: called with (cells done, cells in all, text).
        kept: cells and modules of an interrupted comparison to go on from, and where to keep new ones.

    Returns:
        A table; a composer that cannot serve a case says why in its row.

    Raises:
        SerketError: no such composer or option, or no place for one in the graph; fewer than two views; data at fault.
    """
    wanted, todo, few = specs(composers), cases(pairs, missing), tuple(labels)
    numbers = range(splits) if isinstance(splits, int) else splits
    for name, number in [("seeds", seeds), ("splits", len(numbers)), *(("labels", number) for number in few)]:
        if number < 1:
            raise SerketError(f"no such number of {name}", expected="1 or more", found=str(number))
    bench = Bench.of(graph if isinstance(graph, Graph) else load_graph(graph))
    for spec in wanted:
        bench.check(spec)
    whole = dataset_for(bench.graph, data, strict=strict, test_fraction=test_fraction, seed=bench.graph.seed)
    if whole.label is None and few:
        raise DataError("there are no labels to teach", where=whole.name, fix="store 'label', or leave labels out")
    keep = Keeper(kept)
    made: list[Cell] = []
    total = len(numbers) * seeds * len(todo) * len(wanted)
    for split, seed in product(numbers, range(seeds)):
        here = another_split(whole, split)
        readers = readers_of(here)
        for case in todo:
            setting = Setting(bench, here, case, seed, few, readers, keep, workers or os.cpu_count() or 1)
            for spec in wanted:
                if report:
                    report(len(made), total, f"split {split}, seed {seed}, {case}: {spec.text}")
                shown = split == seed == 0 and case == (Case() if Case() in todo else todo[-1])
                made.append(Cell(spec.text, str(case), split, seed, setting.cell(spec, shown=shown)))
    if report:
        report(total, total, "")
    return Comparison(
        graph=bench.graph.name,
        data=whole.name,
        views=bench.keys,
        composers=tuple(spec.text for spec in wanted),
        cases=tuple(str(case) for case in todo),
        labelled=whole.label is not None,
        cells=tuple(made),
        rows={"train": len(whole.train), "test": len(whole.test)},
        shape=IMAGES.get(whole.name, {}).get(pictured(bench, whole) or ""),
    )
