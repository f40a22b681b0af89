"""Progress bars with time left, one per module."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

__all__ = ["Bars"]


class Bars:
    """Bars on a console while something runs; nothing at all if quiet, a line per finished bar if it is no terminal."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self.console, self.quiet, self.tasks = console, quiet, dict[str, TaskID]()
        self.progress = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("{task.fields[text]}", style="dim"),
            console=console,
            disable=quiet or not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def step(self, name: str, done: int, steps: int, text: str) -> None:
        """Show that ``name`` has done so many of its steps."""
        if name not in self.tasks:
            self.tasks[name] = self.progress.add_task(name, total=steps, text=text)
        self.progress.update(self.tasks[name], completed=done, total=steps, text=text)
        if done == steps and not self.quiet and not self.console.is_terminal:
            told = [f"{steps} steps"] * (steps > 1) + [text] * bool(text)
            self.console.print(f"{name}: {', '.join(told) or 'done'}", markup=False)
