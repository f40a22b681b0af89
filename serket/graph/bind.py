"""Binding ports to variables: lists expanded, families and sizes compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import BaseModel

from serket.errors import GraphError, ShapeError, suggestion
from serket.graph.graph import Variable
from serket.graph.schema import Binding, ports_model
from serket.graph.validate import validate
from serket.graph.yaml import Tree
from serket.protocol import Port

__all__ = ["Bound", "bind", "bind_instance"]

Bound = tuple[dict[str, Port], dict[str, str], dict[str, float]]
"""Resolved ports, the variable bound to each, and the trust of those that are not fully trusted."""


def bind(
    given: BaseModel,
    tree: Tree,
    path: str,
    templates: Mapping[str, Port],
    variables: Mapping[str, Variable],
    trust: float,
) -> Bound:
    """Resolve ``ports:`` against the ports its class declares, in the order of the class.

    Args:
        given: the section, checked by the model of these templates.
        tree: the section in the file.
        path: its entry, such as ``modules.pix``.
        templates: the ports of the class.
        variables: those declared.
        trust: the exponent of ports without one of their own.

    Raises:
        GraphError: a variable that is not declared, of another family, or bound twice; no port bound at all.
        ShapeError: a variable of another size.
    """
    ports: dict[str, Port] = {}
    bindings: dict[str, str] = {}
    trusts: dict[str, float] = {}
    for field, (key, template) in zip(type(given).model_fields, templates.items(), strict=True):
        value: Any = getattr(given, field)
        for index, item in enumerate(value if isinstance(value, list) else [] if value is None else [value]):
            port = f"{key}[{index}]" if template.many else key
            spot = tree.step(key) or tree
            spot = spot.step(index) or spot
            name, own = (item.variable, item.trust) if isinstance(item, Binding) else (item, None)
            spot = spot.step("variable") or spot
            variable = _fitting(name, template, variables, spot.where, f"{path.partition('.')[2]}.{port}")
            if name in bindings.values():
                raise GraphError(f"{path} binds '{name}' twice", where=spot.where, expected="each variable once",
                                 found=", ".join([*(p for p, v in bindings.items() if v == name), port]),
                                 fix="bind another variable, or remove one")  # fmt: skip
            ports[port] = Port(template.role, variable.family, variable.size)
            bindings[port] = name
            if (exponent := trust if own is None else own) != 1:
                trusts[port] = exponent
    if not ports:
        raise GraphError(f"{path} binds no port, so nothing connects it to the graph", where=tree.key or tree.where,
                         available=templates, fix="bind a port to a variable, or remove the entry")  # fmt: skip
    return ports, bindings, trusts


def bind_instance(
    ports: Mapping[str, Port], tree: Tree, path: str, variables: Mapping[str, Variable], trust: float
) -> Bound:
    """Resolve ``ports:`` against the ports of an instance, for classes that declare none; raises like :func:`bind`."""
    templates: dict[str, Port] = {}
    for name, port in ports.items():
        stem, bracket, _ = name.partition("[")
        templates.setdefault(stem, replace(port, size=None, many=True) if bracket else port)
    given = validate(ports_model(path, templates), tree, f"{path}.ports")
    bound = bind(given, tree, path, templates, variables, trust)
    required = {name for name, port in ports.items() if not port.optional}
    if wrong := sorted((required - bound[0].keys()) | (bound[0].keys() - ports.keys())):
        raise GraphError(f"{path} binds a list of the wrong length", where=tree.key, expected=", ".join(ports),
                         found=", ".join(bound[0]), fix=f"bind one variable to each; see {wrong[0]}")  # fmt: skip
    for name in bound[0]:
        _fitting(bound[1][name], ports[name], variables, tree.where, f"{path.partition('.')[2]}.{name}")
    return bound


def _fitting(name: str, port: Port, variables: Mapping[str, Variable], where: str, port_name: str) -> Variable:
    if name not in variables:
        raise GraphError(f"{port_name} is bound to '{name}', which is not declared", where=where, available=variables,
                         fix=suggestion(name, variables) or f"declare '{name}' under variables")  # fmt: skip
    variable = variables[name]
    declared = f"variable '{name}' is {variable.family} of size {variable.size}, declared at {variable.where}"
    if port.family is not None and port.family != variable.family:
        raise GraphError(f"{port_name} is bound to a variable of another family", where=where, found=declared,
                         expected=f"a {port.family} variable",
                         fix=f"bind a {port.family} variable, or change the family of '{name}'")  # fmt: skip
    if port.size is not None and port.size != variable.size:
        raise ShapeError(f"{port_name} is bound to a variable of another size", where=where, found=declared,
                         expected=f"size {port.size}",
                         fix=f"write size: {port.size} at {variable.where}, or bind another variable")  # fmt: skip
    return variable
