"""YAML in: from a file to a graph that is known to make sense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import networkx as nx

from serket.errors import GraphError, suggestion
from serket.graph.bind import bind, bind_instance
from serket.graph.graph import Graph, Node, Variable, instance
from serket.graph.prior import prior_of
from serket.graph.schema import File, VariableEntry, entry_model, option_values
from serket.graph.stream import StreamEntry
from serket.graph.validate import validate
from serket.graph.write import dump
from serket.graph.yaml import Tree, read, tree_of
from serket.registry import Kind, class_ports, lookup, registered

__all__ = ["anchored", "check_fading", "graph_of", "load_graph", "parse_graph", "shipped", "text_of"]


def load_graph(source: str | Path | Mapping[str, Any]) -> Graph:
    """Read a graph from a YAML file, by the name of one that ships, or from plain Python data.

    A ``str`` that names a graph that ships is that graph; any other is a path.

    Raises:
        GraphError: it cannot be read, or does not make sense; the error says where.
        ShapeError: a port and its variable have different sizes.
    """
    if isinstance(source, Mapping):
        return anchored(graph_of(tree_of(dict(source), "graph"), "graph", dump(source)), Path())
    text, name, folder = text_of(source)
    return replace(anchored(parse_graph(text, name), folder or Path()), folder=folder)


def text_of(source: str | Path) -> tuple[str, str, Path | None]:
    """Return the text of a graph file or of one that ships, what errors call it, and its folder; raises as above."""
    if isinstance(source, str) and source in shipped():
        return shipped()[source].read_text(encoding="utf-8"), f"serket/graphs/{source}.yaml", None
    path = Path(source)
    try:
        return path.read_text(encoding="utf-8"), str(path), path.parent
    except FileNotFoundError:
        fix = suggestion(str(source), shipped()) or "check the path"
        raise GraphError(f"there is no graph '{source}'", expected="a path, or the name of a graph that ships",
                         available=shipped(), fix=fix) from None  # fmt: skip
    except UnicodeDecodeError as error:
        raise GraphError("the file is not UTF-8 text", where=str(path), found=f"byte {error.start}: {error.reason}",
                         fix="save it as UTF-8") from None  # fmt: skip
    except OSError as error:
        raise GraphError(
            "the file cannot be read", where=str(path), found=error.strerror, fix="check the path"
        ) from None


def anchored(graph: Graph, folder: Path) -> Graph:
    """Make the paths of model files (options named in ``paths`` of a class) absolute: a run may be read elsewhere."""
    nodes = dict(graph.nodes)
    for node in graph.nodes.values():
        given = {name: node.options.get(name) for name in getattr(node.cls, "paths", ())}
        full = {name: str((folder / path).resolve()) for name, path in given.items()
                if isinstance(path, str) and not path.startswith(("package:", "~"))}  # fmt: skip
        nodes[node.name] = replace(node, options={**node.options, **full})
    return replace(graph, nodes=nodes)


def shipped() -> dict[str, Traversable]:
    """Return the graphs that ship, by name."""
    folder = files("serket").joinpath("graphs")
    found = (entry for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    return {entry.name.removesuffix(".yaml"): entry for entry in sorted(found, key=lambda entry: entry.name)}


def parse_graph(text: str, name: str = "graph.yaml") -> Graph:
    """Read a graph from YAML text; ``name`` is what errors call it. Raises like :func:`load_graph`."""
    return graph_of(read(text, name), Path(name).stem, text)


def graph_of(tree: Tree, name: str, source: str) -> Graph:
    """Read a graph from a tree. Raises like :func:`load_graph`."""
    file = validate(File, tree, "")
    variables = {key: _variable(key, entry, tree.at("variables", key)) for key, entry in file.variables.items()}
    nodes: dict[str, Node] = {}
    for kind in ("module", "composer"):
        for key in file.modules if kind == "module" else file.composers:
            spot = tree.at(f"{kind}s", key)
            if key in nodes:
                raise GraphError(f"'{key}' is the name of a module and of a composer", where=spot.key,
                                 found=f"the module at {nodes[key].where}", fix="rename one")  # fmt: skip
            nodes[key] = _node(key, kind, spot, variables, file.run.feedback)
    graph = Graph(
        variables,
        nodes,
        name,
        file.data,
        rounds=file.run.rounds,
        calibrate=file.run.calibrate,
        explore=file.run.explore,
        seed=file.run.seed,
        stream=file.stream,
        source=source,
    )
    _check_sensors(graph, tree)
    _check_owners(graph)
    _check_connected(graph)
    return graph


def _check_sensors(graph: Graph, tree: Tree) -> None:
    entry, keys = graph.stream, graph.keys
    if entry is None:
        return
    for name in entry.sensors:
        if name not in keys:
            raise GraphError(f"no module reads a sensor '{name}'", where=tree.at("stream", "sensors", name).key,
                             available=keys, fix=suggestion(name, keys) or "name a data key of the graph")  # fmt: skip
    if entry.min_present > len(keys):
        raise GraphError("min_present is more than there are sensors: every set would be an ERROR",
                         where=tree.at("stream", "min_present").where, expected=f"at most {len(keys)}",
                         found=str(entry.min_present), available=keys, fix=f"write {len(keys)} or less")  # fmt: skip
    check_fading(graph, entry, tree.at("stream", "tau_ms").where)


def check_fading(graph: Graph, entry: StreamEntry, where: str) -> None:
    """Refuse ``tau_ms`` beside a module over time."""
    if entry.tau_ms is not None and any(node.couples_rows for node in graph.nodes.values()):
        raise GraphError("tau_ms reuses readings, and a module over time has heard them already", where=where,
                         fix="remove tau_ms: with a module over time each observation enters once")  # fmt: skip


def _variable(name: str, entry: VariableEntry, tree: Tree) -> Variable:
    prior = None if entry.prior is None else prior_of(name, entry, tree.at("prior"))
    return Variable(name, entry.family, entry.size, prior, entry.combine, tree.key)


def _node(name: str, kind: Kind, tree: Tree, variables: Mapping[str, Variable], feedback: bool) -> Node:
    path = f"{kind}s.{name}"
    label = tree.step("type")
    if label is None or not isinstance(label.value, str):
        raise GraphError(f"{path} needs the name of a type", where=tree.key, available=registered(kind),
                         fix="add 'type: ' and one of these")  # fmt: skip
    cls = lookup(label.value, kind, label.where)
    entry: Any = validate(entry_model(cls, kind, label.value), tree, path)
    options = option_values(entry)
    trust = 1.0 if getattr(entry, "trust", None) is None else entry.trust
    templates, ports = class_ports(cls), tree.at("ports")
    if templates is None:
        bound = bind_instance(instance(cls, {}, options, path, tree.key).ports, ports, path, variables, trust)
    else:
        bound = bind(entry.ports, ports, path, templates, variables, trust)
    calibration = {} if "calibration" in options else dict(entry.calibration)
    _check_calibration(calibration, bound[0], entry.data, tree, path)
    return Node(
        name=name,
        type=label.value,
        cls=cls,
        kind=kind,
        ports=bound[0],
        bindings=bound[1],
        trust=bound[2],
        calibration=calibration,
        data=entry.data,
        options=options,
        fit=option_values(entry.fit, given=True) if getattr(entry, "fit", None) else {},
        refit=option_values(entry.refit, given=True) if getattr(entry, "refit", None) else {},
        feedback=feedback if entry.feedback is None else entry.feedback,
        where=tree.key,
    )


def _check_calibration(
    given: Mapping[str, float], ports: Mapping[str, Any], data: str | None, tree: Tree, path: str
) -> None:
    known = [*ports, *(["data"] if data is not None else [])]
    for name in given:
        if name not in known:
            raise GraphError(f"{path} has no port '{name}' to calibrate", where=tree.at("calibration", name).key,
                             available=known, fix=suggestion(name, known) or "name a port")  # fmt: skip


def _check_owners(graph: Graph) -> None:
    for variable in graph.variables.values():
        owners = graph.owners(variable.name)
        if len(owners) > 1 and variable.combine == "single":
            places = " and ".join(f"{node}.{port} ({graph.nodes[node].where})" for node, port in owners)
            raise GraphError(f"'{variable.name}' has {len(owners)} prior owners", where=variable.where, found=places,
                             expected="at most one child port on a variable",
                             fix=f"unbind one, or add combine: product to '{variable.name}': its prior is then the "
                             "product of both, and no evidence is reported")  # fmt: skip


def _check_connected(graph: Graph) -> None:
    for variable in graph.variables.values():
        if not graph.bound(variable.name):
            raise GraphError(f"no port is bound to '{variable.name}'", where=variable.where,
                             expected="every variable bound to a port", fix="bind it, or remove it")  # fmt: skip
    parts = sorted(nx.connected_components(graph.network()), key=len, reverse=True)
    if len(parts) > 1:
        named = [", ".join(n for kind, n in graph.network() if (kind, n) in part) for part in parts]
        first = next(node for node in graph.nodes.values() if ("node", node.name) in parts[-1])
        raise GraphError("the graph falls into parts that nothing connects", where=first.where,
                         expected="one connected graph", found=" | ".join(named),
                         fix="bind a port to a variable of the other part, or give each part a file")  # fmt: skip
