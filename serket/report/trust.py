"""The picture of what probabilities are worth: reliability of concepts, coverage of intervals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serket.report.pictures import ACCENT, INK, PALE, SECOND, blank, save_picture
from serket.report.reliability import LEVEL

__all__ = ["reliability_diagram"]

COLUMNS = 4


def reliability_diagram(path: Path, measured: Mapping[str, Any]) -> None:
    """Draw per subset how often answers of a confidence are right, and how much of every sense its intervals hold.

    Args:
        path: the PNG to write.
        measured: what :func:`serket.report.reliability.reliability` returns.
    """
    concepts, coverage = measured.get("concepts", {}), measured.get("coverage", {})
    lines = -(-len(concepts) // COLUMNS)
    heights = [2.1] * lines + ([0.26 * len(coverage) + 0.8] if coverage else [])
    if not heights:
        return
    figure = blank(8.0, sum(heights) + 0.2)
    grid = figure.add_gridspec(len(heights), COLUMNS, height_ratios=heights)
    for place, (name, told) in enumerate(concepts.items()):
        axis = figure.add_subplot(grid[place // COLUMNS, place % COLUMNS])
        axis.plot([0, 1], [0, 1], color=PALE, linewidth=0.8)
        rows, confidence, right = zip(*told["bins"], strict=True)
        sizes = [6 + 90 * count / sum(rows) for count in rows]
        axis.vlines(confidence, confidence, right, color=ACCENT, linewidth=0.8)
        axis.scatter(confidence, right, s=sizes, color=ACCENT)
        kept = told["error"] <= told["quantile"]
        text = f"{name}\nerror {told['error']:.3f}, 95 % below {told['quantile']:.3f}"
        axis.set_title(text, fontsize=7, color=INK if kept else SECOND)
        axis.set(xlim=(0, 1.03), ylim=(-0.03, 1.03), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=INK, labelsize=6)
        if place % COLUMNS == 0:
            axis.set_ylabel("share right", fontsize=7, color=INK)
        if place + COLUMNS >= len(concepts):
            axis.set_xlabel("probability stated", fontsize=7, color=INK)
    if coverage:
        axis = figure.add_subplot(grid[-1, :])
        axis.axvspan(LEVEL - 0.03, LEVEL + 0.03, color=PALE, alpha=0.4, linewidth=0)
        axis.axvline(LEVEL, color=PALE, linewidth=0.8)
        for y, value in enumerate(coverage.values()):
            good = abs(value - LEVEL) <= 0.03
            axis.plot(value, y, "o", color=ACCENT if good else SECOND, markersize=5)
        axis.set_yticks(range(len(coverage)), [*coverage], fontsize=7, color=INK)
        axis.set_ylim(len(coverage) - 0.5, -0.5)
        axis.set_xlim(min(0.8, *coverage.values()) - 0.01, 1.0)
        axis.set_title(f"share of values inside their {LEVEL:.0%} intervals", fontsize=8, color=INK, loc="left")
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(length=0, colors=INK, labelsize=7)
    save_picture(figure, path)
