"""What every frozen encoder shares: embedding in batches, and its reading as a message."""

# No `from __future__ import annotations`: options are read off the signature in the files of the types.
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor

from serket.errors import DataError, StateError, listed
from serket.messages import Categorical, Family, Gaussian, Message
from serket.modules.frozen.batches import embedded, rows_are_apart
from serket.modules.frozen.checks import check_categories, check_reading, own_prior
from serket.modules.frozen.scaling import distances, principal, region
from serket.protocol import Evidence, FitReport, Includes, Port, Progress, Reply, Role

__all__ = ["Frozen"]


@dataclass(kw_only=True, eq=False, repr=False)
class Frozen(ABC):
    """A frozen encoder x -> e, read as a message over one variable.

    - ``point``: u = W (e - m), learnt from the rows by :func:`principal`, and the likelihood N(u; z, noise^2 I).
      ``state()["noise"]``, a number or one per dimension, is what calibration may overwrite.
    - ``gaussian``: e = (mean, variance) of q(z | x), trained under ``prior``; what leaves is q(z | x) / prior(z).
    - ``categorical``: e = log q(k | x) up to a constant, or q; what leaves is q(k | x) / prior(k).

    A row whose embedding is not finite is missing. Evidence is that of the message: a density of u for points, of
    p(x | z) / p(x) for the others. A refit of the same encoder keeps m and W: the coordinates are the variable's.

    Args:
        ports: ``latent``, a parent, Gaussian or categorical.
        reading: what the encoder's output is; ``categorical`` at a categorical variable, else ``point``.
        form: ``variance`` (default) or ``log_variance`` of a Gaussian, ``logits`` (default) or ``probabilities``.
        prior: the encoder's own, of its training: ``standard`` or ``{mean, covariance}``; ``uniform`` or frequencies.
        noise: standard deviation of a point, where u has a mean variance of one.
        scaling: how u is scaled, see :func:`principal`.
        gate: share of rows that count as known, such as 0.99: the message of a row further out, by the Mahalanobis
            distance d from the fitted rows, is raised to the power limit^2 / d^2. None: no gate.
        batch: rows embedded at a time.
        largest_mb: megabytes a model file may have.

    Raises:
        GraphError: a reading and a variable that do not fit, a prior that is missing, or a file at fault.
    """

    ports: Mapping[str, Port]
    reading: Literal["point", "gaussian", "categorical"] | None = None
    form: Literal["variance", "log_variance", "logits", "probabilities"] | None = None
    prior: list[float] | dict[str, Any] | Literal["standard", "uniform"] | None = None
    noise: Annotated[float, Gt(0)] = 0.1
    scaling: Literal["overall", "whiten", "none"] = "overall"
    gate: Annotated[float, Gt(0), Lt(1)] | None = None
    batch: Annotated[int, Ge(1)] = 64
    largest_mb: Annotated[float, Gt(0)] = 1000.0

    def __post_init__(self) -> None:
        port = self.ports["latent"]
        self.size, self.family = port.size or 0, port.family
        self.kind = self.reading or ("categorical" if self.family == Family.CATEGORICAL else "point")
        self.own_prior: dict[str, Message] = {}
        self.exact = self.kind != "gaussian"
        self._state: dict[str, Tensor] = {}
        self._checked = False
        self._print: tuple[str, list[Any]] | None = None
        self._read = False
        self._files: list[Path] = []
        check_reading(self.kind, self.family, self.form, self.prior, self.gate)
        if self.kind != "point":
            self.own_prior["latent"] = own_prior(self.kind, self.size, self.prior)
        self.prepare()

    def prepare(self) -> None:  # noqa: B027 - most have nothing to check
        """Check what can be checked without loading anything."""

    @abstractmethod
    def encode(self, values: Tensor) -> Any:
        """Return the embeddings of one batch, as the encoder gives them."""

    @abstractmethod
    def identity(self) -> str:
        """Return the SHA-256 of weights and settings as they are now; ``_files`` are those that are read."""

    def fingerprint(self) -> str:
        """Return the SHA-256 of weights and settings, taken once: what this encoder embeds with stays what it is."""
        if self._print is None:
            before = self._stamps()
            self._print = self.identity(), before
        return self._print[0]

    def _stamps(self) -> list[Any]:
        """Return what tells files that were written anew; hashing them each time would take as long as embedding."""
        held = [file.stat() for file in self._files if file.exists()]
        return [(one.st_size, one.st_mtime_ns, one.st_ino) for one in held]

    def _settle(self) -> None:
        """See to it, once the files are read, that they are those of the fingerprint."""
        assert self._print is not None
        now = self._stamps()
        if now != self._print[1] and (found := self.identity()) != self._print[0]:
            raise StateError(
                "the encoder's file changed after it was hashed, before it was read",
                where=self.place(),
                expected=f"SHA-256 {self._print[0][:12]}...",
                found=f"{found[:12]}...",
                fix="put the old file back, or load the model again",
            )
        self._read = True

    def embed(self, values: Tensor) -> Tensor:
        """Embed rows in batches, without gradients; rows whose embedding is not finite are NaN.

        The first rows are embedded alone, too: an encoder that then says something else is refused.

        Raises:
            DataError: the encoder does not take the rows, or its answer depends on what else is in the batch.
            StateError: its file is no longer the one that was hashed.
        """
        if self._files and not self._read:
            self.fingerprint()
        parts = [self._some(values[start : start + self.batch]) for start in range(0, len(values), self.batch)]
        if not parts:
            return torch.zeros(0, 0, device=values.device)
        if self._files and not self._read:
            self._settle()
        if not self._checked and len(values) > 1:
            self._checked = rows_are_apart(self._some, values, parts[0], self.place())
        whole = torch.cat(parts)
        return torch.where(whole.isfinite().all(-1, keepdim=True), whole, math.nan)

    def _some(self, values: Tensor) -> Tensor:
        return embedded(self.encode, values, self.place(), self.expected)

    def expected(self) -> str | None:
        """Tell the shape of a row, where the encoder says."""
        return None

    def infer(
        self,
        inbox: Mapping[str, Message],
        evidence: Evidence,
        *,
        generator: torch.Generator,
        ports: frozenset[str] | None = None,
    ) -> Reply:
        """Reply as the class says; ``evidence.values`` are embeddings.

        Raises:
            StateError: the module was never fitted.
            DataError: embeddings of another width, or that are not what ``reading`` and ``form`` say.
        """
        if not self._state:
            raise StateError("the module was never fitted", fix="fit it first: serket run, or serket.fit")
        cavity = inbox["latent"]
        values = evidence.values
        told = torch.zeros(len(evidence), dtype=torch.bool, device=cavity.device)
        silence: Any = cavity / cavity
        potential, constant, place = silence, torch.zeros(len(evidence)).to(told.device, cavity.dtype), None
        if values is not None:
            self._check_width(values)
            told = evidence.present & values.isfinite().all(-1)
            values = torch.where(told.unsqueeze(-1), values, 0.0).to(cavity.dtype)
            potential, constant, place = self._said(values, told)
        info: dict[str, Tensor] = {}
        if self.gate is not None:
            power = torch.ones(len(evidence), dtype=cavity.dtype, device=told.device)
            if place is not None:
                centre, root, limit = (self._held(part, place) for part in ("centre", "root", "limit"))
                beyond = distances(place, centre, root) / limit
                power = torch.where(told & (beyond > 1), 1 / beyond.clamp_min(1), 1.0)
                constant = constant * power
                if self.kind == "point":  # stays a density of u: its normaliser is that of the wider one
                    whole = -(self._noises(place).log().sum(-1) + self.size * math.log(2 * math.pi) / 2)
                    constant = constant + (1 - power) * whole + self.size / 2 * power.log()
                potential = potential**power
            info = {"widened": torch.where(told, power, 1.0), "beyond": (told & (power < 1)).to(cavity.dtype)}
        return self._reply(cast(Any, cavity), potential, constant, told, info, ports)

    def _said(self, values: Tensor, told: Tensor) -> tuple[Any, Tensor, Tensor | None]:
        """Return the potential of the rows, the log of its normaliser, and where they lie."""
        nothing = torch.zeros_like(values[:, 0])
        if self.kind == "point":
            place = (values - self._held("mean", values)) @ self._held("projection", values).mT
            variance = self._noises(place) ** 2
            scale = variance.log().sum(-1) + self.size * math.log(2 * math.pi)
            potential = Gaussian.from_moments(place, variance)
            return potential, -((place**2 / variance).sum(-1) + scale) / 2, place
        own = self.own_prior["latent"].to(values.dtype, values.device).expand(len(values))
        if self.kind == "categorical":
            read = Categorical.from_probs(values) if self.form == "probabilities" else Categorical(values)
            check_categories(self.form, values, told)
            read = read.where(
                told, Categorical.vacuous((len(values),), self.size, dtype=values.dtype, device=values.device)
            )
            return Categorical(read.log_probs()) / cast(Categorical, own), nothing, None
        mean, spread = values.split(self.size, -1)
        variance = spread.exp() if self.form == "log_variance" else spread
        rows = told & ~((variance > 0) & variance.isfinite()).all(-1)
        if bool(rows.any()):
            raise DataError(
                "variances of a Gaussian reading are not above 0",
                where=f"rows {listed(rows.nonzero().flatten().tolist())}",
                found=f"{float(variance[rows].min()):.3g}",
                fix="form: log_variance, if the encoder gives their logarithms",
            )
        normal = Gaussian.from_moments(mean, torch.where(told.unsqueeze(-1), variance, 1.0))
        given = cast(Gaussian, own)
        # Both as densities: the quotient of their normalisers belongs to p(x | z) / p(x).
        return normal / given, given.log_z() - normal.log_z(), mean

    def _reply(
        self, cavity: Any, potential: Any, constant: Tensor, told: Tensor, info: dict[str, Tensor], ports: Any
    ) -> Reply:
        potential = potential.mask(told)
        own = self.own_prior.get("latent")
        message, included = potential, frozenset[Includes]()
        if own is not None:
            given: Any = own.to(cavity.dtype, cavity.device).expand(len(told))
            message, included = (potential * given).where(told, given), frozenset({"own_prior"})
        held = potential.semidefinite_part() if isinstance(potential, Gaussian) else potential
        log_evidence = (cavity * held).log_z() + torch.where(told, constant, 0.0)
        return Reply(
            {"latent": message} if ports is None or "latent" in ports else {},
            {"latent": included},
            log_evidence=log_evidence,
            bound="exact" if self.exact else "estimate",
            info=info,
        )

    def fit(
        self,
        evidence: Evidence,
        inbox: Mapping[str, Message],
        *,
        generator: torch.Generator,
        owned: frozenset[str] = frozenset(),
        progress: Progress | None = None,
    ) -> FitReport:
        """Learn scaling and projection of a point, and where the rows lie; no labels, nothing of the inbox.

        Raises:
            DataError: fewer than two rows, or embeddings that do not fit the variable or the reading.
        """
        rows = torch.zeros(0, 0, dtype=torch.float64)
        if evidence.values is not None:
            self._check_width(evidence.values)
            rows = evidence.values[evidence.present & evidence.values.isfinite().all(-1)].double()
        code = torch.tensor(list(bytes.fromhex(self.fingerprint())), dtype=torch.uint8, device=rows.device)
        state, kept = {"fingerprint": code, "rows": torch.tensor(len(rows))}, 1.0
        place = rows[:, : self.size] if self.kind == "gaussian" else rows
        if self.kind == "point":
            before = self._state
            if before and torch.equal(before["fingerprint"].cpu(), code.cpu()):
                state |= {part: before[part].clone() for part in ("mean", "projection", "noise")}
            else:
                state["mean"], state["projection"], kept = principal(rows, self.size, self.scaling)
                state["noise"] = torch.tensor(self.noise, dtype=torch.float64, device=rows.device)
            place = (rows - state["mean"]) @ state["projection"].mT
        if self.kind == "categorical":
            check_categories(self.form, rows, torch.ones(len(rows), dtype=torch.bool, device=rows.device), whole=True)
        if self.kind != "categorical":
            state["centre"], state["root"], state["limit"] = region(place, self.gate or 0.99)
        self._state = state
        if progress:
            progress(1, 1, f"{kept:.0%} of the variance kept")
        return FitReport(1, history={"variance kept": [kept]})

    def state(self) -> Mapping[str, Tensor]:
        """Return scaling, projection, ``noise``, where the fitted rows lie, and the encoder's fingerprint."""
        return dict(self._state)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take a state back.

        Raises:
            StateError: the encoder is not the one it was fitted with.
        """
        code = bytes(state["fingerprint"].tolist()).hex()
        if code != (now := self.fingerprint()):
            raise StateError(
                "the encoder changed since the fit",
                where=self.place(),
                expected=f"SHA-256 {code[:12]}...",
                found=f"{now[:12]}...",
                fix="put the old weights back, or fit it again: serket refit RUN --module NAME --fresh",
            )
        parts = {"point": ("mean", "projection", "noise", "centre"), "gaussian": ("centre",)}.get(self.kind, ())
        self._state = {name: state[name] for name in ("fingerprint", "rows", *parts)} | dict(state)

    def place(self) -> str:
        """Tell what the encoder is, for errors."""
        return f"{type(self).__name__.lower()} encoder"

    def _held(self, name: str, like: Tensor) -> Tensor:
        return self._state[name].to(like)

    def _noises(self, place: Tensor) -> Tensor:
        return self._held("noise", place).expand_as(place)

    def _check_width(self, values: Tensor) -> None:
        width = values.shape[-1]
        expected = {"gaussian": 2 * self.size, "categorical": self.size}.get(self.kind)
        if expected is None and "mean" in self._state:
            expected = len(self._state["mean"])
        if values.dim() != 2 or (expected is not None and width != expected):
            wanted = {"gaussian": "mean and variance side by side", "categorical": "one number a category"}
            raise DataError(
                "embeddings of another width",
                where=self.place(),
                expected=f"(rows, {expected or 'E'}): {wanted.get(self.kind, 'as in the fit')}",
                found=str(tuple(values.shape)),
                fix="change the variable's size, or the encoder's output",
            )


# Set after the class is made: a dataclass would take it for the default of the field.
Frozen.ports = {"latent": Port(Role.PARENT, None)}
