"""A variable's own prior: from plain numbers to a message."""

from __future__ import annotations

import math

import torch

from serket.errors import GraphError, ShapeError
from serket.graph.schema import GaussianPrior, VariableEntry
from serket.graph.yaml import Tree
from serket.messages import Categorical, Dirichlet, Family, Gaussian, Message

__all__ = ["prior_of"]


def prior_of(name: str, entry: VariableEntry, tree: Tree) -> Message:
    """Return the prior of a variable without batch dimensions, in float64: whoever uses it casts it.

    Raises:
        GraphError: it belongs to another family, does not sum to one, or has no covariance matrix.
        ShapeError: it has another size than the variable.
    """
    size, values = entry.size, entry.prior
    kind = {Family.CATEGORICAL: "probabilities", Family.DIRICHLET: "numbers above zero"}.get(entry.family)
    if bool(kind) == isinstance(values, GaussianPrior):
        expected = f"{size} {kind} in a list" if kind else "{mean: [...], covariance: [[...], ...]}"
        raise GraphError(f"the prior of '{name}' is not one of a {entry.family} variable", where=tree.where,
                         expected=expected, found="a mapping" if kind else "a list",
                         fix=f"write {expected} after 'prior:', or change the family of '{name}'")  # fmt: skip
    if isinstance(values, GaussianPrior):
        rows = {len(row) for row in values.covariance}
        if len(values.mean) != size or len(values.covariance) != size or rows != {size}:
            found = f"a mean of length {len(values.mean)}, a covariance of {len(values.covariance)} rows"
            raise ShapeError(f"the prior of '{name}' has another size", where=tree.where, found=found,
                             expected=f"a mean of length {size}, a covariance of {size} x {size}",
                             fix=f"change the prior, or the size at {tree.where}")  # fmt: skip
        covariance = torch.tensor(values.covariance, dtype=torch.float64)
        symmetric = bool((covariance == covariance.mT).all())
        if not symmetric or int(torch.linalg.cholesky_ex(covariance).info):
            raise GraphError(f"the covariance of '{name}' is not one", where=tree.at("covariance").where,
                             expected="a symmetric, positive definite matrix", found=str(values.covariance),
                             fix="make it symmetric, with variances > 0 on the diagonal")  # fmt: skip
        return Gaussian.from_moments(torch.tensor(values.mean, dtype=torch.float64), covariance)
    assert values is not None
    if len(values) != size:
        raise ShapeError(f"the prior of '{name}' has another size", where=tree.where, expected=f"{size} {kind}",
                         found=f"{len(values)}", fix="write one number per category")  # fmt: skip
    if entry.family == Family.DIRICHLET:
        if min(values) <= 0:
            raise GraphError(f"the prior of '{name}' is no Dirichlet", where=tree.where, found=f"{min(values):g}",
                             expected="pseudo-counts alpha > 0", fix="write numbers above zero")  # fmt: skip
        return Dirichlet(torch.tensor(values, dtype=torch.float64) - 1)
    if min(values) < 0 or abs(math.fsum(values) - 1) > 1e-6:
        raise GraphError(f"the prior of '{name}' is no distribution", where=tree.where,
                         expected="probabilities >= 0 that sum to 1", found=f"a sum of {math.fsum(values):g}",
                         fix="change them so that they sum to 1")  # fmt: skip
    probs = torch.tensor(values, dtype=torch.float64)
    return Categorical.from_probs(probs / probs.sum())
