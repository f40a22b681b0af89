"""The section ``stream:`` of a graph file: how observations of several sensors become sets."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = ["Gate", "Queue", "SensorEntry", "StreamEntry", "nanoseconds"]

Milliseconds = Annotated[float, Field(ge=0)]
Policy = Literal["exact", "approximate", "latest", "settled"]
Overflow = Literal["drop_oldest", "drop_newest", "block", "error"]
OnError = Literal["fail", "skip", "restart"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Queue(_Strict):
    """``queue: {size: 32, policy: drop_oldest}``: what a sensor may have waiting, and what goes when it is full."""

    size: int = Field(32, ge=1, le=100_000)
    policy: Overflow = "drop_oldest"


class Gate(_Strict):
    """``gate: {mahalanobis: 5.0}``: how many standard deviations a message may be from what is believed without it."""

    mahalanobis: float = Field(gt=0)


class SensorEntry(_Strict):
    """What is known of one sensor."""

    topic: str | None = Field(None, min_length=1, description="in a bag or on the wire; else the data key")
    offset_ms: float = Field(0.0, description="subtracted from its stamps: a constant delay of its clock")
    jitter_ms: Milliseconds = Field(0.0, description="by how much more than tolerance_ms its stamps may be off")
    reorder_ms: Milliseconds = Field(0.0, description="how long its observations wait for earlier ones")
    required: bool = Field(False, description="a set without it is an error, and predicted only")
    queue: Queue = Queue.model_validate({})
    expect_hz: list[float] | None = Field(None, min_length=2, max_length=2, description="least and greatest rate")
    gate: Gate | None = None
    on_error: OnError | None = Field(None, description="what becomes of its module when it fails; else that of stream")

    @field_validator("expect_hz", mode="before")
    @classmethod
    def _rates(cls, given: object) -> object:
        found = given if isinstance(given, list) else [given]
        rates = sorted(rate for rate in found if isinstance(rate, int | float) and 0 < rate)
        if given is None or (given == rates and len(rates) == 2):
            return given
        if len(found) == 2 and not all(isinstance(rate, int | float) for rate in found):
            return given  # pydantic names the one that is no number
        least, most = (
            (rates[0], rates[-1]) if len(rates) > 1 else (0.9 * rates[0], 1.1 * rates[0]) if rates else (27, 33)
        )
        example = "" if rates else ", for 30 Hz"
        raise ValueError(f"two rates above zero are expected, the least first; write [{least:g}, {most:g}]{example}")


class StreamEntry(_Strict):
    """The section ``stream:``."""

    policy: Policy = "settled"
    tolerance_ms: Milliseconds = Field(10.0, description="stamps so close belong to one set")
    timeout_ms: Milliseconds = Field(100.0, description="a set waits so long from its first member on, then goes out")
    min_present: int = Field(1, ge=1, description="a set with fewer sensors is an error, and predicted only")
    max_in_flight: int = Field(4, ge=1, description="sets that may wait for the modules; of more the oldest goes")
    deadline_ms: Milliseconds | None = Field(None, description="latency budget of a set; a miss is reported")
    late: Literal["drop", "reprocess"] = "drop"
    history_ms: Milliseconds = Field(0.0, description="how far back late observations are reprocessed; at most jump_ms")
    tau_ms: Annotated[float, Field(gt=0)] | None = Field(
        None, description="policy latest: a reading reused at age a counts as its message to the power exp(-a / tau)"
    )
    jump_ms: Annotated[float, Field(gt=0)] = Field(1000.0, description="a stamp so far off its clock is not believed")
    silence_ms: Annotated[float, Field(gt=0)] = Field(
        1000.0,
        description="a sensor without expect_hz is silent after this; nothing usable so long, a prediction goes out",
    )
    frame_ms: Annotated[float, Field(gt=0)] | None = Field(
        None, description="from one row to the next where modules over time were fitted; else each set is the next row"
    )
    on_error: OnError = "skip"
    sensors: dict[str, SensorEntry] = {}

    @model_validator(mode="after")
    def _consistent(self) -> StreamEntry:
        if self.late == "reprocess" and self.history_ms == 0:
            raise ValueError("late: reprocess needs history_ms above zero, how far back to go; write history_ms: 500")
        if self.late == "reprocess" and self.jump_ms < self.history_ms:
            raise ValueError(
                f"late: reprocess goes back {self.history_ms:g} ms (history_ms), but what comes more than "
                f"{self.jump_ms:g} ms late (jump_ms) is not believed; write jump_ms: {self.history_ms:g}"
            )
        if self.tau_ms is not None and self.policy != "latest":
            raise ValueError(
                "tau_ms is of policy latest, for no other reuses a reading; remove it, or write policy: latest"
            )
        for name, sensor in self.sensors.items():
            if sensor.expect_hz is not None and sensor.queue.size < (least := self.least_queue(name)):
                raise ValueError(
                    f"the queue of {name} is too short: at {sensor.expect_hz[1]:g} Hz a set may wait "
                    f"{self.timeout_ms + sensor.reorder_ms:g} ms (timeout_ms and reorder_ms), with "
                    f"{self._apart_ms(name):g} ms of tolerance and jitter, so {least} observations may have "
                    f"to be held; write queue: {{size: {least}}}"
                )
        return self

    def sensor(self, name: str) -> SensorEntry:
        """Return the entry of a sensor, or the defaults."""
        return self.sensors.get(name) or SensorEntry.model_validate({})

    def least_queue(self, name: str) -> int:
        """Return ceil(rate (latency + tolerance)) + 1: what is held while a set waits for its slowest member."""
        sensor = self.sensors[name]
        assert sensor.expect_hz is not None
        waits_ms = self.timeout_ms + sensor.reorder_ms + self._apart_ms(name)
        return math.ceil(sensor.expect_hz[1] * waits_ms / 1000) + 1

    def _apart_ms(self, name: str) -> float:
        """Return how far a sensor's reading may be from a set that any other opened."""
        others = [other.jitter_ms for key, other in self.sensors.items() if key != name]
        return self.tolerance_ms + self.sensors[name].jitter_ms + max(others, default=0.0)


def nanoseconds(milliseconds: float) -> int:
    """Return whole nanoseconds."""
    return round(milliseconds * 1_000_000)
