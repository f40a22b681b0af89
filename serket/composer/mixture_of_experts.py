"""Mixture of experts: each view that speaks has the same say, and disagreement widens the belief."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch

from serket.composer.pooling import evidence_bound, experts
from serket.composer.rules import of_one_size, propped, tamed
from serket.messages import Family, Gaussian, Message, leave_one_out
from serket.protocol import Evidence, Port, Reply, Role
from serket.registry import register

__all__ = ["MixtureOfExperts"]


@register("mixture_of_experts", kind="composer")
class MixtureOfExperts:
    """q(s) = 1/|P| sum_{m in P} n(s) m(s) / int n m, over the views P that speak, n what is above s (Shi et al. 2019).

    The views are the shared latent, as in ``product``, each believed under the prior as if it were the only one. The
    mixture is projected onto the Gaussian of its moments, which are exact; so is everything where one view speaks. The
    reply at ``shared`` is the projection over n, hence tilted. Towards a view: the mixture of the others, or n.

    Evidence is a lower bound on the product's: E_q[log n(s) prod_m m(s)] + H(q) with q the projection.

    Args:
        ports: ``shared`` (parent) and ``views`` (children), all Gaussian and of one size.

    Raises:
        ShapeError: a view has another size than ``shared``.
    """

    ports: Mapping[str, Port] = {
        "shared": Port(Role.PARENT, Family.GAUSSIAN),
        "views": Port(Role.CHILD, Family.GAUSSIAN, many=True),
    }

    def __init__(self, ports: Mapping[str, Port]) -> None:
        self.ports = ports
        self.views = of_one_size(ports, "mixture of experts")
        self.own_prior: Mapping[str, Message] = {"shared": Gaussian.standard((), ports["shared"].size or 0)}

    def infer(
        self,
        inbox: Mapping[str, Message],
        evidence: Evidence,
        *,
        generator: torch.Generator,
        ports: frozenset[str] | None = None,
    ) -> Reply:
        """Mix the views; see the class. Inside, all is float64; where nothing is above s, N(0, I) stands in.

        Where negative precision of views would make a row improper those directions say nothing: ``mended.VIEW`` in
        ``info``.
        """
        asked = [name for name in self.ports if ports is None or name in ports]
        given = cast(Gaussian, inbox["shared"])
        above = given.to(torch.float64, given.device)
        said: Mapping[str, Gaussian] = {n: cast(Gaussian, inbox[n]).to(torch.float64, given.device) for n in self.views}
        start = propped(above)
        said, info = tamed(said, start)
        beliefs = {name: pool.projected(start) for name, pool in experts(start, said, asked).items()}
        bound = evidence_bound(beliefs["shared"], leave_one_out(above, list(said.values()))[1])
        told = torch.stack([~message.is_vacuous() for message in said.values()]).any(0)
        replies = beliefs | {"shared": (beliefs["shared"] / start).mask(told)}
        return Reply(
            {name: replies[name].to(given.dtype, given.device) for name in asked},
            tilted=frozenset({"shared"}),
            log_evidence=bound.to(given.dtype),
            bound="lower",
            info=info,
        )
