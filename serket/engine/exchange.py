"""The messages in flight, and their products: cavities and beliefs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from serket.errors import MessageError, listed
from serket.graph.check import PriorOwner
from serket.graph.graph import Graph
from serket.messages import FAMILIES, Atoms, Categorical, Family, Message, leave_one_out, projected
from serket.protocol import Bound, Module, Port, Reply, uninformed

__all__ = ["Exchange", "check_reply"]

Edge = tuple[str, str]
Improper = Literal["vacuous", "clip", "raise", "keep"]


class Exchange:
    """Holds the last message of every edge; products fold in file order, the prior first, so bits do not wander.

    A message may have negative precision, a belief or a cavity may not, and some category must stay possible: where a
    product is improper, the messages at fault lose their negative directions or structural zeros (``vacuous``), or only
    the precision of those directions (``clip``), or keep what they last were (``keep``), or the rows are refused
    (``raise``). Every row so mended is counted per edge.
    """

    def __init__(
        self,
        graph: Graph,
        modules: Mapping[str, Module],
        owners: Mapping[str, PriorOwner],
        *,
        row_id: Tensor,
        dtype: torch.dtype,
        improper: Improper = "vacuous",
    ) -> None:
        self.graph, self.modules, self.owners, self.policy = graph, modules, owners, improper
        self.row_id, self.rows, device = row_id, len(row_id), row_id.device
        self.mended: dict[Edge, Tensor] = {}  # rows in which a message was replaced
        self.priors: dict[str, Message] = {}
        self.messages: dict[Edge, Message] = {}
        self.edges: dict[str, list[Edge]] = {name: [] for name in graph.variables}
        self.projected = False  # whether a module heard points as a Gaussian
        self._bent: dict[Edge, Tensor] = {}  # rows whose message has a negative direction
        self._folded: dict[str, tuple[dict[Edge, Message], Message]] = {}  # cavities, belief: until a message changes
        for name, variable in graph.variables.items():
            flat = FAMILIES[variable.family].vacuous((self.rows,), variable.size, dtype=dtype, device=device)
            owned = owners[name].message
            self.priors[name] = flat if owned is None else owned.to(dtype, device).expand(self.rows) * flat
        for node in graph.nodes.values():
            if node.name in modules:
                for port, variable_name in node.bindings.items():
                    self.edges[variable_name].append((node.name, port))
                    self.messages[node.name, port] = uninformed(node.ports[port], self.rows, dtype=dtype, device=device)

    @property
    def improper(self) -> Counter[str]:
        """Rows in which a message had to be replaced, however often, by edge ``module.port``."""
        return Counter({".".join(edge): int(rows.sum()) for edge, rows in self.mended.items()})

    def inbox(self, node: str, hidden: frozenset[str] = frozenset()) -> dict[str, Message]:
        """Return what the node hears: per port the cavity, its points projected; on hidden ports nothing."""
        nothing = torch.zeros_like(self.row_id, dtype=torch.bool)
        heard: dict[str, Message] = {}
        for port in self.graph.nodes[node].bindings:
            cavity = self.messages[node, port].mask(nothing) if port in hidden else self.cavity(node, port)
            heard[port] = projected(cavity)
            self.projected |= isinstance(cavity, Atoms) and bool(cavity.present.any())
        return heard

    def cavity(self, node: str, port: str) -> Message:
        """Return everything that is said at the node's variable but by the node itself."""
        return self._fold(self.graph.nodes[node].bindings[port])[0][node, port]

    def unheard(self, node: str, inbox: Mapping[str, Message]) -> Tensor | float:
        """Return the log-integral, nats, that a projected inbox lacks of its cavities: evidence is to count it."""
        pairs = [(self.cavity(node, port), heard) for port, heard in inbox.items()]
        return sum(
            torch.where(cavity.present, cavity.log_z() - heard.log_z(), 0.0)
            for cavity, heard in pairs
            if isinstance(cavity, Atoms)
        )

    def belief(self, variable: str) -> Message:
        """Return the product of all messages at a variable, with its prior once."""
        return self._fold(variable)[1]

    def put(self, node: str, port: str, message: Message, open_rows: Tensor | None, damping: Tensor | None) -> None:
        """Store a message, in the rows still open, mixed with the last one where damped; points have no mixture."""
        edge, old = (node, port), self.messages[node, port]
        if damping is not None and not isinstance(message, Atoms) and not isinstance(old, Atoms):
            message = message.where(damping == 0, (message ** (1 - damping)) * (old**damping))
        if open_rows is not None:
            message = message.where(open_rows, old)
        bent = ~message.is_semidefinite()
        self._bent.pop(edge, None)
        if bool(bent.any()):
            if self.policy == "keep":
                message = message.where(~bent, old)
                self.count(edge, bent)
            else:
                self._bent[edge] = bent
        self.messages[edge] = message
        self._folded.pop(self.graph.nodes[node].bindings[port], None)

    def count(self, edge: Edge, rows: Tensor) -> None:
        """Note rows in which a message was mended."""
        if bool(rows.any()):
            before = self.mended.get(edge)
            self.mended[edge] = rows if before is None else rows | before

    def _fold(self, variable: str) -> tuple[dict[Edge, Message], Message]:
        if variable not in self._folded:
            edges, prior = self.edges[variable], self.priors[variable]
            messages = [self.messages[edge] for edge in edges]
            cavities, belief = self._products(variable, prior, messages)
            bent = [edge for edge in edges if edge in self._bent]
            # Categories that are all excluded by several messages, each proper by itself, are excluded in the belief.
            if bent or (isinstance(belief, Categorical) and not bool(belief.is_proper().all())):
                cavities, belief = self._mended(variable, cavities, belief)
            self._folded[variable] = dict(zip(edges, cavities, strict=True)), belief
        return self._folded[variable]

    def _products(self, variable: str, prior: Message, messages: list[Message]) -> tuple[list[Message], Message]:
        try:
            return leave_one_out(prior, messages)
        except MessageError as error:
            on_points = [".".join(edge) for edge in self.edges[variable] if isinstance(self.messages[edge], Atoms)]
            error.where = f"{' and '.join(on_points)} at '{variable}': {error.where}"
            error.fix = f"{error.fix}; or give each its own variable, and join them by a linear_gaussian module"
            raise

    def _mended(self, variable: str, cavities: list[Message], belief: Message) -> tuple[list[Message], Message]:
        """Replace improper products by those of tamed messages, in the rows concerned."""
        edges = self.edges[variable]
        broken = [~product.is_semidefinite() for product in [*cavities, belief]]
        anywhere = torch.stack(broken).any(0)
        if not bool(anywhere.any()):
            return cavities, belief
        faulty = {edge: self._bent.get(edge, torch.zeros_like(anywhere)) for edge in edges}
        for edge in edges:
            if isinstance(message := self.messages[edge], Categorical):
                faulty[edge] = faulty[edge] | torch.isneginf(message.logits).any(-1)
        if self.policy == "raise":
            raise MessageError(
                f"the belief at '{variable}' is improper",
                where=", ".join(".".join(edge) for edge in edges if bool((faulty[edge] & anywhere).any())),
                found=f"negative precision, or no category left, in rows {listed(self.row_id[anywhere].tolist())}",
                fix="run with improper='vacuous' to drop what is at fault",
            )
        tame = "clipped" if self.policy == "clip" else "semidefinite_part"
        for i, edge in enumerate(edges):
            in_others = torch.stack([rows for k, rows in enumerate(broken) if k != i]).any(0)
            self.count(edge, faulty[edge] & in_others)
        messages = [self.messages[edge].where(~faulty[edge], getattr(self.messages[edge], tame)()) for edge in edges]
        prior = self.priors[variable]
        prior = prior.semidefinite_part() if isinstance(prior, Categorical) else prior
        tamed, whole = leave_one_out(prior, messages)
        mended = [
            new.where(rows, old) for new, rows, old in zip([*tamed, whole], broken, [*cavities, belief], strict=True)
        ]
        return mended[:-1], mended[-1]


