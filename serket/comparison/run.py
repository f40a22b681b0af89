"""Every composer in every case, over splits and seeds, on the same frozen messages."""

from __future__ import annotations

import inspect
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serket import store
from serket.comparison.bench import Bench, States
from serket.comparison.cases import Case, cases, divided
from serket.comparison.measures import Readers, by_labels, criterion, examples, measured
from serket.comparison.specs import Spec, candidates, specs
from serket.comparison.table import Cell, Comparison
from serket.data import IMAGES, Dataset, another_split
from serket.errors import DataError, SerketError
from serket.graph import Graph, load_graph
from serket.graph.write import to_yaml
from serket.inputs import Array, dataset_for
from serket.report.metrics import probe
from serket.store.files import plain

__all__ = ["compare"]

DRAWS = 1
EXAMPLES = 8


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
    others; then the composer is fitted on all. Nothing is chosen on test rows. Split 0 is the data's own.

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
        SerketError: no such composer, or no place for one in the graph; fewer than two views; data at fault.
    """
    wanted, todo, few = specs(composers), cases(pairs, missing), tuple(labels)
    numbers = range(splits) if isinstance(splits, int) else splits
    for name, number in [("seeds", seeds), ("splits", len(numbers)), *(("labels", number) for number in few)]:
        if number < 1:
            raise SerketError(f"no such number of {name}", expected="1 or more", found=str(number))
    bench = Bench.of(graph if isinstance(graph, Graph) else load_graph(graph))
    whole = dataset_for(bench.graph, data, strict=strict, test_fraction=test_fraction, seed=bench.graph.seed)
    if whole.label is None and few:
        raise DataError("there are no labels to teach", where=whole.name, fix="store 'label', or leave labels out")
    keep = Keeper(kept)
    made: list[Cell] = []
    total = len(numbers) * seeds * len(todo) * len(wanted)
    for split, seed in product(numbers, range(seeds)):
        here = another_split(whole, split)
        readers = _readers(here)
        for case in todo:
            setting = Setting(bench, here, case, seed, few, readers, keep, workers or os.cpu_count() or 1)
            for spec in wanted:
                if report:
                    report(len(made), total, f"split {split}, seed {seed}, {case}: {spec.text}")
                shown = split == seed == 0 and case == todo[-1]
                made.append(Cell(spec.text, str(case), split, seed, setting.cell(spec, shown=shown)))
    if report:
        report(total, total, "")
    pictured = _pictured(bench, whole)
    return Comparison(
        graph=bench.graph.name,
        data=whole.name,
        views=bench.keys,
        composers=tuple(spec.text for spec in wanted),
        cases=tuple(str(case) for case in todo),
        labelled=whole.label is not None,
        cells=tuple(made),
        rows={"train": len(whole.train), "test": len(whole.test)},
        shape=IMAGES.get(whole.name, {}).get(pictured or ""),
    )


@dataclass(frozen=True)
class Setting:
    """One split, seed and case: what every composer in it shares."""

    bench: Bench
    whole: Dataset
    case: Case
    seed: int
    labels: tuple[int, ...]
    readers: Readers
    keep: Keeper
    workers: int

    @cached_property
    def data(self) -> Dataset:
        """The rows as the case leaves them."""
        return self.case.of(self.whole, self.seed)

    @cached_property
    def states(self) -> States:
        """The modules, fitted: with few pairs every view of every row is still there, so as on all rows."""
        data = self.data if self.case.missing else self.whole
        tag = store.fingerprint(graph=to_yaml(self.bench.graph), sha256=data.sha256, seed=self.seed, **_VERSIONS)
        return self.keep.states(tag, lambda: self.bench.pretrained(data, self.seed, workers=self.workers))

    def cell(self, spec: Spec, *, shown: bool) -> dict[str, Any]:
        """Return what one composer is worth here, from an earlier run if that got so far."""
        about = {"spec": spec.text, "case": str(self.case), "labels": self.labels, "shown": shown, "seed": self.seed}
        tag = store.fingerprint(graph=self.bench.whole, sha256=self.data.sha256, code=_code(), **about, **_VERSIONS)
        return self.keep.cell(tag, lambda: self._measured(spec, shown))

    def _measured(self, spec: Spec, shown: bool) -> dict[str, Any]:
        try:
            found = self._fitted(spec, shown)
        except SerketError as error:
            return {"cannot": ", ".join(filter(None, [error.problem, error.found and f"found {error.found}"]))}
        return found

    def _fitted(self, spec: Spec, shown: bool) -> dict[str, Any]:
        bench, data, seed, keys = self.bench, self.data, self.seed, self.bench.keys
        learn, judge = divided(data, seed)
        open_options = candidates(bench.with_composer(spec, {}).nodes[bench.place.name].build(), spec.options)
        start = time.process_time()
        tried: list[tuple[float, dict[str, Any]]] = []
        for options in open_options:
            composed = bench.composed(bench.with_composer(spec, options), self.states, data, learn, seed)
            tried.append((criterion(composed.model, bench.shared, data, keys, learn, judge), options))
        validation, chosen = max(tried, key=lambda one: -np.inf if np.isnan(one[0]) else one[0])
        choosing = time.process_time() - start
        composed = bench.composed(bench.with_composer(spec, chosen), self.states, data, data.train, seed)
        model = composed.model
        found = measured(model, bench.shared, data, keys, self.readers, seed)
        found |= {"validation": validation, "chosen": chosen, "choosing_cpu_seconds": choosing}
        found |= {"cpu_seconds": composed.cpu_seconds, "parameters": composed.parameters}
        found["thawed"] = composed.changed(self.states)
        found["labels"] = {str(n): by_labels(model, bench.shared, data, keys, n, seed) for n in self.labels}
        if shown and (to := _pictured(bench, data)):
            found["examples"] = examples(model, data, keys, to, _rows(data), DRAWS)
        return found


class Keeper:
    """Modules and cells of a comparison, kept as they are made; nothing is kept without a folder."""

    def __init__(self, kept: store.Partial | None) -> None:
        self.kept = kept

    def states(self, tag: str, make: Callable[[], States]) -> States:
        """Return the states kept under a tag, or make and keep them."""
        held = self.kept.get("modules", tag) if self.kept else None
        if held is not None:
            found: dict[str, dict[str, Tensor]] = {}
            for name, value in held.items():
                module, _, key = name.partition("/")
                found.setdefault(module, {})[key] = value
            return found
        made = make()
        if self.kept:
            parts = {f"{module}/{key}": value for module, state in made.items() for key, value in state.items()}
            self.kept.put("modules", tag, parts)
        return made

    def cell(self, tag: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the cell kept under a tag, or make and keep it."""
        held = self.kept.get("cell", tag) if self.kept else None
        if held is not None:
            return dict(json.loads(bytes(cast(Any, held["json"].tolist()))))
        made: dict[str, Any] = plain(make())
        if self.kept:
            text = json.dumps(made).encode()
            self.kept.put("cell", tag, {"json": torch.tensor(list(text), dtype=torch.uint8)})
        return made


