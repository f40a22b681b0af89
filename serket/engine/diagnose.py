"""What the messages say about the evidence, about each module's share in it, and about conflict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from serket.engine.exchange import Exchange
from serket.graph.graph import Graph, Node
from serket.messages import Message, projected
from serket.protocol import Bound, Evidence, Module, Role, traits
from serket.rows import seeded

if TYPE_CHECKING:
    from serket.engine.run import Passing

__all__ = ["account", "weigh"]


def account(graph: Graph, passing: Passing) -> tuple[Tensor | None, Bound, str | None]:
    """Sum the modules' evidences into that of the graph.

    log Z = sum_a log Z_a + sum_i (1 - d_i) log Z_i, where Z_a is a module's evidence under its bare inbox, Z_i the
    integral of the bare belief, d_i the number of factors at variable i; a graph or own prior is a factor whose Z_a is
    Z_i over its own normaliser (Yedidia, Freeman & Weiss 2005, eq. 37). It does not depend on the messages' scale.
    A sense that is absent and parent of one variable is left out with its edge, log Z_a - log Z_i being 0: the sum has
    the bits it has in a graph that never had the sense.

    Returns:
        The evidence ``(rows,)`` or None, what it is of the true one, and the reason where it is none or an estimate.
    """
    exchange = passing.exchange
    absent = {name: rows for name, rows in passing.absent.items() if _is_leaf(graph.nodes[name])}
    silent = {name for name, rows in absent.items() if len(rows) and bool(rows.all())}
    for name in (name for name in exchange.modules if name not in silent):
        node = graph.nodes[name]
        if node.exponents:
            port, exponent = min(node.exponents.items(), key=lambda item: item[1])
            how = "trusted with" if exponent == node.trust.get(port) else "calibrated to"
            return None, "none", f"{name} is {how} {exponent:g}: a tempered message has no evidence"
    for variable in graph.variables.values():
        if variable.combine == "product" and len(exchange.edges[variable.name]) > 1:
            return None, "none", f"{variable.name} combines its owners by a product, which is not normalised"
    total: Tensor | float = 0.0
    for name, reply in passing.replies.items():
        if name in silent:
            continue
        if reply.log_evidence is None or reply.bound == "none":
            note = traits(exchange.modules[name]).note
            return None, "none", f"{name} offers no evidence" + (f": {note}" if note else "")
        own = reply.log_evidence
        total = total + (torch.where(absent[name], 0.0, own) if name in absent else own)
    for name, edges in exchange.edges.items():
        if not edges:
            continue
        # A prior that no module holds is a factor of its own, with log Z_a = log Z_i - log Z(prior).
        belief = exchange.belief(name).log_z()
        count = torch.full_like(belief, len(edges) - 1)
        for rows in (absent[node] for node, _ in edges if node in absent):
            count = count - rows.to(count)
        total = total - torch.where(count == 0, 0.0, count * belief)
        if exchange.owners[name].message is not None:
            total = total - exchange.priors[name].log_z()
    bounds = {reply.bound for name, reply in passing.replies.items() if name not in silent}
    if not isinstance(total, Tensor):  # no module but absent senses
        total = torch.zeros_like(exchange.row_id, dtype=next(iter(exchange.priors.values())).dtype)
    if not passing.tree:
        return total, "estimate", "the graph has a cycle"
    guessed = exchange.projected or any(reply.tilted for reply in passing.replies.values())
    if guessed or "estimate" in bounds or exchange.improper:
        return total, "estimate", "a message is projected or estimated"
    return total, "lower" if "lower" in bounds else "exact", None


def _is_leaf(node: Node) -> bool:
    """Tell whether a module is a sense, parent of one variable: without data it says nothing."""
    return node.data is not None and [port.role for port in node.ports.values()] == [Role.PARENT]


def weigh(
    graph: Graph,
    modules: Mapping[str, Module],
    passing: Passing,
    blank: Exchange,
    readers: tuple[str, ...],
    evidence: Mapping[str, Evidence],
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Return each reading module's contribution ``(rows, modules)`` and the conflict ``(rows,)``, both in nats.

    With cavity n, message m and belief b = n m at a variable of module a, contribution = KL(b || n), summed over its
    variables. Conflict = min_a log p(x_a | rest) - log p(x_a), the pointwise mutual information of one sense and the
    others. At one variable that is [log int b - log int n] - [log int p m - log int p], with p the belief without any
    evidence; a module with several ports is asked for its evidence under both sets of cavities. Points are told from a
    density by the Gaussian of the same moments.
    """
    exchange = passing.exchange
    shares: list[Tensor] = []
    ratios: list[Tensor] = []
    for name in readers:
        bound = graph.nodes[name].bindings
        cavities = {port: exchange.cavity(name, port) for port in bound}
        marginals = {port: blank.cavity(name, port).expand(exchange.rows) for port in bound}
        here = torch.zeros_like(exchange.row_id, dtype=torch.bool)
        here = evidence[name].present if name in evidence else here
        beliefs = {port: exchange.belief(variable) for port, variable in bound.items()}
        gained = torch.stack([beliefs[port].kl(cavity) for port, cavity in cavities.items()]).sum(0)
        shares.append(torch.where(here & gained.isfinite(), gained, 0.0))
        if len(cavities) == 1:
            (port,) = cavities
            prior, message = marginals[port], exchange.messages[name, port]
            ratio = beliefs[port].log_z() - cavities[port].log_z() - (prior * message).log_z() + prior.log_z()
        else:
            told = passing.replies[name].log_evidence
            generator = seeded(seed, name, device=exchange.row_id.device)
            if told is None or name not in evidence:
                continue
            marginals = {port: projected(one) for port, one in marginals.items()}
            alone = modules[name].infer(marginals, evidence[name], generator=generator, ports=frozenset()).log_evidence
            ratio = told - _log_z(cavities) - cast(Tensor, alone) + _log_z(marginals)
        ratios.append(torch.where(here & ratio.isfinite(), ratio, torch.inf))
    like = next(iter(exchange.priors.values())).log_z()
    none = like.new_zeros(exchange.rows)
    least = torch.stack(ratios).amin(0) if ratios else none
    return torch.stack(shares, 1) if shares else none[:, None][:, :0], torch.where(least.isfinite(), least, 0.0)


def _log_z(messages: Mapping[str, Message]) -> Tensor:
    return torch.stack([message.log_z() for message in messages.values()]).sum(0)
