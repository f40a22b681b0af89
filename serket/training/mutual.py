"""Mutual learning: every module refits under what the others say, and what does not help is taken back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from serket.engine.diagnose import account
from serket.engine.exchange import Exchange
from serket.engine.run import Passing, pass_messages
from serket.errors import MessageError
from serket.graph.graph import Graph
from serket.messages import Categorical, Family
from serket.protocol import Evidence, Module, Trainable, couples_rows, traits
from serket.rows import chunks, seeded
from serket.training.align import CHUNK
from serket.training.compose import listen
from serket.training.repartition import Proposal, proposals, same_division

__all__ = ["Step", "judged", "mutual"]

Report = Callable[[str, int, int, str], None]
_CLAMP = 1e4  # nats: beyond any likelihood, so that the labels of a proposal are certain
_FLOOR = -1e4  # nats: structural zeros in a profile
_SETTLE = 4  # refits of every module at the concept before a proposal is judged


@dataclass(frozen=True, slots=True)
class Step:
    """One thing tried in a round.

    Args:
        round: from 1.
        what: the module that was refitted, or the variable whose concepts were divided anew.
        kept: whether it stayed.
        evidence: on validation rows, mean nats a row, if it had stayed.
        before: the same, without it.
        text: of a proposal, how the rows were divided.
    """

    round: int
    what: str
    kept: bool
    evidence: float
    before: float
    text: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain data, for events and ``metrics.json``."""
        return asdict(self)


def judged(
    graph: Graph, modules: Mapping[str, Module], evidence: Mapping[str, Evidence], *, seed: int, dtype: torch.dtype
) -> float:
    """Return the log evidence of the data, mean nats a row; where the graph offers none, what predicts the senses.

    The evidence is that of the engine, with lower bounds replaced (:func:`_told`). Where something is tempered or
    improper, it is the sum over modules that read data of log p(x_m | what the others saw), from the module's own
    evidence under its normalised cavities. Rows that the graph holds impossible make it -inf.
    """
    some = next(iter(evidence.values()))
    passed = partial(pass_messages, graph, modules, seed=seed, dtype=dtype)
    total = 0.0
    for chunk in chunks(len(some), CHUNK, some.sequence, couples_rows(modules)):
        part = {name: one[chunk] for name, one in evidence.items()}
        passing, blank = passed(part), passed({name: one[:1].nothing() for name, one in part.items()}).exchange
        told = {name: _told(name, modules, passing, blank, part, seed) for name in passing.replies}
        passing.replies = {n: replace(reply, log_evidence=told[n]) for n, reply in passing.replies.items()}
        found, _, reason = account(graph, passing)
        if found is None:
            found = sum((_predicted(passing.exchange, told[name], name) for name in part), torch.zeros(()))
        if bool((found.isnan() | found.isposinf()).any()):
            raise MessageError("the evidence is no number", found=reason or "infinite", fix="see serket check")
        total += float(found.double().sum())
    return total / len(some)


def _told(
    name: str,
    modules: Mapping[str, Module],
    passing: Passing,
    blank: Exchange,
    evidence: Mapping[str, Evidence],
    seed: int,
) -> Tensor | None:
    """Return a module's evidence; of a bound under a Gaussian inbox, log of the integral of c m(z) times the inbox.

    A mixture above reaches a VAE as one Gaussian, and where the other senses err that is narrow and in the wrong
    place: a bound under it is loose by more than any two ways to divide concepts differ. The module's message m stands
    for log p(x | z) up to a constant, log c = E_q[log p(x | z) - log m(z)], told by the bound under the inbox that
    holds when nobody has seen anything: bound - log of the integral of m times that inbox.
    """
    reply, inbox = passing.replies[name], passing.exchange.inbox(name)
    if reply.bound != "lower" or len(inbox) != 1 or name not in evidence:
        return reply.log_evidence
    (port,) = inbox
    cavity, message = passing.exchange.cavity(name, port), passing.exchange.messages[name, port]
    neutral = blank.inbox(name)[port].expand(len(evidence[name]))
    generator = seeded(seed, name, device=evidence[name].row_id.device)
    bound = modules[name].infer({port: neutral}, evidence[name], generator=generator, ports=frozenset()).log_evidence
    here = evidence[name].present
    constant = torch.where(here, cast(Tensor, bound) - (neutral * message).log_z(), 0.0)
    return constant + (cavity * message).log_z()


