"""Fitting a graph: every module alone, then what connects them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from serket import store
from serket.calibration import give_exponents
from serket.data import Dataset
from serket.errors import DataError, SerketError
from serket.graph import Graph, load_graph, prior_owners
from serket.graph.write import to_yaml
from serket.inputs import Array, check_device, dataset_for, dtype_of, gather, layouts, raw_keys
from serket.model import Model
from serket.protocol import Embeds, Evidence, Trainable
from serket.training.compose import alone, compose
from serket.training.mutual import Step, mutual
from serket.training.pretrain import Fitted, Report, pretrain
from serket.training.validation import kept_apart

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
    composed: Callable[[Model], None] | None = None,
) -> Model:
    """Fit every module alone, in parallel, then the composers, then what stands on them; then rounds, if any.

    With ``rounds`` or ``calibrate`` a share of the training rows is kept from every fit
    (:mod:`serket.training.validation`), to judge the rounds by, and to fit exponents on
    (:mod:`serket.training.calibrate`) once all else is done.

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
        composed: called with the model when it is composed, before any round.

    Raises:
        SerketError: the graph, the data or a module's options are at fault.
    """
    graph = graph if isinstance(graph, Graph) else load_graph(graph)
    if graph.calibrate != "none":  # what an older calibration says is of other modules
        graph = replace(graph, nodes={name: replace(node, calibration={}) for name, node in graph.nodes.items()})
    modules = graph.build()
    seed = graph.seed if seed is None else seed
    if not isinstance(seed, int) or seed < 0:
        raise SerketError("no such seed", expected="a whole number from 0", found=repr(seed))
    check_device(device)
    dataset = dataset_for(graph, data, strict=strict, test_fraction=test_fraction, seed=seed)
    model = Model(graph, modules, seed, str(device), data={"name": dataset.name, "sha256": dataset.sha256})
    model.widths = {key: dataset.arrays[key][0].size for key in model.keys if len(dataset.arrays.get(key, ()))}
    model.layouts, model.split = layouts(graph, dataset), dict(dataset.options)
    start = time.perf_counter()
    if not len(dataset.train):
        raise DataError("there is no row to learn from", where=dataset.name, fix="lower --test-fraction")
    dtype = model.dtype = dtype_of(dataset, raw_keys(graph))
    evidence = gather(graph, modules, dataset, dataset.train, dtype=dtype, device=model.device, report=report)
    everything = evidence
    evidence, validation = kept_apart(graph, modules, evidence, seed)
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
    if composed:
        composed(model)
    if graph.rounds:
        begun = time.perf_counter()
        _learn_together(model, evidence, validation, dtype, report, kept)
        model.seconds["rounds"] = time.perf_counter() - begun
    if graph.calibrate != "none":
        begun = time.perf_counter()
        give_exponents(model, dataset, dataset.train, everything, validation, dtype, report)
        model.seconds["calibrate"] = time.perf_counter() - begun
    ordered = {name: model.seconds[name] for name in [*graph.nodes, "rounds", "calibrate"] if name in model.seconds}
    model.seconds = {**ordered, "total": time.perf_counter() - start}
    return model


def _learn_together(
    model: Model,
    evidence: Mapping[str, Evidence],
    validation: Mapping[str, Evidence],
    dtype: torch.dtype,
    report: Report | None,
    kept: store.Partial | None,
) -> None:
    """Run the rounds, from the last one that an interrupted run has kept whole."""
    learners = {name: module for name, module in model.modules.items() if isinstance(module, Trainable)}
    about = {"graph": to_yaml(replace(model.graph, rounds=0)), "sha256": model.data["sha256"], "seed": model.seed}

    def tag(number: int) -> str:
        return store.fingerprint(round=number, torch=torch.__version__, **about)

    done = 0
    for number in range(model.graph.rounds, 0, -1) if kept else ():
        states = {name: kept.get(f"{name}.round", tag(number)) for name in [*learners, "steps"]} if kept else {}
        if all(state is not None for state in states.values()):
            told = bytes(cast(Any, states.pop("steps"))["json"].tolist())
            model.rounds.extend(Step(**step) for step in json.loads(told))
            for name, state in states.items():
                learners[name].load({key: value.to(model.device) for key, value in cast(Any, state).items()})
            done = number
            break
    options: dict[str, Any] = {"seed": model.seed, "dtype": dtype, "start": done + 1, "report": report}
    for number, steps in enumerate(mutual(model.graph, model.modules, evidence, validation, **options), done + 1):
        model.rounds.extend(steps)
        if kept:
            told = json.dumps([step.as_dict() for step in model.rounds]).encode()
            for name, module in learners.items():
                kept.put(f"{name}.round", tag(number), module.state())
            kept.put("steps.round", tag(number), {"json": torch.tensor(list(told), dtype=torch.uint8)})


def _tag(model: Model, name: str) -> str:
    node = model.graph.nodes[name]
    owners = prior_owners(model.graph, model.modules, frozenset({name}))
    ports = {}
    for port, variable in node.bindings.items():
        prior = owners[variable].message
        values = {part: value.tolist() for part, value in prior.tensors().items()} if prior is not None else None
        ports[port] = (variable, model.graph.variables[variable].size, owners[variable].kind, values)
    module = model.modules[name]
    return store.fingerprint(
        type=node.type,
        encoder=module.fingerprint() if isinstance(module, Embeds) else None,
        options=dict(node.options),
        fit=dict(node.fit),
        ports=ports,
        data=node.data,
        sha256=model.data["sha256"],
        rows="those to learn from" if model.graph.holds_out else "all",
        seed=model.seed,
        torch=torch.__version__,
    )
