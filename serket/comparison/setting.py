"""One cell: a composer, or several in turn, on one split, with one seed, in one case."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from serket import store
from serket.comparison.bench import Bench, States
from serket.comparison.cases import Case, divided
from serket.comparison.code import code_of
from serket.comparison.measures import Array, Readers, by_labels, criterion, examples, measured, overall
from serket.comparison.specs import Spec, candidates
from serket.data import IMAGES, Dataset
from serket.errors import SerketError
from serket.graph.write import to_yaml
from serket.model import Model
from serket.protocol import Embeds
from serket.registry import lookup
from serket.report.metrics import probe
from serket.store.files import plain

__all__ = ["Keeper", "Setting", "pictured", "readers_of"]

DRAWS, EXAMPLES = 1, 8


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
    def inside(self) -> tuple[Dataset, Readers]:
        """The training rows, parted into rows to learn from and rows to judge by, and who judges there."""
        learn, judge = divided(self.data, self.seed)
        data = replace(self.data, train=learn, test=judge)
        return data, readers_of(data)

    @cached_property
    def code(self) -> list[str]:
        """Names of the code that fits and measures the modules, and of what the frozen ones hold."""
        frozen = [module.fingerprint() for module in self.bench.graph.build().values() if isinstance(module, Embeds)]
        return [code_of(node.cls for node in self.bench.graph.nodes.values()), *frozen]

    @cached_property
    def states(self) -> States:
        """The modules, fitted: with few pairs every view of every row is still there, so as on all rows."""
        data = self.data if self.case.missing else self.whole
        about = {"code": self.code, "sha256": data.sha256, "seed": self.seed}
        tag = store.fingerprint(graph=to_yaml(self.bench.graph), **about, **_VERSIONS)
        return self.keep.states(tag, lambda: self.bench.pretrained(data, self.seed, workers=self.workers))

    def cell(self, spec: Spec, *, shown: bool) -> dict[str, Any]:
        """Return what one composer is worth here, from an earlier run if that got so far."""
        about = {"spec": spec.text, "case": str(self.case), "labels": self.labels, "shown": shown, "seed": self.seed}
        code = [self.code, code_of([lookup(spec.type, "composer")])]
        tag = store.fingerprint(graph=self.bench.whole, sha256=self.data.sha256, code=code, **about, **_VERSIONS)
        return self.keep.cell(tag, lambda: self._measured(spec, shown))

    def _measured(self, spec: Spec, shown: bool) -> dict[str, Any]:
        try:
            found = self._fitted(spec, shown)
        except SerketError as error:
            there = None if error.available is None else ", ".join(error.available)
            parts = {"expected": error.expected, "found": error.found, "available": there, "fix": error.fix}
            told = [f"{name}: {text}" for name, text in parts.items() if text]
            return {"cannot": "; ".join([error.problem, *told])}
        return found

    def _fitted(self, spec: Spec, shown: bool) -> dict[str, Any]:
        bench, data, seed, keys = self.bench, self.data, self.seed, self.bench.keys
        learn, judge = divided(data, seed)
        open_options = candidates(bench.with_composer(spec, {}).nodes[bench.place.name].build(), spec.options)
        states, start = self.states, time.process_time()  # the modules are no cost of the first composer
        tried: list[tuple[float, dict[str, Any], Model]] = []
        for options in open_options:
            composed = bench.composed(bench.with_composer(spec, options), states, data, learn, seed)
            told = criterion(composed.model, bench.shared, data, keys, learn, judge)
            tried.append((told, options, composed.model))
        validation, chosen, model = max(tried, key=lambda one: -np.inf if np.isnan(one[0]) else one[0])
        choosing = time.process_time() - start
        if data.label is not None and len(judge):
            inside, readers = self.inside
            validation = overall(measured(model, bench.shared, inside, keys, readers, seed), keys)
        composed = bench.composed(bench.with_composer(spec, chosen), states, data, data.train, seed)
        model = composed.model
        found = measured(model, bench.shared, data, keys, self.readers, seed)
        found |= {"validation": validation, "chosen": chosen, "choosing_cpu_seconds": choosing}
        found |= {"cpu_seconds": composed.cpu_seconds, "parameters": composed.parameters}
        found["thawed"] = composed.changed(states)
        found["labels"] = {str(n): by_labels(model, bench.shared, data, keys, n, seed) for n in self.labels}
        if shown and (to := pictured(bench, data)):
            found["examples"] = examples(model, data, keys, to, _rows(data), DRAWS)
        return found


class Keeper:
    """Modules and cells of a comparison, kept as they are made: in a folder, if there is one; the last modules always.

    So modules are fitted once per split and seed, whatever the case: those of few pairs are those of all rows.
    """

    def __init__(self, kept: store.Partial | None) -> None:
        self.kept = kept
        self.last: tuple[str, States] | None = None

    def states(self, tag: str, make: Callable[[], States]) -> States:
        """Return the states kept under a tag, or make and keep them."""
        if self.last is None or self.last[0] != tag:
            self.last = tag, self._states(tag, make)
        return self.last[1]

    def _states(self, tag: str, make: Callable[[], States]) -> States:
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


def readers_of(data: Dataset) -> Readers:
    """Return a function to a probe taught the real training rows of a view, made once each."""

    @cache
    def reader(key: str) -> Any:
        evidence = data.evidence(key, data.train)
        assert evidence.values is not None and data.label is not None
        seen = evidence.present.numpy()
        return probe(evidence.values.numpy()[seen], data.label[data.train][seen])

    return reader


def pictured(bench: Bench, data: Dataset) -> str | None:
    """Return the view to show imagined: a picture if there is one, else the widest that is imagined."""
    able = {n.data for n in bench.graph.nodes.values() if hasattr(n.cls, "predict")}
    keys = [key for key in bench.keys if key in able and key in data.arrays]
    shapes = IMAGES.get(data.name, {})
    return max(keys, key=lambda key: (key in shapes, data.arrays[key][0].size), default=None)


def _rows(data: Dataset) -> Array:
    """Return test rows to show: one of each label, as far as they go."""
    if data.label is None:
        return data.test[:EXAMPLES]
    labels = data.label[data.test]
    firsts = np.sort([np.flatnonzero(labels == name)[0] for name in np.unique(labels)])
    return np.asarray(data.test[firsts[:EXAMPLES]])
