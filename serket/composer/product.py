"""Product of experts: the views are one variable, each believed as far as it is trusted, or intersected."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product as all_combinations
from typing import Literal, cast

import torch
from torch import Tensor

from serket.composer.intersection import intersected
from serket.composer.rules import of_one_size, per_view, propped, tamed
from serket.errors import GraphError
from serket.messages import Family, Gaussian, Message, leave_one_out, moment_match
from serket.protocol import Evidence, Port, Reply, Role
from serket.registry import register

__all__ = ["Product"]

MOST_ROBUST_VIEWS = 10


@register("product", kind="composer")
class Product:
    """z_1 = ... = z_M = s: the factor prod_m delta(z_m - s), so that m(s) = prod_m n(z_m)^trust_m (Hinton 2002).

    With ``robust``, each view lies with probability eps: m becomes (1 - eps) m + eps c with c = int n m, the density of
    its reading had it nothing to do with s. The belief is then a mixture over which views are honest, projected onto
    one Gaussian by its moments: conflicting views widen it. The reply at ``shared`` is tilted, and the cost doubles
    with each robust view. ``info["honest.PORT"]`` is the probability, given all that is heard, that a view is honest.

    With ``rule: covariance_intersection`` the exponents sum to 1 over the views that speak, and are chosen per row so
    that log det of the precision is greatest: whatever evidence the views share, the belief is not too narrow (Julier &
    Uhlmann 1997). Towards a view the others are intersected. Weights look at precisions alone: nothing is tilted.

    Args:
        ports: ``shared`` (parent) and ``views`` (children), all Gaussian and of one size.
        trust: exponent in (0, 1] on the views' messages: one number, or one per view in order.
        robust: eps in [0, 1) of every view, or one per view.
        rule: ``product``, or ``covariance_intersection``.

    Raises:
        ShapeError: a view has another size than ``shared``, or there are not as many numbers as views.
        GraphError: a number is out of its range, or robust views are to be intersected.
    """

    ports: Mapping[str, Port] = {
        "shared": Port(Role.PARENT, Family.GAUSSIAN),
        "views": Port(Role.CHILD, Family.GAUSSIAN, many=True),
    }

    def __init__(
        self,
        ports: Mapping[str, Port],
        trust: float | list[float] = 1.0,
        robust: float | list[float] = 0.0,
        rule: Literal["product", "covariance_intersection"] = "product",
    ) -> None:
        self.ports = ports
        self.views = of_one_size(ports, "product")
        self.trust = per_view("trust", trust, len(self.views))
        self.robust = per_view("robust", robust, len(self.views))
        if not all(0 < value <= 1 for value in self.trust) or not all(0 <= value < 1 for value in self.robust):
            raise GraphError(
                "trust or robust is out of range",
                expected="0 < trust <= 1 and 0 <= robust < 1",
                found=f"trust {list(self.trust)}, robust {list(self.robust)}",
            )
        self.doubtful = any(self.robust)
        if self.doubtful and len(self.views) > MOST_ROBUST_VIEWS:
            raise GraphError(
                f"robust takes at most {MOST_ROBUST_VIEWS} views",
                found=str(len(self.views)),
                fix="combine some views in a product of their own first",
            )
        self.intersects = rule == "covariance_intersection"
        if self.intersects and self.doubtful:
            raise GraphError(
                "robust views cannot be intersected",
                expected="robust (some view may lie) or covariance_intersection (views may share evidence)",
                found=f"rule {rule}, robust {list(self.robust)}",
                fix="choose one; or intersect what shares evidence in a product of its own first",
            )
        self.exact = not (self.doubtful or self.intersects) and set(self.trust) == {1.0}
        tempered = f"its views are trusted with {list(self.trust)}" if set(self.trust) != {1.0} else ""
        doubted = f"its views may lie, robust {list(self.robust)}" if self.doubtful else ""
        crossed = "its views are intersected, for they may share evidence" if self.intersects else ""
        self.note = " and ".join(filter(None, [tempered, doubted, crossed]))
        self.cost = "linear, times 2^views (robust)" if self.doubtful else "linear"
        self.cost = "rows times views squared (covariance intersection)" if self.intersects else self.cost
        self.own_prior: Mapping[str, Message] = {"shared": Gaussian.standard((), ports["shared"].size or 0)}

    def infer(
        self,
        inbox: Mapping[str, Message],
        evidence: Evidence,
        *,
        generator: torch.Generator,
        ports: frozenset[str] | None = None,
    ) -> Reply:
        """Multiply the views; see the class. Evidence is exact, or none with an option that bends the product.

        A plain product lets negative precision travel. With ``robust`` it says nothing in rows that it would make
        improper, intersected it says nothing anywhere: ``mended.VIEW`` in ``info``.
        """
        asked = [name for name in self.ports if ports is None or name in ports]
        above = cast(Gaussian, inbox["shared"])
        said = {name: cast(Gaussian, inbox[name]) ** t for name, t in zip(self.views, self.trust, strict=True)}
        if self.doubtful:
            return self._infer_robust(above, said, asked)
        nothing = Gaussian.vacuous((len(evidence),), above.size, dtype=above.dtype, device=above.device)
        if self.intersects:
            start = {name: nothing if name == "shared" else above for name in asked}
            told, info = tamed(said)
            messages = {n: intersected(start[n], [m for view, m in told.items() if view != n]) for n in asked}
            return Reply(messages, info=info)
        cavities, belief = leave_one_out(above, list(said.values()))
        replies = {"shared": leave_one_out(nothing, list(said.values()))[1], **dict(zip(said, cavities, strict=True))}
        messages = {name: replies[name] for name in asked}
        log_evidence = belief.log_z() if self.exact else None
        return Reply(messages, log_evidence=log_evidence, bound="exact" if self.exact else "none")

    def _infer_robust(self, above: Gaussian, said: Mapping[str, Gaussian], asked: Sequence[str]) -> Reply:
        # c needs a proper reference; where nothing above is, the composer's own N(0, I) stands in.
        reference = propped(above)
        said, mended = tamed(said, reference)
        messages: dict[str, Message] = {}
        eps = dict(zip(self.views, self.robust, strict=True))
        choices, log_weights, whole = _mixture(reference, said, eps)
        honest = log_weights.softmax(-1) @ torch.tensor(choices).to(log_weights)
        info = {f"honest.{view}": honest[:, m] for m, view in enumerate(said) if eps[view]} | mended
        for name in asked:
            if name == "shared":
                # Where no view speaks the quotient is one, but for rounding.
                told = torch.stack([~message.is_vacuous() for message in said.values()]).any(0)
                messages[name] = (_project(log_weights, whole) / reference).mask(told)
                continue
            # The view itself lies with probability eps: it is then drawn from the reference.
            others = {view: message for view, message in said.items() if view != name}
            _, weights, parts = _mixture(reference, others, eps)
            lies = torch.full_like(weights[:, :1], math.log(max(eps[name], 1e-300)))
            weights = torch.cat([weights.log_softmax(-1) + math.log1p(-eps[name]), lies], 1)
            messages[name] = _project(weights, [*parts, reference.full()])
        return Reply(messages, tilted=frozenset({"shared"}), info=info)


def _mixture(
    reference: Gaussian, said: Mapping[str, Gaussian], eps: Mapping[str, float]
) -> tuple[list[tuple[bool, ...]], Tensor, list[Gaussian]]:
    """Return the choices of who is honest, their log-weights ``(rows, 2^M)`` and posteriors.

    w_S = prod_{m in S} (1 - eps_m) prod_{m not in S} eps_m c_m  int n prod_{m in S} m,  c_m = int n m / int n.
    """
    base = reference.log_z()
    weights, parts = [], []
    choices = list(all_combinations(*((True,) if eps[view] == 0 else (True, False) for view in said)))
    for honest in choices:
        part, weight = reference.full(), torch.zeros_like(base)
        for (view, message), trusted in zip(said.items(), honest, strict=True):
            if trusted:
                part = part * message
                weight = weight + math.log1p(-eps[view])
            else:
                weight = weight + math.log(eps[view]) + (reference * message).log_z() - base
        weights.append(weight + part.log_z())
        parts.append(part)
    return choices, torch.stack(weights, 1), parts


def _project(log_weights: Tensor, parts: Sequence[Gaussian]) -> Gaussian:
    means = torch.stack([part.mean() for part in parts], 1)
    return moment_match(log_weights, means, torch.stack([part.covariance() for part in parts], 1))
