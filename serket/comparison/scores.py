"""Scores of latents and of imagined views against labels: arrays in, whatever model they came from."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from serket.report.metrics import concept_ari, probe
from serket.report.reliability import calibration_error

__all__ = ["calibration_error", "clustered", "explained", "imagined_scores", "probe_scores", "strict"]

Array: TypeAlias = NDArray[Any]
STARTS = 10


def probe_scores(taught: Array, labels: Array, read: Mapping[str, Array], truth: Array) -> dict[str, Any]:
    """Teach a probe latents, and let it read others.

    Args:
        taught: ``(rows, D)``.
        labels: ``(rows,)`` of them.
        read: ``(rows, D)`` by name, the test rows as seen by a subset of the senses.
        truth: ``(rows,)``, their labels.

    Returns:
        ``accuracy`` and ``calibration`` by name, and ``right`` by name: per row 1 if its label is told.
    """
    reader = probe(taught, labels)
    found: dict[str, Any] = {"accuracy": {}, "calibration": {}, "right": {}}
    for name, latent in read.items():
        probabilities = reader.predict_proba(latent)
        right = reader.classes_[probabilities.argmax(1)] == truth
        found["accuracy"][name] = float(right.mean())
        found["calibration"][name] = calibration_error(probabilities.max(1), right)
        found["right"][name] = right.astype(int).tolist()
    return found


def clustered(taught: Array, read: Array, classes: int, seed: int) -> Array:
    """Return the component of each row of ``read``: a Gaussian mixture on ``taught``, the likeliest of ten fits.

    Full covariances, as many components as classes; no label is looked at. Both are divided by the spread of
    ``taught``, one number, so that regularisation knows no units.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    scale = max(float(taught.std()), 1e-12)
    mixture = GaussianMixture(classes, n_init=STARTS, reg_covar=1e-4, max_iter=200, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture.fit(taught.astype(np.float64) / scale)
    return np.asarray(mixture.predict(read.astype(np.float64) / scale))


def clustering(taught: Array, read: Array, truth: Array, classes: int, seed: int) -> dict[str, Any]:
    """Return ``ari`` of :func:`clustered` and ``named``, the component of each row; as ``kmeans``, both of k-means."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        means = KMeans(classes, n_init=STARTS, random_state=seed).fit(taught.astype(np.float64))
    near = means.predict(read.astype(np.float64))
    named = clustered(taught, read, classes, seed)
    kmeans = {"ari": concept_ari(truth, near), "named": near.tolist()}
    return {"ari": concept_ari(truth, named), "named": named.tolist(), "kmeans": kmeans}


def imagined_scores(reader: Any, imagined: Array, truth: Array) -> tuple[float, list[int]]:
    """Return how often a probe taught real rows tells the label of imagined ones, and per row whether it does."""
    right = reader.predict(imagined) == truth
    return float(right.mean()), right.astype(int).tolist()


def explained(truth: Array, guess: Array) -> float:
    """Return 1 - sum of squared errors / sum of squares about the mean, over all dimensions together."""
    total = np.square(truth - truth.mean(0)).sum()
    return float(1 - np.square(truth - guess).sum() / max(total, np.finfo(float).tiny))


def strict(accuracy: Mapping[str, float], whole: str) -> float:
    """Return the mean over the strict subsets: all but the whole set."""
    return float(np.mean([value for name, value in accuracy.items() if name != whole]))
