"""A fitted model on a stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from serket.engine.step import Stepper
from serket.graph.build import check_fading
from serket.graph.stream import StreamEntry, nanoseconds
from serket.model import Model
from serket.protocol import Module, Trainable
from serket.stream.pipeline import Pipeline

__all__ = ["measured", "open_stream"]


def open_stream(
    model: Model,
    entry: StreamEntry | None = None,
    *,
    service: Callable[[float], int] | None = None,
) -> Pipeline:
    """Return a pipeline that infers what a model believes of a stream.

    Args:
        model: fitted. Each of its data keys is a sensor.
        entry: how observations become sets; the graph's ``stream:`` if None, and its defaults if it has none.
        service: see :class:`serket.stream.pipeline.Pipeline`; :func:`measured` takes what inference really takes.

    Raises:
        GraphError: the graph cannot follow a stream; ``tau_ms`` and a module over time are together.
    """
    entry = entry or model.graph.stream or StreamEntry.model_validate({})
    sizes = {key: model.widths.get(key) for key in model.keys}
    check_fading(model.graph, entry, model.graph.name)
    gates = {name: e.gate.mahalanobis for name in sizes if (e := entry.sensor(name)).gate is not None}
    engine = Stepper(
        model.graph,
        model.modules,
        seed=model.seed,
        **({"dtype": model.dtype} if model.dtype is not None else {}),
        device=model.device,
        frame_ns=None if entry.frame_ms is None else nanoseconds(entry.frame_ms),
        tau_ns=None if entry.tau_ms is None else nanoseconds(entry.tau_ms),
        gates=gates,
        on_error={name: entry.sensor(name).on_error or entry.on_error for name in [*sizes, *model.graph.nodes]},
        reload=_reloading(model),
        layouts=model.layouts,
    )
    return Pipeline(entry, sizes, engine, service=service)


def measured(seconds: float) -> int:
    """Return the nanoseconds that inference took: on a live stream, sets wait as long as the one before takes."""
    return round(seconds * 1e9)


def _reloading(model: Model) -> Callable[[str], Module]:
    """Return what makes a module anew from its state as it is now."""
    states: Mapping[str, Mapping[str, Any]] = {
        name: {key: value.clone() for key, value in module.state().items()}
        for name, module in model.modules.items()
        if isinstance(module, Trainable)
    }

    def reload(name: str) -> Module:
        module = model.graph.nodes[name].build()
        if isinstance(module, Trainable):
            module.load(states[name])
        return module

    return reload