_VERSIONS = {"torch": torch.__version__}


@cache
def _code() -> str:
    """Return a name for the composers' code: what other code has fitted is fitted again."""
    folder = Path(inspect.getfile(store)).parents[1] / "composer"
    return store.fingerprint(**{path.name: path.read_text() for path in sorted(folder.glob("*.py"))})


def _readers(data: Dataset) -> Readers:
    """Return a function to a probe taught the real training rows of a view, made once each."""

    @cache
    def reader(key: str) -> Any:
        evidence = data.evidence(key, data.train)
        assert evidence.values is not None and data.label is not None
        seen = evidence.present.numpy()
        return probe(evidence.values.numpy()[seen], data.label[data.train][seen])

    return reader


def _pictured(bench: Bench, data: Dataset) -> str | None:
    """Return the view to show imagined: a picture if there is one, else the widest that is imagined."""
    able = {n.data for n in bench.graph.nodes.values() if hasattr(n.cls, "predict")}
    keys = [key for key in bench.keys if key in able and key in data.arrays]
    shapes = IMAGES.get(data.name, {})
    return max(keys, key=lambda key: (key in shapes, data.arrays[key][0].size), default=None)


def _rows(data: Dataset) -> NDArray[Any]:
    """Return test rows to show: one of each label, as far as they go."""
    if data.label is None:
        return data.test[:EXAMPLES]
    labels = data.label[data.test]
    firsts = np.sort([np.flatnonzero(labels == name)[0] for name in np.unique(labels)])
    return np.asarray(data.test[firsts[:EXAMPLES]])
