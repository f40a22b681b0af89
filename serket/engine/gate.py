"""Which reading of a set is farther from what is believed without it than its gate allows."""

from __future__ import annotations

import math
from typing import cast

import torch

from serket.engine.plan import Plan
from serket.errors import SerketError
from serket.graph.graph import Graph
from serket.messages import Atoms, Gaussian, Message

__all__ = ["check_gate", "deviations"]


def deviations(message: Message, cavity: Message) -> float:
    """Return how many standard deviations a message is from a cavity, along the directions it says anything about.

    d^2 = (mu_m - mu_n)' (Sigma_m + Sigma_n)^-1 (mu_m - mu_n) is chi-squared with as many degrees of freedom k as there
    are directions where both are right; its cube root is nearly normal (Wilson & Hilferty 1931), so that
    ((d^2 / k)^(1/3) - 1 + 2 / (9 k)) / sqrt(2 / (9 k)) is comparable across sizes. Zero where nothing is said.
    """
    a, b = cast(Gaussian, message), cast(Gaussian, cavity)
    if isinstance(message, Atoms) or not bool(b.is_proper()):
        return 0.0
    values, basis = torch.linalg.eigh(a.full().precision[0])
    told = values > 1e-6 * values.amax().clamp_min(1e-30)
    if not bool(told.any()):
        return 0.0
    values, basis = values[told], basis[:, told]
    gap = basis.T @ (a.info[0] - a.full().precision[0] @ b.mean()[0]) / values  # basis' (mu_m - mu_n)
    spread = basis.T @ b.covariance()[0] @ basis + (1 / values).diag()
    squared, size = float(gap @ torch.linalg.solve(spread, gap)), len(values)
    width, cube_root = 2 / (9 * size), (squared / size) ** (1 / 3)
    away: float = (cube_root - 1 + width) / math.sqrt(width)
    return away


def check_gate(plan: Plan, graph: Graph, key: str) -> None:
    """Refuse to gate what has no distance.

    Raises:
        SerketError: not a sensor whose module has one parent port, on a Gaussian variable.
    """
    sensor = plan.sensors.get(key)
    variable = graph.nodes[sensor.node].bindings[sensor.port] if sensor and sensor.port else None
    if variable is None or graph.variables[variable].family != "gaussian":
        raise SerketError(
            f"'{key}' cannot be gated",
            expected="a sensor whose module has one parent port, on a Gaussian variable",
            available=[k for k, s in plan.sensors.items() if s.port],
            fix="gate another sensor, or use robust on a product",
        )
