"""What becomes of outputs: a line of JSON each, the same bytes on every replay, or messages in a ROS 2 bag."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from serket.errors import DataError
from serket.messages import Categorical, Dirichlet, Gaussian, Message, projected
from serket.stream.output import Output
from serket.stream.publish import messages_of
from serket.stream.ros import typestore

__all__ = ["BagSink", "JsonLines", "plain"]

DIGITS = 6


class JsonLines:
    """Writes outputs as JSON lines; of a replay, on which no time passes, they depend on nothing but the recording.

    A belief is ``{"probs": [...]}``, ``{"mean": [...], "cov": [[...], ...]}`` or ``{"alpha": [...]}``, to six
    significant digits.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def put(self, output: Output) -> None:
        """Write one output."""
        self._file.write(json.dumps(plain(output), separators=(",", ":")) + "\n")


class BagSink:
    """Writes beliefs and health into a new bag, as :func:`serket.stream.publish.messages_of` has them.

    Raises:
        DataError: something stands where the bag should.
    """

    def __init__(self, path: str | Path) -> None:
        from rosbags.rosbag2 import Writer, WriterError

        self._store = typestore()
        try:
            self._writer = Writer(Path(path), version=9)
            self._writer.open()
        except WriterError as error:
            raise DataError(
                "the bag cannot be written",
                where=str(path),
                found=str(error)[:120],
                fix="remove it, or choose another name",
            ) from None
        self._topics: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def put(self, output: Output) -> None:
        """Write one output."""
        for topic, message in messages_of(output, self._store):
            self._write(topic, message, output.emitted_ns)

    def _write(self, topic: str, message: Any, moment: int) -> None:
        kind = message.__msgtype__
        if topic not in self._topics:
            self._topics[topic] = self._writer.add_connection(topic, kind, typestore=self._store)
        self._writer.write(self._topics[topic], moment, self._store.serialize_cdr(message, kind))


def plain(output: Output) -> dict[str, Any]:
    """Return an output as plain data."""
    told = output.inference
    return {
        "time_ns": output.time_ns,
        "emitted_ns": output.emitted_ns,
        "level": output.level.value,
        "reasons": list(output.reasons),
        "present": list(output.present),
        "age_ns": output.age_ns,
        "skew_ns": output.skew_ns,
        "latency_ns": output.latency_ns,
        **({"module_ns": dict(output.module_ns)} if output.module_ns else {}),
        "revised": output.revised,
        "beliefs": {name: _belief(belief) for name, belief in told.beliefs.items()},
        "contribution": {name: _short(value) for name, value in told.contribution.items()},
        "conflict": _short(told.conflict),
        **{
            field: {name: _short(value) for name, value in values.items()}
            for field, values in (("gated", told.gated), ("beyond", told.beyond), ("doubted", told.doubted))
            if values
        },
        **({"failed": dict(told.failed)} if told.failed else {}),
    }


def _belief(belief: Message) -> Mapping[str, Any]:
    belief = projected(belief)
    if isinstance(belief, Categorical):
        return {"probs": _rounded(belief.probs[0].tolist())}
    if isinstance(belief, Dirichlet):
        return {"alpha": _rounded(belief.concentration[0].tolist())}
    assert isinstance(belief, Gaussian)
    return {"mean": _rounded(belief.mean()[0].tolist()), "cov": _rounded(belief.covariance()[0].tolist())}


def _rounded(values: Any) -> Any:
    return [_rounded(value) for value in values] if isinstance(values, list) else _short(values)


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
