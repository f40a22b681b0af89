"""What is connected to what: variables, bindings, build-time checks; YAML in, YAML out; drawing."""

from serket.graph.build import load_graph, parse_graph, shipped
from serket.graph.check import PriorOwner, Report, check, prior_owners, uncalibrated
from serket.graph.draw import mermaid, picture
from serket.graph.graph import Graph, Node, Variable
from serket.graph.schema import json_schema
from serket.graph.write import to_yaml

__all__ = [
    "Graph",
    "Node",
    "PriorOwner",
    "Report",
    "Variable",
    "check",
    "json_schema",
    "load_graph",
    "mermaid",
    "parse_graph",
    "picture",
    "prior_owners",
    "shipped",
    "to_yaml",
    "uncalibrated",
]
