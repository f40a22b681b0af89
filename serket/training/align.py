"""One meaning per label: modules that were fitted apart and share a categorical variable agree on its names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import cast

import torch
from scipy.optimize import linear_sum_assignment

from serket.engine.run import pass_messages
from serket.graph.graph import Graph
from serket.messages import Categorical, Family
from serket.protocol import Evidence, Module, Relabels, couples_rows
from serket.rows import chunks

__all__ = ["CHUNK", "align"]

CHUNK = 4096
"""Rows that messages are passed for at a time, in all of training."""


def align(
    graph: Graph,
    modules: Mapping[str, Module],
    evidence: Mapping[str, Evidence],
    *,
    seed: int,
    dtype: torch.dtype,
    only: Collection[str] | None = None,
) -> dict[str, int]:
    """Rename the categories of modules so that they agree with those before them in the file, and with what stands.

    At every categorical variable the modules that can rename their categories are taken in file order: the first keeps
    its names, unless a sense beside it cannot rename its own (labels); the others are matched (Hungarian, Kuhn 1955) to
    what the rest of the graph, without those still to come, says of the same rows: sum_n p_rest(k | n) p_own(l | n) is
    the gain of calling l by the name k.

    Args:
        graph: who is bound to what.
        modules: those that stand, by node name; renamed in place.
        evidence: training rows.
        seed: of the modules' streams.
        dtype: of the messages.
        only: rename these, and leave the names of the others.

    Returns:
        How many categories of each module, ``node.port``, got another name.
    """
    renamed: dict[str, int] = {}
    some = next(iter(evidence.values()))
    for variable in graph.variables.values():
        if variable.family != Family.CATEGORICAL:
            continue
        bound = [(n, p) for n, p in graph.bound(variable.name) if n in modules]
        open_names = [(n, p) for n, p in bound if isinstance(modules[n], Relabels)]
        named = any(n in evidence and not isinstance(modules[n], Relabels) for n, _ in bound)
        if only is not None:  # what is not to be renamed comes first, and is heard whole
            open_names.sort(key=lambda one: one[0] in only)
        for place, (node, port) in enumerate(open_names):
            if (place == 0 and not named) or (only is not None and node not in only):
                continue
            still_to_come = {name for name, _ in open_names[place + 1 :]}
            used = {name: module for name, module in modules.items() if name not in still_to_come}
            # What nobody speaks of keeps its name.
            gain = 1e-9 * torch.eye(variable.size, dtype=torch.float64)
            for chunk in chunks(len(some), CHUNK, some.sequence, couples_rows(used)):
                part = {name: one[chunk] for name, one in evidence.items()}
                exchange = pass_messages(graph, used, part, seed=seed, dtype=dtype).exchange
                rest = cast(Categorical, exchange.inbox(node)[port])
                own = cast(Categorical, exchange.messages[node, port])
                told = ~rest.is_vacuous() & ~own.is_vacuous()
                gain = gain + (rest[told].probs.mT @ own[told].probs).to(gain)
            order = torch.as_tensor(linear_sum_assignment(gain.numpy(), maximize=True)[1])
            cast(Relabels, modules[node]).relabel(port, order)
            renamed[f"{node}.{port}"] = int((order != torch.arange(len(order))).sum())
    return renamed
