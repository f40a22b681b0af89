"""Mixture of products of experts: every subset of the views that speak has the same say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch

from serket.composer.pooling import evidence_bound, subsets
from serket.composer.rules import of_one_size, propped, tamed
from serket.errors import GraphError
from serket.messages import Family, Gaussian, Message, leave_one_out
from serket.protocol import Evidence, Port, Reply, Role
from serket.registry import register

__all__ = ["MixtureOfProducts"]

MOST_VIEWS = 10


@register("mixture_of_products", kind="composer")
class MixtureOfProducts:
    """q(s) = 1/(2^|P| - 1) sum_S n(s) prod_{m in S} m(s) / Z_S, over subsets S of the views P that speak (MoPoE).

    The views are the shared latent, as in ``product``; n is what is above s; no subset is empty (Sutter, Daunhawer &
    Vogt 2021, eq. 4). Absent views are in no subset: which senses a robot lacks does not reweigh those it has. The
    mixture is projected onto the Gaussian of its moments, which are exact; so is everything where one view speaks. The
    reply at ``shared`` is the projection over n, hence tilted. Towards a view: the mixture over the others, or n.

    Evidence is a lower bound on the product's: E_q[log n(s) prod_m m(s)] + H(q) with q the projection.

    Args:
        ports: ``shared`` (parent) and ``views`` (children), at most 10, all Gaussian and of one size.

    Raises:
        ShapeError: a view has another size than ``shared``.
        GraphError: more than 10 views.
    """

    ports: Mapping[str, Port] = {
        "shared": Port(Role.PARENT, Family.GAUSSIAN),
        "views": Port(Role.CHILD, Family.GAUSSIAN, many=True),
    }
    cost = "rows times 2^views"

    def __init__(self, ports: Mapping[str, Port]) -> None:
        self.ports = ports
        self.views = of_one_size(ports, "mixture of products")
        if len(self.views) > MOST_VIEWS:
            raise GraphError(
                f"a mixture of products takes at most {MOST_VIEWS} views, for it has a component per subset",
                found=f"{len(self.views)} views, {2 ** len(self.views) - 1} subsets",
                fix="use mixture_of_experts, whose cost is linear, or combine some views first",
            )
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
        beliefs = {name: pool.projected(start) for name, pool in subsets(start, said, asked).items()}
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
