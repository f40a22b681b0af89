"""A graph as a picture: Mermaid text, or a PNG laid out in layers along the generative direction."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import networkx as nx

from serket.graph.graph import Graph
from serket.protocol import Role

__all__ = ["mermaid", "picture"]

Place = tuple[str, str]
"""(``variable``, ``module``, ``composer``, ``data`` or, where an edge passes a layer, ``bend``; and a name)."""
Points = dict[Place, tuple[float, float]]
_HALF = 0.28  # inches: half the height of a box
_COLOURS = {  # fill, line: Okabe & Ito's, lightened, so that they differ to the colour-blind too
    "variable": ("#ffffff", "#333333"),
    "module": ("#d3e8f5", "#0072b2"),
    "composer": ("#fbe3cc", "#d55e00"),
    "data": ("#e6e6e6", "#777777"),
}
_MERMAID = {"variable": ('(["', '"])'), "module": ('["', '"]'), "composer": ('{{"', '"}}'), "data": ('[("', '")]')}


def mermaid(graph: Graph) -> str:
    """Return a Mermaid flowchart: variables round, modules boxes, composers hexagons, data cylinders; causes on top."""
    network = _directed(graph)
    names = {place: f"{place[0][0]}{index}" for index, place in enumerate(network)}
    lines = ["flowchart TD"]
    for place, label in _labels(network):
        left, right = _MERMAID[place[0]]
        lines.append(f"  {names[place]}{left}{'<br/>'.join(label).replace(chr(34), '#quot;')}{right}")
    for tail, head, label in network.edges(data="label"):
        lines.append(f"  {names[tail]} -->{f'|{label}|' if label else ''} {names[head]}")
    for kind, (fill, line) in _COLOURS.items():
        lines.append(f"  classDef {kind} fill:{fill},stroke:{line},color:#000000")
        if members := [names[place] for place in network if place[0] == kind]:
            lines.append(f"  class {','.join(members)} {kind}")
    return "\n".join(lines) + "\n"


def picture(graph: Graph, path: str | Path) -> None:
    """Draw the graph into a file, such as a PNG, without a display.

    Args:
        graph: what to draw.
        path: where to; the suffix chooses the format.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import BoxStyle, FancyArrowPatch, FancyBboxPatch, Patch
    from matplotlib.path import Path as Line

    network = _directed(graph)
    widths = {place: 0.35 + max(0.1 * len(label[0]), 0.08 * len(label[-1])) for place, label in _labels(network)}
    points, edges = _layout(network, widths)
    left = min(x - widths.get(place, 0) / 2 for place, (x, _) in points.items())
    right = max(x + widths.get(place, 0) / 2 for place, (x, _) in points.items())
    spare = max(0.3, (4.2 - (right - left)) / 2)
    top, bottom = 0.5, min(y for _, y in points.values()) - 0.85
    figure = Figure(figsize=(right - left + 2 * spare, top - bottom))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(left - spare, right + spare), ylim=(bottom, top))
    axes.set_axis_off()
    shapes: dict[str, Any] = {
        "variable": BoxStyle.Round(pad=0, rounding_size=_HALF),
        "module": BoxStyle.Square(pad=0),
        "composer": _hexagon,
        "data": BoxStyle.Round(pad=0, rounding_size=0.08),
    }
    for edge in edges:
        way = -_HALF if points[edge[0]][1] > points[edge[-1]][1] else _HALF
        sides = [(points[place][0], points[place][1] + side) for place in edge for side in (-way, way)]
        line = sides[1:-1]  # out of the tail, past the other layers between their boxes, into the head
        axes.add_patch(FancyArrowPatch(path=Line(line), arrowstyle="-|>", mutation_scale=11, color="#555555"))
        (x, y), (to_x, to_y) = line[:2]
        label = network.edges[edge[0], edge[-1]]["label"]
        axes.text((x + to_x) / 2, (y + to_y) / 2, label, fontsize=7.5, ha="center", va="center",
                  bbox={"facecolor": "white", "edgecolor": "none", "pad": 1})  # fmt: skip
    for place, label in _labels(network):
        (x, y), (fill, border), width = points[place], _COLOURS[place[0]], widths[place]
        axes.add_patch(FancyBboxPatch((x - width / 2, y - _HALF), width, 2 * _HALF, boxstyle=shapes[place[0]],
                                      facecolor=fill, edgecolor=border, linewidth=1.3))  # fmt: skip
        axes.text(x, y + 0.09 * (len(label) - 1), label[0], ha="center", va="center", fontsize=10)
        axes.text(x, y - 0.13, " ".join(label[1:]), ha="center", va="center", fontsize=7.5, color="#555555")
    kinds = dict.fromkeys(kind for kind in _COLOURS if any(place[0] == kind for place in network))
    handles = [Patch(facecolor=_COLOURS[kind][0], edgecolor=_COLOURS[kind][1], label=kind) for kind in kinds]
    figure.legend(handles=handles, loc="lower center", ncols=4, frameon=False, fontsize=7.5)
    figure.savefig(path, dpi=150)


