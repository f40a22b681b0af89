"""What connects the modules: composers, then concepts, each on the messages of what stands already."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch

from serket.engine.exchange import Exchange
from serket.engine.result import stacked
from serket.engine.run import pass_messages
from serket.graph.check import PriorOwner, prior_owners
from serket.graph.graph import Graph, Node
from serket.messages import Message
from serket.protocol import Evidence, Module, Relabels, Role, Trainable, couples_rows, traits
from serket.rows import chunks
from serket.training.align import CHUNK, align
from serket.training.pretrain import Task
from serket.training.thaw import thaw

__all__ = ["alone", "compose", "listen"]


def alone(
    graph: Graph,
    modules: Mapping[str, Module],
    evidence: Mapping[str, Evidence],
    *,
    seed: int,
    dtype: torch.dtype,
    only: Collection[str] | None = None,
) -> list[Task]:
    """Return the tasks of the modules that learn from data: alone with the graph's priors, owning what they can."""
    tasks = []
    for name in evidence:
        wanted = only is None or name in only
        if wanted and isinstance(modules[name], Trainable) and not traits(modules[name]).listens:
            tasks.append(listen(graph, modules, evidence, name, frozenset(), seed=seed, dtype=dtype))
    return tasks


def compose(
    graph: Graph,
    modules: Mapping[str, Module],
    evidence: Mapping[str, Evidence],
    *,
    seed: int,
    dtype: torch.dtype,
    only: Collection[str] | None = None,
) -> Iterator[Task]:
    """Yield the tasks of the modules that learn from messages, composers first, each as soon as its variables speak.

    A task's inbox holds the messages of all modules that stand, so it must be run before the next one is asked for.
    Those that stand agree on the names of categories first (:func:`align`): what is fitted above them learns no mixture
    of names. With ``only`` these learn, and are renamed, and all others stand.
    """
    trainable = [
        name
        for name, module in modules.items()
        if isinstance(module, Trainable)
        and (name not in evidence or traits(module).listens)
        and (only is None or name in only)
    ]
    left = sorted(trainable, key=lambda name: graph.nodes[name].kind != "composer")
    standing = frozenset(modules) - frozenset(left)

    def agree() -> None:
        there = {n: module for n, module in modules.items() if n in standing}
        align(graph, there, evidence, seed=seed, dtype=dtype, only=only)

    agree()
    while left:
        name = next((name for name in left if _is_reached(graph, modules, name, standing)), left[0])
        task = listen(graph, modules, evidence, name, standing, seed=seed, dtype=dtype)
        if traits(modules[name]).thaw:
            base = listen(
                graph, modules, evidence, name, standing - {*traits(modules[name]).thaw}, seed=seed, dtype=dtype
            )
            task = replace(task, after=partial(thaw, graph, modules, evidence, name, base.inbox, seed=seed))
        yield task
        left.remove(name)
        standing |= {name}
        if isinstance(modules[name], Relabels):
            agree()


def listen(
    graph: Graph,
    modules: Mapping[str, Module],
    evidence: Mapping[str, Evidence],
    name: str,
    standing: frozenset[str],
    *,
    seed: int,
    dtype: torch.dtype,
) -> Task:
    """Return the task of fitting one module under what the standing ones say, itself silent and its own prior away."""
    active = standing | {name}
    owners = dict(prior_owners(graph, modules, active))
    owned = _owned(graph, modules, name, active)
    for port in owned:
        owners[graph.nodes[name].bindings[port]] = PriorOwner("child", name, port)
    used = {other: modules[other] for other in graph.nodes if other in active}
    some = next(iter(evidence.values()))
    parts: list[Mapping[str, Message]] = []
    for chunk in chunks(len(some), CHUNK, some.sequence, couples_rows(used)):
        part = {other: one[chunk] for other, one in evidence.items()}
        heard = pass_messages(graph, used, part, seed=seed, dtype=dtype, owners=owners, silent=name)
        parts.append(_heard(graph.nodes[name], modules[name], heard.exchange))
    inbox = {port: stacked([part[port] for part in parts]) for port in graph.nodes[name].ports}
    return Task(
        name, _trainable(modules[name]), evidence.get(name, some.silent()), inbox, owned, graph.nodes[name].fit, seed
    )


def _heard(node: Node, module: Module, exchange: Exchange) -> Mapping[str, Message]:
    """Return the inbox to learn under: without feedback a parent port hears its variable's prior alone.

    A module that learns a latent's meaning from the latent itself has nothing else to learn from, and hears it.
    """
    inbox = exchange.inbox(node.name)
    if node.feedback or traits(module).listens:
        return inbox
    above = [port for port, bound in node.ports.items() if bound.role == Role.PARENT]
    return inbox | {port: exchange.priors[node.bindings[port]] for port in above}


def _owned(graph: Graph, modules: Mapping[str, Module], name: str, active: frozenset[str]) -> frozenset[str]:
    owners = prior_owners(graph, modules, active)
    bindings = graph.nodes[name].bindings.items()
    return frozenset(
        port for port, variable in bindings if owners[variable].kind == "own" and owners[variable].node == name
    )


def _is_reached(graph: Graph, modules: Mapping[str, Module], name: str, standing: frozenset[str]) -> bool:
    """Tell whether every variable that the module learns from is bound to a standing module."""
    node, listens = graph.nodes[name], traits(modules[name]).listens
    heard = [v for port, v in node.bindings.items() if listens or node.ports[port].role == Role.CHILD]
    return all(any(other in standing for other, _ in graph.bound(variable)) for variable in heard)


def _trainable(module: Module) -> Trainable:
    assert isinstance(module, Trainable)
    return module