def _predicted(exchange: Exchange, told: Tensor | None, name: str) -> Tensor:
    """log p(x_m | the rest): a module's evidence over the integral of its cavities, or its message's weight in them."""
    bound = exchange.graph.nodes[name].bindings
    cavities = {port: exchange.cavity(name, port) for port in bound}
    if told is not None:
        return told - torch.stack([cavity.log_z() for cavity in cavities.values()]).sum(0)
    beliefs = {port: exchange.belief(variable) for port, variable in bound.items()}
    gains = [beliefs[port].log_z() - cavity.log_z() for port, cavity in cavities.items()]
    return torch.stack(gains).sum(0)


def mutual(
    graph: Graph,
    modules: Mapping[str, Module],
    evidence: Mapping[str, Evidence],
    validation: Mapping[str, Evidence],
    *,
    seed: int,
    dtype: torch.dtype,
    start: int = 1,
    report: Report | None = None,
) -> Iterator[list[Step]]:
    """Run the graph's rounds, yielding after each what was tried in it.

    A round refits every trainable module once, in file order, warm, under what the others say of the training rows
    (DESIGN, 9.4); then tries up to ``graph.explore`` other divisions of concepts (:mod:`serket.training.repartition`).
    Each stays if the evidence on validation rows does not fall; otherwise the states go back to what they were. So the
    evidence never falls; whether concepts come to mean more is for tests over seeds. A module whose sense no validation
    row holds cannot be judged: it is not refitted, and a step says so.

    Args:
        graph: ``rounds``, ``explore``, and per node ``feedback`` and ``refit``.
        modules: fitted, by node name; changed in place.
        evidence: rows to learn from.
        validation: rows to judge by, of which no module has seen any.
        seed: of all randomness.
        dtype: of the messages.
        start: the round to begin with.
        report: called with ("round N", steps done, steps in all, text).
    """
    learners = [n for n, node in graph.nodes.items() if node.feedback and isinstance(modules[n], Trainable)]
    if not learners:
        return
    seen = [name for name in learners if name not in validation or _judges(validation[name])]
    best = judged(graph, modules, validation, seed=seed, dtype=dtype)
    for number in range(start, graph.rounds + 1):
        this = _Round(graph, modules, evidence, validation, seen, seed, dtype, report, number, best)
        for name in learners:
            if name in seen:
                this.attempt(name, [name], partial(this.refit, name))
            else:
                this.steps.append(
                    Step(number, name, False, best, best, "not refitted: no validation row holds its data")
                )
        this.explore()
        best = this.best
        yield this.steps


def _judges(rows: Evidence) -> bool:
    """Tell whether a module without data, or with data in some row, is among what validation rows judge."""
    return rows.values is None or bool(rows.present.any())


