"""What inferring one set of readings gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from serket.messages import Message

__all__ = ["Inference"]


@dataclass(slots=True)
class Inference:
    """What is believed about one set.

    Args:
        beliefs: by variable, one row each.
        contribution: nats that each sensor has added, by sensor.
        conflict: nats; far below zero, the sensors disagree.
        gated: sensors not believed, and how many standard deviations they are off.
        failed: sensors or nodes that failed, and what they said.
        seconds: spent in each node.
        beyond: sensors whose reading is unlike what their module was fitted on, and the power of its message.
        doubted: sensors that a robust composer takes to lie, and how probably they are honest, below 0.5; where several
            speak of one view, its variable.
    """

    beliefs: Mapping[str, Message]
    contribution: Mapping[str, float] = field(default_factory=dict)
    conflict: float = 0.0
    gated: Mapping[str, float] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    beyond: Mapping[str, float] = field(default_factory=dict)
    doubted: Mapping[str, float] = field(default_factory=dict)
