"""A global workspace: one space that views write to, compete for, and hear."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, cast

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from serket.composer.rules import no_effect
from serket.composer.workspace.calibration import calibrated
from serket.composer.workspace.latent import LatentSpace, Space
from serket.composer.workspace.losses import Loss, weights_of
from serket.composer.workspace.reading import Units, read, typical
from serket.composer.workspace.rows import parted
from serket.composer.workspace.slots import SlotSpace
from serket.composer.workspace.standing import Standing
from serket.composer.workspace.time import Scene
from serket.composer.workspace.training import Plan, train
from serket.errors import GraphError, StateError
from serket.messages import Family, Gaussian, Message, pooled_moments
from serket.protocol import Evidence, FitReport, Port, Progress, Reply, Role
from serket.registry import register
from serket.rows import runs

__all__ = ["Workspace"]

Count = Annotated[int, Ge(1)]
CONTRAST = math.log(1 / 0.07)
"""Log-scale that the contrastive loss starts from (Radford et al. 2021)."""


@register("workspace", kind="composer")
class Workspace:
    """Views write into one shared state, and are told of it: the global workspace of VanRullen & Kanai (2021).

    In the latent form (``slots: 0``) an encoder and a decoder per view lead into and out of the state; in the form with
    slots views compete to write, and what is written is broadcast (Goyal et al. 2022). Both learn from the losses of
    Devillers, Maytie & VanRullen (2024), over paired and unpaired rows. Fitted on the views' messages:

    - a message enters as its posterior mean under the population N(mu_m, diag v_m) and the shares of the variance that
      it resolves, both inputs of the encoder; as r_m in [0, 1], its strength, it weighs (latent) or bids (slots)
    - to ``shared``: the potential whose product with N(0, I) is N(s', (1 + K)^-1), s' the state, K measured on held-out
      rows
    - to a view: N(d_m(s), C), C measured, s inferred from the other views and the inbox of ``shared``;
      the population where nobody else speaks, or where no row ever paired the view
    - with ``memory``, the slots go from frame to frame of a sequence: a reply hears all views of earlier frames.

    Args:
        ports: ``shared`` (parent) and ``views`` (children), Gaussian, of any sizes.
        slots: N; 0 is the latent form.
        top: views that may write to a slot at a time, 2 if not said; all of them is the soft variant.
        width: of a slot, 32.
        hidden: units of the hidden layer of each encoder and decoder.
        memory: carry the slots over the frames of a sequence.
        losses: weight per loss: translation, demi_cycle, cycle, contrastive, fused; those not named are off.

    Raises:
        GraphError: an unknown loss, a weight out of range, or memory, top or width without slots.
    """

    ports: Mapping[str, Port] = {
        "shared": Port(Role.PARENT, Family.GAUSSIAN),
        "views": Port(Role.CHILD, Family.GAUSSIAN, many=True),
    }
    note = "its networks predict, but give no density of the views together"
    warm: Mapping[str, int] = {"epochs": 20}
    choices: Mapping[str, tuple[Any, ...]] = {"fit.epochs": (60, 120), "hidden": (128, 256)}

    def __init__(
        self,
        ports: Mapping[str, Port],
        slots: Annotated[int, Ge(0)] = 0,
        top: Count | None = None,
        width: Count | None = None,
        hidden: Count = 128,
        memory: bool = False,
        losses: dict[Loss, float] | None = None,
    ) -> None:
        self.ports, self.memory = ports, memory
        self.losses = weights_of(losses)
        self.names = tuple(name for name in ports if name != "shared")
        self.size = ports["shared"].size or 0
        sizes = tuple(ports[name].size or 0 for name in self.names)
        if memory and not slots:
            raise GraphError("a workspace without slots has no memory", expected="slots: 1 or more with memory: true",
                             found="slots: 0", fix="write slots: 8, or remove memory")  # fmt: skip
        self.space: Space = LatentSpace(sizes, self.size, hidden)
        if slots:
            self.space = SlotSpace(sizes, self.size, hidden, slots, top or 2, width or 32)
        else:
            no_effect({"top": top, "width": width}, "a latent state has neither top nor width, slots have", "slots: 0")
        self.own_prior: Mapping[str, Message] = {"shared": Gaussian.standard((), self.size)}
        self._standing: Standing | None = None

    @property
    def plate(self) -> str:
        """Time, if the slots are carried from frame to frame."""
        return "time" if self.memory else "row"

    @property
    def cost(self) -> str:
        """Slots are written anew for every view that is left out; a fit translates every view into every other."""
        return "quadratic in views (slots)" if isinstance(self.space, SlotSpace) else "linear, fitted in views squared"

    def infer(
        self,
        inbox: Mapping[str, Message],
        evidence: Evidence,
        *,
        generator: torch.Generator,
        ports: frozenset[str] | None = None,
    ) -> Reply:
        """Gather what the views say into s, and tell each what the others and the inbox of ``shared`` make of it.

        Inside, all is float64. Raises MessageError where a message has negative precision.
        """
        asked = [name for name in self.ports if ports is None or name in ports]
        given = cast(Gaussian, inbox["shared"])
        above = given.to(torch.float64, given.device)
        standing = self._fitted(above.info)
        readings = []
        for name, units in zip(self.names, standing.units, strict=True):
            readings.append(read(cast(Gaussian, inbox[name]).to(torch.float64, given.device), units))
        lengths = runs(evidence.sequence, len(evidence)).to(given.device) if self.memory else None
        scene = Scene.of(self.space, standing.weights, readings, lengths)
        messages: dict[str, Message] = {}
        for name in asked:
            keep = torch.tensor([name != other for other in self.names], device=given.device)
            heard = scene.heard(keep, standing.confidence.fading)
            mean, told, state = standing.confidence.posterior(scene.state(keep), heard)
            said = Gaussian((1 + told) * mean, told)
            if name != "shared":
                said = standing.downward(self.space, self.names.index(name), said, above, mean, state, heard)
            messages[name] = said.to(given.dtype, given.device)
        return Reply(messages)

    def check_fit(self, *, detach: bool | None, **_: Any) -> None:
        """Refuse ``detach`` without memory; see :class:`serket.protocol.ChecksFit`."""
        if not self.memory:
            no_effect({"fit.detach": detach or None}, "it belongs to memory: true", "memory: false")

    def fit(
        self,
        evidence: Evidence,
        inbox: Mapping[str, Message],
        *,
        generator: torch.Generator,
        owned: frozenset[str] = frozenset(),
        progress: Progress | None = None,
        epochs: Count = 60,
        batch: Count = 128,
        learning_rate: Annotated[float, Gt(0)] = 2e-3,
        detach: bool | None = None,
    ) -> FitReport:
        """Train on six rows (with memory: sequences) in seven, and measure on the seventh how sure replies may be.

        The first time from random weights, in units in which each view is N(0, I) over the population; then on from
        where it stands, in those units. With fewer than 28 rows or sequences all of them train and measure.

        Args:
            evidence: no data; with memory, the sequences.
            inbox: the views' messages; a missing view is vacuous. What the inbox says of ``shared`` is not used.
            generator: the only source of randomness.
            owned: not used: N(0, I) has nothing to learn.
            progress: called after every epoch.
            epochs: passes over the rows.
            batch: rows per step.
            learning_rate: of AdamW, falling to zero.
            detach: with memory, let no gradient pass from a frame to earlier ones.

        Raises:
            DataError: fewer than two rows in which any view speaks.
            GraphError: ``detach`` without memory.
            MessageError: training diverged.
        """
        self.check_fit(detach=detach)
        messages = [cast(Gaussian, inbox[name]).to(torch.float64, inbox[name].device) for name in self.names]
        told = torch.stack([~one.is_vacuous() for one in messages], 1)
        every, taught, held = parted(told, evidence.sequence, self.memory, generator)
        before = self._standing and self._fitted(messages[0].info)
        units = before.units if before else [_units(one[every.rows]) for one in messages]
        readings = [read(one, unit) for one, unit in zip(messages, units, strict=True)]
        # Networks learn in the type of the messages, what is measured is measured in float64.
        dtype = inbox["shared"].dtype
        weights = before.weights if before else self._initial(messages[0].info.to(dtype), generator)
        weights, report = train(
            self.space,
            {name: value.to(dtype) for name, value in weights.items()},
            [one[taught.rows].to(dtype) for one in readings],
            taught.lengths,
            Plan(self.losses, epochs, batch, learning_rate, bool(detach)),
            generator,
            progress,
        )
        weights = {name: value.double() for name, value in weights.items()}
        known, judge = (
            Scene.of(self.space, weights, [one[part.rows] for one in readings], part.lengths) for part in (taught, held)
        )
        heard = [unit.into(one[held.rows]) for unit, one in zip(units, messages, strict=True)]
        confidence, outlooks = calibrated(known, judge, heard, generator)
        self._standing = Standing(weights, units, confidence, outlooks)
        return report

    def state(self) -> Mapping[str, Tensor]:
        """Return the weights, the units of every view, and how sure replies may be; nothing before the first fit."""
        return self._standing.tensors(self.names) if self._standing else {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take a state back."""
        self._standing = Standing.of(state, self.names) if state else None

    def _fitted(self, like: Tensor) -> Standing:
        if self._standing is None:
            raise StateError("a workspace has to be fitted before it can infer", fix="call fit, or load a state")
        return self._standing.to(like)

    def _initial(self, like: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        temperature = torch.tensor(CONTRAST).to(like)
        return self.space.initial(like, generator) | ({"contrast": temperature} if "contrastive" in self.losses else {})


def _units(message: Gaussian) -> Units:
    """Return the units of a view's population, and what a typical message resolves of it."""
    location, variance = pooled_moments(message)
    units = Units(location, variance.sqrt(), torch.ones_like(location[0]))
    return Units(location, variance.sqrt(), typical(read(message, units)))
