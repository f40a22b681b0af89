"""A fitted graph: what users hold."""

from __future__ import annotations

import inspect
import os
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, MixtureSameFamily

from serket import store
from serket.data import Dataset
from serket.data import load as load_data
from serket.draws import draw_rows, row_probs
from serket.engine import Result, run
from serket.engine.blame import blamed
from serket.errors import DataError, DataWarning, GraphError, SerketError, StateError, suggestion
from serket.graph import Graph, load_graph, parse_graph, prior_owners
from serket.graph.write import to_yaml
from serket.protocol import Evidence, Generative, Module, Trainable, traits
from serket.rows import seeded
from serket.training.compose import alone, compose
from serket.training.pretrain import Fitted, Report, pretrain

__all__ = ["Imagination", "Model", "fit", "load"]

Array = Any
CHUNK = 4096


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Imagination:
    """What a module imagines: ``mean`` and ``std`` ``(rows, D)``, and ``samples`` ``(rows, S, D)`` if asked for.

    ``decoded`` holds the means of draws of the latent ``(rows, draws, D)``: samples without observation noise. Of
    categories ``probs`` ``(rows, D, K)`` holds the probabilities, and ``mean`` the most probable one.
    """

    mean: Tensor
    std: Tensor
    samples: Tensor | None = None
    decoded: Tensor | None = None
    probs: Tensor | None = None

    def __repr__(self) -> str:
        parts = {"mean": self.mean, "std": self.std, "samples": self.samples, "probs": self.probs}
        return f"Imagination({', '.join(f'{n} {tuple(p.shape)}' for n, p in parts.items() if p is not None)})"


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
        dtype: of the messages; that of the training data, or, where nothing was trained, of the data at hand.
    """

    graph: Graph
    modules: Mapping[str, Module]
    seed: int = 0
    device: str = "cpu"
    seconds: dict[str, float] = field(default_factory=dict)
    histories: dict[str, Mapping[str, list[float]]] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)
    dtype: torch.dtype | None = None

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
        evidence = self._evidence(dataset, None if observe is None else self._known(observe), rows)
        first = next(iter(evidence.values()))
        options = {"seed": self.seed, "active": active, "dtype": self.dtype or dtype_of(dataset), **options}
        parts = [
            run(self.graph, self.modules, {name: one[chunk] for name, one in evidence.items()}, **options)
            for chunk in (slice(start, start + CHUNK) for start in range(0, max(len(first), 1), CHUNK))
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
        (to,) = self._known([to])
        generators = {n.data: n.name for n in self.graph.nodes.values() if isinstance(self.modules[n.name], Generative)}
        if to not in generators:
            raise DataError(
                f"no module can imagine '{to}'",
                available=[key for key in generators if key],
                fix="only modules with a predict method imagine their data",
            )
        dataset = self._dataset(given)
        keys = self._known(observe) if observe is not None else [key for key in dataset.arrays if key in self.keys]
        if to in keys and observe is not None:
            raise DataError(
                f"'{to}' cannot be imagined from itself",
                available=[key for key in self.keys if key != to],
                fix="give other senses, or none",
            )
        evidence = self._evidence(dataset, [key for key in keys if key != to], rows)
        name = generators[to]
        module, bindings = cast(Generative, self.modules[name]), self.graph.nodes[name].bindings
        options: dict[str, Any] = {"seed": self.seed, "active": active, "dtype": self.dtype or dtype_of(dataset)}
        parts: list[Imagination] = []
        generator = seeded(self.seed, name, "imagine", device=self.device)
        for start in range(0, len(next(iter(evidence.values()))), CHUNK // 4):
            part = {other: one[start : start + CHUNK // 4] for other, one in evidence.items()}
            beliefs = run(self.graph, self.modules, part, **options)
            inbox = {port: beliefs[variable] for port, variable in bindings.items()}
            with blamed(name, module):
                imagined = module.predict(inbox, generator=generator)
            parts.append(_imagined(imagined, samples, generator, beliefs.row_id))
        names = ("mean", "std", "samples", "decoded", "probs")
        mean, std, *rest = (_cat([getattr(part, name) for part in parts]) for name in names)
        return Imagination(cast(Tensor, mean), cast(Tensor, std), *rest)

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
            "dtype": str(self.dtype or "").removeprefix("torch."),
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

    def _evidence(self, dataset: Dataset, observe: Sequence[str] | None, rows: Any) -> dict[str, Evidence]:
        dtype = self.dtype or dtype_of(dataset)
        evidence = gather(self.graph, self.modules, dataset, rows, dtype=dtype, device=self.device)
        if observe is None:
            return evidence
        return {n: one if self.graph.nodes[n].data in observe else one.nothing() for n, one in evidence.items()}


_RESERVED = ("label", "row_id", "train", "test")


def gather(
    graph: Graph,
    modules: Mapping[str, Module],
    dataset: Dataset,
    rows: Any = None,
    *,
    dtype: torch.dtype,
    device: str = "cpu",
) -> dict[str, Evidence]:
    """Return the evidence of every node that reads data; warn where a module that needs whole rows gets gaps."""
    for node in graph.nodes.values():
        mask = dataset.masks.get(node.data or "")
        if mask is not None and mask.ndim > 1 and traits(modules[node.name]).masks == "row":
            gaps = int((mask.any(1) & ~mask.all(1)).sum())
            if gaps:
                warnings.warn(
                    f"{node.name} needs whole rows of {node.data}: {gaps} of {len(mask)} have gaps and are missing",
                    DataWarning,
                    stacklevel=3,
                )
    return {
        node.name: dataset.evidence(node.data, rows, dtype=dtype, device=device, masks=traits(modules[node.name]).masks)
        for node in graph.nodes.values()
        if node.data is not None
    }


def fit(
    graph: Graph | str | Path | Mapping[str, Any],
    data: Dataset | Mapping[str, Array] | str | Path | None = None,
    *,
    seed: int | None = None,
    device: str = "cpu",
    strict: bool = False,
    test_fraction: float = 0.2,
    workers: int | None = None,
    report: Report | None = None,
    kept: store.Partial | None = None,
) -> Model:
    """Fit every module alone, in parallel, then the composers, then what stands on them.

    Args:
        graph: a graph, or what :func:`serket.load_graph` takes.
        data: an embedded name, a path, arrays by key, or a :class:`Dataset`; the graph's own ``data:`` if None.
        seed: of every random stream; the graph's own if None.
        device: where the modules live.
        strict: refuse NaN and Inf that no mask explains.
        test_fraction: rows left out of every fit, if the data have no split.
        workers: processes for independent modules; one per core if None.
        report: called with (module, steps done, steps in all, text).
        kept: states of an interrupted fit to go on from, and where to keep new ones.

    Raises:
        SerketError: the graph, the data or a module's options are at fault.
    """
    graph = graph if isinstance(graph, Graph) else load_graph(graph)
    if graph.rounds:
        raise GraphError(
            "rounds of mutual learning are not built yet",
            where=graph.name,
            found=f"rounds: {graph.rounds}",
            fix="write rounds: 0",
        )
    modules = graph.build()
    seed = graph.seed if seed is None else seed
    if not isinstance(seed, int) or seed < 0:
        raise SerketError("no such seed", expected="a whole number from 0", found=repr(seed))
    check_device(device)
    dataset = dataset_for(graph, data, strict=strict, test_fraction=test_fraction, seed=seed)
    model = Model(graph, modules, seed, str(device), data={"name": dataset.name, "sha256": dataset.sha256})
    start = time.perf_counter()
    if not len(dataset.train):
        raise DataError("there is no row to learn from", where=dataset.name, fix="lower --test-fraction")
    dtype = model.dtype = dtype_of(dataset)
    evidence = gather(graph, modules, dataset, dataset.train, dtype=dtype, device=model.device)
    tags = {name: _tag(model, name) for name in modules} if kept else {}

    def done(fitted: Fitted, keep: bool = True) -> None:
        model.seconds[fitted.name], model.histories[fitted.name] = fitted.seconds, fitted.report.history
        if kept and keep:
            kept.put(fitted.name, tags[fitted.name], cast(Trainable, modules[fitted.name]).state())

    def recalled(name: str) -> bool:
        state = kept.get(name, tags[name]) if kept else None
        if state is None:
            return False
        cast(Trainable, modules[name]).load({key: value.to(model.device) for key, value in state.items()})
        model.seconds[name] = 0.0
        if report:
            report(name, 1, 1, "kept from the interrupted run")
        return True

    tasks = [task for task in alone(graph, modules, evidence, seed=seed, dtype=dtype) if not recalled(task.name)]
    for fitted in pretrain(tasks, workers=workers or os.cpu_count() or 1, report=report):
        done(fitted)
    # A composer depends on all that stands before it: only modules fitted alone are kept.
    begun = time.perf_counter()
    for task in compose(graph, modules, evidence, seed=seed, dtype=dtype):
        fitted = task.run(report)
        # Hearing what the others say is part of the work.
        done(replace(fitted, seconds=time.perf_counter() - begun), keep=False)
        begun = time.perf_counter()
    ordered = {name: model.seconds[name] for name in graph.nodes if name in model.seconds}
    model.seconds = {**ordered, "total": time.perf_counter() - start}
    return model


def load(directory: str | Path, *, device: str = "cpu") -> Model:
    """Read a run directory; hashes are checked before anything is parsed.

    Raises:
        StateError: no run, a damaged one, or one of another graph.
    """
    stored = store.read_run(directory)
    graph = parse_graph(stored.graph_yaml, str(Path(directory) / "graph.yaml"))
    modules = graph.build()
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
    )


def dataset_for(graph: Graph, data: Dataset | Mapping[str, Array] | str | Path | None, **options: Any) -> Dataset:
    """Load the data a graph reads, from where it is told or from the graph's own ``data:``."""
    if isinstance(data, Dataset):
        return data
    source = data if data is not None else graph.data
    keys = list(dict.fromkeys(node.data for node in graph.nodes.values() if node.data is not None))
    if not keys:
        raise GraphError("no module of the graph reads data", where=graph.name, fix="give a module data: KEY")
    if source is None:
        raise DataError(
            "the graph names no data",
            where=graph.name,
            expected=f"an .npz file with {', '.join(keys)}",
            fix="pass --data FILE, or write data: FILE in the graph",
        )
    return load_data(source, keys, near=graph.folder, **options)


