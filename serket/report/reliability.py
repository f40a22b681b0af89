"""Whether probabilities come true: calibration error of concepts and coverage of intervals, per subset of senses."""

from __future__ import annotations

from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serket.data import Dataset
from serket.messages import Categorical
from serket.model import Model
from serket.naming import label_shares
from serket.predictive import seen, varying
from serket.protocol import Generative
from serket.report.metrics import joined, subsets

__all__ = ["BINS", "LEVEL", "binned", "calibration_error", "error_quantile", "reliability"]

Array: TypeAlias = NDArray[Any]
BINS, LEVEL, DRAWS, MOST_KEYS = 10, 0.9, 2000, 6


def binned(confidence: Array) -> Array:
    """Return the number of the bin, of ten of equal width, that each confidence falls into."""
    return cast(Array, np.minimum((confidence * BINS).astype(int), BINS - 1))


def calibration_error(confidence: Array, right: Array) -> float:
    """Return the expected calibration error (Naeini et al. 2015): sum_b n_b / n |share right - mean confidence|.

    Over ten bins of equal width.
    """
    bins = binned(confidence)
    gaps = [abs((right[bins == b] - confidence[bins == b]).sum()) for b in range(BINS)]
    return float(sum(gaps) / max(len(right), 1))


def error_quantile(confidence: Array, quantile: float = 0.95, *, draws: int = DRAWS, seed: int = 0) -> float:
    """Return that quantile of the error of a perfectly calibrated model with these confidences, by simulation.

    In every draw each answer is right with the probability stated, independently: the error is above zero all the same,
    for rows are few.
    """
    random = np.random.default_rng(seed)
    right = random.random((draws, len(confidence))) < confidence
    bins = binned(confidence)
    gaps = np.stack([np.abs((right - confidence)[:, bins == b].sum(1)) for b in range(BINS)])
    return float(np.quantile(gaps.sum(0) / max(len(confidence), 1), quantile))


def reliability(model: Model, dataset: Dataset) -> dict[str, Any]:
    """Measure on the test rows what probabilities are worth, for every subset of the senses.

    Returns:
        ``concepts``, with labels: per subset ``error`` (:func:`calibration_error` of the likeliest label's
        probability), ``quantile`` (:func:`error_quantile`, 0.95), ``confidence`` and ``accuracy``, their means, and
        ``bins``: per bin rows, mean confidence, share right. Concepts are named on training rows
        (:func:`serket.naming.label_shares`).
        ``coverage``: per ``given>to`` the share of values inside the central 90 % of their own prediction, over
        observed values of the dimensions that vary in training rows. ``exponents``: of every node that is calibrated.
    """
    keys = [key for key in model.keys if key in dataset.arrays]
    chosen = subsets(keys, MOST_KEYS)
    found: dict[str, Any] = {"exponents": {n.name: dict(n.calibration) for n in model.graph.nodes.values()
                                           if n.calibration}}  # fmt: skip
    concept = model.graph.concept
    if concept is not None and dataset.label is not None and len(keys):
        names, labels = np.unique(dataset.label[dataset.train], return_inverse=True)
        taught = torch.stack([_probs(model, dataset, s, dataset.train, concept) for s in chosen])
        naming = label_shares(taught, torch.from_numpy(labels), len(names))
        truth = dataset.label[dataset.test]
        rows = {joined(s): (_probs(model, dataset, s, dataset.test, concept) @ naming).numpy() for s in chosen}
        found["concepts"] = {name: _told(probs, names, truth) for name, probs in rows.items()}
    coverage = {}
    for to in (n.data for n in model.graph.nodes.values() if n.data and isinstance(model.modules[n.name], Generative)):
        for given in chosen:
            if to not in given and to in keys and (share := _coverage(model, dataset, to, given)) is not None:
                coverage[f"{joined(given)}>{to}"] = share
    if coverage:
        found["coverage"] = coverage
    return found


def _told(probs: Array, names: Array, truth: Array) -> dict[str, Any]:
    confidence, right = probs.max(1), names[probs.argmax(1)] == truth
    bins = binned(confidence)
    return {
        "error": calibration_error(confidence, right),
        "quantile": error_quantile(confidence),
        "confidence": float(confidence.mean()),
        "accuracy": float(right.mean()),
        "bins": [[int(here.sum()), float(confidence[here].mean()), float(right[here].mean())]
                 for b in range(BINS) if (here := bins == b).any()],
    }  # fmt: skip


def _probs(model: Model, dataset: Dataset, observe: Any, rows: Array, concept: str) -> Tensor:
    belief = cast(Categorical, model.infer(dataset, observe=observe, rows=rows)[concept])
    return belief.probs.double().cpu()


def _coverage(model: Model, dataset: Dataset, to: str, given: tuple[str, ...]) -> float | None:
    evidence = dataset.evidence(to, dataset.test)
    inside = model.covered(to, dataset, LEVEL, observe=given, rows=dataset.test)
    taught = dataset.evidence(to, dataset.train)
    if inside is None or evidence.values is None or taught.values is None:
        return None
    here = seen(evidence.values, evidence.observed) & varying(taught.values, taught.observed)
    return float(inside.cpu()[here].double().mean()) if bool(here.any()) else None
