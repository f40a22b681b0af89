"""Pictures of a comparison: accuracy by subset, accuracy by number of pairs, imagined samples side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from serket.comparison.table import MOST_KEYS, Comparison
from serket.report.metrics import joined, subsets
from serket.report.pictures import ACCENT, INK, PALE, blank, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["by_pairs", "by_subset", "side_by_side"]

COLOURS = (ACCENT, "#d9822b", "#5a9367", "#a23b72", "#6b6ecf", "#8c6d31", "#c0392b", "#4d4d4d")


def by_subset(path: Path, table: Comparison) -> bool:
    """Draw the accuracy of each subset of senses under each composer; return whether there is any."""
    case = table.cases[-1] if "all rows" not in table.cases else "all rows"
    names = [joined(subset) for subset in subsets(table.views, MOST_KEYS)]
    found = {
        composer: [table.spread(composer, f"subsets.{name}", case) for name in names] for composer in table.composers
    }
    shown = {composer: spreads for composer, spreads in found.items() if all(spreads)}
    if not shown:
        return False
    means = np.array([[spread.mean if spread else 0.0 for spread in spreads] for spreads in shown.values()])
    figure = blank(2.4 + 0.85 * len(names), 0.32 * len(shown) + 1.1)
    axis = figure.subplots()
    axis.imshow(means, cmap="Blues", vmin=means.min() - 0.02, vmax=2 * means.max() - means.min(), aspect="auto")
    best = means.max(0)
    for row, column in np.ndindex(means.shape):
        weight = "bold" if means[row, column] == best[column] else "normal"
        text = f"{means[row, column]:.3f}"
        axis.text(column, row, text, ha="center", va="center", fontsize=8, color=INK, weight=weight)
    axis.set_xticks(range(len(names)), [name.replace("+", "+\n") for name in names], fontsize=8, color=INK)
    axis.set_yticks(range(len(shown)), list(shown), fontsize=8, color=INK)
    axis.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    axis.spines[:].set_visible(False)
    figure.suptitle(f"probe accuracy by subset, {case}", fontsize=10, color=INK)
    save_picture(figure, path)
    return True


def by_pairs(path: Path, table: Comparison) -> bool:
    """Draw the mean of strict subsets, and coherence, by number of pairs; return whether there are two numbers.

    Side by side, for a probe that is taught labels of every view reads single views well even where nothing aligns
    them; what one view imagines of another does not.
    """
    cases = [case for case in table.cases if case.endswith(" pairs") or case == "all rows"]
    shown = [name for name in table.composers if any(table.spread(name, "strict", case) for case in cases)]
    if len(cases) < 2 or not shown:
        return False
    figure = blank(9.0, max(3.2, 0.19 * len(shown) + 1.2))
    axes = figure.subplots(1, 2)
    titles = {"strict": "probe accuracy, mean of strict subsets", "coherence": "coherence, mean over pairs of views"}
    for axis, (measure, title) in zip(axes, titles.items(), strict=True):
        ends = {}
        for number, name in enumerate(shown):
            found = [(place, table.spread(name, measure, case)) for place, case in enumerate(cases)]
            known = [(place, spread.mean, spread.sd) for place, spread in found if spread]
            if not known:
                continue
            places, means, sd = zip(*known, strict=True)
            colour = COLOURS[number % len(COLOURS)]
            style: dict[str, Any] = {"color": colour, "marker": "os^D"[number // len(COLOURS) % 4], "markersize": 4}
            axis.errorbar(places, means, sd, capsize=2, elinewidth=0.7, linewidth=1.2, **style)
            ends[name] = (places[-1], means[-1], colour)
        axis.set_xticks(range(len(cases)), cases, fontsize=8, color=INK)
        axis.set_xlim(-0.15, len(cases) - 1 + 0.1)
        axis.set_title(title, fontsize=9, color=INK, loc="left")
        axis.grid(axis="y", color=PALE, linewidth=0.4)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=INK, labelsize=8, length=0)
        if measure == "coherence" or not table.spread(shown[0], "coherence", cases[-1]):
            _labels(axis, ends)
    save_picture(figure, path)
    return True


def _labels(axis: Axes, ends: dict[str, tuple[int, float, str]]) -> None:
    """Name each line to the right of the axes, moved apart where ends are close."""
    low, high = axis.get_ylim()
    gap = (high - low) * 0.045
    right = axis.get_xlim()[1]
    placed, heights = -np.inf, dict[str, float]()
    for name, (_, value, _) in sorted(ends.items(), key=lambda item: item[1][1]):
        placed = heights[name] = max(value, placed + gap)
    # As far below their lines as above, and inside the axes.
    over = max(float(np.mean([heights[name] - end[1] for name, end in ends.items()])), placed - high)
    for name, (place, value, colour) in ends.items():
        line = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "relpos": (0, 0.5), "shrinkA": 0}
        axis.annotate(name, (place, value), (right + 0.12 * right, heights[name] - over), fontsize=7, color=colour,
                      va="center", ha="left", annotation_clip=False, arrowprops=line)  # fmt: skip


def side_by_side(path: Path, table: Comparison) -> bool:
    """Draw what each composer imagines of a view from the next, means and draws; return whether any does."""
    examples: dict[str, Any] = {c.composer: c.values["examples"] for c in table.cells if c.values.get("examples")}
    if not examples:
        return False
    first = next(iter(examples.values()))
    true = np.asarray(first["true"])
    rows = {"true": (true, true)}
    for name, example in examples.items():
        rows[name] = (np.asarray(example["mean"]), np.asarray(example["drawn"])[:, 0])
    width, height = table.shape or (16, 9)
    cell = 0.5
    count = len(true)
    figure = blank(1.9 + 2 * count * cell * width / height, cell * len(rows) + 0.8)
    axes = figure.subplots(len(rows), 2 * count, squeeze=False)
    low, high = float(true.min()), float(true.max())
    for line, (name, (means, drawn)) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8, color=INK)
        for axis, values in zip(line, [*means, *drawn], strict=True):
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set(color=PALE, linewidth=0.5)
            if table.shape:
                axis.imshow(values.reshape(height, width), cmap="gray_r", vmin=low, vmax=high)
            else:
                axis.plot(values, color=ACCENT, linewidth=0.7)
                axis.set_ylim(low, high)
    axes[0, 0].set_title("means", fontsize=8, color=INK, loc="left")
    axes[0, count].set_title("one draw each", fontsize=8, color=INK, loc="left")
    figure.suptitle(f"{first['to']} imagined from {first['given']} alone", fontsize=10, color=INK)
    save_picture(figure, path)
    return True
