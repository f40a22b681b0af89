"""YAML out: a graph as text that reads back to the same graph."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml
from pydantic_core import PydanticSerializationError, to_jsonable_python

from serket.errors import GraphError
from serket.graph.graph import Graph, Node, Variable
from serket.graph.scalar import scalar
from serket.messages import Categorical, Dirichlet, Gaussian, Message

__all__ = ["dump", "to_yaml"]


def to_yaml(graph: Graph) -> str:
    """Write the resolved graph, every default of its options written out, one line per entry."""
    calibrate = {} if graph.calibrate == "none" else {"calibrate": graph.calibrate}
    sections: dict[str, Any] = {
        "serket": 1,
        "data": graph.data,
        "variables": {name: _variable(variable) for name, variable in graph.variables.items()},
        "modules": {name: _node(node) for name, node in graph.nodes.items() if node.kind == "module"},
        "composers": {name: _node(node) for name, node in graph.nodes.items() if node.kind == "composer"},
        "run": {"rounds": graph.rounds, **calibrate, "explore": graph.explore, "seed": graph.seed},
        "stream": None if graph.stream is None else graph.stream.model_dump(exclude_unset=True),
    }
    return dump({key: section for key, section in sections.items() if section is not None and section != {}})


def dump(sections: Mapping[str, Any]) -> str:
    """Write plain data as YAML that :func:`serket.graph.yaml.read` reads back, an entry of a section per line."""
    lines = []
    for key, section in sections.items():
        if isinstance(section, Mapping) and section and all(isinstance(entry, Mapping) for entry in section.values()):
            lines += [f"{_flow(key)}:", *(f"  {_flow(name)}: {_flow(entry)}" for name, entry in section.items())]
        else:
            lines.append(f"{_flow(key)}: {_flow(section)}")
    return "\n".join(lines) + "\n"


def _variable(variable: Variable) -> dict[str, Any]:
    entry: dict[str, Any] = {"family": variable.family.value, "size": variable.size}
    if variable.prior is not None:
        entry["prior"] = _prior(variable.prior)
    return entry | ({"combine": variable.combine} if variable.combine != "single" else {})


def _prior(prior: Message) -> Any:
    if isinstance(prior, Gaussian):
        return {"mean": _rounded(prior.mean().tolist()), "covariance": _rounded(prior.covariance().tolist())}
    if isinstance(prior, Dirichlet):
        return _rounded(prior.concentration.tolist())
    assert isinstance(prior, Categorical)
    return _rounded(prior.probs.tolist())


def _rounded(values: Any) -> Any:
    """Undo the rounding of natural parameters: 0.8000000000000002 was written 0.8."""
    return [_rounded(value) for value in values] if isinstance(values, list) else float(f"{values:.12g}")


def _node(node: Node) -> dict[str, Any]:
    ports: dict[str, Any] = {}
    for port, variable in node.bindings.items():
        binding = {"variable": variable, "trust": node.trust[port]} if port in node.trust else variable
        stem, bracket, _ = port.partition("[")
        ports[stem] = [*ports.get(stem, []), binding] if bracket else binding
    entry: dict[str, Any] = {"type": node.type, "ports": ports}
    if node.data is not None:
        entry["data"] = node.data
    if node.calibration:
        entry["calibration"] = dict(node.calibration)
    entry |= _plain(node.options)
    if node.fit:
        entry["fit"] = _plain(node.fit)
    if node.refit:
        entry["refit"] = _plain(node.refit)
    return entry if node.feedback else entry | {"feedback": False}


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as plain data; defaults that YAML cannot hold are left out, and come back on reading."""
    plain = {}
    for name, value in options.items():
        try:
            plain[name] = json.loads(json.dumps(to_jsonable_python(value), allow_nan=False))
        except (PydanticSerializationError, ValueError):
            continue
    return plain


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    """Quote text that the reader would take for something else, such as 1e-3."""
    try:
        plain = scalar(text) == text
    except GraphError:
        plain = False
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _text)


def _flow(value: Any) -> str:
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=float("inf"), sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...").strip()
