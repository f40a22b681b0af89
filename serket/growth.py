"""A composed model grows and changes: a sense more, another model for one, one that learns anew; the rest stays."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch

from serket.data import Dataset
from serket.data import load as load_data
from serket.errors import DataError, DataWarning, SerketError, suggestion
from serket.graph import Graph
from serket.graph.merge import Fragment, grown, swapped
from serket.inputs import Array, dataset_for, dtype_of, gather, layouts, raw_keys
from serket.model import Model
from serket.protocol import Evidence, Module, Role, Trainable, traits
from serket.store import state_hash
from serket.training.compose import alone, compose, listen
from serket.training.pretrain import Report, Task
from serket.training.touch import Touch, touched
from serket.training.validation import kept_apart

__all__ = ["Change", "add", "refit", "swap"]

Data = Dataset | Mapping[str, Array] | str | Path | None
Verb = Literal["add", "swap", "refit"]


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be done to a model: the new graph, what is fitted, and what a reader should know before.

    Args:
        verb: add, swap or refit.
        graph: as it will be.
        named: the modules that are new, replaced or fitted again.
        touches: all whose state changes, in file order.
        fresh: those that forget what they learned: by name, and of composers that extend, the views named.
        warnings: what the results of all subsets lose by it.
    """

    verb: Verb
    graph: Graph
    named: tuple[str, ...]
    touches: Mapping[str, Touch]
    fresh: bool
    warnings: tuple[str, ...] = field(default=())

    @property
    def stated(self) -> tuple[str, ...]:
        """Modules whose whole entry is the fragment's: exponents in it are of what they are now."""
        return () if self.verb == "refit" else self.named


def add(model: Model, fragment: Fragment, data: Data = None, *, report: Report | None = None, **options: Any) -> Model:
    """Return a model with one more sense; nothing is fitted but the new module and what touches it.

    The new module is fitted alone on its rows, as in :func:`serket.fit`. A composer that has its latent as one more
    view learns that view alone, on the rows in which it and an old one are present, if it can
    (:class:`serket.protocol.Extends`); then the results of subsets without the new sense are equal to the bit. Else it
    is fitted again, with what stands on it, and a warning says so beforehand.

    Args:
        model: fitted; it stays as it is.
        fragment: a graph file, name, or plain data with the new module, its variable, and the composer's longer
            ``views``.
        data: with the new sense's array, as in :func:`serket.fit`; old ones may be missing, in some rows or altogether,
            as far as nothing is fitted on them. The data of the model if None.
        report: called with (module, steps done, steps in all, text).
        options: ``strict`` and ``test_fraction`` of :func:`serket.data.load`; else those of the run.

    Raises:
        GraphError: the fragment changes what is there, or adds nothing.
        DataError: the new array is not there, or nothing pairs the new sense with an old one.
    """
    return carried_out(model, planned_add(model, fragment), data, report=report, **options)


def swap(
    model: Model, module: str, fragment: Fragment, data: Data = None, *, report: Report | None = None, **options: Any
) -> Model:
    """Return a model in which another module stands in one's place; else as in :func:`add`.

    The old state goes: the model may be one loaded ``without`` the module. The entry in the fragment has the module's
    name; it may read another data key, and its latent, where no other module is bound to it, may have another size.

    Raises:
        SerketError: there is no such module, or the fragment has no entry for it.
    """
    return carried_out(model, planned_swap(model, module, fragment), data, report=report, **options)


def refit(
    model: Model, module: str, data: Data = None, *, fresh: bool = False, report: Report | None = None, **options: Any
) -> Model:
    """Return a model in which one module learned on from where it stood; else as in :func:`add`.

    With rounds in the graph it learns under what the others say, as in a round, else alone. A view of a composer goes
    on from its parameters, too.

    Args:
        model, module, data, report, options: as in :func:`swap`.
        fresh: forget what it learned; the model may be one loaded ``without`` the module.

    Raises:
        SerketError: there is no such module, it learns nothing, or there is no state of it to go on from.
    """
    return carried_out(model, planned_refit(model, module, fresh=fresh), data, report=report, **options)


