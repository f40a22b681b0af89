"""The graph as a value: variables, nodes, and who is bound to what."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import networkx as nx
import torch

from serket.errors import GraphError, SerketError, suggestion
from serket.graph.stream import StreamEntry
from serket.graph.yaml import read
from serket.messages import Family, Message
from serket.protocol import ChecksFit, Module, Port, Role, Thawable, traits
from serket.registry import options_of

__all__ = ["Graph", "Node", "Variable", "instance"]


@dataclass(frozen=True, slots=True)
class Variable:
    """A named quantity with a family and a size.

    ``prior`` (no batch dimensions) is the graph's own; ``combine: product`` lets several child ports share ownership.
    """

    name: str
    family: Family
    size: int
    prior: Message | None = None
    combine: Literal["single", "product"] = "single"
    where: str | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Node:
    """A module or a composer as the graph file has it.

    Args:
        name: its key in the file.
        cls: the class registered under ``type``.
        kind: the section it stands in.
        ports: the resolved ports by name, lists expanded (``views[0]``).
        bindings: variable per port, in the same order.
        trust: exponent per port on the message that leaves it; 1 where absent.
        calibration: exponent per port, fitted on held-out rows, that joins trust; under ``data``, of p(data | latents)
            as imagined. Empty: never calibrated.
        data: the key of its array in the data file, or None.
        options: keyword arguments of its class.
        fit: keyword arguments of its ``fit``.
        refit: keyword arguments of its ``fit`` in rounds of mutual learning, over those of ``fit``.
        feedback: whether it learns from what the rest of the graph says at its parent ports.
        where: ``file:line:column`` of the entry.
    """

    name: str
    type: str
    cls: Callable[..., Module]
    kind: Literal["module", "composer"]
    ports: Mapping[str, Port]
    bindings: Mapping[str, str]
    trust: Mapping[str, float] = field(default_factory=dict)
    calibration: Mapping[str, float] = field(default_factory=dict)
    data: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    fit: Mapping[str, Any] = field(default_factory=dict)
    refit: Mapping[str, Any] = field(default_factory=dict)
    feedback: bool = True
    where: str | None = field(default=None, compare=False)

    @property
    def exponents(self) -> dict[str, float]:
        """What the extrinsic message at a port is raised to: trust times calibration; ports of 1 are left out."""
        every = {port: self.trust.get(port, 1.0) * self.calibration.get(port, 1.0) for port in self.ports}
        return {port: exponent for port, exponent in every.items() if exponent != 1}

    @property
    def couples_rows(self) -> bool:
        """Whether it is of the time plate, and answers the rows of a sequence together."""
        plate = getattr(self.cls, "plate", "row")
        # Of some types the options tell.
        return (traits(self.build()).plate if isinstance(plate, property) else plate) == "time"

    def build(self) -> Module:
        """Make the module, untrained; raises like :func:`instance`."""
        return instance(self.cls, self.ports, self.options, f"{self.kind}s.{self.name}", self.where)


def instance(
    cls: Callable[..., Module], ports: Mapping[str, Port], options: Mapping[str, Any], path: str, where: str | None
) -> Module:
    """Make the module of the entry ``path``, such as ``modules.pix``, untrained.

    Raises:
        SerketError: what the class says is wrong with its ports or options, and ``where`` they stand.
    """
    try:
        return cls(ports=ports, **options) if "ports" in inspect.signature(cls).parameters else cls(**options)
    except SerketError as error:
        error.problem = f"{path}: {error.problem}"
        error.where = f"{where} ({error.where})" if where and error.where else where or error.where
        error.fix = error.fix or "change its options, or the variables it is bound to"
        raise


@dataclass(frozen=True, slots=True)
class Graph:
    """Variables and nodes in file order: an immutable description, with no fitted state in it."""

    variables: Mapping[str, Variable]
    nodes: Mapping[str, Node]
    name: str = "graph"
    data: str | None = None
    rounds: int = 0
    calibrate: Literal["none", "senses", "labels"] = "none"
    explore: int = 8
    seed: int = 0
    stream: StreamEntry | None = None
    """How observations become sets, if the file says."""
    source: str = field(default="", compare=False)
    """The YAML text it was read from, or an equivalent."""
    folder: Path | None = field(default=None, compare=False)
    """Where its file stands: relative paths of data are tried there, too."""

    @property
    def keys(self) -> list[str]:
        """The data keys of its modules, in file order: the sensors of a stream."""
        return list(dict.fromkeys(node.data for node in self.nodes.values() if node.data is not None))

    def build(self, without: str | None = None) -> dict[str, Module]:
        """Make every module, untrained, by node name; but for the one, if any, that the caller goes ``without``.

        Raises:
            SerketError: a class refuses its options or those of its fit, or a composer thaws what cannot be thawed.
        """
        modules = {name: node.build() for name, node in self.nodes.items() if name != without}
        for name, module in modules.items():
            if isinstance(module, ChecksFit):
                _check_fit(self, self.nodes[name], module)
        for name, module in modules.items():
            for other in traits(module).thaw if without is None else ():
                _check_thawed(self, modules, self.nodes[name], other)
        return modules

    def bound(self, variable: str) -> list[tuple[str, str]]:
        """Return the (node, port) pairs bound to a variable, in file order."""
        return [(n.name, p) for n in self.nodes.values() for p, v in n.bindings.items() if v == variable]

    def owners(self, variable: str, active: frozenset[str] | None = None) -> list[tuple[str, str]]:
        """Return the (node, port) pairs bound to a variable as its child: those that own its prior."""
        pairs = [(n, p) for n, p in self.bound(variable) if self.nodes[n].ports[p].role == Role.CHILD]
        return [pair for pair in pairs if active is None or pair[0] in active]

    def network(self, active: frozenset[str] | None = None) -> nx.MultiGraph:
        """Return the bipartite graph: ``("variable", name)`` and ``("node", name)``, an edge per port."""
        network = nx.MultiGraph()
        network.add_nodes_from(("variable", name) for name in self.variables)
        for node in self.nodes.values():
            if active is None or node.name in active:
                network.add_node(("node", node.name))
                for port, variable in node.bindings.items():
                    network.add_edge(("node", node.name), ("variable", variable), key=port)
        return network

    def is_tree(self, active: frozenset[str] | None = None) -> bool:
        """Tell whether the graph has no cycle (a forest counts), its sequences unrolled."""
        network = self.network(active)
        return network.number_of_edges() == 0 or (bool(nx.is_forest(network)) and not self.woven(active))

    def woven(self, active: frozenset[str] | None = None) -> list[list[str]]:
        """Return nodes of the time plate, two or more, that are connected: rows joined twice over are a cycle."""
        time = [name for name, node in self.nodes.items() if node.couples_rows]
        parts = nx.connected_components(self.network(active)) if len(time) > 1 else ()
        return [here for part in parts if len(here := [name for name in time if ("node", name) in part]) > 1]

    @property
    def concept(self) -> str | None:
        """What a ``concept`` port is bound to, or the categorical variable that the last node without data is."""
        if named := [node.bindings["concept"] for node in self.nodes.values() if "concept" in node.bindings]:
            return named[-1]
        nodes = [node for node in self.nodes.values() if node.data is None] or list(self.nodes.values())
        bound = [v for node in nodes for v in node.bindings.values()]
        found = [v for v in bound if self.variables[v].family == Family.CATEGORICAL]
        return found[-1] if found else None

    @property
    def holds_out(self) -> bool:
        """Whether a share of the training rows is kept from every fit: to judge rounds by, or to calibrate on."""
        return self.rounds > 0 or self.calibrate != "none"

    @property
    def dtype(self) -> torch.dtype:
        """The floating type messages have before any data says otherwise."""
        return torch.get_default_dtype()


def _check_fit(graph: Graph, node: Node, module: ChecksFit) -> None:
    """Refuse options of the first fit and of refits that do not go with those of the module, where they stand."""
    defaults = {name: parameter.default for name, parameter in options_of(type(module).fit).items()}
    fewer = {name: min(most, node.fit.get(name, most)) for name, most in traits(module).warm.items()}
    refitted = {**node.fit, **fewer, **node.refit} if graph.rounds or node.refit else node.fit
    for section, options in (("fit", node.fit), ("refit", refitted)):
        try:
            module.check_fit(**{**defaults, **options})
        except GraphError as error:
            key = (error.where or "").split(", ")[0].removeprefix("fit.")
            error.problem = f"{node.kind}s.{node.name}: {error.problem}"
            error.where = _place(graph, node, section if key in node.refit else "fit", key)
            raise


def _place(graph: Graph, node: Node, *steps: str) -> str | None:
    """Return ``file:line:column`` of an option of a node, as far as the text of the graph has it."""
    file, *at = (node.where or "").rsplit(":", 2)
    if len(at) < 2:
        return node.where
    entry = read(graph.source, file).at(f"{node.kind}s", node.name)
    return entry.at(*steps).where if entry.key == node.where else node.where


def _check_thawed(graph: Graph, modules: Mapping[str, Module], composer: Node, name: str) -> None:
    """Refuse to thaw what is no module under the composer, or gradients cannot flow through."""
    views = {v for port, v in composer.bindings.items() if composer.ports[port].role == Role.CHILD}
    below = {n for n, node in graph.nodes.items() if node.data is not None and views & set(node.bindings.values())}
    able = [n for n in below if isinstance(modules[n], Thawable) and len(graph.nodes[n].bindings) == 1
            and not graph.nodes[n].exponents]  # fmt: skip
    if name not in able:
        node = graph.nodes.get(name)
        found = "no such module" if node is None else f"a {node.type} under it" if name in below else f"a {node.type}"
        raise GraphError(f"{composer.kind}s.{composer.name}: '{name}' cannot be thawed", where=composer.where,
                         expected="a module that reads data, sends one latent with full trust to a view of this "
                         "composer, and learns by gradients", found=found, available=sorted(able),
                         fix=suggestion(name, able) or "remove it from 'thaw'")  # fmt: skip
