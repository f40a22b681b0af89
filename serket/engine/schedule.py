"""The schedule as data: which module is called when, and for which ports."""

from __future__ import annotations

from dataclasses import dataclass

import networkx as nx

from serket.graph.graph import Graph

__all__ = ["Schedule", "Step", "schedule"]


@dataclass(frozen=True, slots=True)
class Step:
    """One call of one module, for these ports; with none, only its evidence is computed.

    An upward step comes before the rest of the graph has spoken: its own ports hear nothing yet.
    """

    node: str
    ports: tuple[str, ...]
    upward: bool = False

    def __str__(self) -> str:
        return f"{self.node} -> {', '.join(self.ports) or 'evidence'}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """Steps in order. ``passes`` come first and are exact on a forest; ``sweep`` is repeated until nothing changes.

    Args:
        passes: collect, then distribute: each module at most twice.
        sweep: every module, in file order.
        tree: whether the passes suffice.
    """

    passes: tuple[Step, ...]
    sweep: tuple[Step, ...]
    tree: bool

    def __str__(self) -> str:
        if self.tree:
            return "\n".join(f"{i + 1}. {step}" for i, step in enumerate(self.passes))
        return "repeat:\n" + "\n".join(f"{i + 1}. {step}" for i, step in enumerate(self.sweep))


def schedule(graph: Graph, active: frozenset[str] | None = None, root: str | None = None) -> Schedule:
    """Order the calls: on a forest collect towards a root and distribute from it, on loops sweep in file order.

    The root of each part is its module of the time plate, which has to hear all rows before it answers any; else the
    one given, else its first module without data, else its first module, so that costly encoders are leaves.
    """
    nodes = [node for node in graph.nodes.values() if active is None or node.name in active]
    sweep = tuple(Step(node.name, tuple(node.ports)) for node in nodes)
    if not graph.is_tree(active):
        return Schedule((), sweep, tree=False)
    network = graph.network(active)
    collect: list[Step] = []
    distribute: list[Step] = []
    for part in nx.connected_components(network):
        here = [node for node in nodes if ("node", node.name) in part]
        if not here:
            continue
        # min keeps file order among equals
        top = min(here, key=lambda node: (not node.couples_rows, node.name != root, node.data is not None))
        depth = nx.single_source_shortest_path_length(network, ("node", top.name))
        upward: list[Step] = []
        for node in sorted(here, key=lambda node: depth["node", node.name]):
            level = depth["node", node.name]
            up = tuple(p for p, v in node.bindings.items() if depth["variable", v] < level)
            down = tuple(p for p in node.bindings if p not in up)
            if up:
                upward.append(Step(node.name, up, upward=True))
            distribute.append(Step(node.name, down))
        collect += reversed(upward)
    return Schedule((*collect, *distribute), sweep, tree=True)
