"""What subscribers read: beliefs as the layout of a MultiArray says, of the set that the health is of."""

import io
import json

import numpy as np
import pytest
import torch

from serket.engine.inference import Inference
from serket.errors import DataError
from serket.messages import Categorical, Dirichlet, Gaussian
from serket.stream import measured, open_stream
from serket.stream.health import Level
from serket.stream.output import Output
from serket.stream.play import play
from serket.stream.publish import messages_of
from serket.stream.ros import shaped
from serket.stream.sinks import JsonLines
from serket.stream.sources import from_arrays
from tests.stream.test_bags import STORE
from tests.stream.test_session import KEYS, model, recording

STAMP = 1_760_000_000_123_456_789
MEAN = torch.tensor([[1.0, -2.0, 3.0]], dtype=torch.float64)
COVARIANCE = torch.tensor([[[2.0, 0.5, 0.0], [0.5, 1.0, 0.25], [0.0, 0.25, 4.0]]], dtype=torch.float64)


def output(belief):
    inference = Inference({"x": belief}, {"camera": 1.5}, -0.25)
    return Output(
        STAMP, STAMP + 5_000_000, inference, ("camera",), {"camera": 7_500_000}, {"camera": -2_500_000},
        Level.DEGRADED, ("silence: wheel",), 4_000_000, module_ns={"see": 1_250_000, "fuse": 500_000},
    )  # fmt: skip


def published(one):
    """Send and receive; by topic."""
    told = {}
    for topic, message in messages_of(one, STORE):
        kind = message.__msgtype__
        told[topic] = STORE.deserialize_cdr(STORE.serialize_cdr(message, kind), kind)
    return told


def array(message):
    """Read a MultiArray as its definition says: [i, j] is data[data_offset + dim[1].stride i + j]."""
    sizes, strides = [d.size for d in message.layout.dim], [d.stride for d in message.layout.dim]
    assert strides[0] == int(np.prod(sizes)) and strides[1:] == [int(np.prod(sizes[k:])) for k in range(1, len(sizes))]
    assert len(message.data) == message.layout.data_offset + strides[0]
    return np.array(message.data[message.layout.data_offset :]).reshape(sizes)


def test_a_gaussian_is_its_mean_and_then_its_covariance_by_rows():
    told = published(output(Gaussian.from_moments(MEAN, COVARIANCE)))["/serket/x"]
    found = array(told)
    assert [d.label for d in told.layout.dim] == ["mean_covariance", "column"]
    np.testing.assert_allclose(found[0], MEAN[0], rtol=1e-12)
    np.testing.assert_allclose(found[1:], COVARIANCE[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("belief", "label", "expected"),
    [
        (Categorical(torch.tensor([[0.2, 0.3, 0.5]]).log()), "probabilities", [0.2, 0.3, 0.5]),
        (Dirichlet(torch.tensor([[1.0, 2.0]])), "mean", [0.4, 0.6]),
    ],
)
def test_other_families_are_vectors(belief, label, expected):
    told = published(output(belief))["/serket/x"]
    assert [d.label for d in told.layout.dim] == [label]
    np.testing.assert_allclose(array(told), expected, rtol=1e-6)


def test_a_belief_has_the_stamp_of_its_set_and_so_has_the_health():
    told = published(output(Gaussian.from_moments(MEAN, COVARIANCE)))
    seconds, rest = told["/serket/x"].data[: told["/serket/x"].layout.data_offset]
    assert (seconds, rest) == divmod(STAMP, 10**9)
    stamp = told["/serket/health"].header.stamp
    assert (stamp.sec, stamp.nanosec) == (seconds, rest)


def test_what_stands_before_the_offset_is_no_reading():
    told = published(output(Gaussian.from_moments(MEAN, COVARIANCE)))["/serket/x"]
    np.testing.assert_array_equal(shaped(told, "here").reshape(-1), array(told).reshape(-1))


def test_health_tells_skew_contribution_and_latency():
    status = published(output(Gaussian.standard((1,), 3)))["/serket/health"].status[0]
    assert {pair.key: pair.value for pair in status.values} == {
        "present": "camera",
        "conflict": "-0.25",
        "latency_ms": "4.000",
        "age_ms.camera": "7.500",
        "skew_ms.camera": "-2.500",
        "contribution.camera": "1.5",
        "module_ms.see": "1.250",
        "module_ms.fuse": "0.500",
    }
    assert (int(status.level), status.message) == (1, "silence: wheel")


def lines(service):
    file, outputs = io.StringIO(), []
    keep = type("Keep", (), {"put": lambda self, one: outputs.append(one)})()
    play(open_stream(model(), service=service), from_arrays(recording(), KEYS), [JsonLines(file), keep])
    return [json.loads(line) for line in file.getvalue().splitlines()], outputs


def test_a_line_tells_how_long_each_module_took_where_time_passes():
    told, outputs = lines(measured)
    assert all(set(line["module_ns"]) == set(one.inference.seconds) for line, one in zip(told, outputs, strict=True))
    assert any(line["module_ns"] for line in told)
    for line, one in zip(told, outputs, strict=True):
        assert line["module_ns"] == {name: round(1e9 * s) for name, s in one.inference.seconds.items()}


def test_a_replay_has_the_same_bytes_and_no_time_of_modules():
    assert all("module_ns" not in line for line in lines(None)[0])


def test_an_offset_beyond_the_data_is_malformed():
    told = published(output(Gaussian.standard((1,), 3)))["/serket/x"]
    told.layout.data_offset = len(told.data) + 1
    with pytest.raises(DataError, match="malformed") as caught:
        shaped(told, "/array")
    assert "data_offset 15 of 14 numbers" in str(caught.value)
