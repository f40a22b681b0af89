"""What a graph promises before it runs: who owns each prior, what is exact, what it costs, and what to mind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import networkx as nx
import torch

from serket.graph.graph import Graph, Variable
from serket.graph.yaml import read
from serket.messages import FAMILIES, Family, Gaussian, Message
from serket.protocol import Embeds, Module, Role, traits

__all__ = ["PriorOwner", "Report", "check", "prior_owners", "uncalibrated"]


@dataclass(frozen=True, slots=True)
class PriorOwner:
    """Who owns a variable's prior.

    Args:
        kind: ``child``, a child port; ``combine``, several; ``graph``, the variable's ``prior:``; ``own``, the module
            under its only parent port; ``default``, uniform or N(0, I).
        node: the module, for ``child`` and ``own``.
        port: its port.
        message: the prior, without batch dimensions; None for ``child`` and ``combine``, where a port sends it.
        ports: for ``combine``, the (node, port) pairs whose product it is.
    """

    kind: Literal["child", "combine", "graph", "own", "default"]
    node: str | None = None
    port: str | None = None
    message: Message | None = None
    ports: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        if self.kind == "combine":
            return " x ".join(f"{node}.{port}" for node, port in self.ports)
        if self.kind == "default":
            return "N(0, I) (default)" if isinstance(self.message, Gaussian) else "uniform (default)"
        return "graph" if self.kind == "graph" else f"{self.node}.{self.port}"


@dataclass(frozen=True, slots=True)
class Report:
    """What ``serket check`` prints."""

    prior_owners: Mapping[str, PriorOwner]
    tree: bool
    exact: bool
    cost: Mapping[str, str]
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, as ``serket check --json`` prints it."""
        owners = {variable: str(owner) for variable, owner in self.prior_owners.items()}
        return {"prior_owners": owners, "tree": self.tree, "exact": self.exact, "cost": dict(self.cost),
                "warnings": list(self.warnings)}  # fmt: skip


def prior_owners(
    graph: Graph, modules: Mapping[str, Module], active: frozenset[str] | None = None
) -> dict[str, PriorOwner]:
    """Find every variable's one prior owner among the active nodes (None: all): child port, graph, own prior, default.

    Messages of kind ``graph`` and ``default`` are float64, on the CPU; those of kind ``own`` are as the module holds
    them.
    """
    return {name: _owner(graph, variable, modules, active) for name, variable in graph.variables.items()}


def _owner(
    graph: Graph, variable: Variable, modules: Mapping[str, Module], active: frozenset[str] | None
) -> PriorOwner:
    children = graph.owners(variable.name, active)
    if len(children) > 1:
        return PriorOwner("combine", ports=tuple(children))
    if children:
        return PriorOwner("child", *children[0])
    if variable.prior is not None:
        return PriorOwner("graph", message=variable.prior)
    parents = [pair for pair in graph.bound(variable.name) if active is None or pair[0] in active]
    if len(parents) == 1:
        ((node, port),) = parents
        if (own := traits(modules[node]).own_prior.get(port)) is not None:
            return PriorOwner("own", node, port, own)
    if variable.family == Family.GAUSSIAN:
        return PriorOwner("default", message=Gaussian.standard((), variable.size, dtype=torch.float64))
    return PriorOwner("default", message=FAMILIES[variable.family].vacuous((), variable.size, dtype=torch.float64))


def check(graph: Graph) -> Report:
    """Build the modules, untrained, and report.

    Raises:
        SerketError: a class refuses its options.
    """
    modules = graph.build()
    owners = prior_owners(graph, modules)
    tree = graph.is_tree()
    tempered = any(node.exponents for node in graph.nodes.values())
    plain = not tempered and all(owner.kind != "combine" for owner in owners.values())
    cost = {name: traits(module).cost for name, module in modules.items()}
    warnings = [*_about_priors(graph, modules, owners), *_about_cycles(graph), *_about_nodes(graph, modules),
                *_about_silence(graph)]  # fmt: skip
    sure = all(traits(module).exact and not traits(module).note for module in modules.values())
    exact = tree and plain and sure
    warnings += uncalibrated(graph, modules)
    return Report(owners, tree, exact, cost, tuple(warnings))


