"""A graph made ready to infer one set of readings after another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch

from serket.engine.schedule import schedule
from serket.errors import GraphError
from serket.graph.check import prior_owners
from serket.graph.graph import Graph
from serket.messages import FAMILIES, Message
from serket.protocol import Filters, Module, Role, couples_rows

__all__ = ["Call", "Edge", "Plan", "Sensor", "behind", "plan"]

Edge = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Call:
    """One call of one module: the ports it answers, and those of its ports that hear nothing yet."""

    node: str
    ports: frozenset[str]
    hidden: frozenset[str]


@dataclass(frozen=True, slots=True)
class Sensor:
    """A module that reads data; ``port`` if it has but one, a parent, so that its message depends on its data alone."""

    node: str
    key: str
    port: str | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is the same for every set.

    Args:
        calls: of the modules that are no sensors, in order; on a forest once through is exact.
        tree: whether it is one.
        sensors: by data key.
        filters: the port and variable of every module that carries beliefs over time.
        edges: (node, port) pairs by variable, in file order, filters left out.
        priors: of every variable, one row.
        vacuous: by port, one row.
        hears: by port of a forest, the sensors and modules over time whose word can be in its message.
        flat: variables whose prior says nothing, and is not that of a module over time.
    """

    calls: tuple[Call, ...]
    tree: bool
    sensors: Mapping[str, Sensor]
    filters: Mapping[str, Edge]
    edges: Mapping[str, tuple[Edge, ...]]
    priors: Mapping[str, Message]
    vacuous: Mapping[Edge, Message]
    hears: Mapping[Edge, frozenset[str]]
    flat: frozenset[str]


def plan(graph: Graph, modules: Mapping[str, Module], dtype: torch.dtype, device: str) -> Plan:
    """Make a plan.

    Raises:
        GraphError: two modules read one sensor, or a module over time cannot follow a stream.
    """
    filters: dict[str, Edge] = {}
    for name, node in graph.nodes.items():
        if node.couples_rows:
            if not isinstance(modules[name], Filters) or len(node.bindings) != 1:
                raise GraphError(
                    f"{name} cannot follow a stream",
                    where=node.where,
                    found=f"type {node.type}, which answers whole sequences",
                    fix="use markov over a gmm, or dynamics: types that carry a belief from row to row",
                )
            filters[name] = next(iter(node.bindings.items()))
    active = frozenset(graph.nodes) - filters.keys()
    order = schedule(graph, active)
    sensors: dict[str, Sensor] = {}
    for name in graph.nodes:
        node = graph.nodes[name]
        if node.data is None or name in filters:
            continue
        if node.data in sensors:
            raise GraphError(
                f"{sensors[node.data].node} and {name} read one sensor, '{node.data}'",
                where=node.where,
                fix="give each a data key of its own; a stream feeds one module per sensor",
            )
        alone = len(node.ports) == 1 and next(iter(node.ports.values())).role == Role.PARENT
        sensors[node.data] = Sensor(name, node.data, next(iter(node.ports)) if alone else None)
    leaves = {sensor.node for sensor in sensors.values() if sensor.port}
    steps = order.passes if order.tree else order.sweep
    calls = [
        Call(step.node, frozenset(step.ports), frozenset(step.ports) if step.upward else frozenset())
        for step in steps
        if step.ports and step.node not in leaves
    ]
    owners = prior_owners(graph, modules, frozenset(graph.nodes))
    priors, edges = {}, {}
    vacuous: dict[Edge, Message] = {}
    for name, variable in graph.variables.items():
        flat = FAMILIES[variable.family].vacuous((1,), variable.size, dtype=dtype, device=device)
        owned = owners[name].message
        priors[name] = flat if owned is None else owned.to(dtype, device).expand(1) * flat
        edges[name] = tuple(edge for edge in graph.bound(name) if edge[0] not in filters)
        vacuous |= dict.fromkeys(edges[name], flat)
    assert not couples_rows({name: modules[name] for name in active})
    hears = _hears(graph, filters, edges) if order.tree else {}
    over_time = {variable for _, variable in filters.values()}
    unowned = frozenset(name for name, owner in owners.items() if owner.message is None and name not in over_time)
    return Plan(tuple(calls), order.tree, sensors, filters, edges, priors, vacuous, hears, unowned)


def _hears(
    graph: Graph, filters: Mapping[str, Edge], edges: Mapping[str, tuple[Edge, ...]]
) -> dict[Edge, frozenset[str]]:
    """Follow each message of a forest back: a module's own data, and all that is said at its other ports."""
    over_time = {variable: name for name, (_, variable) in filters.items()}

    @cache
    def heard(edge: Edge) -> frozenset[str]:
        node = graph.nodes[edge[0]]
        found = set() if node.data is None else {node.name}
        for port, variable in node.bindings.items():
            if port != edge[1]:
                found |= {over_time[variable]} if variable in over_time else set()
                found |= frozenset().union(*(heard(one) for one in edges[variable] if one != (node.name, port)))
        return frozenset(found)

    return {edge: heard(edge) for told in edges.values() for edge in told}


def behind(graph: Graph, edge: Edge) -> str:
    """Return the data key of the one sensor that speaks at a port without its node; else the port's variable."""
    node, port = edge
    variable = graph.nodes[node].bindings[port]
    reached, waiting = {node}, [variable]
    while waiting:
        for other, _ in graph.bound(waiting.pop()):
            if other not in reached:
                reached.add(other)
                waiting += graph.nodes[other].bindings.values()
    keys = [key for name in reached - {node} if (key := graph.nodes[name].data) is not None]
    return keys[0] if len(keys) == 1 else variable
