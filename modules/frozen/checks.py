"""What a reading needs: a variable of its family, the form of its numbers, and the prior it was trained under."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from serket.errors import DataError, GraphError, listed
from serket.messages import Categorical, Family, Gaussian, Message

__all__ = ["check_categories", "check_reading", "own_prior"]

FORMS = {"point": (None,), "gaussian": ("variance", "log_variance"), "categorical": ("logits", "probabilities")}


def check_reading(kind: str, of: Family | None, form: str | None, prior: Any, gate: float | None) -> None:
    """Refuse a reading, form, prior or gate that do not fit one another, or the family of the variable."""
    family = Family.CATEGORICAL if kind == "categorical" else Family.GAUSSIAN
    if of != family:
        raise GraphError(
            f"a {kind} reading is of a {family} variable",
            found=f"a {of} variable",
            fix="change reading, or the variable's family",
        )
    if form not in (None, *FORMS[kind]):
        known = [form for form in FORMS[kind] if form]
        raise GraphError(f"'form' of a {kind} reading", found=f"form: {form}", available=known, fix="leave form out")
    if kind == "point" and prior is not None:
        raise GraphError("a point has no prior to divide out", found=f"prior: {prior}", fix="leave prior out")
    if kind != "point" and prior is None:
        plain = "standard" if kind == "gaussian" else "uniform"
        raise GraphError(
            f"a {kind} reading states the prior it was trained under",
            expected=f"prior: {plain}, or "
            + (
                "{mean: [...], covariance: [[...]]}" if plain == "standard" else "the class frequencies of its training"
            ),
            fix="an encoder's posterior contains its own prior, which is divided out, or it would count twice",
        )
    if gate is not None and kind == "categorical":
        raise GraphError(
            "a categorical reading has no latent space to measure distances in", found="gate", fix="leave gate out"
        )


def own_prior(kind: str, size: int, prior: Any) -> Message:
    """Return the encoder's own prior, without batch dimensions, in float64; diagonal where its covariance is."""
    if prior == "standard" and kind == "gaussian":
        return Gaussian.standard((), size, dtype=torch.float64)
    if prior == "uniform" and kind == "categorical":
        return Categorical.vacuous((), size, dtype=torch.float64)
    try:
        if kind == "categorical":
            numbers = torch.tensor(prior, dtype=torch.float64)
            if numbers.shape != (size,) or not bool((numbers > 0).all()) or abs(float(numbers.sum()) - 1) > 1e-6:
                raise ValueError
            return Categorical(numbers.log())
        mean, covariance = (torch.tensor(prior[part], dtype=torch.float64) for part in ("mean", "covariance"))
        if mean.shape != (size,) or covariance.shape != (size, size) or set(prior) != {"mean", "covariance"}:
            raise ValueError
        diagonal = torch.equal(covariance, torch.diag(covariance.diagonal())) and bool(
            (covariance.diagonal() > 0).all()
        )
        return Gaussian.from_moments(mean, covariance.diagonal() if diagonal else covariance)
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        written = (
            f"uniform, or {size} probabilities above 0 that sum to 1"
            if kind == "categorical"
            else (f"standard, or {{mean: [{size} numbers], covariance: [[{size} x {size}]]}}")
        )
        raise GraphError(
            f"prior is none of a {kind} variable of size {size}",
            expected=written,
            found=f"{prior}",
            fix="write the prior of the encoder's training in one of these forms",
        ) from error


def check_categories(form: str | None, values: Tensor, told: Tensor, whole: bool = False) -> None:
    """Refuse told rows that are no probabilities; and logits that are, if the ``whole`` data look so."""
    sums = values.sum(-1)
    alike = ((values >= 0).all(-1) & ((sums - 1).abs() < 1e-3)) | ~told
    if form == "probabilities" and not bool(alike.all()):
        raise DataError(
            "probabilities are not above 0, or do not sum to 1",
            where=f"rows {listed((~alike).nonzero().flatten().tolist())}",
            fix="form: logits, if the encoder gives those",
        )
    if whole and form != "probabilities" and len(values) and bool(alike.all()):
        raise DataError("logits look like probabilities: they sum to 1 in every row", fix="form: probabilities")
