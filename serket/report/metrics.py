"""Measures against labels, and the subsets of senses they are taken for."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from serket.errors import DataError

__all__ = ["concept_ari", "joined", "kappa", "probe", "probe_accuracy", "subsets"]


def subsets(keys: Iterable[str], most: int | None = None) -> list[tuple[str, ...]]:
    """Return all non-empty subsets, the single ones first, each sorted; there are 2^M - 1 of M keys.

    Of more keys than ``most``: the single ones, all but one, and all, which are 2 M + 1.
    """
    names = sorted(set(keys))
    sizes: Iterable[int] = range(1, len(names) + 1)
    if most is not None and len(names) > most:
        sizes = [1, len(names) - 1, len(names)]
    return [subset for size in sizes for subset in combinations(names, size)]


def joined(subset: Iterable[str]) -> str:
    """Return the name of a subset in ``metrics.json``: ``fou+pix``."""
    return "+".join(sorted(subset))


def probe(train_features: ArrayLike, train_labels: ArrayLike) -> Any:
    """Return logistic regression (C = 1) on standardised features, fitted.

    Args:
        train_features: ``(rows, D)``, such as the means of the shared latent.
        train_labels: ``(rows,)``.

    Raises:
        DataError: there is one class only.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = np.asarray(train_labels)
    if len(np.unique(labels)) < 2:
        raise DataError("one class only: nothing to tell apart", where="label, training rows")
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=5000))
    return pipeline.fit(np.asarray(train_features), labels)


def probe_accuracy(fitted: Any, features: ArrayLike, labels: ArrayLike) -> float:
    """Return the share of rows whose label a fitted :func:`probe` tells, between 0 and 1."""
    return float(fitted.score(np.asarray(features), np.asarray(labels)))


def concept_ari(labels: ArrayLike, assignments: ArrayLike) -> float:
    """Return the adjusted Rand index (Hubert & Arabie 1985) of two labellings ``(rows,)``: 1 equal, 0 chance."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(np.asarray(labels), np.asarray(assignments)))


def kappa(one: ArrayLike, other: ArrayLike) -> float:
    """Return Cohen's kappa (1960) of two namings ``(rows,)``: 1 equal, 0 chance; labels are names, and not permuted."""
    from sklearn.metrics import cohen_kappa_score

    return float(cohen_kappa_score(np.asarray(one), np.asarray(other)))