@dataclass(slots=True)
class _Round:
    """One round: what it works on, how far it is, and the best evidence so far."""

    graph: Graph
    modules: Mapping[str, Module]
    evidence: Mapping[str, Evidence]
    validation: Mapping[str, Evidence]
    learners: Sequence[str]
    seed: int
    dtype: torch.dtype
    report: Report | None
    number: int
    best: float
    steps: list[Step] = field(default_factory=list)

    def attempt(self, what: str, names: Sequence[str], work: Callable[[], None], text: str = "") -> bool:
        """Do some work on some modules; keep it if the evidence does not fall, else load their states back."""
        # Copies: the tensors of a state may be those that the module goes on to change in place.
        states = {n: {k: v.clone() for k, v in cast(Trainable, self.modules[n]).state().items()} for n in names}
        work()
        found = judged(self.graph, self.modules, self.validation, seed=self.seed, dtype=self.dtype)
        kept = found >= self.best
        self.steps.append(Step(self.number, what, kept, found, self.best, text))
        if kept:
            self.best = found
        else:
            for name, state in states.items():
                cast(Trainable, self.modules[name]).load(state)
        if self.report:
            told = f"{what} {'kept' if kept else 'taken back'}, evidence {self.best:.5g}"
            self.report(f"round {self.number}", len(self.steps), len(self.learners) + self.graph.explore, told)
        return kept

    def refit(self, name: str, clamp: Mapping[str, Categorical] | None = None) -> None:
        """Fit one module, warm, under what the others say; at clamped variables, under the clamp alone."""
        node, others = self.graph.nodes[name], frozenset(self.modules) - {name}
        seed = self.seed + self.number
        task = listen(self.graph, self.modules, self.evidence, name, others, seed=seed, dtype=self.dtype)
        told = {port: clamp[v] for port, v in node.bindings.items() if v in clamp} if clamp else {}
        fewer = {key: min(most, node.fit.get(key, most)) for key, most in traits(self.modules[name]).warm.items()}
        options = {**node.fit, **fewer, **node.refit}
        replace(task, options=options, inbox={**task.inbox, **told}).run()

    def explore(self) -> None:
        """Try other divisions of concepts, as long as there are any and the budget lasts."""
        generator, left = seeded(self.seed, "explore", str(self.number)), self.graph.explore
        for variable in self.graph.variables.values():
            names = [name for name, _ in self.graph.bound(variable.name) if name in self.learners]
            if variable.family != Family.CATEGORICAL or variable.size < 2 or not names:
                continue
            kept, tried = True, cast(list[Tensor], [])
            while kept and left:
                kept = False
                for proposal in self._proposals(variable.name, generator):
                    if not left:
                        break
                    if any(same_division(proposal.labels, one, variable.size) for one in tried):
                        continue  # kept, it changed nothing, and would be the first one for ever
                    left -= 1
                    tried.append(proposal.labels)
                    clamp = Categorical(_CLAMP * one_hot(proposal.labels, variable.size).to(self.dtype))
                    work = partial(self._divide, names, {variable.name: clamp})
                    if kept := self.attempt(variable.name, names, work, proposal.text):
                        break  # the messages are others now, and so are the proposals

    def _divide(self, names: Sequence[str], clamp: Mapping[str, Categorical]) -> None:
        for name in names:
            self.refit(name, clamp)
        for _ in range(_SETTLE):
            for name in names:
                self.refit(name)

    def _proposals(self, variable: str, generator: torch.Generator) -> Iterator[Proposal]:
        """Propose from the messages that the modules at a variable send about the training rows."""
        some = next(iter(self.evidence.values()))
        said, labels = cast(dict[tuple[str, str], list[Tensor]], {}), cast(list[Tensor], [])
        for rows in chunks(len(some), CHUNK, some.sequence, couples_rows(self.modules)):
            part = {name: one[rows] for name, one in self.evidence.items()}
            exchange = pass_messages(self.graph, self.modules, part, seed=self.seed, dtype=self.dtype).exchange
            for edge in exchange.edges[variable]:
                said.setdefault(edge, []).append(cast(Categorical, exchange.messages[edge]).log_probs())
            labels.append(cast(Categorical, exchange.belief(variable)).logits.argmax(-1))
        logits = [torch.cat(parts).clamp_min(_FLOOR) for parts in said.values()]
        logits = [one for one in logits if bool((one != one[:, :1]).any())]  # who says nothing in any row has no say
        return proposals(logits, torch.cat(labels), generator) if logits else iter(())