def planned_add(model: Model, fragment: Fragment) -> Change:
    """Return what :func:`add` will do."""
    graph = grown(model.graph, fragment)
    new = tuple(name for name in graph.nodes if name not in model.graph.nodes)
    longer = {n for n, node in model.graph.nodes.items() if dict(graph.nodes[n].bindings) != dict(node.bindings)}
    found = _touches(graph, frozenset(new))
    found = found if longer <= found.keys() else _touches(graph, frozenset(new) | (longer - found.keys()))
    return _warned(Change("add", graph, new, found, fresh=True))


def planned_swap(model: Model, module: str, fragment: Fragment) -> Change:
    """Return what :func:`swap` will do."""
    _check_name(model, module)
    graph = swapped(model.graph, module, fragment)
    return _warned(Change("swap", graph, (module,), _touches(graph, frozenset({module})), fresh=True))


def planned_refit(model: Model, module: str, *, fresh: bool = False) -> Change:
    """Return what :func:`refit` will do."""
    _check_name(model, module)
    if module not in model.modules and not fresh:
        raise SerketError(
            f"the model was loaded without '{module}': there is no state to go on from",
            where=module,
            fix="load it with its modules, or fit this one from the start: fresh=True",
        )
    modules = {**model.modules, module: model.modules.get(module) or model.graph.nodes[module].build()}
    if not isinstance(modules[module], Trainable):
        raise SerketError(
            f"'{module}' learns nothing",
            where=module,
            found=f"type {model.graph.nodes[module].type}",
            available=[n for n, m in modules.items() if isinstance(m, Trainable)],
            fix="name one that learns, or change its options: serket swap",
        )
    return _warned(Change("refit", model.graph, (module,), _touches(model.graph, frozenset({module})), fresh))


def _uncalibrated(change: Change) -> Change:
    """Forget the exponents of what is another module now: they were fitted to the old one."""
    nodes = dict(change.graph.nodes)
    for name, touch in change.touches.items():
        if name not in change.stated and touch.views is None and touch.along is None and nodes[name].calibration:
            nodes[name] = replace(nodes[name], calibration={})
            text = f"'{name}' was calibrated, and is another module now: its exponents are gone; serket calibrate "
            text += "finds new ones"
            change = replace(change, warnings=(*change.warnings, text))
    return replace(change, graph=replace(change.graph, nodes=nodes))


