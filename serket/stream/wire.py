"""What a ROS 2 node needs of the wire, whoever speaks on it: messages in CDR, as bytes."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from serket.errors import DataError, SerketError

__all__ = ["DEPTH", "Offer", "Wire", "domain_id", "on_loopback", "open_wire"]

DEPTH = 10  # what a writer keeps for a slow reader: that of ROS 2
BACKENDS = ("rclpy", "cyclonedds")


@dataclass(frozen=True, slots=True)
class Offer:
    """A topic that someone publishes: its type, and whether every publisher of it resends what was lost."""

    kind: str
    reliable: bool


class Wire(Protocol):
    """Publishes and hears bytes in CDR. Only the thread that calls ``poll`` listens."""

    name: str

    def offers(self) -> Mapping[str, Offer]:
        """Return what others publish, by topic."""
        ...

    def listen(self, topic: str, offer: Offer, take: Callable[[bytes], None]) -> None:
        """Call ``take`` with every message from now on, within :meth:`poll`."""
        ...

    def poll(self, seconds: float) -> None:
        """Wait for messages, at most so long, and hand on what came."""
        ...

    def talk(self, topic: str, kind: str) -> Callable[[bytes], None]:
        """Return what publishes on a topic."""
        ...

    def close(self, seconds: float) -> None:
        """Wait, at most so long, until what was published has arrived; then leave."""
        ...


def open_wire(backend: str | None = None) -> Wire:
    """Join the ROS 2 graph: by ``rclpy`` where it is importable, else by ``cyclonedds``.

    Raises:
        SerketError: neither is installed.
    """
    for name in (backend,) if backend else BACKENDS:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
        if name == "rclpy":
            from serket.stream.wire_rclpy import RclpyWire

            return RclpyWire()
        from serket.stream.wire_cyclone import CycloneWire

        return CycloneWire(domain_id(), loopback=on_loopback())
    raise SerketError(
        "live ROS 2 topics need rclpy or cyclonedds",
        found="neither is installed",
        fix="pip install 'serket-perception[ros]', or source a ROS 2 installation",
    )


def domain_id() -> int:
    """Return ``ROS_DOMAIN_ID``, 0 if it is not set."""
    text = os.environ.get("ROS_DOMAIN_ID", "").strip() or "0"
    if not text.isdecimal() or int(text) > 232:
        raise DataError("no such domain", where="ROS_DOMAIN_ID", expected="0 to 232", found=text, fix="unset it")
    return int(text)


def on_loopback() -> bool:
    """Tell whether ``ROS_AUTOMATIC_DISCOVERY_RANGE`` keeps ROS 2 on this machine."""
    return os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "").upper() == "LOCALHOST"
