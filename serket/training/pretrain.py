"""Every module alone, on its own rows, side by side where there are cores."""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, cast

import torch

from serket.engine.blame import blamed
from serket.errors import MessageError, SerketError
from serket.messages import Message
from serket.protocol import Evidence, Extends, FitReport, Trainable
from serket.rows import seeded

__all__ = ["Fitted", "Report", "Task", "pretrain"]

Report = Callable[[str, int, int, str], None]
"""Called with (module, steps done, steps in all, a short text)."""


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """One module to fit: its evidence and inbox on the training rows, the ports it owns, the keys of its ``fit:``."""

    name: str
    module: Trainable
    evidence: Evidence
    inbox: Mapping[str, Message]
    owned: frozenset[str]
    options: Mapping[str, Any]
    seed: int
    after: Callable[[Report | None], Mapping[str, list[float]]] | None = None
    """What is to be done once it is fitted, and returns more curves for its report."""
    views: frozenset[str] | None = None
    """Only these ports of a composer that extends (:class:`serket.protocol.Extends`) are to be learnt."""

    def run(self, report: Report | None = None) -> Fitted:
        """Fit the module, in place; errors name it."""
        start = time.perf_counter()

        def progress(done: int, steps: int, text: str) -> None:
            if report:
                report(self.name, done, steps, text)

        learn = self.module.fit
        if self.views is not None:
            learn = partial(cast(Extends, self.module).fit_views, self.views)
        with blamed(self.name, self.module):
            fitted = learn(
                self.evidence,
                self.inbox,
                generator=seeded(self.seed, self.name, "fit", device=self.evidence.row_id.device),
                owned=self.owned,
                progress=progress,
                **self.options,
            )
            if not isinstance(fitted, FitReport):
                raise MessageError(
                    f"{type(self.module).__name__}.fit returned no report",
                    expected="serket.FitReport",
                    found=type(fitted).__name__,
                    fix="return serket.FitReport(steps)",
                )
            if self.after:
                fitted = replace(fitted, history={**fitted.history, **self.after(report)})
        return Fitted(self.name, fitted, time.perf_counter() - start)


@dataclass(frozen=True, slots=True)
class Fitted:
    """What became of a task, and how many seconds it took."""

    name: str
    report: FitReport
    seconds: float


def pretrain(tasks: Sequence[Task], *, workers: int = 1, report: Report | None = None) -> Iterator[Fitted]:
    """Fit independent modules, and yield each as it is done.

    With more than one worker each fit runs on one thread of a forked process, and its state is loaded into the module
    here. Every task has its own random stream, so the order does not matter; on a machine without
    fork, or on another device than the CPU, the tasks run one after another.

    Raises:
        SerketError: of the first task that fails; the others are stopped.
    """
    on_cpu = all(task.evidence.row_id.device.type == "cpu" for task in tasks)
    if min(workers, len(tasks)) < 2 or not on_cpu or "fork" not in multiprocessing.get_all_start_methods():
        for task in tasks:
            yield task.run(report)
        return
    # The longest first, as far as the size of the data tells.
    running: dict[Connection, tuple[Task, multiprocessing.process.BaseProcess]] = {}
    waiting = sorted(tasks, key=lambda task: task.evidence.values.numel() if task.evidence.values is not None else 0)
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                task = waiting.pop()
                here, there = multiprocessing.Pipe(duplex=False)
                child = multiprocessing.get_context("fork").Process(target=_child, args=(task, there))
                child.start()
                there.close()
                running[here] = (task, child)
            for ready in cast(list[Connection], wait(list(running))):
                task, process = running[ready]
                if (fitted := _hear(ready, task, report)) is not None:
                    del running[ready]
                    process.join()
                    yield fitted
    finally:
        for _, process in running.values():
            process.terminate()
            process.join()


def _child(task: Task, channel: Connection) -> None:
    """Fit in a forked process; arrays travel back as numpy, errors as themselves."""
    # A forked process that starts OpenMP threads hangs for ever if its parent has had some.
    torch.set_num_threads(1)
    try:
        fitted = task.run(lambda *step: channel.send(("step", step)))
        state = {name: value.cpu().numpy() for name, value in task.module.state().items()}
        channel.send(("done", (fitted, state)))
    except SerketError as error:
        channel.send(("mistake", error))
    except KeyboardInterrupt:
        pass
    except BaseException:
        channel.send(("crash", traceback.format_exc()))
    channel.close()
    os._exit(0)


def _hear(channel: Connection, task: Task, report: Report | None) -> Fitted | None:
    """Take one message from a child."""
    try:
        kind, content = channel.recv()
    except EOFError:
        raise RuntimeError(f"the process that fitted {task.name} died; is there memory enough?") from None
    if kind == "mistake":
        raise content
    if kind == "crash":
        raise RuntimeError(f"{task.name} could not be fitted\n{content}")
    if kind == "done":
        fitted, state = content
        task.module.load({name: torch.from_numpy(value) for name, value in state.items()})
        return cast(Fitted, fitted)
    if report:
        report(*content)
    return None
