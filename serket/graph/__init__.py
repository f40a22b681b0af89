"""What is connected to what: variables, bindings, build-time checks; YAML in, YAML out; drawing."""

from serket.graph.build import load_graph, parse_graph, shipped
from serket.graph.check import PriorOwner, Report, check, prior_owners
from serket.graph.graph import Graph, Node, Variable

__all__ = [
    "Graph",
    "Node",
    "PriorOwner",
    "Report",
    "Variable",
    "check",
    "load_graph",
    "parse_graph",
    "prior_owners",
    "shipped",
]
