"""A sensor that starts to lie, gated or among robust views: as good as without it, and health names it."""

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import serket
from serket.engine.step import Stepper
from serket.graph.stream import StreamEntry
from serket.stream import Observation
from serket.stream.pipeline import Pipeline
from serket.stream.sinks import plain

ROOT = Path(__file__).parents[2]
found = importlib.util.spec_from_file_location("lying_benchmark", ROOT / "benchmarks" / "lying.py")
lying = importlib.util.module_from_spec(found)
found.loader.exec_module(lying)

COUNT, LIAR = 160, "right"
REASON = {
    "gate": "standard deviations from what was believed without it",
    "robust: 0.01": "contradicted by other views",
}


@cache
def absent(way):
    model, names = lying.fitted(lying.WAYS[way][0], 300)
    data, kind = lying.rows(COUNT, 1)
    late = np.arange(COUNT)[:, None] >= COUNT // 2
    return model, names, data, kind, late, lying.played(
        model, names, {**data, LIAR: np.where(late, np.nan, data[LIAR])}, kind
    )  # fmt: skip


@pytest.mark.parametrize("shift", [10, -10])
@pytest.mark.parametrize("way", ["neither", "gate", "robust: 0.01"])
def test_a_lie_of_ten_standard_deviations(way, shift):
    model, names, data, kind, late, (without, _, _) = absent(way)
    lied = {**data, LIAR: data[LIAR] + late * shift * data[LIAR].std()}
    right, wrong, said = lying.played(model, names, lied, kind, lying.WAYS[way][1])
    assert without > 0.85
    if way == "neither":
        assert right < without - 0.3 and wrong == 0
        return
    assert right >= without - 0.05
    assert wrong == 1 - 2 / COUNT, "from the second lie on"
    assert any(reason.startswith(f"{LIAR}: ") and REASON[way] in reason for reason in said)
    assert all(reason.startswith(f"{LIAR}: ") for reason in said), "nobody else is blamed"


def votes(robust, two_on_b=False):
    """Three sensors, each of a view of one place; a fourth may look at the second's view too."""
    sensor = {"type": "linear_gaussian", "matrix": [[1]], "noise": [[0.1]]}
    on = {"a": "left", "b": "middle", "c": "right"} | ({"d": "middle"} if two_on_b else {})
    graph = serket.load_graph({
        "serket": 1,
        "variables": {name: {"family": "gaussian", "size": 1} for name in ("place", "left", "middle", "right")},
        "modules": {key: {**sensor, "data": key, "ports": {"given": view}} for key, view in on.items()},
        "composers": {"vote": {"type": "product", "robust": robust,
                               "ports": {"shared": "place", "views": ["left", "middle", "right"]}}},
    })  # fmt: skip
    return list(on), Stepper(graph, graph.build(), dtype=torch.float64)


def told(robust, lies, two_on_b=False, count=12):
    keys, engine = votes(robust, two_on_b)
    pipeline, outputs = Pipeline(StreamEntry.model_validate({}), dict.fromkeys(keys, 1), engine), []
    for i in range(count):
        for key in keys:
            outputs += pipeline.push(Observation(key, i * 10**8, i * 10**8, np.full(1, lies.get(key, 0.0))))
    return outputs


def test_a_view_that_is_contradicted_is_named():
    outputs = told(0.1, {"b": 10.0})
    assert [str(o.level) for o in outputs] == ["OK"] + ["DEGRADED"] * 11
    assert outputs[1].reasons == ("b: contradicted by other views, 4% likely to be honest",)
    assert set(plain(outputs[1])["doubted"]) == {"b"} and "gated" not in plain(outputs[1])
    assert not any(o.reasons or o.inference.doubted or "doubted" in plain(o) for o in told(0.1, {}))
    assert not any(o.inference.doubted for o in told(0.0, {"b": 10.0})), "whoever does not doubt, names nobody"


def test_where_several_sensors_speak_of_a_view_it_is_the_view_that_is_named():
    outputs = told(0.1, {"b": 10.0, "d": 10.0}, two_on_b=True)
    assert set(outputs[0].inference.doubted) == {"middle"}
    assert outputs[1].reasons[0].startswith("middle: contradicted by other views")


def test_a_sensor_that_says_nothing_is_not_doubted():
    """Before it speaks it lies with probability 0.6."""
    keys, engine = votes(0.6)
    readings = {key: np.zeros(1) for key in keys}
    assert "b" not in engine.step({key: readings[key] for key in "ac"}).doubted
    assert "b" in engine.step(readings | {"b": np.full(1, 10.0)}).doubted