def check_reply(name: str, module: Module, reply: Reply, asked: frozenset[str], rows: int) -> None:
    """Check a reply where it was made: names, families, shapes, finiteness.

    Raises:
        MessageError: names the module and port, what was expected and what was found.
    """
    if not isinstance(reply, Reply):
        raise MessageError(
            f"{type(module).__name__}.infer returned no reply",
            where=name,
            expected="serket.Reply",
            found=type(reply).__name__,
            fix="return serket.Reply({port: message, ...})",
        )
    if reply.bound not in get_args(Bound):
        raise MessageError("no such bound", where=name, available=get_args(Bound), found=str(reply.bound))
    if set(reply.messages) != asked:
        raise MessageError(
            "the reply does not answer the ports asked for",
            where=name,
            expected=", ".join(sorted(asked)) or "no message",
            found=", ".join(sorted(reply.messages)) or "no message",
        )
    for port, message in reply.messages.items():
        _check_message(f"{name}.{port}", module.ports[port], message, rows)
    evidence = reply.log_evidence
    if evidence is not None and (evidence.shape != (rows,) or bool(evidence.isnan().any())):
        rows_found = listed(evidence.isnan().nonzero().flatten().tolist())
        raise MessageError(
            "log_evidence is malformed",
            where=name,
            expected=f"({rows},) and no NaN",
            found=f"{tuple(evidence.shape)}, NaN in rows {rows_found or 'none'}",
        )


def _check_message(where: str, port: Port, message: Message, rows: int) -> None:
    assert port.family is not None, "ports of an instance have families"
    family = FAMILIES[port.family]
    kinds = (family, Atoms) if port.family == Family.GAUSSIAN else family
    if not isinstance(message, kinds) or message.batch_shape != (rows,) or message.size != port.size:
        shape = f"{(*getattr(message, 'batch_shape', ()), getattr(message, 'size', '?'))}"
        raise MessageError(
            "the message does not fit its port",
            where=where,
            expected=f"{family.__name__}{', Particles or Point' * (kinds != family)} of shape {(rows, port.size)}",
            found=f"{type(message).__name__} of shape {shape}",
        )
    for part, values in message.tensors().items():
        bad = values.isnan() | values.isposinf() | (values.isneginf() & (part not in ("logits", "log_weights")))
        if bool(bad.any()):
            found = listed(bad.reshape(rows, -1).any(-1).nonzero().flatten().tolist())
            raise MessageError(
                f"the message holds NaN or infinity in its {part}",
                where=where,
                expected="finite numbers; a row that says nothing is vacuous (zeros)",
                found=f"rows {found}",
            )