def carried_out(
    model: Model, change: Change, data: Data = None, *, report: Report | None = None, **options: Any
) -> Model:
    """Return the changed model; the old one stays as it is, and what is not touched has its state to the bit."""
    for text in change.warnings:
        warnings.warn(text, DataWarning, stacklevel=3)
    start = time.perf_counter()
    graph = change.graph
    dataset = _dataset(model, change, data, options)
    if not len(dataset.train):
        raise DataError("there is no row to learn from", where=dataset.name, fix="lower --test-fraction")
    modules = graph.build()
    before = {n: dict(m.state()) for n, m in model.modules.items() if isinstance(m, Trainable)}
    for name, module in modules.items():
        state = _kept(change, name, before.get(name))
        if state and isinstance(module, Trainable):
            module.load({key: value.clone() for key, value in state.items()})
    changed = replace(model, graph=graph, modules=modules, histories=dict(model.histories), rounds=list(model.rounds))
    changed.seconds, changed.widths, changed.data = dict(model.seconds), dict(model.widths), dict(model.data)
    changed.widths |= {n: dataset.arrays[n][0].size for n in changed.keys if len(dataset.arrays.get(n, ()))}
    changed.layouts = {**model.layouts, **layouts(graph, dataset)}
    changed.split = dict(dataset.options or model.split)
    if data is not None and not dataset.missing:
        changed.data = {"name": dataset.name, "sha256": dataset.sha256}
    # What was fitted anew is not what was calibrated.
    stale = change.touches.keys() - set(change.stated)
    nodes = {n: replace(node, calibration={}) if n in stale else node for n, node in graph.nodes.items()}
    changed.graph = replace(graph, nodes=nodes)
    # Where nothing was trained the model goes on to compute in the type of what it is given.
    dtype = model.dtype or dtype_of(dataset, raw_keys(graph))
    changed.dtype = dtype if change.touches else model.dtype
    evidence = _learnt_from(changed, dataset, dtype)
    alone_there = data is not None and len(dataset.arrays) == 1 and len(changed.keys) > 1
    together = _dataset(model, change, None, options) if alone_there and "source" in model.data else dataset
    paired = evidence if together is dataset else _learnt_from(changed, together, dtype)
    _check_rows(change, evidence)
    _check_paired(change, paired)
    for task in _tasks(changed, change, evidence, paired, dtype):
        fitted = task.run(report)
        changed.seconds[fitted.name], changed.histories[fitted.name] = fitted.seconds, fitted.report.history
    took = time.perf_counter() - start
    ordered = {name: changed.seconds[name] for name in [*graph.nodes, "rounds"] if name in changed.seconds}
    changed.seconds = {**ordered, "total": changed.seconds.get("total", 0.0) + took}
    after = {n: dict(m.state()) for n, m in modules.items() if isinstance(m, Trainable)}
    changed.changes = [*model.changes, _told(change, before, after, dataset, took)]
    for name in (model.graph.nodes.keys() - model.modules.keys()) & after.keys():
        changed.changes[-1]["states"][name]["before"] = "not read"
    return changed


def _learnt_from(model: Model, dataset: Dataset, dtype: torch.dtype) -> dict[str, Evidence]:
    """Return the training rows of every module, without those that rounds are judged by and exponents fitted on."""
    every = gather(model.graph, model.modules, dataset, dataset.train, dtype=dtype, device=model.device)
    return kept_apart(model.graph, model.modules, every, model.seed)[0]


def _tasks(
    model: Model,
    change: Change,
    evidence: Mapping[str, Evidence],
    paired: Mapping[str, Evidence],
    dtype: torch.dtype,
) -> Iterator[Task]:
    """Yield what is to be fitted, each when what it hears stands: first what reads data, then what connects."""
    graph, modules = change.graph, model.modules
    fits = {name for name, touch in change.touches.items() if touch.along is None}
    options: dict[str, Any] = {"seed": model.seed, "dtype": dtype}
    for task in alone(graph, modules, evidence, only=fits, **options):
        warm = change.verb == "refit" and not change.fresh
        if warm and graph.rounds and graph.nodes[task.name].feedback:
            task = listen(graph, modules, evidence, task.name, frozenset(modules) - {task.name}, **options)
        yield replace(task, options=_options(graph, modules, task.name, warm))
    for task in compose(graph, modules, paired, only=fits, **options):
        touch = change.touches[task.name]
        if touch.views is None:
            yield task
        else:
            yield replace(task, views=touch.views)


def _options(graph: Graph, modules: Mapping[str, Module], name: str, warm: bool) -> Mapping[str, Any]:
    node = graph.nodes[name]
    fewer = {key: min(most, node.fit.get(key, most)) for key, most in traits(modules[name]).warm.items()}
    return {**node.fit, **fewer, **node.refit} if warm else node.fit


def _check_rows(change: Change, evidence: Mapping[str, Evidence]) -> None:
    for name, touch in change.touches.items():
        if name in evidence and touch.along is None and not bool(evidence[name].present.any()):
            raise DataError(
                f"'{name}' has no row to learn from",
                where=change.graph.nodes[name].data,
                expected="rows with its data among those to train on",
                found="none",
                fix="give its data: --data FILE, or check the masks and 'train'",
            )


