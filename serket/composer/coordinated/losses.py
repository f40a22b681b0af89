"""Which terms make up a coordinated objective, and what a user may write about them."""

from __future__ import annotations

from collections.abc import Mapping

from serket.composer.coordinated.coordination import TERMS, Term
from serket.errors import GraphError, suggestion

__all__ = ["weights_of"]

DEFAULTS = {"kl": 0.3, "wasserstein": 0.3, "contrastive": 30.0, "cross_generation": 3.0}
INFORMATIVE = ("reconstruction", "contrastive", "cross_generation")


def weights_of(criterion: str, distance: str | None, given: Mapping[Term, float] | None) -> dict[str, float]:
    """Return the weight of every term; nothing for canonical correlation, which has no objective to weigh.

    Raises:
        GraphError: an option without effect, an unknown name, a number out of range, or an objective whose optimum is a
            constant encoder.
    """
    if criterion == "cross_generation" and distance is not None:
        raise GraphError(
            "distance belongs to criterion: distance",
            found=f"criterion: cross_generation, distance: {distance}",
            fix="leave one of them out; to have both, add losses: {cross_generation: 1} to criterion: distance",
        )
    measure = criterion if criterion == "cross_generation" else distance or "contrastive"
    if measure == "cca":
        if given:
            raise GraphError(
                "canonical correlation is a closed form: it has no losses",
                found=f"losses: {', '.join(given)}",
                fix="leave losses out, or write distance: kl, wasserstein or contrastive",
            )
        return {}
    losses = {name: 0.0 for name in TERMS} | {"reconstruction": 1.0, "prior": 1.0, measure: DEFAULTS[measure]}
    for name, weight in (given or {}).items():
        if name not in losses:
            raise GraphError(
                f"no loss is called '{name}'",
                where=f"losses.{name}",
                available=TERMS,
                fix=suggestion(name, TERMS) or "write one of these",
            )
        if not 0 <= weight < float("inf"):
            raise GraphError(
                f"the weight of {name} is out of range",
                where=f"losses.{name}",
                expected="a number, 0 or more",
                found=f"{weight}",
                fix="write 0 to leave the term out",
            )
        losses[name] = float(weight)
    if not losses["prior"] or not any(losses[name] for name in INFORMATIVE):
        raise GraphError(
            "constant encoders would do best under these losses",
            expected=f"a positive weight of prior, and of one of {', '.join(INFORMATIVE)}",
            found=", ".join(f"{name} {weight:g}" for name, weight in losses.items()),
            fix="leave reconstruction and prior at 1",
        )
    return losses
