"""A graph changed by a file: a fragment names what is new, or what takes the place of something."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from serket.errors import GraphError, ShapeError, suggestion
from serket.graph.build import anchored, graph_of, text_of
from serket.graph.graph import Graph, Node, Variable
from serket.graph.write import dump, to_yaml
from serket.graph.yaml import Tree, read, tree_of

__all__ = ["Fragment", "grown", "swapped"]

Fragment = Graph | str | Path | Mapping[str, Any]
"""Part of a graph: a YAML file, the name of a graph that ships, plain data, or a whole graph."""

_SECTIONS = ("variables", "modules", "composers")


def grown(graph: Graph, fragment: Fragment) -> Graph:
    """Return the graph with what a fragment has besides: modules, variables, more views of a composer.

    What the graph has is repeated as it is, or left out: entries are told by their names, and of an entry the keys
    given are compared. Lists of views may be longer, and lists of an option with them, one entry per view.

    Raises:
        GraphError: it renames or changes what is there, or has nothing new.
        ShapeError: it gives a variable another size.
    """
    part, name, folder = _part(fragment)
    changed = _merged(graph, part, folder)
    _check_variables(graph, changed, part, frozenset())
    for old in graph.nodes.values():
        _check_kept(old, changed.nodes[old.name], part)
    if not changed.nodes.keys() - graph.nodes.keys():
        raise GraphError(
            "there is no module that the run does not have",
            where=name,
            available=graph.nodes,
            fix="add the new module under modules:, or change one: serket swap",
        )
    return changed


def swapped(graph: Graph, module: str, fragment: Fragment) -> Graph:
    """Return the graph with a module's entry replaced by that of a fragment; its latents may have another size.

    Raises:
        GraphError: the fragment has no such entry, or changes what others are bound to.
        ShapeError: it gives a variable another size that a module beside it is bound to.
    """
    part, name, folder = _part(fragment)
    node = graph.nodes[module]
    entry = part.at(f"{node.kind}s").step(module)
    if entry is None:
        there = [key for section in _SECTIONS[1:] for key in _keys(part, section)]
        raise GraphError(
            f"there is no {node.kind} '{module}' to take its place",
            where=name,
            available=there,
            fix=suggestion(module, there) or f"call the new one '{module}': it takes the old one's place",
        )
    changed = _merged(graph, part, folder, replaced=module)
    others = {
        v for n, one in graph.nodes.items() if n != module and one.kind == "module" for v in one.bindings.values()
    }
    _check_variables(graph, changed, part, frozenset(node.bindings.values()) - others)
    for old in graph.nodes.values():
        if old.name != module:
            _check_kept(old, changed.nodes[old.name], part)
    if added := sorted(changed.nodes.keys() - graph.nodes.keys()):
        raise GraphError(
            f"'{added[0]}' is not in the run",
            where=_spot(part, changed.nodes[added[0]]),
            fix="add it first: serket add; swap replaces one module",
        )
    missing = set(node.bindings.values()) - set(changed.nodes[module].bindings.values())
    if missing:
        raise GraphError(
            f"'{module}' is no longer bound to {', '.join(sorted(missing))}",
            where=entry.key,
            expected=", ".join(node.bindings.values()),
            fix="bind the new one where the old one was",
        )
    return changed


def _part(fragment: Fragment) -> tuple[Tree, str, Path | None]:
    if isinstance(fragment, Graph):
        return read(to_yaml(fragment), fragment.name), fragment.name, fragment.folder
    if isinstance(fragment, Mapping):
        return tree_of(dict(fragment), "fragment"), "fragment", None
    text, name, folder = text_of(fragment)
    tree = read(text, name)
    if not isinstance(tree.value, dict):
        raise GraphError(
            "this is no part of a graph",
            where=name,
            expected="variables:, modules:, composers:",
            fix="write the new module as it would stand in a graph",
        )
    return tree, name, folder


def _merged(graph: Graph, part: Tree, folder: Path | None, replaced: str | None = None) -> Graph:
    """Lay a fragment over the graph: sections by entry, entries by key, ``ports`` by port; what is replaced goes."""
    base = read(to_yaml(graph), "graph.yaml of the run")
    assert isinstance(base.value, dict) and isinstance(part.value, dict)
    for key, section in part.value.items():
        if key in ("serket", "data", "run", "stream"):
            continue  # the run's own stay
        if key not in _SECTIONS:
            raise GraphError(
                f"unknown key '{key}'",
                where=section.key,
                available=_SECTIONS,
                fix=suggestion(key, _SECTIONS) or "remove it",
            )
        old = base.step(key) or Tree({}, section.where, section.key)
        base.value[key] = _over(old, section, depth=3 if key != "variables" else 2, replaced=replaced)
    changed = anchored(graph_of(base, graph.name, dump(base.plain())), folder or Path())
    return replace(changed, folder=graph.folder or folder)


def _over(old: Tree, new: Tree, depth: int, replaced: str | None = None) -> Tree:
    if not depth or not isinstance(old.value, dict) or not isinstance(new.value, dict):
        return new
    merged = dict(old.value)
    for key, value in new.value.items():
        under = old.value.get(key)
        merged[key] = value if under is None or key == replaced else _over(under, value, depth - 1)
    return Tree(merged, new.where, new.key)


def _check_variables(graph: Graph, changed: Graph, part: Tree, free: frozenset[str]) -> None:
    for name, old in graph.variables.items():
        new, where = changed.variables[name], part.at("variables", name).key
        if name in free:
            continue
        if (old.family, old.size) != (new.family, new.size):
            raise ShapeError(
                f"'{name}' is another variable in the run",
                where=where,
                expected=f"{old.family} of size {old.size}",
                found=f"{new.family} of size {new.size}",
                fix=f"leave '{name}' out, or declare the new latent under a name of its own",
            )
        if _prior(old) != _prior(new) or old.combine != new.combine:
            raise GraphError(f"'{name}' has another prior in the run", where=where, fix=f"leave '{name}' out")


def _prior(variable: Variable) -> dict[str, Any] | None:
    return None if variable.prior is None else {n: v.tolist() for n, v in variable.prior.tensors().items()}


def _check_kept(old: Node, new: Node, part: Tree) -> None:
    """Refuse changes of an entry that was there, but for lists that are longer."""
    where = _spot(part, new)
    for port, variable in old.bindings.items():
        if new.bindings.get(port) != variable:
            found = f"'{new.bindings[port]}'" if port in new.bindings else "nothing"
            raise GraphError(
                f"{old.name}.{port} is bound to {found}",
                where=where,
                expected=f"'{variable}', as in the run",
                found=_list_of(new, port),
                fix="keep the views there are in their places and under their names; new ones come last",
            )
    for part_name in ("type", "data", "fit", "refit", "feedback", "options"):
        before, after = getattr(old, part_name), getattr(new, part_name)
        if part_name == "options" and len(new.bindings) > len(old.bindings):
            after = {key: _shortened(value, before.get(key)) for key, value in after.items()}
        if before != after:
            keys = [k for k in after if before.get(k) != after[k]] if isinstance(after, Mapping) else [part_name]
            keys = keys or [key for key in before if key not in after]
            raise GraphError(
                f"'{old.name}' has another {', '.join(keys)} in the run",
                where=where,
                expected=_shown(before, keys),
                found=_shown(after, keys),
                fix=f"leave it out, or change the module: serket swap --module {old.name}",
            )
    if any(new.trust.get(port, 1.0) != old.trust.get(port, 1.0) for port in old.bindings):
        raise GraphError(f"'{old.name}' is trusted otherwise in the run", where=where, fix="leave trust as it was")


def _list_of(node: Node, port: str) -> str:
    stem = port.partition("[")[0]
    return f"{stem}: {', '.join(v for name, v in node.bindings.items() if name.partition('[')[0] == stem)}"


def _shortened(value: Any, before: Any) -> Any:
    both = isinstance(value, list | tuple) and isinstance(before, list | tuple)
    return value[: len(before)] if both else value


def _shown(values: Any, keys: list[str]) -> str:
    return ", ".join(f"{key}: {values.get(key)}" for key in keys) if isinstance(values, Mapping) else str(values)


def _spot(part: Tree, node: Node) -> str | None:
    entry = part.at(f"{node.kind}s").step(node.name)
    return entry.key if entry is not None else node.where


def _keys(part: Tree, section: str) -> list[str]:
    below = part.step(section)
    return list(below.value) if below is not None and isinstance(below.value, dict) else []
