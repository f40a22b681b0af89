"""The linear-Gaussian composer: what the views share, and what each keeps to itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, cast

import torch
from annotated_types import Ge
from torch import Tensor

from serket.composer.factor_analysis import View, improve, in_units, initial, read, regressed
from serket.errors import DataError, MessageError
from serket.messages import Family, Gaussian, Message, leave_one_out, pooled_moments
from serket.protocol import Evidence, FitReport, Port, Progress, Reply, Role
from serket.registry import register

__all__ = ["LinearGaussianComposer"]


@register("linear_gaussian", kind="composer")
class LinearGaussianComposer:
    """p(z_1 .. z_M | s) = prod_m N(z_m; mu_m + A_m s, B_m B_m' + diag Psi_m): shared s, private parts integrated out.

    Group factor analysis, or probabilistic canonical correlation analysis for two views (Bach & Jordan 2005; Klami,
    Virtanen & Kaski 2013), fitted on the views' messages, means and precisions, in closed form. Replies are exact
    Gaussian integrals. Under no other owner s ~ N(0, I).

    Args:
        ports: ``shared`` (parent) and ``views`` (children), Gaussian, of any sizes.
        private: dimensions each view keeps to itself.
    """

    ports: Mapping[str, Port] = {
        "shared": Port(Role.PARENT, Family.GAUSSIAN),
        "views": Port(Role.CHILD, Family.GAUSSIAN, many=True),
    }
    exact = True

    def __init__(self, ports: Mapping[str, Port], private: Annotated[int, Ge(0)] = 8) -> None:
        self.ports = ports
        self.names = tuple(name for name in ports if name != "shared")
        self.size, self.private = ports["shared"].size or 0, private
        self.own_prior: Mapping[str, Message] = {"shared": Gaussian.standard((), self.size)}
        self.views: dict[str, View] = {}

    def infer(
        self,
        inbox: Mapping[str, Message],
        evidence: Evidence,
        *,
        generator: torch.Generator,
        ports: frozenset[str] | None = None,
    ) -> Reply:
        """Integrate the views' latents out towards s, and s and the other views out towards a view; exact evidence.

        Inside, all is float64: what one view leaves open another may close a million times tighter.
        """
        asked = [name for name in self.ports if ports is None or name in ports]
        given = cast(Gaussian, inbox["shared"])
        above = _as(given, torch.float64).full()
        views = {name: view.to(above.info) for name, view in self._fitted().items()}
        readings = {name: read(view, _as(cast(Gaussian, inbox[name]), torch.float64)) for name, view in views.items()}
        said = [reading.message for reading in readings.values()]
        cavities, belief = leave_one_out(above, said)
        others = dict(zip(self.names, cavities, strict=True))
        messages: dict[str, Message] = {}
        for name in asked:
            if name == "shared":
                start = Gaussian.vacuous((len(evidence),), self.size, dtype=above.dtype, device=above.device).full()
                messages[name] = _as(leave_one_out(start, said)[1], given.dtype)
            else:
                messages[name] = _as(_downward(views[name], others[name]), given.dtype)
        constants = sum((reading.constant for reading in readings.values()), torch.zeros_like(above.info[:, 0]))
        log_evidence = (belief.log_z() + constants).to(given.dtype)
        return Reply(messages, log_evidence=log_evidence, bound="exact")

    def fit(
        self,
        evidence: Evidence,
        inbox: Mapping[str, Message],
        *,
        generator: torch.Generator,
        owned: frozenset[str] = frozenset(),
        progress: Progress | None = None,
        iterations: Annotated[int, Ge(1)] = 6,
        shrinkage: Annotated[float, Ge(0)] = 1.0,
    ) -> FitReport:
        """Fit by expectation maximisation over all rows in which any view speaks, from principal components at first.

        Each view is fitted in units in which every dimension has mean 0 and variance 1, as its messages tell: the fit
        does not depend on the units of z. The parameters, and the log evidence in the history, are in those of z.

        Args:
            evidence: not used: a composer has no data.
            inbox: the views' messages; a missing view is vacuous. What the inbox says of ``shared`` is not used.
            generator: not used: the fit is deterministic.
            owned: not used: N(0, I) has nothing to learn.
            progress: called after every iteration.
            iterations: EM steps.
            shrinkage: precision of a normal prior on the loadings, in standardised units.

        Raises:
            DataError: fewer than two rows in which any view speaks.
        """
        # Sums over rows of quadratic terms: float64, whatever the messages have.
        messages = [_as(cast(Gaussian, inbox[name]), torch.float64) for name in self.names]
        speaks = torch.stack([~message.is_vacuous() for message in messages]).any(0)
        if int(speaks.sum()) < 2:
            raise DataError(
                "a composer needs rows to learn from",
                expected="two rows or more with some view present",
                found=str(int(speaks.sum())),
                fix="check the masks and the row numbers in train",
            )
        messages = [message[speaks] for message in messages]
        before = [self.views[name] for name in self.names if name in self.views]
        return self._climb(messages, before if len(before) == len(messages) else [], iterations, shrinkage, progress)

    def fit_views(
        self,
        views: frozenset[str],
        evidence: Evidence,
        inbox: Mapping[str, Message],
        *,
        generator: torch.Generator,
        owned: frozenset[str] = frozenset(),
        progress: Progress | None = None,
        iterations: Annotated[int, Ge(1)] = 6,
        shrinkage: Annotated[float, Ge(0)] = 1.0,
    ) -> FitReport:
        """Fit mu, A, B and Psi of some views by expectation maximisation, while the other views stay to the bit.

        What climbs is log p(their messages | messages of the others), over all rows in which one of them speaks: s
        keeps its meaning, for only the others gave it one. A view that was never fitted starts from a regression on s.

        Args:
            views: ports of the views to fit; the others must be fitted.
            evidence, inbox, generator, owned, progress, iterations, shrinkage: as in :meth:`fit`.

        Raises:
            DataError: a view speaks with no other one in two rows or more.
        """
        messages = {name: _as(cast(Gaussian, inbox[name]), torch.float64) for name in self.names}
        fixed = [name for name in self.names if name not in views]
        self._fitted(fixed)
        told = {name: ~message.is_vacuous() for name, message in messages.items()}
        others = torch.stack([told[name] for name in fixed]).any(0)
        for name in sorted(views):
            if (paired := int((told[name] & others).sum())) < 2:
                raise DataError(
                    f"nothing tells how {name} hangs together with the other views",
                    expected="two rows or more in which it and another view are present",
                    found=f"{paired} of {int(told[name].sum())} rows",
                    fix="give rows in which the new sense and an old one are observed together",
                )
        rows = torch.stack([told[name] for name in views]).any(0)
        heard = [messages[name][rows] for name in self.names]
        start = [self.views.get(name) for name in self.names]
        return self._climb(heard, start, iterations, shrinkage, progress, only=views)

    def _climb(
        self,
        messages: list[Gaussian],
        start: Sequence[View | None],
        iterations: int,
        shrinkage: float,
        progress: Progress | None,
        only: frozenset[str] | None = None,
    ) -> FitReport:
        """Take EM steps, each learning view in units of its own; those that stay keep the units they have."""
        learn = [n for n, name in enumerate(self.names) if only is None or name in only]
        units = {n: (location, variance.sqrt()) for n in learn for location, variance in [pooled_moments(messages[n])]}
        messages, constant = list(messages), 0.0
        for n, unit in units.items():
            messages[n], each = in_units(messages[n], *unit)
            constant += float(each.mean())
        if not start:
            views = initial(messages, self.size, self.private)
        else:
            # What stays is held in float64, like all else here, and what is stored is left alone.
            known = {n: view.to(messages[n].info) for n, view in enumerate(start) if view is not None}
            known |= {n: known[n].in_units(*unit) for n, unit in units.items() if n in known}
            fixed = [n for n in known if n not in units]
            there = [known[n] for n in fixed], [messages[n] for n in fixed]
            views = [
                known[n] if n in known else regressed(message, *there, self.private, shrinkage)
                for n, message in enumerate(messages)
            ]
        curve: list[float] = []
        for iteration in range(iterations):
            views, evidence_per_row = improve(views, messages, shrinkage, learn)
            curve.append(evidence_per_row + constant)
            if progress:
                progress(iteration + 1, iterations, f"log evidence {curve[-1]:.4g}")
        self.views = self.views | {self.names[n]: views[n].out_of_units(*unit) for n, unit in units.items()}
        return FitReport(iterations, history={"log_evidence": curve})

    def state(self) -> Mapping[str, Tensor]:
        """Return mu, A, B and Psi of every view."""
        parts = ("mean", "shared", "private", "noise")
        return {f"{name}.{part}": getattr(view, part) for name, view in self._fitted().items() for part in parts}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take the parameters back; a view that the state lacks is as one that was never fitted."""
        parts = ("mean", "shared", "private", "noise")
        there = [name for name in self.names if f"{name}.mean" in state]
        self.views = {name: View(*(state[f"{name}.{part}"] for part in parts)) for name in there}

    def _fitted(self, names: Sequence[str] | None = None) -> dict[str, View]:
        """Return the parameters of these views, or of all, in the order of the ports."""
        names = self.names if names is None else names
        if missing := [name for name in names if name not in self.views]:
            raise MessageError(
                "the composer was never fitted" if not self.views else f"{', '.join(missing)} was never fitted",
                fix="fit the graph, or load a run: serket.load(directory)",
            )
        return {name: self.views[name] for name in names}


def _downward(view: View, rest: Gaussian) -> Gaussian:
    """Return p(z | rest) = integral of N(z; mu + A s, C) rest(s) over s, with C = B B' + diag Psi.

    Where the rest is clearly proper that is N(mu + A m, C + A V A'); elsewhere s is integrated out of the joint
    potential over (z, s).
    """
    noise = view.private @ view.private.T + view.noise.diag()
    root, failed = torch.linalg.cholesky_ex(rest.precision)
    pivots = root.diagonal(dim1=-2, dim2=-1).square()
    proper = (failed == 0) & (pivots.amin(-1) > 1e-10 * pivots.amax(-1))
    standard = Gaussian(torch.zeros_like(rest.info), torch.eye(rest.size).to(rest.precision).expand_as(rest.precision))
    known = rest.where(proper, standard)
    mean = view.mean + known.mean() @ view.shared.T
    message = Gaussian.from_moments(mean, noise + view.shared @ known.covariance() @ view.shared.T)
    if bool(proper.all()):
        return message
    precision = torch.cholesky_inverse(torch.linalg.cholesky(noise))
    joint = torch.cat([torch.eye(len(noise)).to(noise), -view.shared], 1)  # z - A s
    factor = Gaussian(view.mean @ precision @ joint, joint.T @ precision @ joint).expand(len(rest.info))
    size = len(noise)
    wide = Gaussian(
        torch.nn.functional.pad(rest.info, (size, 0)), torch.nn.functional.pad(rest.precision, (size, 0, size, 0))
    )
    return message.where(proper, (factor * wide).marginal(slice(0, size)))


def _as(message: Gaussian, dtype: torch.dtype) -> Gaussian:
    return Gaussian(message.info.to(dtype), message.precision.to(dtype))
