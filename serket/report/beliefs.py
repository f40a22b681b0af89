"""Beliefs in a few lines, for people."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from serket.engine import Result
from serket.messages import Atoms, Categorical, Dirichlet, Gaussian

__all__ = ["summary", "summary_table"]


def summary(result: Result) -> dict[str, Any]:
    """Return means over rows: per variable its uncertainty, per module presence and nats contributed."""
    variables: dict[str, Any] = {}
    for name, belief in result.items():
        if isinstance(belief, Gaussian | Atoms):
            variables[name] = {"family": "gaussian", "size": belief.size, "std": float(belief.variance().sqrt().mean())}
        elif isinstance(belief, Categorical):
            entropy = -(belief.probs * belief.log_probs().nan_to_num(neginf=0.0)).sum(-1)
            counts = belief.probs.argmax(-1).bincount(minlength=belief.size)
            variables[name] = {
                "family": "categorical",
                "size": belief.size,
                "entropy": float(entropy.mean()),
                "counts": counts.tolist(),
            }
        elif isinstance(belief, Dirichlet):
            total = belief.concentration.sum(-1).mean()
            variables[name] = {"family": "dirichlet", "size": belief.size, "total": float(total)}
    present, gained = result.present.double().mean(0), result.contribution.double().mean(0)
    return {
        "rows": len(result.row_id),
        "variables": variables,
        "modules": {
            name: {"present": float(present[i]), "contribution": float(gained[i])}
            for i, name in enumerate(result.modules)
        },
        "log_evidence": None if result.log_evidence is None else float(result.log_evidence.double().mean()),
        "bound": result.bound,
        "reason": result.reason,
        "conflict": float(result.conflict.double().mean()),
        "exact": result.exact,
        "converged": result.converged,
        "improper": dict(result.improper),
    }


def summary_table(result: Result) -> Table:
    """Return :func:`summary` as a table of at most 80 columns."""
    about = summary(result)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_header=False)
    table.add_row("rows", str(about["rows"]))
    for name, variable in about["variables"].items():
        if variable["family"] == "gaussian":
            text = f"gaussian({variable['size']}), standard deviation {variable['std']:.3g} on average"
        elif variable["family"] == "dirichlet":
            text = f"dirichlet({variable['size']}), {variable['total']:.3g} pseudo-counts on average"
        else:
            text = f"categorical({variable['size']}), entropy {variable['entropy']:.3g} nats, rows {variable['counts']}"
        table.add_row(name, text)
    for name, module in about["modules"].items():
        table.add_row(
            name, f"present in {module['present']:.0%} of rows, contributes {module['contribution']:.3g} nats"
        )
    evidence = (
        f"none: {about['reason']}" if about["log_evidence"] is None else f"{about['log_evidence']:.5g} nats a row"
    )
    table.add_row("log evidence", evidence + ("" if about["bound"] in ("none", "exact") else f" ({about['bound']})"))
    verdict = (
        "a sense contradicts the rest" if about["conflict"] < -3 else "far below 0, a sense would contradict the rest"
    )
    table.add_row("conflict", f"{about['conflict']:.3g} nats ({verdict})")
    table.add_row("exact", f"{about['exact']}, converged: {about['converged']}")
    for edge, rows in about["improper"].items():
        table.add_row("improper", f"{edge} in {rows} rows: directions of negative precision were dropped")
    return table
