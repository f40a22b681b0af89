"""What the messages say about the evidence, about each module's share in it, and about conflict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from serket.engine.exchange import Exchange
from serket.graph.graph import Graph
from serket.protocol import Bound, Evidence

if TYPE_CHECKING:
    from serket.engine.run import Passing

__all__ = ["account", "weigh"]


def account(graph: Graph, passing: Passing) -> tuple[Tensor | None, Bound, str | None]:
    """Sum the modules' evidences into that of the graph.

    log Z = sum_a log Z_a + sum_i (1 - d_i) log Z_i, where Z_a is a module's evidence under its bare inbox, Z_i the
    integral of the bare belief, d_i the number of factors at variable i; a graph or own prior is a factor whose Z_a is
    Z_i over its own normaliser (Yedidia, Freeman & Weiss 2005, eq. 37). It does not depend on the messages' scale.

    Returns:
        The evidence ``(rows,)`` or None, what it is of the true one, and the reason where it is none or an estimate.
    """
    exchange = passing.exchange
    for name in exchange.modules:
        weights = graph.nodes[name].trust.values()
        if any(weight != 1 for weight in weights):
            return None, "none", f"{name} is trusted with {min(weights):g}: a tempered message has no evidence"
    for variable in graph.variables.values():
        if variable.combine == "product" and len(exchange.edges[variable.name]) > 1:
            return None, "none", f"{variable.name} combines its owners by a product, which is not normalised"
    total: Tensor | float = 0.0
    for name, reply in passing.replies.items():
        if reply.log_evidence is None or reply.bound == "none":
            return None, "none", f"{name} offers no evidence"
        total = total + reply.log_evidence
    for name, edges in exchange.edges.items():
        if not edges:
            continue
        # A prior that no module holds is a factor of its own, with log Z_a = log Z_i - log Z(prior).
        total = total - (len(edges) - 1) * exchange.belief(name).log_z()
        if exchange.owners[name].message is not None:
            total = total - exchange.priors[name].log_z()
    bounds = {reply.bound for reply in passing.replies.values()}
    assert isinstance(total, Tensor)
    if not passing.tree:
        return total, "estimate", "the graph has a cycle"
    if any(reply.tilted for reply in passing.replies.values()) or "estimate" in bounds or exchange.improper:
        return total, "estimate", "a message is projected or estimated"
    return total, "lower" if "lower" in bounds else "exact", None


def weigh(
    graph: Graph, exchange: Exchange, blank: Exchange, readers: tuple[str, ...], evidence: Mapping[str, Evidence]
) -> tuple[Tensor, Tensor]:
    """Return each reading module's contribution ``(rows, modules)`` and the conflict ``(rows,)``, both in nats.

    With cavity n, message m and belief b = n m at a variable of module a, and p the belief there with no evidence at
    all: contribution = KL(b || n); conflict = min_a [log int b - log int n] - [log int p m - log int p], which is
    log p(x_a | rest) - log p(x_a), the pointwise mutual information of one sense and the others.
    """
    shares: list[Tensor] = []
    least: Tensor | None = None
    for name in readers:
        share: Tensor | None = None
        here = evidence[name].present if name in evidence else None
        for port, variable in graph.nodes[name].bindings.items():
            message, belief = exchange.messages[name, port], exchange.belief(variable)
            cavity = exchange.inbox(name)[port]
            prior = blank.belief(variable).expand(exchange.rows)
            gained = belief.kl(cavity)
            ratio = belief.log_z() - cavity.log_z() - (prior * message).log_z() + prior.log_z()
            if here is None:
                here = torch.zeros_like(gained, dtype=torch.bool)
            gained = torch.where(here & gained.isfinite(), gained, 0.0)
            ratio = torch.where(here & ratio.isfinite(), ratio, torch.inf)
            share = gained if share is None else share + gained
            least = ratio if least is None else torch.minimum(least, ratio)
        assert share is not None
        shares.append(share)
    if least is None:
        like = next(iter(exchange.priors.values())).log_z()
        return like.new_zeros(exchange.rows, 0), like.new_zeros(exchange.rows)
    return torch.stack(shares, 1), torch.where(least.isfinite(), least, 0.0)
