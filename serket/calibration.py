"""Exponents of a fitted model, by rows that no module was fitted on; nothing else of it changes."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

import numpy as np
import torch

from serket.data import Dataset
from serket.errors import DataError, DataWarning
from serket.inputs import Array, dataset_for, dtype_of, gather, raw_keys
from serket.model import Model
from serket.protocol import Evidence
from serket.training.calibrate import calibrate
from serket.training.pretrain import Report
from serket.training.validation import kept_apart

__all__ = ["calibrated", "give_exponents"]


def calibrated(
    model: Model,
    data: Dataset | Mapping[str, Array] | str | None = None,
    *,
    by: Literal["senses", "labels"] = "senses",
    report: Report | None = None,
    **options: Any,
) -> Model:
    """Return a model with new exponents (:mod:`serket.training.calibrate`); every module keeps its state to the bit.

    Args:
        model: fitted; it stays as it is.
        data: rows that no module was fitted on, all of which are used. None, or the data of the run: the training rows
            that ``run`` kept from every fit, which it does with rounds or calibration.
        by: what exponents are judged by: how well senses predict one another, or for a concept its labels.
        report: called with (what, steps done, steps in all, text).
        options: ``strict`` and ``test_fraction`` of :func:`serket.data.load`; else those of the run.

    Raises:
        DataError: there is no row that no module was fitted on, fewer than two senses, or no label to go by.
    """
    start = time.perf_counter()
    source: Any = data if data is not None else model.data.get("source") or model.graph.data
    dataset = dataset_for(model.graph, source, **{"missing_ok": True, "seed": model.seed, **model.split, **options})
    own = dataset.sha256 == model.data["sha256"]
    if own and not model.graph.holds_out:
        raise DataError(
            "every row was fitted on, or is for testing",
            where=dataset.name,
            expected="rows that no module was fitted on",
            fix="give them: --data FILE; or have them kept, run: {calibrate: senses}, and fit again",
        )
    dtype = model.dtype or dtype_of(dataset, raw_keys(model.graph))
    rows = dataset.train if own else np.arange(dataset.rows)
    everything = gather(model.graph, model.modules, dataset, rows, dtype=dtype, device=model.device, report=report)
    held_out = kept_apart(model.graph, model.modules, everything, model.seed)[1] if own else everything
    changed = replace(model, graph=replace(model.graph, calibrate=by), seconds=dict(model.seconds))
    give_exponents(changed, dataset, rows, everything, held_out, dtype, report)
    changed.seconds["calibrate"] = time.perf_counter() - start
    told = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "what": "calibrate",
        "modules": [name for name, node in changed.graph.nodes.items() if node.calibration],
        "exponents": {name: dict(node.calibration) for name, node in changed.graph.nodes.items() if node.calibration},
        "data": {"name": dataset.name, "sha256": dataset.sha256},
        "rows": len(next(iter(held_out.values()))),
        "seconds": changed.seconds["calibrate"],
        "states": {},
    }
    changed.changes = [*model.changes, told]
    return changed


def give_exponents(
    model: Model,
    dataset: Dataset,
    rows: Any,
    everything: Mapping[str, Evidence],
    held_out: Mapping[str, Evidence],
    dtype: torch.dtype,
    report: Report | None,
) -> None:
    """Give the graph of a model its exponents; by labels, if it says so, of all ``rows``: no fit has seen one.

    Args:
        model: its graph is replaced.
        dataset: for its labels.
        rows: those of ``everything``.
        everything: held-out rows, and others whose labels count.
        held_out: rows that no module was fitted on.
        dtype: of the messages.
        report: as in :func:`calibrated`.
    """
    labels = None
    if model.graph.calibrate == "labels":
        if dataset.label is None:
            raise DataError("there are no labels to calibrate by", where=dataset.name, expected="an array 'label'",
                            fix="store one, or calibrate by senses")  # fmt: skip
        names = np.unique(dataset.label[rows])
        labels = torch.from_numpy(np.searchsorted(names, dataset.label[rows])).to(model.device)
    model.graph, notes = calibrate(
        model.graph,
        model.modules,
        held_out,
        seed=model.seed,
        dtype=dtype,
        concept=model.graph.concept,
        labelled=everything if labels is not None else None,
        labels=labels,
        progress=report and partial(report, "calibrate"),
    )
    for note in notes:
        warnings.warn(note, DataWarning, stacklevel=4)
