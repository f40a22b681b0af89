"""A conditional probability table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, cast

import torch
from annotated_types import Gt, Lt
from torch import Tensor

from serket.errors import DataError, GraphError, ShapeError, listed
from serket.messages import Categorical, Family, Message
from serket.protocol import Evidence, Port, Reply, Role
from serket.registry import register

__all__ = ["Table"]


@register("table")
class Table:
    """p(y | x_1, ..., x_n) = values[x_1, ..., x_n, y], with y at a ``child`` port or observed as data.

    Replies are exact sums over the table, in log space:
    m(x_i) = log sum_{y, x_-i} values[x, y] n(y) prod_{j != i} n(x_j), where n are the inboxes and an observed y has
    n(y) = [y = data] (Koller & Friedman 2009, section 9.3).

    Args:
        ports: ``given`` (parents, categorical, any number) and ``child``; leave ``child`` out if y is data.
        values: nested lists, one level per parent in order, the last over y; the last level sums to one. Or a number:
            the probability that y is the same as its only parent, all others sharing the rest.

    Raises:
        ShapeError: a level of ``values`` has another length than its variable.
        GraphError: negative values, or rows that do not sum to one.
    """

    ports: Mapping[str, Port] = {
        "given": Port(Role.PARENT, Family.CATEGORICAL, many=True, optional=True),
        "child": Port(Role.CHILD, Family.CATEGORICAL, optional=True),
    }
    exact = True

    def __init__(self, ports: Mapping[str, Port], values: list[Any] | Annotated[float, Gt(0), Lt(1)]) -> None:
        self.ports = ports
        self.parents = tuple(name for name in ports if name != "child")
        self.table = _as_table(values) if isinstance(values, list) else self._alike(values)
        shape = tuple(self.table.shape)
        sizes = [port.size for port in ports.values()]
        if shape[: len(sizes)] != tuple(sizes) or len(shape) != len(self.parents) + 1:
            last = ports["child"].size if "child" in ports else "readings"
            expected = " x ".join(str(ports[name].size) for name in self.parents) + f" x {last}"
            raise ShapeError(
                "the table does not fit its variables",
                expected=expected.removeprefix(" x "),
                found=" x ".join(map(str, shape)),
            )
        # Written so that NaN fails.
        if not bool((self.table >= 0).all() & ((self.table.sum(-1) - 1).abs() <= 1e-6).all()):
            raise GraphError(
                "a row of the table is no distribution",
                expected="values >= 0 that sum to 1 over the last level",
                found=f"sums {listed_sums(self.table)}",
            )

    def infer(
        self,
        inbox: Mapping[str, Message],
        evidence: Evidence,
        *,
        generator: torch.Generator,
        ports: frozenset[str] | None = None,
    ) -> Reply:
        """Sum the table against the inbox; see the class for the formula. Exact evidence."""
        dtype = inbox[next(iter(self.ports))].dtype
        log_table = Categorical.from_probs(self.table.to(evidence.row_id.device, dtype)).logits
        below, told = self._below(inbox, evidence, log_table)
        logits = [_logits(inbox[name]) for name in self.parents] + [below]
        axes = range(len(logits))
        joint = log_table + sum((_along(part, axis, len(logits)) for axis, part in enumerate(logits)), 0.0)
        messages: dict[str, Message] = {}
        for axis, name in enumerate([*self.parents, "child"]):
            if name not in (self.ports if ports is None else ports):
                continue
            # The own inbox is left out, not divided out: structural zeros stay recoverable.
            others = [_along(logits[i], i, len(logits)) for i in axes if i != axis]
            rest = log_table + sum(others, torch.zeros(len(evidence), *(1,) * len(logits)).to(below))
            message = Categorical(rest.logsumexp([i + 1 for i in axes if i != axis]) if len(logits) > 1 else rest)
            # With nothing below, sum_y p(y | x) = 1: parents hear nothing, to the bit.
            messages[name] = message if name == "child" else message.mask(told)
        log_evidence = joint.flatten(1).logsumexp(1)
        if not bool(told.all()):
            free = sum((part.logsumexp(-1) for part in logits[:-1]), torch.zeros_like(log_evidence))
            log_evidence = log_evidence if "child" in self.ports else torch.where(told, log_evidence, free)
        return Reply(messages, log_evidence=log_evidence, bound="exact")

    def predict(self, inbox: Mapping[str, Message], *, generator: torch.Generator) -> torch.distributions.Distribution:
        """Return p(y | beliefs) = sum_x values[x, y] prod_i b(x_i), the parents' beliefs taken as independent."""
        beliefs = [cast(Categorical, inbox[name]).probs for name in self.parents]
        probs = self.table.to(beliefs[0]).expand(len(beliefs[0]), *self.table.shape)
        for belief in beliefs:
            probs = (belief.reshape(*belief.shape, *(1,) * (probs.dim() - 2)) * probs).sum(1)
        return torch.distributions.Independent(torch.distributions.Categorical(probs=probs.unsqueeze(1)), 1)

    def _alike(self, right: float) -> Tensor:
        """Return the table of y that is x with probability ``right``."""
        size = self.ports[self.parents[0]].size if len(self.parents) == 1 else None
        if size is None or size < 2:
            raise GraphError(
                "'values' as a number is the probability that y is the same as x",
                expected="one parent, of two categories or more",
                found=f"{len(self.parents)} parents",
                fix="write the table: values: [[0.9, 0.1], [0.2, 0.8]]",
            )
        wrong = (1 - right) / (size - 1)
        return wrong + (right - wrong) * torch.eye(size, dtype=torch.float64)

    def _below(self, inbox: Mapping[str, Message], evidence: Evidence, table: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is said of y as logits ``(rows, K)``, and the rows in which anything is said."""
        if "child" in self.ports:
            return _logits(inbox["child"]), ~inbox["child"].is_vacuous()
        size = table.shape[-1]
        if evidence.values is None:
            return torch.zeros(len(evidence), size).to(table), torch.zeros_like(evidence.row_id, dtype=torch.bool)
        index = evidence.values.reshape(len(evidence), -1)
        wrong = evidence.present & ((index[:, 0] < 0) | (index[:, 0] >= size) | (index[:, 0] != index[:, 0].floor()))
        if index.shape[1] != 1 or bool(wrong.any()):
            rows = evidence.row_id[wrong].tolist()
            raise DataError(
                "a table's data are category numbers",
                where=f"rows {listed(rows)}" if rows else None,
                expected=f"one whole number from 0 to {size - 1} per row",
                fix="number the categories from 0, or add a column to values",
                found=f"{index.shape[1]} columns" if index.shape[1] != 1 else f"{index[wrong, 0][0].item():g}",
            )
        one_hot = torch.nn.functional.one_hot(index[:, 0].long(), size).to(table)
        told = evidence.present
        return torch.where(told.unsqueeze(-1), Categorical.from_probs(one_hot).logits, 0.0), told


def _as_table(values: list[Any]) -> Tensor:
    try:
        return torch.tensor(values, dtype=torch.float64)
    except (ValueError, TypeError) as error:
        raise ShapeError("the table is ragged or holds something that is no number", found=str(error)) from None


def listed_sums(table: Tensor) -> str:
    """Write the sums of the table's rows for an error."""
    return ", ".join(f"{total:g}" for total in table.sum(-1).flatten()[:6].tolist())


def _logits(message: Message) -> Tensor:
    assert isinstance(message, Categorical)
    return message.logits


def _along(logits: Tensor, axis: int, axes: int) -> Tensor:
    """Shape ``(rows, K)`` so that it adds along one axis of a ``(rows, *table)`` tensor."""
    shape = [1] * axes
    shape[axis] = logits.shape[-1]
    return logits.reshape(len(logits), *shape)
