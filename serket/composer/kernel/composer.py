"""The kernel composer: every latent predicted from every other by Gaussian processes, and all from the shared one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, cast

import torch
from annotated_types import Ge
from torch import Tensor

from serket.composer.kernel.crossing import Crossing
from serket.errors import DataError, MessageError
from serket.messages import Family, Gaussian, Message
from serket.protocol import Evidence, FitReport, Port, Progress, Reply, Role
from serket.registry import register

__all__ = ["KernelComposer"]


@register("kernel", kind="composer")
class KernelComposer:
    """p(s | views) ~ p(s) prod_m N(s; f_m(z_m), R_m) / p(s), and likewise p(z_a | s, the other views).

    f_m are Gaussian processes on the views' messages, means and variances, tuned by leave-one-out; R_m is the
    covariance of their leave-one-out errors, wider where a view is unlike those seen (robust Bayesian committee
    machine, Deisenroth & Ng 2015). Errors of several sources have much in common: the mean is that of the product, but
    of the precision that k sources add up to a share is left, measured on rows left out. s holds the principal
    components of all latents together, in their own units: under no other owner p(s) = N(0, their variances). Where a
    row lacks latents, the others' predictions stand in.

    Args:
        ports: ``shared`` (parent) and ``views`` (children), Gaussian, of any sizes.
    """

    ports: Mapping[str, Port] = {
        "shared": Port(Role.PARENT, Family.GAUSSIAN),
        "views": Port(Role.CHILD, Family.GAUSSIAN, many=True),
    }
    exact = False
    cost = "rows times training rows (3000 at most), times views squared"
    note = "the kernel composer predicts latents from one another, and is no density of them all"

    def __init__(self, ports: Mapping[str, Port]) -> None:
        self.ports = ports
        self.names = tuple(name for name in ports if name != "shared")
        self.size = ports["shared"].size or 0
        self.own_prior: Mapping[str, Message] = {"shared": Gaussian.standard((), self.size)}
        self.crossing: Crossing | None = None

    def infer(
        self,
        inbox: Mapping[str, Message],
        evidence: Evidence,
        *,
        generator: torch.Generator,
        ports: frozenset[str] | None = None,
    ) -> Reply:
        """Multiply what the sources say of each latent asked for; views that are absent say nothing. In float64."""
        asked = [name for name in self.ports if ports is None or name in ports]
        above = _double(inbox["shared"])
        crossing = self._fitted().to(above.info)
        readings = {name: crossing.population[name].read(_double(inbox[name]))[0] for name in self.names}
        messages: dict[str, Message] = {}
        for name in asked:
            told = crossing.told(name, readings)
            if name != "shared":
                told = crossing.population[name].out_of_units(crossing.base(name, above) * told)
            messages[name] = told.to(inbox["shared"].dtype, above.device)
        return Reply(messages)

    def fit(
        self,
        evidence: Evidence,
        inbox: Mapping[str, Message],
        *,
        generator: torch.Generator,
        owned: frozenset[str] = frozenset(),
        progress: Progress | None = None,
        inducing: Annotated[int, Ge(1)] = 1000,
    ) -> FitReport:
        """Fit populations, translators between views, the shared space, and translators into it, in closed form.

        A refit starts over, and turns the shared space so that it means what it meant before.

        Args:
            evidence: not used: a composer has no data.
            inbox: the views' messages; a missing view is vacuous. What the inbox says of ``shared`` is not used.
            generator: not used: the fit is deterministic.
            owned: not used: the prior of s is fitted in any case.
            progress: called after every translator.
            inducing: points, where more than 3000 rows have a source and its target.

        Raises:
            DataError: no two views were ever seen together, in two rows or more.
        """
        messages = {name: _double(inbox[name]) for name in self.names}
        present = torch.stack([~message.is_vacuous() for message in messages.values()], 1)
        together = int((present.sum(1) > 1).sum())
        if len(self.names) > 1 and together < 2:
            raise DataError(
                "nothing tells how the views hang together",
                expected="two training rows or more with two views present",
                found=str(together),
                fix="check the masks, and the row numbers in train; or compose only views that were seen together",
            )
        rows = present.any(1)
        messages = {name: message[rows] for name, message in messages.items()}
        before = self.crossing
        self.crossing, curve = Crossing.learn(messages, self.size, inducing, before, progress)
        self.own_prior = {"shared": self.crossing.own_prior}
        return FitReport(len(curve), history={"explained": curve})

    def state(self) -> Mapping[str, Tensor]:
        """Return populations, translators, and the shared space."""
        return self._fitted().tensors()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take them back."""
        self.crossing = Crossing.from_tensors(state, self.names)
        self.own_prior = {"shared": self.crossing.own_prior}

    def _fitted(self) -> Crossing:
        if self.crossing is None:
            raise MessageError(
                "the composer was never fitted", fix="fit the graph, or load a run: serket.load(directory)"
            )
        return self.crossing


def _double(message: Message) -> Gaussian:
    message = cast(Gaussian, message)
    return Gaussian(message.info.double(), message.precision.double())
