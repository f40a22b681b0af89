"""The loop: steps until nothing changes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from serket.engine.blame import blamed
from serket.engine.diagnose import account, weigh
from serket.engine.exchange import Exchange, Improper, check_reply
from serket.engine.result import Result
from serket.engine.schedule import Step, schedule
from serket.errors import ConvergenceWarning, MessageError, SerketError
from serket.graph.check import PriorOwner, prior_owners
from serket.graph.graph import Graph
from serket.messages import Message
from serket.protocol import Evidence, Module, Reply, couples_rows, extrinsic, traits
from serket.rows import runs, seeded

__all__ = ["Passing", "pass_messages", "run"]

OnNoConvergence = Literal["warn", "raise", "ignore"]


@dataclass(slots=True)
class Passing:
    """What message passing leaves behind: the messages, the last reply of every module, and how it went.

    ``absent`` tells, of modules that read data, the rows in which they have none.
    """

    exchange: Exchange
    replies: dict[str, Reply]
    tree: bool
    iterations: int = 0
    history: list[float] = field(default_factory=list)
    open_rows: Tensor | None = None
    absent: Mapping[str, Tensor] = field(default_factory=dict)


def run(
    graph: Graph,
    modules: Mapping[str, Module],
    evidence: Mapping[str, Evidence],
    *,
    seed: int = 0,
    active: frozenset[str] | None = None,
    dtype: torch.dtype | None = None,
    max_iterations: int = 200,
    tolerance: float | None = None,
    improper: Improper = "vacuous",
    on_no_convergence: OnNoConvergence = "warn",
    relay: Callable[[Reply], Reply] | None = None,
) -> Result:
    """Infer every variable from the evidence.

    On a forest two passes give b(z) = prior(z) prod m(z) exactly, as far as the modules are exact. On loops, sweeps go
    on until max KL(new || old) < tolerance (1 - damping); rows are frozen as they converge, and a row whose change
    stops shrinking is damped by one half.

    Args:
        graph: who is bound to what.
        modules: fitted modules by node name.
        evidence: by node name; all with the same rows. A node that is absent has no data.
        seed: with each module's name and each row's id the source of all randomness.
        active: use only these nodes; None is all.
        dtype: of the messages; the widest floating type of the evidence, else float64.
        max_iterations: sweeps at most, on loops.
        tolerance: nats; 1e-10 in float64, 1e-6 in float32.
        improper: what becomes of messages that make a belief improper.
        on_no_convergence: whether to warn, raise or be silent; ``Result.converged`` tells in any case.
        relay: called on every reply, in its place; for tests that send replies over a wire.

    Raises:
        MessageError: a module's reply does not fit its ports.
    """
    names = frozenset(graph.nodes) if active is None else active
    used = {name: modules[name] for name in graph.nodes if name in names}
    if not evidence:
        raise MessageError("no evidence is given", expected="Evidence for one module at least, of any number of rows")
    some = next((one for one in evidence.values() if one.sequence is not None), next(iter(evidence.values())))
    evidence = {name: replace(one, sequence=some.sequence) for name, one in evidence.items()}
    passed = partial(
        pass_messages,
        graph,
        used,
        seed=seed,
        dtype=dtype or _widest(evidence),
        max_iterations=max_iterations,
        tolerance=tolerance,
        improper=improper,
        relay=relay,
    )
    passing = passed(evidence)
    # Without evidence all rows are alike, but for their place in a sequence.
    first = slice(None) if couples_rows(used) else slice(1)
    blank = passed({name: one[first].nothing() for name, one in evidence.items()})
    exchange = passing.exchange
    beliefs = {name: exchange.belief(name) for name in graph.variables if exchange.edges[name]}
    converged = passing.open_rows is None or not bool(passing.open_rows.any())
    if not converged and on_no_convergence != "ignore":
        _complain(passing, on_no_convergence)
    readers = tuple(node.name for node in graph.nodes.values() if node.data is not None and node.name in names)
    contribution, conflict = weigh(graph, used, passing, blank.exchange, readers, evidence, seed)
    log_evidence, bound, reason = account(graph, passing)
    exact = passing.tree and not exchange.improper and all(traits(m).exact for m in used.values())
    exact = exact and not exchange.projected and not any(r.tilted for r in passing.replies.values())
    exact = exact and not _bent(graph, names)
    rows = len(some)
    absent = torch.zeros(rows, dtype=torch.bool, device=some.row_id.device)
    columns = [evidence[name].present if name in evidence else absent for name in readers]
    present = torch.stack(columns, 1) if columns else absent.reshape(rows, 1)[:, :0]
    return Result(
        beliefs=beliefs,
        row_id=some.row_id,
        modules=readers,
        present=present,
        contribution=contribution,
        conflict=conflict,
        log_evidence=log_evidence,
        bound=bound,
        reason=reason,
        exact=exact,
        converged=converged,
        iterations=passing.iterations,
        history=tuple(passing.history),
        improper=dict(exchange.improper),
        info={f"{n}.{k}": v for n, r in passing.replies.items() for k, v in r.info.items()},
    )


def pass_messages(
    graph: Graph,
    modules: Mapping[str, Module],
    evidence: Mapping[str, Evidence],
    *,
    seed: int = 0,
    dtype: torch.dtype,
    max_iterations: int = 200,
    tolerance: float | None = None,
    improper: Improper = "vacuous",
    relay: Callable[[Reply], Reply] | None = None,
    extra_sweeps: int = 0,
    owners: Mapping[str, PriorOwner] | None = None,
    silent: str | None = None,
) -> Passing:
    """Move messages until they stand: the inside of :func:`run`, which training uses to fill inboxes.

    Args:
        extra_sweeps: after the passes on a tree; they change nothing.
        owners: prior owners, if not those found among the modules.
        silent: a module that hears but is not called; on a tree only the messages that reach it are computed.
        others: as in :func:`run`.
    """
    some = next((one for one in evidence.values() if one.sequence is not None), next(iter(evidence.values())))
    row_id, together = some.row_id, couples_rows(modules)
    names = frozenset(modules)
    speaking = names - {silent}
    plan = schedule(graph, names, root=silent)
    # On a tree, only the messages that reach the silent module; but a module that joins rows hears all, then answers.
    towards = silent if plan.tree and not couples_rows({name: modules[name] for name in speaking}) else None
    plan = plan if plan.tree or silent is None else schedule(graph, speaking)
    owners = owners or prior_owners(graph, modules, names)
    exchange = Exchange(graph, modules, owners, row_id=row_id, dtype=dtype, improper=improper)
    absent = {name: ~one.present for name, one in evidence.items() if name in names}
    passing = Passing(exchange, {}, plan.tree, absent=absent)
    generators = {name: seeded(seed, name, device=row_id.device) for name in modules}
    exponents = {name: graph.nodes[name].exponents for name in modules}
    evidence = {name: replace(evidence.get(name, some.silent()), sequence=some.sequence) for name in modules}
    damping: Tensor | None = None

    def call(step: Step) -> None:
        module, asked = modules[step.node], frozenset(step.ports)
        inbox = exchange.inbox(step.node, hidden=asked if step.upward else frozenset())
        with blamed(step.node, module):
            reply = module.infer(inbox, evidence[step.node], generator=generators[step.node], ports=asked)
        reply = relay(reply) if relay else reply
        check_reply(step.node, module, reply, asked, len(row_id))
        if reply.log_evidence is not None and exchange.projected and not step.upward:
            reply = replace(reply, log_evidence=reply.log_evidence + exchange.unheard(step.node, inbox))
        passing.replies[step.node] = reply
        for port, message in extrinsic(reply, inbox, traits(module).own_prior).items():
            if "own_prior" in reply.includes.get(port, ()):
                wide = ~message.is_semidefinite()
                exchange.count((step.node, port), wide)
                message = message.where(~wide, message.semidefinite_part())
            exponent = exponents[step.node].get(port, 1.0)
            message = message if exponent == 1 else message**exponent
            exchange.put(step.node, port, message, passing.open_rows, damping)

    for step in plan.passes:
        if step.node != silent and (towards is None or step.upward):
            call(step)
    passing.iterations = 1
    tilted = any(reply.tilted for reply in passing.replies.values())
    if plan.tree and not tilted:
        for _ in range(extra_sweeps):
            for step in plan.sweep:
                call(step)
        return passing
    tolerance = tolerance if tolerance is not None else (1e-10 if dtype == torch.float64 else 1e-6)
    passing.open_rows = torch.ones_like(row_id, dtype=torch.bool)
    damping = torch.zeros(len(row_id), dtype=dtype, device=row_id.device)
    before, least, waited = _beliefs(exchange), torch.full_like(damping, torch.inf), torch.zeros_like(damping)
    for passing.iterations in range(1, max_iterations + 1):
        for step in plan.sweep:
            if step.node != silent:
                call(step)
        beliefs = _beliefs(exchange)
        change = torch.stack([beliefs[name].kl(before[name]) for name in beliefs]).amax(0)
        change = (
            _greatest(change, some.sequence) if together else change
        )  # a row hears its neighbours: none stops alone
        passing.history.append(float(change[passing.open_rows].max()))
        # Damping 0.5 slows easy graphs five to ten times: it is switched on where the change has stalled, only.
        waited = torch.where(change > 0.9 * least, waited + 1, torch.zeros_like(waited))
        damping = torch.where(waited >= 5, torch.full_like(damping, 0.5), damping)
        passing.open_rows = passing.open_rows & ~(change < tolerance * (1 - damping))
        before, least = beliefs, torch.minimum(least, change)
        if not bool(passing.open_rows.any()):
            break
    # Every module hears the final messages once more, for its evidence.
    for name in modules:
        if name in speaking:
            call(Step(name, ()))
    return passing


def _greatest(values: Tensor, sequence: Tensor | None) -> Tensor:
    """Return in every row the greatest value of its sequence."""
    lengths = runs(sequence, len(values)).to(values.device)
    number = torch.arange(len(lengths), device=values.device).repeat_interleave(lengths)
    return values.new_zeros(len(lengths)).scatter_reduce(0, number, values, "amax")[number]


def _beliefs(exchange: Exchange) -> dict[str, Message]:
    return {name: exchange.belief(name) for name, edges in exchange.edges.items() if edges}


def _widest(evidence: Mapping[str, Evidence]) -> torch.dtype:
    types = {one.values.dtype for one in evidence.values() if one.values is not None and one.values.is_floating_point()}
    return torch.float64 if torch.float64 in types or not types else next(iter(types))


def _bent(graph: Graph, names: frozenset[str]) -> bool:
    tempered = any(graph.nodes[name].exponents for name in names)
    return tempered or any(variable.combine == "product" for variable in graph.variables.values())


def _complain(passing: Passing, how: OnNoConvergence) -> None:
    assert passing.open_rows is not None
    text = (
        f"messages did not converge in {passing.iterations} sweeps: {int(passing.open_rows.sum())} of "
        f"{len(passing.open_rows)} rows still change by up to {passing.history[-1]:.2g} nats. Beliefs on loops are "
        "approximations at best; raise max_iterations, weaken the coupling with trust: 0.5 on an edge of the cycle, or "
        "cut the cycle (serket check names it)."
    )
    if how == "raise":
        raise SerketError(text)
    warnings.warn(text, ConvergenceWarning, stacklevel=4)
