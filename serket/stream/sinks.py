"""What becomes of outputs: a line of JSON each, the same bytes on every replay."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any

from serket.messages import Categorical, Dirichlet, Gaussian, Message, projected
from serket.stream.output import Output

__all__ = ["JsonLines", "plain"]

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
