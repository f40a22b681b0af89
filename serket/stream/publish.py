"""Outputs as ROS 2 messages: what goes into a bag, and onto the wire."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from serket.messages import Categorical, Gaussian, Message, projected
from serket.stream.output import Output

__all__ = ["BELIEF", "HEALTH", "HEALTH_TOPIC", "belief_message", "health_message", "messages_of"]

BELIEF, HEALTH = "std_msgs/msg/Float64MultiArray", "diagnostic_msgs/msg/DiagnosticArray"
HEALTH_TOPIC = "/serket/health"
SECOND = 1_000_000_000


def messages_of(output: Output, store: Any) -> Iterator[tuple[str, Any]]:
    """Yield the topics and messages of an output; both kinds hold the time of the set.

    ``/serket/VARIABLE``: ``std_msgs/Float64MultiArray``, of a category its probabilities ``(K,)``, of a Gaussian a
    matrix ``(D + 1, D)``: its mean, then its covariance row by row. As the type has no header, seconds and nanoseconds
    of the stamp stand in front, in the padding that ``data_offset``, 2, says to skip.
    ``/serket/health``: ``diagnostic_msgs/DiagnosticArray``, a status with the reasons and, as key-values: who was
    present, conflict (nats), ``latency_ms``, ``age_ms.SENSOR``, ``skew_ms.SENSOR``, ``contribution.SENSOR`` (nats), and
    on a live stream ``module_ms.MODULE``.
    """
    for name, belief in output.inference.beliefs.items():
        yield f"/serket/{name}", belief_message(belief, output.time_ns, store)
    yield HEALTH_TOPIC, health_message(output, store)


def belief_message(belief: Message, time_ns: int, store: Any) -> Any:
    """Return a belief as a ``std_msgs/Float64MultiArray``, its stamp before ``data_offset``."""
    belief = projected(belief)
    labels: tuple[str, ...]
    if isinstance(belief, Gaussian):
        labels, values = ("mean_covariance", "column"), torch.cat([belief.mean(), belief.covariance()[0]])
    elif isinstance(belief, Categorical):
        labels, values = ("probabilities",), belief.probs[0]
    else:
        labels, values = ("mean",), belief.mean()[0]
    array, stamp = values.double().numpy(force=True), divmod(time_ns, SECOND)
    dimension = store.types["std_msgs/msg/MultiArrayDimension"]
    dims = [
        dimension(label=label, size=size, stride=math.prod(array.shape[k:]))
        for k, (label, size) in enumerate(zip(labels, array.shape, strict=True))
    ]
    layout = store.types["std_msgs/msg/MultiArrayLayout"](dim=dims, data_offset=len(stamp))
    return store.types[BELIEF](layout=layout, data=np.concatenate([np.array(stamp, dtype="f8"), array.reshape(-1)]))


def health_message(output: Output, store: Any) -> Any:
    """Return the health of an output as a ``diagnostic_msgs/DiagnosticArray``."""
    types = store.types
    told = {"present": ",".join(output.present), "conflict": f"{output.inference.conflict:.6g}"}
    told["latency_ms"] = _ms(output.latency_ns)
    told |= {f"age_ms.{name}": _ms(age) for name, age in output.age_ns.items()}
    told |= {f"skew_ms.{name}": _ms(skew) for name, skew in output.skew_ns.items()}
    told |= {f"contribution.{name}": f"{nats:.6g}" for name, nats in output.inference.contribution.items()}
    told |= {f"module_ms.{name}": _ms(took) for name, took in output.module_ns.items()}
    pair = types["diagnostic_msgs/msg/KeyValue"]
    status = types["diagnostic_msgs/msg/DiagnosticStatus"](
        level=output.level.rank,
        name="serket",
        message="; ".join(output.reasons) or "OK",
        hardware_id="",
        values=[pair(key=key, value=value) for key, value in told.items()],
    )
    seconds, rest = divmod(output.time_ns, SECOND)
    stamp = types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=rest)
    header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="")
    return types[HEALTH](header=header, status=[status])


def _ms(nanoseconds: int) -> str:
    return f"{nanoseconds / 1e6:.3f}"
