"""ROS 2 by its own client library, where it is importable: with any middleware, as the installation is set up."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from serket.errors import SerketError
from serket.stream.wire import DEPTH, Offer

__all__ = ["RclpyWire"]

KEEP = 100  # messages that a subscription holds until the next look


class RclpyWire:
    """A node ``/serket_PID`` that hears and publishes serialised messages: their codec is the same as that of bags."""

    name = "rclpy"

    def __init__(self) -> None:
        rclpy = importlib.import_module("rclpy")
        executors, signals = importlib.import_module("rclpy.executors"), importlib.import_module("rclpy.signals")
        self._context = rclpy.Context()
        self._name = f"serket_{os.getpid()}"  # another process of Serket is one to listen to
        rclpy.init(context=self._context, signal_handler_options=signals.SignalHandlerOptions.NO)
        self._node = rclpy.create_node(self._name, context=self._context, enable_rosout=False)
        self._executor = executors.SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._publishers: list[Any] = []

    def offers(self) -> Mapping[str, Offer]:
        """Return what others publish, by topic."""
        reliable = importlib.import_module("rclpy.qos").ReliabilityPolicy.RELIABLE
        found: dict[str, Offer] = {}
        for topic, _ in self._node.get_topic_names_and_types():
            infos = self._node.get_publishers_info_by_topic(topic)
            others = [info for info in infos if info.node_name != self._name]
            if others:
                every = all(info.qos_profile.reliability == reliable for info in others)
                found[topic] = Offer(others[-1].topic_type, every)
        return found

    def listen(self, topic: str, offer: Offer, take: Callable[[bytes], None]) -> None:
        """Call ``take`` with every message from now on, within :meth:`poll`."""
        quality = self._quality(offer.reliable, KEEP)
        self._node.create_subscription(self._type(offer.kind, topic), topic, take, quality, raw=True)

    def poll(self, seconds: float) -> None:
        """Wait for messages, at most so long, and hand on what came."""
        self._executor.spin_once(timeout_sec=seconds)

    def talk(self, topic: str, kind: str) -> Callable[[bytes], None]:
        """Return what publishes on a topic."""
        publisher = self._node.create_publisher(self._type(kind, topic), topic, self._quality(True, DEPTH))
        self._publishers.append(publisher)
        publish: Callable[[bytes], None] = publisher.publish
        return publish

    def close(self, seconds: float) -> None:
        """Wait, at most so long, until what was published has arrived; then leave."""
        duration = importlib.import_module("rclpy.duration").Duration
        end = time.monotonic() + seconds
        for publisher in self._publishers:
            publisher.wait_for_all_acked(duration(seconds=max(0.0, end - time.monotonic())))
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def _quality(self, reliable: bool, depth: int) -> Any:
        qos = importlib.import_module("rclpy.qos")
        policy = qos.ReliabilityPolicy
        return qos.QoSProfile(depth=depth, reliability=policy.RELIABLE if reliable else policy.BEST_EFFORT)

    def _type(self, kind: str, topic: str) -> Any:
        package, _, short = kind.split("/")
        try:
            return getattr(importlib.import_module(f"{package}.msg"), short)
        except (ImportError, AttributeError):
            raise SerketError(
                f"this ROS 2 has no messages of type {kind}", where=topic, fix=f"install the package {package}"
            ) from None
