"""A picture of a stream: who was present, how well it was, what was believed, and how surely."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from serket.messages import Categorical, projected
from serket.stream.health import Level
from serket.stream.output import Output
from serket.stream.view import watched

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Timeline"]

MOST = 4000
COLOURS = {Level.OK: "#2e7d32", Level.DEGRADED: "#f9a825", Level.ERROR: "#c62828"}


class Timeline:
    """Keeps at most 4000 outputs, every second one dropped whenever there are more, and draws them."""

    def __init__(self, sensors: list[str], watch: str | None = None) -> None:
        self._sensors, self._watch = sensors, watch
        self._stride = self._count = 0
        self._kept: list[tuple[int, tuple[str, ...], Level, npt.NDArray[Any], float]] = []

    def put(self, output: Output) -> None:
        """Keep one output."""
        self._count += 1
        if self._count % (1 << self._stride):
            return
        name = self._watch = self._watch or watched(output)
        if name is None:
            return
        belief = projected(output.inference.beliefs[name])
        distribution = belief.to_distribution()
        if isinstance(belief, Categorical):
            told = belief.probs[0].numpy(force=True)
        else:
            told = np.stack([distribution.mean[0].numpy(force=True), distribution.stddev[0].numpy(force=True)])
        entropy = float(distribution.entropy()[0])
        self._kept.append((output.time_ns, output.present, output.level, told, entropy))
        if len(self._kept) > MOST:
            self._kept, self._stride = self._kept[1::2], self._stride + 1

    def drawn(self) -> bytes:
        """Return a PNG."""
        file = BytesIO()
        self.figure().savefig(file, dpi=120, format="png")
        return file.getvalue()

    def figure(self) -> Figure:
        """Return the figure."""
        from matplotlib.figure import Figure

        if not self._kept:
            figure = Figure(figsize=(4, 1))
            figure.text(0.5, 0.5, "no set went out", ha="center")
            return figure
        # By when things were measured: a set may go out after one that is newer.
        self._kept.sort(key=lambda one: one[0])
        times = np.array([one[0] for one in self._kept], dtype=float)
        times = (times - times[0]) / 1e9
        figure = Figure(figsize=(9, 5.4), layout="constrained")
        heights = [0.35 + 0.22 * len(self._sensors), 2.4, 1.1]
        top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=heights)
        self._draw_presence(top, times)
        self._draw_belief(middle, times)
        bottom.plot(times, [one[4] for one in self._kept], color="#222222", linewidth=1)
        bottom.set_ylabel("entropy, nats")
        bottom.set_xlabel("seconds, as measured")
        for axes in (top, middle, bottom):
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=8)
        return figure

    def _draw_presence(self, axes: Axes, times: npt.NDArray[Any]) -> None:
        names = ["health", *reversed(self._sensors)]
        axes.scatter(times, np.zeros(len(times)), c=[COLOURS[one[2]] for one in self._kept], marker="|", s=60)
        for row, name in enumerate(names[1:], 1):
            here = np.array([name in one[1] for one in self._kept])
            axes.scatter(times[here], np.full(here.sum(), row), marker="|", s=60, color="#0b6e99")
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(-0.6, len(names) - 0.4)

    def _draw_belief(self, axes: Axes, times: npt.NDArray[Any]) -> None:
        told = np.stack([one[3] for one in self._kept])
        if told.ndim == 2:
            axes.pcolormesh(times, np.arange(told.shape[1]), told.T, cmap="Blues", vmin=0, vmax=1, shading="nearest")
            axes.set_yticks(range(told.shape[1]))
        else:
            for d in range(min(told.shape[2], 4)):
                mean, std = told[:, 0, d], told[:, 1, d]
                axes.plot(times, mean, linewidth=1, label=f"{d}")
                axes.fill_between(times, mean - 2 * std, mean + 2 * std, alpha=0.2)
            axes.legend(loc="upper left", fontsize=8, frameon=False, ncols=4)
        axes.set_ylabel(f"belief: {self._watch}")
