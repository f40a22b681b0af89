"""Relative representations: modalities meet in what their readings are similar to, and nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, cast

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from serket.composer.relative.anchor_space import Space, over_prior, principal_coordinates
from serket.composer.relative.anchors import Near, near, spread
from serket.errors import DataError, MessageError
from serket.messages import Family, Gaussian, Message
from serket.protocol import Evidence, FitReport, Port, Progress, Reply, Role
from serket.registry import register

__all__ = ["Relative"]


@register("relative", kind="composer")
class Relative:
    """r_i(z) ~ max(0, cos(z, a_i))^p over the k nearest anchors i: rows of training data in which every view speaks.

    Anchors are one list for all views, so that r can be compared and averaged across them (Moschella et al. 2023); kept
    sparse, it retrieves and labels with no training (ASIF: Norelli et al. 2023). A view is read as q(z), its marginal
    times its message, in units of the marginal. r is averaged over the views that speak, weighed by how much they tell.

    - ``shared``: N(m, C), no wider in any direction than its prior, under no other owner N(0, their variances) of the
      coordinates y. These are the anchors' principal components over all views together, in their own units: distances
      between kinds stay what they are in the views. m = sum_i r_i y_i, and C is the mean of two that are as large on
      average: the scatter sum_i r_i (y_i - m)(y_i - m)', and the covariance of the errors made for anchors left out.
    - a view: the same with the anchors' z, from the other views and from what is said of ``shared``, read like a view;
      the marginal where nothing is said.

    Args:
        ports: ``shared`` (parent) and ``views`` (children), Gaussian, of any sizes.
        keep: k.
        power: p.
        anchors: at most so many, drawn at random where there are more complete rows.
    """

    ports: Mapping[str, Port] = {
        "shared": Port(Role.PARENT, Family.GAUSSIAN),
        "views": Port(Role.CHILD, Family.GAUSSIAN, many=True),
    }
    cost = "rows times anchors, and the views squared"
    note = "similarity to anchors is no density of the views"
    choices: Mapping[str, tuple[Any, ...]] = {"keep": (10, 20, 40)}

    def __init__(
        self,
        ports: Mapping[str, Port],
        keep: Annotated[int, Ge(1)] = 20,
        power: Annotated[float, Gt(0)] = 8.0,
        anchors: Annotated[int, Ge(2)] = 5000,
    ) -> None:
        self.ports, self.keep, self.power, self.most = ports, keep, power, anchors
        self.views = tuple(name for name in ports if name != "shared")
        self.own_prior: Mapping[str, Message] = {"shared": Gaussian.standard((), ports["shared"].size or 0)}
        self.anchor_rows = torch.zeros(0, dtype=torch.int64)
        self._spaces: dict[str, Space] = {}

    def represent(self, beliefs: Mapping[str, Gaussian]) -> Tensor:
        """Return relative representations, ``(rows, anchors)``: the mean over the views given; zeros where none tells.

        Anchor i is training row ``anchor_rows[i]``. See :func:`serket.composer.retrieve` and ``vote``.

        Args:
            beliefs: q(z) by port, such as ``{"views[0]": beliefs["z_pix"]}`` of beliefs given that sense alone.
        """
        sources = [self._near(name, belief, prior_inside=True) for name, belief in beliefs.items()]
        return spread(sources, len(self.anchor_rows))

    def infer(
        self,
        inbox: Mapping[str, Message],
        evidence: Evidence,
        *,
        generator: torch.Generator,
        ports: frozenset[str] | None = None,
    ) -> Reply:
        """Predict shared latent and views from the anchors that the others are near to. Inside, all is float64."""
        given = cast(Gaussian, inbox["shared"])
        near_to = {n: self._near(n, cast(Gaussian, inbox[n]), prior_inside=n == "shared") for n in self.ports}
        messages: dict[str, Message] = {}
        for name in self.ports:
            if ports is not None and name not in ports:
                continue
            space = self._fitted()[name].to(given.device)
            if name == "shared":
                sources = [near_to[view] for view in self.views]
                told = torch.stack([source.gain > 0 for source in sources]).any(0)
                said = over_prior(*space.predict(sources), space.scale).mask(told)
            else:
                said = space.out_of_units(*space.predict([near_to[other] for other in self.ports if other != name]))
            messages[name] = said.to(given.dtype, given.device)
        return Reply(messages)

    def fit(
        self,
        evidence: Evidence,
        inbox: Mapping[str, Message],
        *,
        generator: torch.Generator,
        owned: frozenset[str] = frozenset(),
        progress: Progress | None = None,
    ) -> FitReport:
        """Store the anchors, and measure the errors made for each when it is left out; a refit starts afresh.

        Args:
            evidence: its row ids are those of the anchors.
            inbox: the views' messages; a missing view is vacuous. What the inbox says of ``shared`` is not used.
            generator: draws the anchors where there are too many.
            owned: not used: N(0, I) has nothing to learn.
            progress: called once.

        Returns:
            In the history, the squared error of ``shared`` for anchors left out, given all their views: 1 is no better
            than the prior.

        Raises:
            DataError: fewer than two rows in which every view speaks.
        """
        messages = {name: cast(Gaussian, inbox[name]) for name in self.views}
        rows = torch.stack([~message.is_vacuous() for message in messages.values()]).all(0).nonzero().flatten()
        if len(rows) < 2:
            raise DataError(
                "relative representations need anchors",
                where=", ".join(self.views),
                expected="two rows or more in which every view speaks",
                found=f"{len(rows)} of {len(evidence)} rows",
                fix="give some complete rows, or use linear_gaussian, which learns from incomplete ones",
            )
        if len(rows) > self.most:
            drawn = torch.randperm(len(rows), generator=generator, device=rows.device)[: self.most]
            rows = rows[drawn.sort().values]
        self.anchor_rows = evidence.row_id[rows].clone()
        spaces = {name: Space.of(message, rows) for name, message in messages.items()}
        together = torch.cat([space.anchors for space in spaces.values()], 1)
        spaces["shared"] = Space.at(*principal_coordinates(together, self.ports["shared"].size or 0))
        ones = torch.ones(len(rows)).to(together)
        left_out = {
            name: near(space.anchors, space.anchors, ones, keep=self.keep, power=self.power, itself=False)
            for name, space in spaces.items()
        }
        for name, space in spaces.items():
            others = [left_out[view] for view in self.views if view != name]
            self._spaces[name] = space.measured(others or [left_out["shared"]])
        self._own()
        error = float(self._spaces["shared"].errors[-1].diagonal().mean())
        if progress:
            progress(1, 1, f"{len(rows)} anchors, left out {error:.3g}")
        return FitReport(1, history={"left_out_error": [error]})

    def state(self) -> Mapping[str, Tensor]:
        """Return the anchors' row ids, and the space of every port."""
        spaces = self._fitted().items()
        told = {f"{name}.{part.name}": getattr(space, part.name) for name, space in spaces for part in fields(space)}
        return {"anchor_rows": self.anchor_rows, **told}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take them back."""
        self.anchor_rows = state["anchor_rows"]
        self._spaces = {name: Space(*(state[f"{name}.{part.name}"] for part in fields(Space))) for name in self.ports}
        self._own()

    def _own(self) -> None:
        scale = self._spaces["shared"].scale
        self.own_prior = {"shared": Gaussian(torch.zeros_like(scale), scale.square().reciprocal())}

    def _near(self, name: str, message: Gaussian, *, prior_inside: bool) -> Near:
        space = self._fitted()[name].to(message.device)
        mean, _, heard = space.read(message, prior_inside=prior_inside)
        return near(mean, space.anchors, heard, keep=self.keep, power=self.power)

    def _fitted(self) -> Mapping[str, Space]:
        if not self._spaces:
            raise MessageError(
                "the composer was never fitted", fix="fit the graph, or load a run: serket.load(directory)"
            )
        return self._spaces
