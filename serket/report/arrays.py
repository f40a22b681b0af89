"""Beliefs and imaginations as arrays for a file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from serket.data import Dataset
from serket.engine import Result
from serket.imagination import Imagination
from serket.messages import Atoms, Categorical, Dirichlet, Gaussian
from serket.retrieval import Retrieval
from serket.store.files import naming

__all__ = ["beliefs_as_arrays", "imagination_as_arrays", "retrieval_as_arrays", "write_arrays"]


def beliefs_as_arrays(result: Result) -> dict[str, Any]:
    """Return ``<variable>.mean`` and ``.cov``, ``.probs`` or ``.concentration``, and what is said of them; rows first.

    ``modules`` names the columns of ``present`` and ``contribution``; ``log_evidence`` is NaN where there is none.
    """
    arrays: dict[str, Any] = {}
    for name, belief in result.items():
        if isinstance(belief, Gaussian | Atoms):
            arrays[f"{name}.mean"], arrays[f"{name}.cov"] = belief.mean(), belief.covariance()
        elif isinstance(belief, Categorical):
            arrays[f"{name}.probs"] = belief.probs
        elif isinstance(belief, Dirichlet):
            arrays[f"{name}.concentration"] = belief.concentration
    rows = len(result.row_id)
    evidence = np.full(rows, np.nan) if result.log_evidence is None else result.log_evidence
    arrays |= {
        "log_evidence": evidence,
        "present": result.present,
        "contribution": result.contribution,
        "conflict": result.conflict,
        "exact": result.exact,
        "converged": result.converged,
        "row_id": result.row_id,
        "modules": np.array(result.modules),
        "bound": np.array(result.bound),
    }
    return arrays


def imagination_as_arrays(key: str, imagined: Imagination, row_id: Any) -> dict[str, Any]:
    """Return ``<key>`` (mean) and ``<key>.std``, and, where there are, ``<key>.samples`` and ``<key>.probs``."""
    parts = {"": imagined.mean, ".std": imagined.std, ".samples": imagined.samples, ".probs": imagined.probs}
    return {f"{key}{end}": part for end, part in parts.items() if part is not None} | {"row_id": row_id}


def retrieval_as_arrays(key: str, found: Retrieval, shelf: Dataset) -> dict[str, Any]:
    """Return ``<key>``, the examples themselves ``(rows, top, ...)``, ``<key>.row_id``, ``score`` and ``row_id``."""
    places = found.places.cpu().numpy()
    arrays = {key: shelf.arrays[key][places], f"{key}.row_id": found.examples, "score": found.scores}
    return {**arrays, "row_id": found.row_id}


def write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Write an .npz beside its place, then move it there whole; a key may have any name, ``np.savez`` forbids some."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    with naming(path):
        try:
            with zipfile.ZipFile(beside, "w") as whole:
                for name, value in arrays.items():
                    array = np.asarray(value.cpu() if isinstance(value, Tensor) else value)
                    with whole.open(f"{name}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, array, allow_pickle=False)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