def _tag(model: Model, name: str) -> str:
    node = model.graph.nodes[name]
    owners = prior_owners(model.graph, model.modules, frozenset({name}))
    ports = {}
    for port, variable in node.bindings.items():
        prior = owners[variable].message
        values = {part: value.tolist() for part, value in prior.tensors().items()} if prior is not None else None
        ports[port] = (variable, model.graph.variables[variable].size, owners[variable].kind, values)
    return store.fingerprint(
        type=node.type,
        options=dict(node.options),
        fit=dict(node.fit),
        ports=ports,
        data=node.data,
        sha256=model.data["sha256"],
        seed=model.seed,
        torch=torch.__version__,
    )


def check_device(device: str) -> str:
    """Return a device that works.

    Raises:
        SerketError: there is none of this name here.
    """
    try:
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        found = str(error).splitlines()[0][:70]
        raise SerketError(
            f"no device '{device}'", expected="cpu, cuda, cuda:1, ...", found=found, fix="use cpu"
        ) from None
    return device


def dtype_of(dataset: Dataset) -> torch.dtype:
    """Return the widest floating type of the arrays, float64 if all are whole numbers."""
    kinds = {array.dtype for array in dataset.arrays.values() if array.dtype.kind == "f"}
    return torch.float32 if kinds == {np.dtype("f4")} else torch.float64


def _imagined(distribution: Distribution, samples: int, generator: torch.Generator, row_id: Tensor) -> Imagination:
    """Take mean, deviation and draws."""
    drawn = draw_rows(distribution, samples, generator, row_id) if samples else None
    probs = row_probs(distribution)
    if probs is not None:
        numbers = torch.arange(probs.shape[-1], device=probs.device, dtype=probs.dtype)
        centre = (probs * numbers).sum(-1, keepdim=True)
        std = (probs * (numbers - centre).square()).sum(-1).sqrt()
        return Imagination(probs.argmax(-1).to(probs), std, drawn, None, probs)
    decoded = distribution.component_distribution.mean if isinstance(distribution, MixtureSameFamily) else None
    return Imagination(distribution.mean, distribution.variance.clamp_min(0).sqrt(), drawn, decoded)


def _check_options(options: Mapping[str, Any]) -> None:
    known = list(inspect.signature(run).parameters)[3:]
    for name in options:
        if name not in known:
            raise SerketError(f"no option '{name}'", available=known, fix=suggestion(name, known) or "use one of these")


def _cat(parts: list[Tensor | None]) -> Tensor | None:
    known = [part for part in parts if part is not None]
    return torch.cat(known) if known else None
