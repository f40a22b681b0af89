"""Live ROS 2 topics on the command line: waiting for them, and an orderly end."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.status import Status

from serket.cli.shared import err
from serket.graph.stream import StreamEntry
from serket.report.status import say
from serket.stream.node import Node

__all__ = ["awaited", "opened", "stopping"]


def opened(topics: dict[str, str], entry: StreamEntry, beliefs: Iterable[str], silent: bool) -> Node:
    """Join ROS 2."""

    def tell(text: str) -> None:
        if not silent:
            say(err, f"note: {text}")

    return Node(topics, entry, beliefs=beliefs, tell=tell)


def awaited(node: Node, seconds: float, silent: bool) -> None:
    """Wait for who publishes, and say so."""
    wanted = ", ".join(node.topics.values())
    if silent or not err.is_terminal:
        if not silent:
            err.print(f"waiting for {wanted}, {seconds:g} s at most, by {node.wire.name}", markup=False, soft_wrap=True)
        node.wait(seconds)
        return
    with Status("", console=err) as status:
        node.wait(seconds, lambda left: status.update(f"waiting for {wanted}: {left:.0f} s"))


@contextmanager
def stopping(node: Node) -> Iterator[None]:
    """Ctrl-C, or SIGTERM, ends the stream in order; a second one ends it at once."""

    def stop(number: int, _: Any) -> None:
        signal.signal(number, before[number])
        node.stop()

    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
