"""A fitted graph: what users hold."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributions import Distribution

from serket import store
from serket.data import Dataset
from serket.data import load as load_data
from serket.engine import Result, run
from serket.engine.blame import blamed
from serket.engine.reading import Layout
from serket.errors import DataError, SerketError, StateError, suggestion
from serket.graph import Graph, parse_graph
from serket.graph.write import to_yaml
from serket.imagination import Imagination, imagined
from serket.inputs import Array, check_rows, dataset_for, dtype_of, gather, raw_keys
from serket.messages import projected
from serket.predictive import marginal_cdf, sharpened
from serket.protocol import Evidence, Generative, Module, Trainable, couples_rows
from serket.retrieval import Retrieval, nearest, reader
from serket.rows import chunks, seeded
from serket.training.mutual import Step

__all__ = ["Model", "load"]

CHUNK = 4096


@dataclass(slots=True, eq=False, repr=False)
class Model:
    """A graph with fitted modules.

    Args:
        graph: who is bound to what.
        modules: by node name, fitted.
        seed: of every random stream while inferring.
        device: where inference runs.
        seconds: what fitting took, by module, ``total`` included.
        histories: curves of the fits, by module.
        data: name and hash of the data it was fitted on.
        widths: numbers in a row of each array it was fitted on, by data key.
        layouts: type and shape of a row of each array that only encoders read, by data key.
        rounds: what was tried in rounds of mutual learning, and what was kept.
        dtype: of the messages; that of the training data, or, where nothing was trained, of the data at hand.
        changes: what was added, swapped and refitted since (:mod:`serket.growth`), oldest first.
        split: how its data were loaded, so that a later fit learns from no row that it is tested on.
    """

    graph: Graph
    modules: Mapping[str, Module]
    seed: int = 0
    device: str = "cpu"
    seconds: dict[str, float] = field(default_factory=dict)
    histories: dict[str, Mapping[str, list[float]]] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    dtype: torch.dtype | None = None
    rounds: list[Step] = field(default_factory=list)
    widths: dict[str, int] = field(default_factory=dict)
    layouts: dict[str, Layout] = field(default_factory=dict)
    changes: list[dict[str, Any]] = field(default_factory=list)
    split: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        nodes = ", ".join(f"{node.name}: {node.type}" for node in self.graph.nodes.values())
        return f"Model({self.graph.name}; {nodes}; reads {', '.join(self.keys)})"

    @property
    def keys(self) -> tuple[str, ...]:
        """The data keys the graph reads, in file order."""
        return tuple(dict.fromkeys(node.data for node in self.graph.nodes.values() if node.data is not None))

    def infer(
        self,
        data: Mapping[str, Array] | Dataset | str | Path,
        *,
        observe: Iterable[str] | str | None = None,
        rows: Any = None,
        active: frozenset[str] | None = None,
        **options: Any,
    ) -> Result:
        """Infer every variable from whatever senses are there.

        Args:
            data: an array ``(rows, D)`` per data key, with ``<key>_mask`` where rows are missing; any may be absent.
            observe: use only these keys of the data.
            rows: only these rows of a :class:`Dataset`.
            active: use only these modules.
            options: of :func:`serket.engine.run`, such as ``max_iterations``, ``improper``, ``on_no_convergence``.

        Raises:
            DataError: an unknown key, or arrays that do not fit.
        """
        dataset = self._dataset(data)
        _check_options(options)
        keys = None if observe is None else self._known(observe)
        options = {"seed": self.seed, "active": active, "dtype": self._dtype(dataset), **options}
        parts = [
            run(self.graph, self.modules, evidence, **options)
            for evidence in self._evidence(dataset, keys, rows, CHUNK)
        ]
        return parts[0] if len(parts) == 1 else Result.joined(parts)

    def generate(
        self,
        to: str,
        given: Mapping[str, Array] | Dataset | str | Path,
        *,
        samples: int = 0,
        observe: Iterable[str] | str | None = None,
        rows: Any = None,
        active: frozenset[str] | None = None,
    ) -> Imagination:
        """Imagine one sense from others.

        Args:
            to: the data key to imagine; what the data hold of it is not looked at.
            given: as in :meth:`infer`.
            samples: draws from p(data | what is given) per row, observation noise included.
            observe, rows, active: as in :meth:`infer`.

        Raises:
            DataError: an unknown key, or no module can imagine it.
        """
        parts = self._predictions(to, given, observe, rows, active)
        generator = seeded(self.seed, self._imagining(to), "imagine", device=self.device)
        return Imagination.joined([imagined(part, samples, generator, row_id) for part, row_id in parts])

    def covered(
        self,
        to: str,
        data: Dataset,
        level: float = 0.9,
        *,
        observe: Iterable[str] | str | None = None,
        rows: Any = None,
    ) -> Tensor | None:
        """Tell which values of one sense lie inside the central intervals of what others predict of it, ``(rows, D)``.

        The intervals are those of each dimension's own predictive distribution, observation noise included; None where
        that is no mixture of normal distributions.
        """
        values = data.evidence(to, rows, dtype=self._dtype(data), device=self.device).values
        parts, start, tail = [], 0, (1 - level) / 2
        for predicted, row_id in self._predictions(to, data, observe, rows, None):
            if values is None:
                return None
            below = marginal_cdf(predicted, values[start : start + len(row_id)])
            if below is None:
                return None
            parts.append((below > tail) & (below < 1 - tail))
            start += len(row_id)
        return torch.cat(parts)

    def _imagining(self, to: str) -> str:
        """Return the node that imagines a data key."""
        (to,) = self._known([to])
        generators = {n.data: n.name for n in self.graph.nodes.values() if isinstance(self.modules[n.name], Generative)}
        if to not in generators:
            raise DataError(
                f"no module can imagine '{to}'",
                available=[key for key in generators if key],
                fix="only modules with a predict method imagine their data; infer gives its latent, retrieve examples",
            )
        return generators[to]

    def _predictions(
        self, to: str, given: Any, observe: Iterable[str] | str | None, rows: Any, active: frozenset[str] | None
    ) -> Iterator[tuple[Distribution, Tensor]]:
        """Yield p(data | what is given), calibrated, and the ids of the rows, part by part."""
        name = self._imagining(to)
        dataset = self._dataset(given)
        keys = self._others(to, dataset, observe)
        module, node = cast(Generative, self.modules[name]), self.graph.nodes[name]
        options: dict[str, Any] = {"seed": self.seed, "active": active, "dtype": self._dtype(dataset)}
        generator = seeded(self.seed, name, "imagine", device=self.device)
        for part in self._evidence(dataset, keys, rows, CHUNK // 4):
            beliefs = run(self.graph, self.modules, part, **options)
            inbox = {port: projected(beliefs[variable]) for port, variable in node.bindings.items()}
            with blamed(name, module):
                predicted = module.predict(inbox, generator=generator)
            yield sharpened(predicted, node.calibration.get("data", 1.0)), beliefs.row_id

    def retrieve(
        self,
        to: str,
        given: Mapping[str, Array] | Dataset | str | Path,
        among: Mapping[str, Array] | Dataset | str | Path,
        *,
        top: int = 5,
        observe: Iterable[str] | str | None = None,
        rows: Any = None,
        among_rows: Any = None,
        active: frozenset[str] | None = None,
    ) -> Retrieval:
        """Return the stored examples of one sense that others call to mind, by log p(example | given) / p(example).

        Works for modules with a decoder and without: what is compared is the reading of the example's latent with the
        belief about it (:func:`serket.retrieval.ranked`).

        Args:
            to: the data key; what ``given`` holds of it is not looked at.
            given, observe, rows, active: as in :meth:`generate`.
            among: the stored examples; only rows that have ``to``.
            top: how many, at most as many as are stored.
            among_rows: only these rows of stored examples in a :class:`Dataset`.

        Raises:
            DataError: an unknown key, no stored example, or a module with no one latent to tell examples apart by.
        """
        (to,) = self._known([to])
        if top < 1:
            raise DataError("nothing is to be retrieved", expected="top of 1 or more", found=str(top))
        name = reader(self.graph, to)
        dataset = self._dataset(given)
        shelf = self._dataset(among)
        evidence = self._evidence(dataset, self._others(to, dataset, observe), rows, CHUNK // 4)
        numbers = shelf.numbers(among_rows)
        dtype = self._dtype(dataset)
        stored = gather(self.graph, self.modules, shelf, numbers, dtype=dtype, device=self.device, observe=[to])[name]
        options: dict[str, Any] = {"top": top, "seed": self.seed, "dtype": dtype}
        used = {n: module for n, module in self.modules.items() if active is None or n in active or n == name}
        places = torch.as_tensor(numbers, device=self.device)
        return nearest(self.graph, used, evidence, name, stored, places, **options)

    def dataset(self, **options: Any) -> Dataset:
        """Load the data the graph names, with their split; options as in :func:`serket.data.load`."""
        return dataset_for(self.graph, None, **{"seed": self.seed, **options})

    def save(
        self, directory: str | Path, *, metrics: Mapping[str, Any] | None = None, overwrite: bool = False, **parts: Any
    ) -> Path:
        """Write a run directory: all of it, or nothing; ``parts`` as in :func:`serket.store.write_run`.

        Raises:
            StateError: something stands there; a run is replaced only if told to ``overwrite`` it.
        """
        if not overwrite and store.claim(directory).exists() and any(Path(directory).iterdir()):
            raise StateError("a run stands there", where=str(directory), fix="choose another place, or overwrite=True")
        states = {n: dict(m.state()) for n, m in self.modules.items() if isinstance(m, Trainable)}
        manifest = {
            "seed": self.seed,
            "device": self.device,
            "data": self.data,
            "fit_seconds": self.seconds,
            "widths": self.widths,
            **({"layouts": self.layouts} if self.layouts else {}),
            "dtype": str(self.dtype or "").removeprefix("torch."),
            **({"changes": self.changes} if self.changes else {}),
            **({"split": self.split} if self.split else {}),
        }
        return store.write_run(
            directory, graph_yaml=to_yaml(self.graph), states=states, metrics=metrics or {}, manifest=manifest, **parts
        )

    def _known(self, keys: Iterable[str] | str) -> list[str]:
        for key in (known := [keys] if isinstance(keys, str) else list(keys)):
            if key not in self.keys:
                raise DataError(
                    f"the graph reads no data called '{key}'",
                    available=self.keys,
                    fix=suggestion(key, self.keys) or "use one of these",
                )
        return known

    def _others(self, to: str, dataset: Dataset, observe: Iterable[str] | str | None) -> list[str]:
        """Return what is observed of a data set to imagine a sense from: not that sense itself."""
        keys = self._known(observe) if observe is not None else [key for key in dataset.arrays if key in self.keys]
        if to in keys and observe is not None:
            raise DataError(
                f"'{to}' cannot be imagined from itself",
                available=[key for key in self.keys if key != to],
                fix="give other senses, or none",
            )
        return [key for key in keys if key != to]

    def _dataset(self, data: Mapping[str, Array] | Dataset | str | Path) -> Dataset:
        if isinstance(data, Dataset):
            return data
        if isinstance(data, str | Path):
            return load_data(data, self.keys, missing_ok=True, test_fraction=0)
        if not isinstance(data, Mapping):
            raise DataError(
                "data are arrays by key",
                expected=f"{{'{self.keys[0]}': array}}, or a path",
                found=type(data).__name__,
                fix=f"infer({{'{self.keys[0]}': array}})",
            )
        senses = [key for key in data if not key.endswith(("_mask", "_sequence")) and key not in _RESERVED]
        self._known(senses)
        if not senses:
            raise DataError("no data are given", available=self.keys, fix="give at least one, masked where missing")
        return load_data(data, self.keys, missing_ok=True, test_fraction=0)

    def _dtype(self, dataset: Dataset) -> torch.dtype:
        return self.dtype or dtype_of(dataset, raw_keys(self.graph))

    def _evidence(
        self, dataset: Dataset, observe: Sequence[str] | None, rows: Any, size: int
    ) -> Iterator[dict[str, Evidence]]:
        """Yield what the modules see of so many rows at a time: no more of a large data set is held at once."""
        check_rows(self.graph, self.modules, dataset, rows)
        numbers = dataset.numbers(rows)
        sequence = None if dataset.sequence is None else torch.from_numpy(dataset.sequence[numbers])
        options: dict[str, Any] = {"dtype": self._dtype(dataset), "device": self.device, "observe": observe}
        for chunk in chunks(len(numbers), size, sequence, couples_rows(self.modules)):
            yield gather(self.graph, self.modules, dataset, numbers[chunk], **options, warn=False)


_RESERVED = ("label", "row_id", "train", "test")


def load(directory: str | Path, *, device: str = "cpu", without: str | None = None) -> Model:
    """Read a run directory; hashes are checked before anything is parsed.

    Args:
        directory: where ``save`` or ``serket run`` wrote it.
        device: where it is to live.
        without: a module about to be replaced, or fitted afresh: it is not built, as its files may be gone, and the
            model has the others alone. :func:`serket.growth.swap` and ``refit`` with ``fresh`` take it so.

    Raises:
        StateError: no run, a damaged one, or one of another graph.
    """
    stored = store.read_run(directory)
    graph = parse_graph(stored.graph_yaml, str(Path(directory) / "graph.yaml"))
    modules = graph.build(without=without)
    for name, module in modules.items():
        if isinstance(module, Trainable):
            if name not in stored.states:
                raise StateError(
                    f"the run has no state of '{name}'",
                    where=str(directory),
                    available=stored.states,
                    fix="fit again: serket run",
                )
            try:
                module.load({key: value.to(device) for key, value in stored.states[name].items()})
            except KeyError as error:
                raise StateError(
                    f"the state of '{name}' lacks {error}",
                    where=str(directory),
                    fix="it was written by another version; fit again",
                ) from None
    manifest = stored.manifest
    return Model(
        graph,
        modules,
        int(manifest.get("seed", 0)),
        device,
        dict(manifest.get("fit_seconds", {})),
        data=dict(manifest.get("data", {})),
        dtype=getattr(torch, str(manifest.get("dtype") or "none"), None),
        widths=dict(manifest.get("widths", {})),
        layouts={key: (str(name), tuple(shape)) for key, (name, shape) in manifest.get("layouts", {}).items()},
        changes=list(manifest.get("changes", [])),
        split=dict(manifest.get("split", {})),
    )


def _check_options(options: Mapping[str, Any]) -> None:
    known = list(inspect.signature(run).parameters)[3:]
    for name in options:
        if name not in known:
            raise SerketError(f"no option '{name}'", available=known, fix=suggestion(name, known) or "use one of these")