def uncalibrated(graph: Graph, modules: Mapping[str, Module]) -> list[str]:
    """Say which frozen modules enter a product uncalibrated: nobody has checked how sure they may be."""
    return [
        f"{node.name}: frozen, and not calibrated: how sure it is may be wrong; write calibrate: senses under run, or "
        "trust it less"
        for node in graph.nodes.values()
        if isinstance(modules[node.name], Embeds)
        and not node.calibration
        and any(len(graph.bound(variable)) > 1 for variable in node.bindings.values())
    ]


def _about_priors(graph: Graph, modules: Mapping[str, Module], owners: Mapping[str, PriorOwner]) -> list[str]:
    found = []
    for name, owner in owners.items():
        prior = graph.variables[name].prior
        if owner.kind == "default":
            found.append(f"{name}: nothing owns its prior, so it is {owner}; write 'prior:' to choose another")
        if prior is not None and owner.kind in ("child", "combine"):
            found.append(f"{name}: {owner} owns the prior, so the one under 'prior:' is not used; remove one of them")
        for node, port in graph.bound(name):
            own = traits(modules[node]).own_prior
            if port in own and graph.nodes[node].ports[port].role == Role.PARENT and owner.kind != "own":
                found.append(f"{name}: the prior is {owner}, so {node} gives up its own")
    return found


def _about_cycles(graph: Graph) -> list[str]:
    places = {place: index for index, place in enumerate(graph.network())}
    cycles = [sorted(cycle, key=places.__getitem__) for cycle in nx.cycle_basis(nx.Graph(graph.network()))]
    found = []
    for cycle in cycles:
        nodes, variables = (", ".join(n for kind, n in cycle if kind == wanted) for wanted in ("node", "variable"))
        found.append(f"cycle through {nodes}, by way of {variables}: messages go round until they settle, and beliefs "
                     "are approximate")  # fmt: skip
    for together in graph.woven():
        found.append(f"cycle through {', '.join(together)}, by way of rows that both join over time: messages go round "
                     "until they settle, and beliefs are approximate")  # fmt: skip
    return found


def _about_nodes(graph: Graph, modules: Mapping[str, Module]) -> list[str]:
    found = []
    for node in graph.nodes.values():
        promised = traits(modules[node.name])
        found += [f"{node.name}.{port}: its messages are raised to the power {trust:g}, so no log evidence is reported"
                  for port, trust in node.trust.items() if trust != 1]  # fmt: skip
        found += [f"{node.name}.{port}: calibrated to the power {power:.3g}, so no log evidence is reported"
                  for port, power in node.calibration.items() if power != 1 and port != "data"]  # fmt: skip
        if promised.note:
            found.append(f"{node.name}: {promised.note}")
        if promised.thaw:
            found.append(f"{node.name}: thaws {', '.join(promised.thaw)}: once it is fitted, they learn on with it")
        if promised.cost != "linear":
            found.append(f"{node.name}: its cost is {promised.cost}, not linear")
        silent = node.data is None and all(port.role == Role.PARENT for port in node.ports.values())
        if silent and node.kind == "module":
            found.append(f"{node.name}: without data or a child port, it has nothing to say")
    return found


def _about_silence(graph: Graph) -> list[str]:
    """Say where ``silence_ms`` is over before the next reading of any sensor is due, as far as all rates are known."""
    entry = graph.stream
    if entry is None or not graph.keys or any(entry.sensor(key).expect_hz is None for key in graph.keys):
        return []
    least = {key: (entry.sensor(key).expect_hz or [0.0])[0] for key in graph.keys}
    fastest = max(least, key=least.__getitem__)
    period = 1000 / least[fastest]
    if period <= entry.silence_ms:
        return []
    file = str(next(iter(graph.nodes.values())).where).rsplit(":", 2)[0]
    where = read(graph.source, file).at("stream", "silence_ms").where if graph.source else file
    return [f"{where}: silence_ms is {entry.silence_ms:g}, but no sensor is faster than {fastest}, {period:.4g} ms "
            "from one reading to the next at its least rate: a prediction goes out between them, as an ERROR; write "
            f"silence_ms: {2 * math.ceil(period)}"]  # fmt: skip
