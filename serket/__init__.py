"""Serket: models trained apart, connected by messages into one probabilistic model."""

from __future__ import annotations

from serket.comparison import Comparison, compare
from serket.engine import Result as Beliefs
from serket.errors import ConvergenceWarning, SerketError
from serket.fitting import fit
from serket.graph import Graph, check, load_graph
from serket.growth import add, refit, swap
from serket.imagination import Imagination
from serket.messages import Categorical, Dirichlet, Family, Gaussian, Message, Particles, Point
from serket.model import Model, load
from serket.protocol import (
    Evidence,
    FitReport,
    Generative,
    Module,
    Port,
    Reply,
    Role,
    Trainable,
    extrinsic,
)
from serket.registry import encoder, hypotheses, network, register

__version__ = "0.1.0"

__all__ = [
    "Beliefs",
    "Categorical",
    "Comparison",
    "ConvergenceWarning",
    "Dirichlet",
    "Evidence",
    "Family",
    "FitReport",
    "Gaussian",
    "Generative",
    "Graph",
    "Imagination",
    "Message",
    "Model",
    "Module",
    "Particles",
    "Point",
    "Port",
    "Reply",
    "Role",
    "SerketError",
    "Trainable",
    "add",
    "check",
    "compare",
    "encoder",
    "extrinsic",
    "fit",
    "hypotheses",
    "load",
    "load_graph",
    "network",
    "refit",
    "register",
    "swap",
]