def _check_paired(change: Change, evidence: Mapping[str, Evidence]) -> None:
    """Say, before anything is fitted, which sense is never seen with an old one; latents that no data tell are left."""
    graph = change.graph
    for name, touch in change.touches.items():
        seen: dict[str, torch.Tensor] = {}
        for port, variable in graph.nodes[name].bindings.items():
            rows = [evidence[node].present for node, _ in graph.bound(variable) if node in evidence]
            if rows and graph.nodes[name].ports[port].role == Role.CHILD:
                seen[port] = torch.stack(rows).any(0)
        others = [rows for port, rows in seen.items() if port not in (touch.views or ())]
        for port in sorted(touch.views or ()):
            if not others or port not in seen or (both := int((seen[port] & torch.stack(others).any(0)).sum())) > 1:
                continue
            raise DataError(
                f"no rows pair {graph.nodes[name].bindings[port]} with what is there",
                where=f"{name}.{port}",
                expected="two training rows or more with this sense and another one",
                found=f"{both} of {int(seen[port].sum())} rows with this sense",
                fix="give rows in which both are observed: --data FILE",
            )


def _kept(change: Change, name: str, state: Mapping[str, torch.Tensor] | None) -> dict[str, torch.Tensor] | None:
    """Return what a module keeps of its state: all, nothing, or all but what belongs to some views."""
    touch = change.touches.get(name)
    if state is None or touch is None or touch.along or not change.fresh:
        return None if state is None else dict(state)
    if touch.views is None:
        return None
    return {key: value for key, value in state.items() if key.partition(".")[0] not in touch.views}


def _touches(graph: Graph, changed: frozenset[str]) -> dict[str, Touch]:
    return touched(graph, graph.build(), changed)


def _warned(change: Change) -> Change:
    """Say, of all that is fitted again whole, what that costs."""
    texts = []
    for name, touch in change.touches.items():
        node = change.graph.nodes[name]
        if name in change.named or touch.views is not None:
            continue
        if touch.along:
            texts.append(f"'{name}' learns on with '{touch.along}': its results change")
        elif node.kind == "composer":
            texts.append(
                f"composer '{name}' ({node.type}) cannot take a view alone: it is fitted again, "
                "and the results of all subsets change"
            )
        else:
            texts.append(
                f"'{name}' ({node.type}) learned from {touch.why}, which means something else now: it is fitted again"
            )
    return _uncalibrated(replace(change, warnings=tuple(texts)))


def _check_name(model: Model, module: str) -> None:
    if module not in model.graph.nodes:
        raise SerketError(
            f"the run has no module '{module}'",
            available=model.graph.nodes,
            fix=suggestion(module, model.graph.nodes) or "name one of these",
        )


def _dataset(model: Model, change: Change, data: Data, options: Mapping[str, Any]) -> Dataset:
    """Load the data: those told, else those the run was made from; what is fitted on them must be there."""
    source: Any = data if data is not None else model.data.get("source") or change.graph.data
    dataset = dataset_for(change.graph, source, **{"missing_ok": True, "seed": model.seed, **model.split, **options})
    for name in change.touches:
        key = change.graph.nodes[name].data
        if key is not None and key in dataset.missing:
            if not isinstance(data, Dataset):
                load_data(source, [key], near=change.graph.folder)  # says what arrays there are
            raise DataError(f"no array '{key}', which '{name}' is fitted on", where=dataset.name)
    return dataset


def _told(
    change: Change, before: Mapping[str, Any], after: Mapping[str, Any], dataset: Dataset, seconds: float
) -> dict[str, Any]:
    """Return what was done, as plain data: of every module how, and the hash of its state before and after."""
    rows = {}
    for name, state in after.items():
        touch = change.touches.get(name)
        how = "untouched" if touch is None else f"learnt on with {touch.along}" if touch.along else "fitted"
        if touch is not None and touch.views is not None:
            how = f"{', '.join(sorted(touch.views))} fitted"
        old = state_hash(before[name]) if name in before else None
        rows[name] = {"how": how, "before": old, "after": state_hash(state)}
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "what": change.verb,
        "modules": list(change.named),
        "data": {"name": dataset.name, "sha256": dataset.sha256},
        "seconds": seconds,
        "states": rows,
    }
