"""Stored examples of one sense that others call to mind, ranked by their probability."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from serket.engine.exchange import Exchange
from serket.engine.result import stacked
from serket.engine.run import pass_messages
from serket.errors import DataError
from serket.graph import Graph
from serket.messages import Message, projected
from serket.protocol import Evidence, Module, Role, couples_rows
from serket.rows import chunks

__all__ = ["Retrieval", "nearest", "reader"]

CHUNK = 1024
PAIRS = 1 << 23
"""Numbers in the precisions of the pairs that are scored at a time."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Retrieval:
    """The nearest stored examples, best first.

    Args:
        row_id: of what was given, ``(rows,)``.
        examples: row ids of stored examples, ``(rows, top)``.
        places: their row numbers in the stored data, ``(rows, top)``.
        scores: log p(example | given) - log p(example), nats, ``(rows, top)``.
    """

    row_id: Tensor
    examples: Tensor
    places: Tensor
    scores: Tensor

    def __repr__(self) -> str:
        return f"Retrieval({self.examples.shape[0]} rows, {self.examples.shape[1]} examples each)"


def reader(graph: Graph, key: str) -> str:
    """Return the module whose latent tells the examples of a data key apart.

    Raises:
        DataError: no module reads the key as parent of one variable.
    """
    able = {
        node.data: node.name
        for node in reversed(list(graph.nodes.values()))
        if node.data is not None and [port.role for port in node.ports.values()] == [Role.PARENT]
    }
    if key not in able:
        raise DataError(
            f"examples of '{key}' cannot be told apart by one latent",
            expected="a data key that a module reads as parent of one variable",
            available=able,
            fix="retrieve one of these, or give the module one latent",
        )
    return able[key]


def nearest(
    graph: Graph,
    modules: Mapping[str, Module],
    evidence: Iterable[Mapping[str, Evidence]],
    name: str,
    stored: Evidence,
    numbers: Tensor,
    *,
    top: int,
    seed: int,
    dtype: torch.dtype,
) -> Retrieval:
    """Return the best of the stored examples of a module's data for every row of what is given.

    With b the normalised belief about its latent z from what is given, its own data left out, m_i the message of
    example i, proportional to p(x_i | z), and p the belief when nobody has data,

        score_i = log of the integral of b m_i - log of the integral of p m_i = log p(x_i | given) - log p(x_i),

    whatever the scale of m_i. Stored examples are draws from p(x), so p(example i | given) is proportional to exp of
    it; by Bayes' rule it is log p(given | x_i) as well, up to what is the same for all i. Nothing given, all are 0.

    Args:
        graph: who is bound to what.
        modules: those that speak, by node name.
        evidence: what is given, in parts, by node name; nothing of the module's own.
        name: of the module, parent of one variable.
        stored: its data.
        numbers: the row number of each of them in the data they come from.
        top: how many are returned.
        seed: of the modules' streams.
        dtype: of the messages; pairs are scored in float64.

    Raises:
        DataError: no row of the stored data is observed.
    """
    here = stored.present.nonzero().flatten()
    if not len(here):
        raise DataError(
            "there is no stored example", where=graph.nodes[name].data, fix="give data in which this sense is observed"
        )
    (port,) = graph.nodes[name].bindings
    options: dict[str, Any] = {"seed": seed, "dtype": dtype}

    def passed(used: Mapping[str, Module], rows: Mapping[str, Evidence]) -> Exchange:
        return pass_messages(graph, used, rows, **options).exchange

    own = {name: modules[name]}
    shelf = stored[here]
    rows = chunks(len(shelf), CHUNK, shelf.sequence, couples_rows(own))
    examples = stacked([passed(own, {name: shelf[part]}).messages[name, port] for part in rows])
    ids, cavities, blank = [], [], None
    for part in evidence:
        ids.append(next(iter(part.values())).row_id)
        cavities.append(passed(modules, part).cavity(name, port))
        nothing = {other: one[:1].nothing() for other, one in part.items()}
        blank = passed(modules, nothing).cavity(name, port) if blank is None else blank
    assert blank is not None, "there is a part of no rows at least"
    beliefs = projected(stacked(cavities))
    which, scores = _ranked(_double(beliefs), _double(projected(blank)), _double(examples), top)
    return Retrieval(torch.cat(ids), stored.row_id[here][which], numbers[here][which], scores)


def _ranked(beliefs: Message, blank: Message, examples: Message, top: int) -> tuple[Tensor, Tensor]:
    """Return numbers and scores of the best examples for each belief, ``(rows, top)`` both.

    Rows and store are both cut, so that a block of pairs holds no more than ``PAIRS`` numbers, however many are stored.
    """
    rows, count = beliefs.batch_shape[0], examples.batch_shape[0]
    every_one = [beliefs, blank, examples] if rows else [blank, examples]
    width = max(sum(part[0].numel() for part in one.tensors().values()) for one in every_one)
    most = max(1, PAIRS // width)
    every = torch.arange(count, device=blank.device)
    shelf = [(part, examples[part]) for part in every.split(min(count, most))]
    base = torch.cat([(blank.expand(len(part)) * some).log_z() for part, some in shelf]) - blank.log_z()
    found: list[tuple[Tensor, Tensor]] = []
    for block in torch.arange(rows, device=blank.device).split(most // min(count, most)):
        each = beliefs[block.unsqueeze(1)]  # (block, 1): broadcast over the store
        own = each.log_z()
        which = torch.empty(len(block), 0, dtype=torch.int64, device=blank.device)
        value = torch.empty(len(block), 0, dtype=own.dtype, device=blank.device)
        for part, some in shelf:
            pairs = each.expand(len(block), len(part)) * some.expand(len(block), len(part))
            score = pairs.log_z() - own - base[part]
            value, kept = torch.cat([value, score], 1).topk(min(top, value.shape[1] + len(part)), dim=1)
            which = torch.cat([which, part.expand(len(block), -1)], 1).gather(1, kept)
        found.append((which, value))
    return torch.cat([which for which, _ in found]), torch.cat([value for _, value in found])


def _double(message: Message) -> Message:
    return message.to(torch.float64, message.device)
