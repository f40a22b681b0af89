"""The pictures of a run: the graph, what is imagined, what each subset of senses is worth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from serket.data import IMAGES, Dataset
from serket.evaluate import imaginable, integrated
from serket.graph.draw import picture
from serket.model import Model
from serket.protocol import couples_rows
from serket.report.pictures import imagined_grid, rounds_of_learning, subset_accuracy
from serket.report.trust import reliability_diagram
from serket.retrieval import Retrieval

__all__ = ["draw_figures", "draw_retrieved"]

ROWS, SAMPLES = 10, 5


def draw_figures(model: Model, dataset: Dataset, metrics: Mapping[str, Any], folder: Path) -> None:
    """Write ``graph.png``, ``imagined.png``, ``subsets.png``, ``rounds.png``, ``reliability.png``, as far as
    there is something to draw.

    Imagined is the first picture-like sense, else the widest, from the next sense of the graph alone.
    """
    picture(model.graph, folder / "graph.png")
    if model.rounds:
        rounds_of_learning(folder / "rounds.png", [step.as_dict() for step in model.rounds])
    if not len(dataset.test):
        return
    subset_accuracy(folder / "subsets.png", metrics)
    if "reliability" in metrics:
        reliability_diagram(folder / "reliability.png", metrics["reliability"])
    shapes = IMAGES.get(dataset.name, {})
    able = [key for key in imaginable(model) if key in dataset.arrays]
    if not able:
        return
    to = max(able, key=lambda key: (key in shapes, dataset.arrays[key][0].size))
    given = next((key for key in model.keys if key != to and key in dataset.arrays), None)
    if given is None:
        return
    rows = _examples(dataset, to)
    if not len(rows):
        return
    evidence = dataset.evidence(to, rows)
    # Rows of a sequence are imagined together; the picture shows some of them.
    together = dataset.test if couples_rows(model.modules) else rows
    imagined = model.generate(to, dataset, observe=[given], rows=together, active=integrated(model))
    if evidence.values is None or imagined.decoded is None:
        return
    places = np.array([int(np.flatnonzero(together == row)[0]) for row in rows])
    # All rows are imagined by the same draws, so that none depends on its batch: each is drawn with others of them.
    count = imagined.decoded.shape[1]
    draws = (SAMPLES * np.arange(len(places))[:, None] + np.arange(min(SAMPLES, count))) % count
    imagined_grid(
        folder / "imagined.png",
        evidence.values,
        imagined.mean[places].cpu(),
        imagined.decoded[places[:, None], draws].cpu(),
        shapes.get(to),
        given,
        to,
    )


def draw_retrieved(
    path: Path, found: Retrieval, to: str, given: str, dataset: Dataset, rows: Any, shelf: Dataset
) -> None:
    """Draw, for ten rows spread over all, what was there of a sense, and the examples that were retrieved."""
    numbers = dataset.numbers(rows)
    chosen = np.unique(np.linspace(0, len(numbers) - 1, ROWS).round().astype(np.int64))
    examples = shelf.arrays[to][found.places.cpu().numpy()[chosen]].reshape(len(chosen), found.places.shape[1], -1)
    first = np.zeros_like(examples[:, 0])
    if to not in dataset.missing:  # as it is stored: text is its bytes, and no module need see it
        seen = dataset.present(to, numbers[chosen])
        true = dataset.raw(to, numbers[chosen][seen]).reshape(int(seen.sum()), -1)
        width = min(true.shape[1], first.shape[1])  # texts are padded to the longest of their own data
        first[seen, :width] = true[:, :width]
    titles = ["true", "nearest", *map(str, range(2, examples.shape[1] + 1))]
    shape = IMAGES.get(shelf.name, {}).get(to)
    imagined_grid(path, first, examples[:, 0], examples[:, 1:], shape, given, to, titles=titles, how="retrieved")


def _examples(dataset: Dataset, key: str) -> Any:
    """Choose test rows: one of each label in turn, or the first ones."""
    test = dataset.test[dataset.masks[key][dataset.test].reshape(len(dataset.test), -1).all(1)]
    if dataset.label is None:
        return test[:ROWS]
    labels = dataset.label[test]
    places = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    if dataset.sequence is not None:  # sequences begin alike: every label is taken up a row later than the last
        places = [np.roll(place, -later) for later, place in enumerate(places)]
    turns = [place[turn] for turn in range(max(map(len, places), default=0)) for place in places if len(place) > turn]
    return test[np.asarray(turns[:ROWS], dtype=np.int64)]
