"""Pictures of what a model imagines and of what its senses are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["blank", "imagined_grid", "rounds_of_learning", "save_picture", "subset_accuracy"]

Array: TypeAlias = NDArray[Any]

INK, PALE, ACCENT, SECOND = "#222222", "#bbbbbb", "#0b6e99", "#d9822b"
_LEAST_SPAN = 0.04  # nats a row on the axes of rounds
_MARKS = {
    "probe_accuracy": ("probe accuracy", ACCENT, "o", 5),
    "concept_ari": ("concept ARI", SECOND, "D", -11),
    "evidence": ("held-out evidence, nats", ACCENT, "o", 5),
}


def imagined_grid(
    path: Path,
    true: ArrayLike,
    means: ArrayLike,
    samples: ArrayLike,
    shape: tuple[int, int] | None,
    given: str,
    to: str,
    std: ArrayLike | None = None,
    titles: Sequence[str] | None = None,
    how: str = "imagined",
) -> None:
    """Draw, a row of pictures per row of data, what was there, the mean of what is imagined, and samples.

    Args:
        path: the PNG to write.
        true: ``(n, D)``.
        means: ``(n, D)``.
        samples: ``(n, S, D)``; S may be 0.
        shape: ``(width, height)`` for pictures, the rows of a picture one after the other, D / width / height numbers a
            point: grey, or red, green, blue and what is not drawn; None draws curves.
        given: the senses it is imagined from, such as ``fou`` or ``fou+kar``.
        to: the sense that is imagined.
        std: ``(n, D)``: a column more, of the uncertainty (curves: a band of two standard deviations).
        titles: of the columns, if not what they are of imagination.
        how: what was done, for the title.
    """
    true, means, samples = (np.asarray(part, dtype=float) for part in (true, means, samples))
    spread = None if std is None else np.asarray(std, dtype=float)
    columns = {"true": true, "mean" if shape else "mean (grey: true)": means}
    if spread is not None and shape:
        columns["deviation"] = spread
    columns |= {f"sample {s + 1}": samples[:, s] for s in range(samples.shape[1])}
    columns = dict(zip(titles or columns, columns.values(), strict=True))
    width, height = shape or (16, 9)
    cell = 0.75 if shape else 0.8
    figure = blank(max(2.6, (cell * width / height + 0.04) * len(columns)), cell * len(true) + 0.7)
    axes = figure.subplots(len(true), len(columns), squeeze=False)
    low, high = float(true.min()), float(true.max())
    margin = 0.05 * (high - low) or 0.5
    for column, (title, content) in enumerate(columns.items()):
        axes[0, column].set_title(title, fontsize=8, color=INK)
        top = float(content.max()) if title == "deviation" else high
        for row, (axis, values) in enumerate(zip(axes[:, column], content, strict=True)):
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set(color=PALE, linewidth=0.5)
            if shape:
                bottom = 0.0 if title == "deviation" else low
                drawn = values.reshape(height, width, -1)[..., :3]
                if drawn.shape[-1] == 3:  # colours, which matplotlib takes between 0 and 1
                    drawn = ((drawn - bottom) / (top - bottom or 1.0)).clip(0, 1)
                axis.imshow(drawn.squeeze(-1) if drawn.shape[-1] == 1 else drawn, cmap="gray_r", vmin=bottom, vmax=top)
            else:
                _curve(axis, values, true[row], spread[row] if column == 1 and spread is not None else None)
                axis.set_ylim(low - margin, high + margin)
    figure.suptitle(f"{to} {how} from {given}{'' if '+' in given else ' alone'}", fontsize=11, color=INK)
    save_picture(figure, path)


def _curve(axis: Axes, values: Array, true: Array, spread: Array | None) -> None:
    style = "o-" if len(values) < 20 else "-"
    axis.plot(true, style, color=PALE, linewidth=0.8, markersize=2)
    axis.plot(values, style, color=ACCENT, linewidth=0.8, markersize=2)
    if spread is not None:
        low, high = values - 2 * spread, values + 2 * spread
        axis.fill_between(range(len(values)), low, high, color=ACCENT, alpha=0.2, linewidth=0)


def subset_accuracy(path: Path, metrics: Mapping[str, Any]) -> None:
    """Draw what each subset of senses is worth: probe accuracy and ARI, or held-out evidence where there are no labels.

    Args:
        path: the PNG to write.
        metrics: as in :func:`serket.report.tables`.
    """
    rows = metrics.get("subsets", {})
    measures = [m for m in ("probe_accuracy", "concept_ari") if any(m in row for row in rows.values())]
    if not measures:
        measures = ["evidence"]
        if not any("evidence" in row for row in rows.values()):
            evidence = metrics.get("unlabelled", {}).get("evidence", {})
            evidence = evidence if isinstance(evidence, Mapping) else {"all": evidence}
            rows = {name: {"evidence": value} for name, value in evidence.items()}
    figure = blank(6.4, 0.34 * max(len(rows), 1) + 1.0)
    axis = figure.subplots()
    for measure, (label, color, marker, offset) in _MARKS.items():
        if measure in measures:
            known = {y: row[measure] for y, row in enumerate(rows.values()) if row.get(measure) is not None}
            axis.plot([*known.values()], [*known], marker, color=color, label=label, markersize=6)
            style: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "fontsize": 7, "color": color}
            for y, value in known.items():
                text = (f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}").replace("-", "\N{MINUS SIGN}")
                axis.annotate(text, (value, y), (0, offset), **style)
    axis.set_yticks(range(len(rows)), list(rows), fontsize=9, color=INK)
    axis.set_ylim(len(rows) - 0.5, -0.7)
    axis.grid(axis="y", color=PALE, linewidth=0.4)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(length=0, colors=INK, labelsize=8)
    figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    save_picture(figure, path)


def rounds_of_learning(path: Path, steps: Sequence[Mapping[str, Any]]) -> None:
    """Draw rounds of mutual learning: per module, what each refit gained or would have lost, and whether it stayed.

    Args:
        path: the PNG to write.
        steps: what was tried, as in ``metrics.json``: ``round``, ``what``, ``kept``, ``evidence``, ``before``.
    """
    names = list(dict.fromkeys(step["what"] for step in steps))
    figure = blank(6.4, 1.1 * (len(names) + 1) + 0.8)
    axes = figure.subplots(len(names) + 1, 1, sharex=True)
    places = range(len(steps))
    best = [max(step["evidence"], step["before"]) for step in steps]
    axes[0].step([-1, *places], [steps[0]["before"], *best], where="post", color=ACCENT)
    axes[0].ticklabel_format(axis="y", useOffset=False)
    axes[0].set_title("evidence of validation rows, nats a row", fontsize=8, color=INK, loc="left")
    for axis, name in zip(axes[1:], names, strict=True):
        for kept, fill, color in ((True, ACCENT, ACCENT), (False, "white", SECOND)):
            mine = [x for x, step in enumerate(steps) if step["what"] == name and step["kept"] == kept]
            gains = [steps[x]["evidence"] - steps[x]["before"] for x in mine]
            axis.plot(mine, gains, "o", color=color, markerfacecolor=fill, markersize=4)
        axis.axhline(0, color=PALE, linewidth=0.8)
        largest = max((abs(s["evidence"] - s["before"]) for s in steps if s["what"] == name), default=0.0)
        if largest > 1:
            axis.set_yscale("symlog", linthresh=0.1)
        else:
            axis.locator_params(axis="y", nbins=4)
        axis.margins(y=0.2)
        axis.yaxis.set_major_formatter("{x:.3g}")
        axis.set_title(f"{name}: gained (filled: kept), nats a row", fontsize=8, color=INK, loc="left")
    starts = [x for x, step in enumerate(steps) if x == 0 or steps[x - 1]["round"] != step["round"]]
    axes[-1].set_xticks([x - 0.5 for x in starts], [f"round {steps[x]['round']}" for x in starts], ha="left")
    for axis in axes:
        low, high = axis.get_ylim()
        if high - low < _LEAST_SPAN:  # next to nothing looks like next to nothing
            axis.set_ylim((low + high - _LEAST_SPAN) / 2, (low + high + _LEAST_SPAN) / 2)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="x", color=PALE, linewidth=0.4)
        axis.tick_params(colors=INK, labelsize=7)
    save_picture(figure, path)


def blank(width: float, height: float) -> Figure:
    """Return a figure in inches that no global state knows of."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_picture(figure: Figure, path: Path) -> None:
    """Write a figure as PNG: of the same picture the same bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    # No version or time in the file: same picture, same bytes.
    figure.savefig(path, dpi=150, facecolor="white", metadata={"Software": None})
