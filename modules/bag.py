"""A bag of counts: what symbols were drawn says about their probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch

from serket.errors import DataError, ShapeError, listed
from serket.messages import Dirichlet, Family, Message
from serket.protocol import Evidence, Port, Reply, Role
from serket.registry import register

__all__ = ["Bag"]


@register("bag")
class Bag:
    """p(x | pi) = prod_v pi_v^x_v for counts x of V symbols, whole or not, in the order they came: no coefficient.

    The reply to ``symbols`` is the message of counts x itself; evidence is log B(a + x), with a the inbox's
    concentration, and so exact (Minka 2000). An empty bag says nothing. Not trained: it is how counts reach a composer.

    Args:
        ports: ``symbols`` (parent, dirichlet, V symbols).
    """

    ports: Mapping[str, Port] = {"symbols": Port(Role.PARENT, Family.DIRICHLET)}
    exact = True

    def __init__(self, ports: Mapping[str, Port]) -> None:
        self.ports = ports
        self.size = ports["symbols"].size or 0

    def infer(
        self,
        inbox: Mapping[str, Message],
        evidence: Evidence,
        *,
        generator: torch.Generator,
        ports: frozenset[str] | None = None,
    ) -> Reply:
        """Send the counts.

        Raises:
            ShapeError: another number of columns than symbols.
            DataError: counts below zero, with their rows.
        """
        given = cast(Dirichlet, inbox["symbols"])
        counts = torch.zeros_like(given.counts)
        if evidence.values is not None:
            if evidence.values.shape[-1] != self.size:
                raise ShapeError("a bag has another number of columns than symbols", expected=str(self.size),
                                 found=str(evidence.values.shape[-1]), fix="set the size of its variable")  # fmt: skip
            wrong = evidence.present & (evidence.values < 0).any(-1)
            if bool(wrong.any()):
                rows = listed(evidence.row_id[wrong].tolist())
                raise DataError("a bag holds counts below zero", where=f"rows {rows}",
                                expected="numbers from 0", fix="count, or shift the array")  # fmt: skip
            counts = torch.where(evidence.present.unsqueeze(-1), evidence.values.to(counts), counts)
        message = Dirichlet(counts)
        messages: dict[str, Message] = {"symbols": message} if ports is None or "symbols" in ports else {}
        return Reply(messages, log_evidence=(given * message).log_z(), bound="exact")
