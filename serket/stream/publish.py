"""Outputs as ROS 2 messages: what goes into a bag, and onto the wire."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from serket.messages import Categorical, Gaussian, Message, projected
from serket.stream.health import Level
from serket.stream.output import Output

__all__ = ["BELIEF", "HEALTH", "HEALTH_TOPIC", "belief_message", "health_message", "messages_of"]

BELIEF, HEALTH = "std_msgs/msg/Float64MultiArray", "diagnostic_msgs/msg/DiagnosticArray"
HEALTH_TOPIC = "/serket/health"
LEVELS = {Level.OK: 0, Level.DEGRADED: 1, Level.ERROR: 2}  # diagnostic_msgs/DiagnosticStatus


def messages_of(output: Output, store: Any) -> Iterator[tuple[str, Any]]:
    """Yield the topics and messages of an output.

    ``/serket/VARIABLE``: ``std_msgs/Float64MultiArray``, of a category its probabilities (dimension ``probabilities``),
    of a Gaussian its mean, then its covariance row by row (dimensions ``mean`` and ``covariance``).
    ``/serket/health``: ``diagnostic_msgs/DiagnosticArray``, a status with the reasons, who was present, and conflict,
    stamped with the time of the set.
    """
    for name, belief in output.inference.beliefs.items():
        yield f"/serket/{name}", belief_message(belief, store)
    yield HEALTH_TOPIC, health_message(output, store)


def belief_message(belief: Message, store: Any) -> Any:
    """Return a belief as a ``std_msgs/Float64MultiArray``."""
    belief = projected(belief)
    if isinstance(belief, Gaussian):
        parts = {"mean": belief.mean()[0], "covariance": belief.covariance()[0].flatten()}
    elif isinstance(belief, Categorical):
        parts = {"probabilities": belief.probs[0]}
    else:
        parts = {"mean": belief.mean()[0]}
    arrays = {name: part.double().numpy(force=True) for name, part in parts.items()}
    types = store.types
    dims = [
        types["std_msgs/msg/MultiArrayDimension"](label=name, size=part.size, stride=part.size)
        for name, part in arrays.items()
    ]
    layout = types["std_msgs/msg/MultiArrayLayout"](dim=dims, data_offset=0)
    return types[BELIEF](layout=layout, data=np.concatenate(list(arrays.values())))


def health_message(output: Output, store: Any) -> Any:
    """Return the health of an output as a ``diagnostic_msgs/DiagnosticArray``."""
    types = store.types
    pair = types["diagnostic_msgs/msg/KeyValue"]
    values = [
        pair(key="present", value=",".join(output.present)),
        pair(key="conflict", value=f"{output.inference.conflict:.6g}"),
        *(pair(key=f"age_ms.{name}", value=f"{age / 1e6:.3f}") for name, age in output.age_ns.items()),
    ]
    text = "; ".join(output.reasons) or "OK"
    status = types["diagnostic_msgs/msg/DiagnosticStatus"](
        level=LEVELS[output.level], name="serket", message=text, hardware_id="", values=values
    )
    seconds, rest = divmod(output.time_ns, 1_000_000_000)
    stamp = types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=rest)
    header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="")
    return types[HEALTH](header=header, status=[status])
