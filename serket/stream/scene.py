"""A stream as a Rerun recording: what was sensed, what was believed, who said what, and how well it was."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from serket.errors import DataError, not_installed
from serket.messages import Categorical, Message, projected
from serket.stream.health import Level
from serket.stream.observation import Observation
from serket.stream.output import Output
from serket.stream.pipeline import Pipeline

__all__ = ["Scene"]

TIMELINE = "measured"
MOST_LINES = 12  # numbers of a sensor that are drawn as lines; of more as bars
EPOCH_NS = 10**17  # stamps above are dates (1973 and later), below they are durations
LOG_LEVELS = {Level.OK: "INFO", Level.DEGRADED: "WARN", Level.ERROR: "ERROR"}
COLOURS = ((31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75),
           (227, 119, 194), (150, 150, 150), (188, 189, 34), (23, 190, 207))  # fmt: skip


class Scene:
    """Writes an ``.rrd`` file for the Rerun viewer, on a timeline of when things were measured.

    Args:
        path: the file.
        pipeline: what the observations go through; readings whose clock it does not believe are left out.

    What is in it:

    - ``sensors/KEY``: a reading of shape ``(H, W)`` or ``(H, W, 1, 3 or 4)`` as an image, of up to 12 numbers as
      lines, else as bars; at its own stamp less its offset.
    - ``beliefs/NAME``, of a category: ``probabilities`` as bars and ``over_time`` as lines; else ``mean`` and
      (standard) ``deviation`` as lines, and ``trajectory``: the first two numbers, with an ellipse of two deviations.
    - ``contribution/KEY``: nats; ``conflict``: nats; ``present/KEY``: 0 or 1.
    - ``health/level``: 0 OK, 1 DEGRADED, 2 ERROR; ``health/reasons``: a line whenever they change.

    Raises:
        SerketError: the package ``rerun-sdk`` is not installed.
        DataError: the file cannot be written.
    """

    def __init__(self, path: str | Path, pipeline: Pipeline) -> None:
        try:
            import rerun
        except ImportError:
            raise not_installed("a Rerun recording needs the package rerun-sdk", "rerun") from None
        self._rr: Any = rerun
        self._intakes = pipeline.intakes
        self._dates: bool | None = None
        self._to = rerun.RecordingStream("serket")
        try:
            self._to.save(str(path))
        except Exception as error:  # of no named type
            raise DataError(
                "the recording cannot be written", where=str(path), found=str(error)[:120], fix="choose another --rerun"
            ) from None
        rerun.set_log_time_enabled(False, recording=self._to)
        rerun.set_log_tick_enabled(False, recording=self._to)
        self._images: dict[str, None] = {}
        self._others: dict[str, bool] = {}  # by sensor, whether it is drawn as lines
        self._beliefs: dict[str, bool] = {}  # by variable, whether it is a category
        self._styled: set[str] = set()
        self._told: tuple[str, ...] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._to.send_blueprint(self.blueprint())
        self._to.flush()
        self._to.disconnect()

    def heard(self, observation: Observation) -> None:
        """Draw a reading that the pipeline has taken."""
        name, rr = observation.sensor, self._rr
        if self._intakes[name].doubted:
            return
        self._at(observation.time_ns)
        values, shape = np.asarray(observation.values), observation.shape
        if len(shape) in (2, 3) and (len(shape) == 2 or shape[2] in (1, 3, 4)) and values.size == np.prod(shape):
            self._images[name] = None
            image = _pixels(values.reshape(shape))
            grey = image.ndim == 2  # as it is, from its least to its greatest: brightness or depth
            self._log(f"sensors/{name}", rr.DepthImage(image, colormap="Grayscale") if grey else rr.Image(image))
            return
        lines = self._others[name] = values.size <= MOST_LINES
        if lines:
            self._style(f"sensors/{name}", values.size)
        self._log(f"sensors/{name}", rr.Scalars(values) if lines else rr.BarChart(values))

    def put(self, output: Output) -> None:
        """Draw an output."""
        self._at(output.time_ns)
        rr, inference = self._rr, output.inference
        for name, belief in inference.beliefs.items():
            self._belief(name, projected(belief))
        for name, nats in inference.contribution.items():
            self._log(f"contribution/{name}", rr.Scalars(nats))
        self._log("conflict", rr.Scalars(inference.conflict))
        for name in (*self._images, *self._others):
            self._style(f"present/{name}", 1, steps=True)
            self._log(f"present/{name}", rr.Scalars(float(name in output.present)))
        self._log("health/level", rr.Scalars(output.level.rank))
        if output.reasons != self._told:
            self._told = output.reasons
            text = "; ".join(output.reasons) or "OK"
            self._log("health/reasons", rr.TextLog(text, level=LOG_LEVELS[output.level]))

    def blueprint(self) -> Any:
        """Return the layout: sensors and belief above, the belief over time, then who said what and health."""
        import rerun.blueprint as rrb

        seen = [rrb.Spatial2DView(origin=f"sensors/{name}", name=name) for name in self._images]
        felt = [
            (rrb.TimeSeriesView if lines else rrb.BarChartView)(origin=f"sensors/{name}", name=name)
            for name, lines in self._others.items()
        ]
        bars: list[Any] = []
        paths: list[Any] = []
        over: list[Any] = []
        means: list[Any] = []
        past = rrb.VisibleTimeRange(
            TIMELINE, start=rrb.TimeRangeBoundary.infinite(), end=rrb.TimeRangeBoundary.cursor_relative()
        )
        for name, category in self._beliefs.items():
            origin = f"beliefs/{name}"
            if category:
                bars.append(rrb.BarChartView(origin=f"{origin}/probabilities", name=name))
                over.append(rrb.TimeSeriesView(origin=f"{origin}/over_time", name=f"{name} over time"))
            else:
                paths.append(rrb.Spatial2DView(origin=f"{origin}/trajectory", name=f"{name}, path", time_ranges=past))
                means.append(rrb.TimeSeriesView(origin=f"{origin}/mean", name=f"{name}, mean"))
        below = [
            rrb.TimeSeriesView(origin="contribution", name="contribution, nats"),
            rrb.TimeSeriesView(origin="/", contents=["/conflict"], name="conflict, nats"),
            rrb.TimeSeriesView(origin="/", contents=["/health/level", "/present/**"], name="health and presence"),
            rrb.TextLogView(origin="health", name="reasons"),
        ]
        above: list[Any] = [*seen, *felt, *bars, *([rrb.Tabs(*paths[::-1])] if paths else [])]
        middle: list[Any] = [*over, *([rrb.Tabs(*means[::-1])] if means else [])]
        return rrb.Blueprint(
            rrb.Vertical(*(rrb.Horizontal(*row) for row in (above, middle, below) if row)),
            rrb.TimePanel(timeline=TIMELINE, state="collapsed", play_state="following"),
            collapse_panels=True,
        )

    def _belief(self, name: str, belief: Message) -> None:
        rr, origin = self._rr, f"beliefs/{name}"
        if isinstance(belief, Categorical):
            self._beliefs[name] = True
            probabilities = belief.probs[0].double().numpy(force=True)
            self._log(f"{origin}/probabilities", rr.BarChart(probabilities))
            self._style(f"{origin}/over_time", len(probabilities))
            self._log(f"{origin}/over_time", rr.Scalars(probabilities))
            return
        self._beliefs[name] = False
        distribution = belief.to_distribution()
        mean = distribution.mean[0].double().numpy(force=True)
        deviation = distribution.stddev[0].double().numpy(force=True)
        self._style(f"{origin}/mean", len(mean))
        self._log(f"{origin}/mean", rr.Scalars(mean))
        self._log(f"{origin}/deviation", rr.Scalars(deviation))
        if len(mean) >= 2:
            half = 2 * deviation[None, :2]
            self._log(f"{origin}/trajectory", rr.Ellipses2D(centers=mean[None, :2], half_sizes=half, line_radii=-0.5))
            self._log(f"{origin}/trajectory/at", rr.Points2D(mean[None, :2], radii=-2.0))

    def _at(self, moment: int) -> None:
        if self._dates is None:
            self._dates = moment >= EPOCH_NS
        if self._dates:
            self._to.set_time(TIMELINE, timestamp=np.datetime64(moment, "ns"))
        else:
            self._to.set_time(TIMELINE, duration=np.timedelta64(moment, "ns"))

    def _style(self, path: str, lines: int, *, steps: bool = False) -> None:
        """Give each line a colour of its own, and its number as its name; once."""
        if path in self._styled:
            return
        self._styled.add(path)
        told: dict[str, Any] = {"interpolation_mode": "StepAfter"} if steps else {}
        if lines > 1:
            told |= {
                "colors": [COLOURS[k % len(COLOURS)] for k in range(lines)],
                "names": [f"{k}" for k in range(lines)],
            }
        self._to.log(path, self._rr.SeriesLines(**told), static=True)

    def _log(self, path: str, what: Any) -> None:
        self._to.log(path, what)


def _pixels(image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return colours as bytes, from 0 to 1 or from 0 to 255; one channel as it is."""
    if image.ndim == 2 or image.shape[2] == 1:
        kept = image.dtype in (np.uint8, np.uint16, np.float32)
        return image.reshape(image.shape[:2]) if kept else image.reshape(image.shape[:2]).astype("f4")
    if image.dtype != np.uint8:
        image = (image * (255 if np.nanmax(image, initial=0) <= 1 else 1)).clip(0, 255).round()
    pixels: npt.NDArray[Any] = np.nan_to_num(image).astype(np.uint8)
    return pixels
