"""What goes on, in a terminal: sensors, their ages, health, belief."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from serket.messages import Categorical, Message, projected
from serket.stream.counters import Count
from serket.stream.health import Level
from serket.stream.output import Output
from serket.stream.pipeline import Pipeline

__all__ = ["View"]

COLOURS = {Level.OK: "green", Level.DEGRADED: "yellow", Level.ERROR: "bold red"}
COLUMNS = {"sensor": 0, "age": 6, "Hz": 5, "gives": 9, "used": 5, "dropped": 0}  # the least width of numbers
BAR, MOST_BARS, REFRESH_S = 24, 10, 0.1


class View:
    """A live table on a terminal of 80 columns; a line at the end of the stream where there is no terminal."""

    def __init__(self, pipeline: Pipeline, console: Console, *, watch: str | None = None) -> None:
        self.pipeline, self.console, self.watch = pipeline, console, watch
        self._live = Live(console=console, refresh_per_second=10, transient=False, auto_refresh=False)
        self._drawn = 0.0
        self._last: Output | None = None

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            if self._last is not None:
                self._live.update(self.drawn(self._last), refresh=True)
            self._live.stop()

    def put(self, output: Output) -> None:
        """Show an output, ten times a second at most."""
        self._last = output
        now = time.monotonic()
        if self.console.is_terminal and now - self._drawn >= REFRESH_S:
            self._drawn = now
            self._live.update(self.drawn(output), refresh=True)

    def drawn(self, output: Output) -> Group:
        """Return what is shown of an output."""
        health = Text(f"{output.level.value}", COLOURS[output.level])
        health.append(f"   set {self.pipeline.sets}   {output.latency_ns / 1e6:.0f} ms", "dim")
        reasons = [Text(f"  {reason}", COLOURS[output.level]) for reason in output.reasons[:6]]
        return Group(health, *reasons, self._sensors(output), self._belief(output))

    def _sensors(self, output: Output) -> Table:
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for name, least in COLUMNS.items():  # numbers have their room on 80 columns; names and reasons are cut
            table.add_column(
                name,
                justify="right" if least else "left",
                no_wrap=True,
                min_width=least or None,
                max_width=20 if name == "sensor" else None,
            )
        for name, count in self.pipeline.counts.items():
            age, hz = output.age_ns.get(name), self._rate(name, output.emitted_ns)
            gives = output.inference.contribution.get(name)
            table.add_row(
                Text(name, "" if name in output.present else "dim"),
                "-" if age is None else f"{age / 1e6:.0f} ms" if age < 1e10 else f"{age / 1e9:.0f} s",
                "-" if hz is None else f"{hz:.1f}",
                "-" if gives is None else f"{gives:.1f} nats",
                str(count.used),
                Text(lost(count), "yellow"),
            )
        return table

    def _rate(self, name: str, now: int) -> float | None:
        """Return its rate; None when nothing has come for as long as five readings took."""
        intake = self.pipeline.intakes[name]
        hz = intake.rate_hz()
        return None if not hz or now - (intake.last_recv or 0) > 5e9 / hz else hz

    def _belief(self, output: Output) -> Group:
        name = self.watch or watched(output)
        lines = [Text(f"{name}", "bold")] if name else []
        belief = projected(output.inference.beliefs[name]) if name else None
        if isinstance(belief, Categorical):
            probs = belief.probs[0]
            order = probs.argsort(descending=True, stable=True)[:MOST_BARS].tolist()
            for k in sorted(order):
                p = float(probs[k])
                lines.append(Text(f"{k:>4} {'#' * round(BAR * p):<{BAR}} {p:.2f}", "" if p > 0.5 else "dim"))
        elif belief is not None:
            lines.append(Text(_moments(belief)))
        return Group(*lines)


def lost(count: Count) -> str:
    """Return how many were dropped, and why, in one short line."""
    reasons = [f"{n} {reason}" for reason, n in count.dropped.most_common() if n]
    return ", ".join(reasons) if len(reasons) < 3 else f"{count.dropped.total()}: {reasons[0]}, ..."


def watched(output: Output) -> str | None:
    """Return the variable that is shown: the last categorical one, else the last."""
    names = list(output.inference.beliefs)
    named = [name for name in names if isinstance(output.inference.beliefs[name], Categorical)]
    return named[-1] if named else names[-1] if names else None


def _moments(belief: Message) -> str:
    distribution = belief.to_distribution()
    pairs = zip(distribution.mean[0].tolist(), distribution.stddev[0].tolist(), strict=True)
    told = [f"{mean:.2f} +- {std:.2f}" for mean, std in pairs]
    return "  ".join(told[:4]) + (f"  and {len(told) - 4} more" if len(told) > 4 else "")
