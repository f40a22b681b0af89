"""Coordinated composer: an encoder per view into one space, kept close by a distance or by generating each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, cast

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from serket.composer.coordinated.canonical import canonical, named_as_before
from serket.composer.coordinated.coordination import Autoencoder, Term, coordinate
from serket.composer.coordinated.geometric_pool import pooled, potential
from serket.composer.coordinated.losses import weights_of
from serket.composer.coordinated.soft_layers import SoftLayers
from serket.composer.coordinated.ties import hold_out, linked, units_of
from serket.composer.coordinated.translators import calibrated
from serket.composer.coordinated.view import CoordinatedView
from serket.composer.readings import semidefinite
from serket.composer.rules import no_effect
from serket.errors import GraphError, MessageError
from serket.messages import Family, Gaussian, Message
from serket.protocol import Evidence, FitReport, Port, Progress, Reply, Role
from serket.registry import register

__all__ = ["Coordinated"]


@register("coordinated", kind="composer")
class Coordinated:
    """q(s | z_m) per view, made to agree; a subset is N(0, I) prod_m (q(s | z_m) / N(0, I))^w_m with sum_m w_m = 1.

    Coordinated representations (Suzuki & Matsuo 2022): under ``criterion: distance`` the encodings of a row from two
    views lie close, in KL divergence (SCAN, Higgins et al. 2018), 2-Wasserstein distance (CADA-VAE, Schoenfeld et al.
    2019), contrast with other rows (CLIP, Radford et al. 2021), or canonical correlation (closed form; MAXVAR for more
    than two views, Kettenring 1971); under ``cross_generation`` a view is decoded from the encoding of another (Spurr
    et al. 2018). Reconstruction and a prior term, on unpaired rows too, keep encoders from agreeing on a constant.

    A view is read as N(mu_m, diag Sigma_m) times its message. Encoders copy each other, so the pool is a geometric
    mean: its weights predict held-out views best. A reply to a view is its prediction from the others, as wide
    as the errors on held-out rows.

    Args:
        ports: ``shared`` (parent) and ``views`` (children), Gaussian, of any sizes.
        criterion: what makes encoders agree.
        distance: which, under ``criterion: distance``; ``contrastive`` if not said.
        hidden: units of a layer beside the linear map of encoder and decoder; 0 is linear. ``cca`` is linear always.
        losses: weights by name of a term, over the criterion's own: ``{cross_generation: 1}`` beside
            ``distance: wasserstein`` is CADA-VAE.

    Raises:
        GraphError: ``cca`` of one view, an option without effect, an unknown or negative weight, or weights with which
            constant encoders would do best.
    """

    ports: Mapping[str, Port] = {
        "shared": Port(Role.PARENT, Family.GAUSSIAN),
        "views": Port(Role.CHILD, Family.GAUSSIAN, many=True),
    }
    note = "a geometric mean of encoders has no likelihood"
    warm: Mapping[str, int] = {"epochs": 30}
    choices: Mapping[str, tuple[Any, ...]] = {"criterion": ("distance", "cross_generation")}

    def __init__(
        self,
        ports: Mapping[str, Port],
        criterion: Literal["distance", "cross_generation"] = "distance",
        distance: Literal["kl", "wasserstein", "contrastive", "cca"] | None = None,
        hidden: Annotated[int, Ge(0)] | None = None,
        losses: dict[Term, float] | None = None,
    ) -> None:
        self.ports, self.hidden = ports, 128 if hidden is None else hidden
        self.names = tuple(name for name in ports if name != "shared")
        self.size = ports["shared"].size or 0
        if distance == "cca" and len(self.names) < 2:
            raise GraphError(
                "canonical correlation needs two views or more",
                found=f"{len(self.names)}: {', '.join(self.names)}",
                fix="bind another latent, or take another distance: a single view is then a VAE",
            )
        self.losses = weights_of(criterion, distance, losses)
        if not self.losses:
            no_effect({"hidden": hidden}, "hidden belongs to encoders trained by gradient", "distance: cca")
            self.warm = {}
        if distance is not None:
            self.choices = {}  # the criterion is chosen
        self.own_prior: Mapping[str, Message] = {"shared": Gaussian.standard((), self.size)}
        self.views: list[CoordinatedView] = []
        self.weights, self.log_scale = torch.zeros(0), torch.tensor(2.0)

    def infer(
        self,
        inbox: Mapping[str, Message],
        evidence: Evidence,
        *,
        generator: torch.Generator,
        ports: frozenset[str] | None = None,
    ) -> Reply:
        """Pool the encoders of the views present, and decode; no evidence. Inside, all is float64.

        Raises:
            MessageError: a message has negative precision, or the composer was never fitted.
        """
        given = cast(Gaussian, inbox["shared"])
        above = given.to(torch.float64, given.device)
        views = {name: view.to(above.info) for name, view in zip(self.names, self._fitted(), strict=True)}
        readings = {name: view.read(semidefinite(name, cast(Gaussian, inbox[name]))) for name, view in views.items()}
        codes = [potential(views[name].encode(one)) for name, one in readings.items()]
        present = [one.present for one in readings.values()]
        without, everything = pooled(codes, present, self.weights.to(above.info))
        others = dict(zip(views, without, strict=True))
        own = Gaussian.standard((), self.size, dtype=above.dtype, device=above.device).expand(len(above.info))
        speaking = torch.stack(present).sum(0)
        quiet = above.is_vacuous() | (above / own).is_vacuous()
        messages: dict[str, Message] = {}
        for name in (port for port in self.ports if ports is None or port in ports):
            reply = everything
            if name != "shared":
                rest = above * others[name]
                belief = rest.where(above.is_proper(), rest * own)  # a prior is never left out
                # Where nothing speaks the answer is the marginal, exactly.
                silent = quiet & others[name].is_vacuous()
                guess = views[name].predict(belief, speaking - readings[name].present.long())
                reply = views[name].marginal(len(silent)).where(silent, guess)
            messages[name] = reply.to(given.dtype, given.device)
        return Reply(messages)

    def check_fit(self, *, shrinkage: float | None, **trained_by: Any) -> None:
        """Refuse options without effect; see :class:`serket.protocol.ChecksFit`."""
        if self.losses:
            no_effect({"fit.shrinkage": shrinkage}, "it belongs to distance: cca", "another criterion or distance")
            return
        given = {f"fit.{name}": trained_by.get(name) for name in ("epochs", "batch", "learning_rate")}
        no_effect(given, "they belong to encoders trained by gradient", "distance: cca")

    def fit(
        self,
        evidence: Evidence,
        inbox: Mapping[str, Message],
        *,
        generator: torch.Generator,
        owned: frozenset[str] = frozenset(),
        progress: Progress | None = None,
        epochs: Annotated[int, Ge(1)] | None = None,
        batch: Annotated[int, Ge(2)] | None = None,
        learning_rate: Annotated[float, Gt(0)] | None = None,
        validation: Annotated[float, Ge(0), Lt(1)] = 0.15,
        shrinkage: Annotated[float, Ge(0)] | None = None,
    ) -> FitReport:
        """Fit the encoders on every row, the criterion on rows with two views or more; then calibrate on rows held out.

        Args:
            evidence: not used: a composer has no data.
            inbox: the views' messages; a missing view is vacuous. What the inbox says of ``shared`` is not used.
            generator: of the split, of weights, order and draws.
            owned: not used: N(0, I) has nothing to learn.
            progress: called after every tenth epoch.
            epochs: passes over the rows, 100 if not said; not of ``cca``, nor the next two.
            batch: rows per step, 128.
            learning_rate: of Adam, at first, 3e-3.
            validation: share of the rows with two views that are held out; under five rows none is, and the same rows
                do for both.
            shrinkage: of ``cca`` alone: rows that uncorrelated dimensions count for in the whitening, 1.

        Raises:
            GraphError: an option without effect.
            DataError: views that no chain of rows connects.
            MessageError: a message has negative precision, or the objective diverged.
        """
        self.check_fit(epochs=epochs, batch=batch, learning_rate=learning_rate, shrinkage=shrinkage)
        epochs = 100 if epochs is None else epochs
        messages = linked({name: semidefinite(name, cast(Gaussian, inbox[name])) for name in self.names})
        units = [units_of(message) for message in messages.values()]
        start = self.views or [self._blank(location, generator) for location, _ in units]
        views = [
            replace(view.to(unit[0]), location=unit[0], spread=unit[1]) for view, unit in zip(start, units, strict=True)
        ]
        readings = [view.read(message) for view, message in zip(views, messages.values(), strict=True)]
        held = hold_out([one.present for one in readings], validation, generator)
        curves: Mapping[str, list[float]] = {"rows_held_out": [float(held.sum())]}
        if self.losses:
            dtype = next(iter(messages.values())).dtype
            trained, self.log_scale, curves = coordinate(
                [Autoencoder(view.encoder, view.decoder, view.log_noise).to(view.location.to(dtype)) for view in views],
                [one.at(~held).to(dtype) for one in readings],
                self.log_scale.to(units[0][0].to(dtype)),
                self.losses,
                generator=generator,
                epochs=epochs,
                batch=128 if batch is None else batch,
                learning_rate=3e-3 if learning_rate is None else learning_rate,
                progress=progress,
            )
            views = [
                replace(view, encoder=one.encoder, decoder=one.decoder, log_noise=one.log_noise).to(view.location)
                for view, one in zip(views, trained, strict=True)
            ]
        else:
            encoders = canonical(readings, held, self.size, 1.0 if shrinkage is None else shrinkage)
            if self.views:
                encoders = named_as_before(encoders, [view.encoder for view in self.views], readings)
            views = [
                replace(view, encoder=one, decoder=view.decoder.silenced())
                for view, one in zip(views, encoders, strict=True)
            ]
        self.views, self.weights = calibrated(views, readings, held, generator)
        return FitReport(epochs if self.losses else 1, history=curves)

    def _blank(self, location: Tensor, generator: torch.Generator) -> CoordinatedView:
        """Draw a view to start from."""
        size, hidden = len(location), self.hidden if self.losses else 0
        encoder = SoftLayers.random(size, hidden, 2 * self.size, generator, location)
        decoder = SoftLayers.random(self.size, hidden, size, generator, location)
        zeros = torch.zeros_like(location)
        return CoordinatedView(location, zeros + 1, zeros, zeros.diag()[None], zeros[:1], encoder, decoder)

    def state(self) -> Mapping[str, Tensor]:
        """Return every view's units, encoder, decoder and residual covariance, and the weights of the pool."""
        views = zip(self.names, self._fitted(), strict=True)
        parts = {f"{name}.{part}": value for name, view in views for part, value in view.tensors().items()}
        return {**parts, "weights": self.weights, "log_scale": self.log_scale}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take the parameters back."""
        self.weights, self.log_scale = state["weights"], state["log_scale"]
        self.views = [
            CoordinatedView.of({k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")})
            for name in self.names
        ]

    def _fitted(self) -> list[CoordinatedView]:
        if not self.views:
            raise MessageError(
                "the composer was never fitted", fix="fit the graph, or load a run: serket.load(directory)"
            )
        return self.views
