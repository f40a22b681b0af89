"""The messages in flight, and their products: cavities and beliefs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from serket.errors import MessageError, listed
from serket.graph.check import PriorOwner
from serket.graph.graph import Graph
from serket.messages import FAMILIES, Message
from serket.protocol import Module, Port, Reply, uninformed

__all__ = ["Exchange", "check_reply"]

Edge = tuple[str, str]
Improper = Literal["vacuous", "clip", "raise", "keep"]


class Exchange:
    """Holds the last message of every edge; products fold in file order, the prior first, so bits do not wander.

    A message may have negative precision, a belief or a cavity may not: then the messages with negative directions
    lose those directions (``vacuous``) or the row is refused (``raise``); every row so mended is counted per edge.
    """

    def __init__(
        self,
        graph: Graph,
        modules: Mapping[str, Module],
        owners: Mapping[str, PriorOwner],
        *,
        rows: int,
        dtype: torch.dtype,
        device: torch.device,
        improper: Improper = "vacuous",
    ) -> None:
        self.graph, self.modules, self.owners, self.rows, self.policy = graph, modules, owners, rows, improper
        self.mended: dict[Edge, Tensor] = {}  # rows in which a message was replaced
        self.priors: dict[str, Message] = {}
        self.messages: dict[Edge, Message] = {}
        self.bent: dict[Edge, Tensor] = {}  # rows whose message has a negative direction
        self.edges: dict[str, list[Edge]] = {name: [] for name in graph.variables}
        for name, variable in graph.variables.items():
            flat = FAMILIES[variable.family].vacuous((rows,), variable.size, dtype=dtype, device=device)
            owned = owners[name].message
            self.priors[name] = flat if owned is None else _cast(owned, dtype, device).expand(rows) * flat
        for node in graph.nodes.values():
            if node.name in modules:
                for port, variable_name in node.bindings.items():
                    self.edges[variable_name].append((node.name, port))
                    self.messages[node.name, port] = uninformed(node.ports[port], rows, dtype=dtype, device=device)

    @property
    def improper(self) -> Counter[str]:
        """Rows in which a message had to be replaced, however often, by edge ``module.port``."""
        return Counter({".".join(edge): int(rows.sum()) for edge, rows in self.mended.items()})

    def inbox(self, node: str) -> dict[str, Message]:
        """Return per port the cavity: everything but the node's own message on that port."""
        bindings = self.graph.nodes[node].bindings
        return {port: self._product(variable, leave_out=(node, port)) for port, variable in bindings.items()}

    def belief(self, variable: str) -> Message:
        """Return the product of all messages at a variable, with its prior once."""
        return self._product(variable)

    def put(self, node: str, port: str, message: Message, open_rows: Tensor | None, damping: Tensor | None) -> None:
        """Store a message, in the rows still open, mixed with the last one where damped."""
        old = self.messages[node, port]
        if damping is not None:
            message = message.where(damping == 0, (message ** (1 - damping)) * (old**damping))
        if open_rows is not None:
            message = message.where(open_rows, old)
        self.messages[node, port] = message
        bent = ~message.is_semidefinite()
        self.bent.pop((node, port), None)
        if bool(bent.any()):
            self.bent[node, port] = bent
            if self.policy == "keep":
                self.messages[node, port] = message.where(~bent, old)
                self.bent.pop((node, port))
                self._mend((node, port), bent)

    def _product(self, variable: str, leave_out: Edge | None = None) -> Message:
        product, bent = self.priors[variable], []
        for edge in self.edges[variable]:
            if edge != leave_out:
                product = product * self.messages[edge]
                bent += [edge] if edge in self.bent else []
        if not bent:
            return product
        broken = ~product.is_semidefinite()
        if not bool(broken.any()):
            return product
        if self.policy == "raise":
            where = ", ".join(f"{node}.{port}" for node, port in bent)
            raise MessageError(
                f"the belief at '{variable}' is improper",
                where=where,
                found=f"negative precision in rows {listed(broken.nonzero().flatten().tolist())}",
                fix="run with improper='vacuous' to drop those directions",
            )
        mended = self.priors[variable]
        for edge in self.edges[variable]:
            if edge != leave_out:
                message = self.messages[edge]
                if edge in self.bent:
                    self._mend(edge, broken & self.bent[edge])
                    tamed = message.clipped() if self.policy == "clip" else message.semidefinite_part()
                    message = message.where(~self.bent[edge], tamed)
                mended = mended * message
        return mended.where(broken, product)

    def _mend(self, edge: Edge, rows: Tensor) -> None:
        before = self.mended.get(edge)
        if bool(rows.any()):
            self.mended[edge] = rows if before is None else rows | before


def check_reply(name: str, module: Module, reply: Reply, asked: frozenset[str], rows: int) -> dict[str, Message]:
    """Check a reply where it was made: names, families, shapes, finiteness; then return its extrinsic messages."""
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
    return reply.messages if isinstance(reply.messages, dict) else dict(reply.messages)


def _check_message(where: str, port: Port, message: Message, rows: int) -> None:
    family = FAMILIES[port.family]
    if not isinstance(message, family) or message.batch_shape != (rows,) or message.size != port.size:
        shape = f"{(*getattr(message, 'batch_shape', ()), getattr(message, 'size', '?'))}"
        raise MessageError(
            "the message does not fit its port",
            where=where,
            expected=f"{family.__name__} of shape {(rows, port.size)}",
            found=f"{type(message).__name__} of shape {shape}",
        )
    for part, values in message.tensors().items():
        bad = values.isnan() | values.isposinf() | (values.isneginf() if part != "logits" else values.isnan())
        if bool(bad.any()):
            found = listed(bad.reshape(rows, -1).any(-1).nonzero().flatten().tolist())
            raise MessageError(
                f"the message holds NaN or infinity in its {part}",
                where=where,
                expected="finite numbers; a row that says nothing is vacuous (zeros)",
                found=f"rows {found}",
            )


def _cast(message: Message, dtype: torch.dtype, device: torch.device) -> Message:
    return type(message)(**{name: values.to(device, dtype) for name, values in message.tensors().items()})
