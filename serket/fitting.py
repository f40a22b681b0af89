"""Fitting a graph: every module alone, then what connects them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from serket import store
from serket.data import Dataset
from serket.errors import DataError, GraphError, SerketError
from serket.graph import Graph, load_graph, prior_owners
from serket.inputs import Array, check_device, dataset_for, dtype_of, gather
from serket.model import Model
from serket.protocol import Trainable
from serket.training.compose import alone, compose
from serket.training.pretrain import Fitted, Report, pretrain

__all__ = ["fit"]


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