def _hexagon(x: float, y: float, width: float, height: float, _: float) -> Any:
    from matplotlib.path import Path as Line

    slant, middle, top = 0.14, y + height / 2, y + height
    left, right = x + slant, x + width - slant
    return Line(
        [(left, y), (right, y), (x + width, middle), (right, top), (left, top), (x, middle), (left, y)], closed=True
    )


def _labels(network: nx.DiGraph) -> list[tuple[Place, list[str]]]:
    return list(network.nodes(data="label"))


def _directed(graph: Graph) -> nx.DiGraph:
    """Return the graph along the generative direction: parent, module, child; data below their module."""
    network = nx.DiGraph()
    for variable in graph.variables.values():
        network.add_node(("variable", variable.name), label=[variable.name, f"{variable.family} {variable.size}"])
    for node in graph.nodes.values():
        place = (node.kind, node.name)
        network.add_node(place, label=[node.name, node.type])
        for port, bound in node.bindings.items():
            ends = (("variable", bound), place)
            trust = node.trust.get(port)
            tail, head = ends if node.ports[port].role == Role.PARENT else ends[::-1]
            network.add_edge(tail, head, label="" if trust is None else f"trust {trust:g}")
        if node.data is not None:
            data = ("data", node.name)
            network.add_node(data, label=[node.data])
            network.add_edge(place, data, label="")
    return network


def _layout(network: nx.DiGraph, widths: dict[Place, float]) -> tuple[Points, list[list[Place]]]:
    """Place causes over effects, in inches, and route each edge: layers, bends, barycentres (Sugiyama et al. 1981)."""
    layers, edges = _layers(network)
    beside = nx.Graph(pair for edge in edges for pair in pairwise(edge))
    beside.add_nodes_from(network)
    x = {place: float(index) for layer in layers for index, place in enumerate(layer)}
    for sweep in range(60):
        for layer in layers if sweep % 2 else layers[::-1]:
            wanted = {place: fmean([x[other] for other in beside[place]] or [x[place]]) for place in layer}
            layer.sort(key=wanted.__getitem__)
            x |= _spread(layer, wanted, widths)
    return {place: (x[place], -1.05 * depth) for depth, layer in enumerate(layers) for place in layer}, edges


def _spread(layer: list[Place], wanted: dict[Place, float], widths: dict[Place, float]) -> dict[Place, float]:
    """Keep the places of a layer apart: push from the left, push from the right, take the middle."""
    steps = [0.3 + (widths.get(a, 0) + widths.get(b, 0)) / 2 for a, b in pairwise(layer)]
    right, left = [wanted[layer[0]]], [wanted[layer[-1]]]
    for place, step in zip(layer[1:], steps, strict=True):
        right.append(max(wanted[place], right[-1] + step))
    for place, step in zip(layer[-2::-1], steps[::-1], strict=True):
        left.append(min(wanted[place], left[-1] - step))
    return {place: (a + b) / 2 for place, a, b in zip(layer, right, left[::-1], strict=True)}


def _layers(network: nx.DiGraph) -> tuple[list[list[Place]], list[list[Place]]]:
    """Sort places into layers, causes first; an edge that passes layers gets a bend in each."""
    forward = network.copy()
    while not nx.is_directed_acyclic_graph(forward):
        forward.remove_edge(*nx.find_cycle(forward)[-1])
    depth = {place: level for level, places in enumerate(nx.topological_generations(forward)) for place in places}
    for place in network:
        if not forward.in_degree(place) and forward.out_degree(place):
            depth[place] = min(depth[effect] for effect in forward[place]) - 1
    layers: list[list[Place]] = [
        [place for place in network if depth[place] == d] for d in range(max(depth.values()) + 1)
    ]
    edges = []
    for number, (tail, head) in enumerate(network.edges):
        step = 1 if depth[head] > depth[tail] else -1
        bends = [("bend", f"{number} {d}") for d in range(depth[tail] + step, depth[head], step)]
        for bend in bends:
            layers[int(bend[1].split()[1])].append(bend)
        edges.append([tail, *bends, head])
    return layers, edges
