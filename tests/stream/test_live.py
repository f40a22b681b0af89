"""Live ROS 2 topics, on loopback only: Cyclone to Cyclone here; both ways against a real rclpy where one is named.

A real rclpy needs an environment of its own, and costs nothing but this to be tested against::

    python3.11 -m venv ros; ros/bin/pip install 'ros-rclpy[fastrtps]' ros-sensor-msgs ros-diagnostic-msgs
    SERKET_RCLPY=ros/bin/python pytest tests/stream/test_live.py -k real
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from serket.cli import app
from serket.errors import DataError, SerketError
from serket.graph.stream import Queue, StreamEntry
from serket.stream import Observation, measured, open_stream
from serket.stream.mailbox import Mailbox
from serket.stream.node import Node, sensors_of
from serket.stream.play import follow
from serket.stream.wire import Offer, domain_id, open_wire
from tests.cli.conftest import POSITION
from tests.stream.test_bags import STORE, T, floats, image, joints
from tests.stream.test_session import model

pytest.importorskip("cyclonedds")
DOMAIN = 1 + os.getpid() % 100  # hardly that of another test run on this machine
TOPICS = {"camera": "/camera/pose", "wheel": "wheel"}
TOGETHER = StreamEntry.model_validate({"policy": "exact", "timeout_ms": 5000.0, "silence_ms": 60000.0})
RCLPY = os.environ.get("SERKET_RCLPY")


@pytest.fixture(autouse=True)
def on_loopback(monkeypatch):
    monkeypatch.setenv("ROS_DOMAIN_ID", str(DOMAIN))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")


class Robot:
    """The other side: another participant of the same domain."""

    def __init__(self):
        self.wire = open_wire("cyclonedds")
        self._talk = {}
        self.heard = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.wire.close(1)

    def advertise(self, topic, kind):
        self._talk[topic] = (self.wire.talk(topic, kind), kind)
        return self.wire._writers[-1]

    def say(self, topic, message):
        if topic not in self._talk:
            self.advertise(topic, message.__msgtype__)
        self._talk[topic][0](bytes(STORE.serialize_cdr(message, message.__msgtype__)))

    def hear(self, topic, kind):
        self.wire.listen(topic, Offer(kind, True), lambda raw: self.heard.append(STORE.deserialize_cdr(raw, kind)))

    def until(self, done, seconds=20):
        end = time.monotonic() + seconds
        while not done() and time.monotonic() < end:
            self.wire.poll(0.02)
        assert done()


class Keep(list):
    def put(self, output):
        self.append(output)


def run(node, pipeline, sinks, done, say=lambda: None):
    """Follow a node until ``done``, while another thread speaks."""

    def stop():
        say()
        end = time.monotonic() + 20
        while not done() and time.monotonic() < end:
            time.sleep(0.02)
        node.stop()

    watch = threading.Thread(target=stop)
    watch.start()
    follow(pipeline, node.events(), sinks, lost=node.mailbox.lost)
    watch.join()


def pixels(stamp, values):
    told = image("32FC1", np.asarray(values, dtype="<f4").reshape(1, -1))
    told.header.stamp.sec, told.header.stamp.nanosec = stamp // 10**9, stamp % 10**9
    return told


def test_sensors_in_and_beliefs_out():
    """Every message arrives once; what is believed is what the same readings give in arrays, to the bit."""
    pipeline, outputs = open_stream(model(), TOGETHER, service=measured), Keep()
    values = np.random.default_rng(0).normal(size=(50, 4)).astype("f4").astype(float)
    with Robot() as robot:
        robot.advertise("/camera/pose", "sensor_msgs/msg/Image")
        robot.advertise("/wheel", "sensor_msgs/msg/JointState")
        with Node(TOPICS, TOGETHER, beliefs=["motion"], wire=open_wire("cyclonedds")) as node:
            node.wait(20)
            robot.hear("/serket/motion", "std_msgs/msg/Float64MultiArray")
            robot.hear("/serket/health", "diagnostic_msgs/msg/DiagnosticArray")
            stamps = [time.time_ns() + k * 10**7 for k in range(50)]

            def say():
                for stamp, (x, y, u, v) in zip(stamps, values.tolist(), strict=True):
                    robot.say("/camera/pose", pixels(stamp, [x, y]))
                    robot.say("/wheel", joints(stamp, [u, v]))
                    time.sleep(0.005)

            run(node, pipeline, [node, outputs], lambda: len(outputs) >= 50, say)
        robot.until(lambda: len(robot.heard) >= 100)
    assert {name: (c.received, c.used) for name, c in pipeline.counts.items()} == dict.fromkeys(TOPICS, (50, 50))
    assert [output.time_ns for output in outputs] == stamps, "the stamp is that of the header, to the nanosecond"
    beliefs = [one for one in robot.heard if hasattr(one, "layout")]
    health = [one for one in robot.heard if hasattr(one, "status")]
    again = open_stream(model(), TOGETHER)
    readings = ((k, key, values[k][part]) for k in range(50) for key, part in (("camera", [0, 1]), ("wheel", [2, 3])))
    expected = list(again.run(Observation(key, stamps[k], stamps[k], reading) for k, key, reading in readings))
    assert len(beliefs) == len(health) == len(expected) == 50
    for told, wanted in zip(beliefs, expected, strict=True):
        belief = wanted.inference.beliefs["motion"]
        matrix = told.data[told.layout.data_offset :].reshape(5, 4)
        np.testing.assert_array_equal(matrix[0], belief.mean()[0])
        np.testing.assert_array_equal(matrix[1:], belief.covariance()[0])
    assert {one.status[0].message for one in health} == {"OK"}
    assert [d.label for d in beliefs[0].layout.dim] == ["mean_covariance", "column"]
    assert [tuple(one.data[:2]) for one in beliefs] == [divmod(stamp, 10**9) for stamp in stamps]
    assert [(one.header.stamp.sec, one.header.stamp.nanosec) for one in health] == [divmod(s, 10**9) for s in stamps]
    assert {"skew_ms.wheel", "contribution.camera", "latency_ms"} <= {pair.key for pair in health[0].status[0].values}


def test_large_messages_and_publishers_that_do_not_resend():
    """Sensor data is often best effort: a listener that asks for more would hear nothing, without an error."""
    from cyclonedds.pub import DataWriter

    from serket.stream.wire_cyclone import _quality

    frame = np.random.default_rng(0).integers(0, 256, size=(120, 160, 3), dtype=np.uint8)
    with Robot() as robot, Node({"camera": "/camera"}, TOGETHER, wire=open_wire("cyclonedds")) as node:
        kind = "sensor_msgs/msg/Image"
        writer = DataWriter(robot.wire._participant, robot.wire._topic("/camera", kind), _quality(False, 10))
        sample = object.__new__(robot.wire._types.of(kind))
        sample.raw = bytes(STORE.serialize_cdr(image("rgb8", frame), kind))
        node.wait(20)
        assert not node.wire.offers()["/camera"].reliable
        writer.write(sample)
        event = next(one for _, one in node.events(20) if one is not None)
    np.testing.assert_array_equal(event.values.reshape(frame.shape), frame)
    assert (event.stamp_ns, event.shape) == (5, frame.shape)


def test_what_appears_later_is_heard_from_then_on_and_what_cannot_be_read_is_counted():
    """Without stamps the time of receipt counts, and that is said."""
    notes, pipeline, outputs = [], open_stream(model(), TOGETHER), Keep()
    with Robot() as robot, Node(TOPICS, TOGETHER, tell=notes.append, wire=open_wire("cyclonedds")) as node:
        robot.say("/wheel", floats([0, 0]))
        node.wait(0.3, lambda left: robot.say("/wheel", floats([0, 0])))  # what comes while one waits is not held
        assert notes == ["/camera/pose: nobody publishes it yet"]
        camera = robot.advertise("/camera/pose", "sensor_msgs/msg/Image")
        robot.until(camera.get_matched_subscriptions)
        before = time.time_ns()
        robot.say("/camera/pose", image("yuv422", np.zeros((1, 2), "u1")))
        robot.say("/camera/pose", pixels(time.time_ns(), [1, 2, 3]))
        robot.say("/camera/pose", pixels(time.time_ns(), [1, 2]))
        robot.say("/wheel", floats([0.5, 1]))
        run(node, pipeline, [outputs], lambda: sum(c.received for c in pipeline.counts.values()) == 4)
    camera, wheel = pipeline.counts["camera"], pipeline.counts["wheel"]
    assert camera.as_dict() == {"received": 3, "used": 1, "held": 0, "dropped": {"unreadable": 1, "shape": 1}}
    assert wheel.used == 1 and camera.balanced() and wheel.balanced()
    assert before < outputs[-1].time_ns < time.time_ns()
    assert "wheel: its messages have no stamp; the time of receipt counts" in notes
    assert any("encoding yuv422" in note for note in notes)


def test_nobody_publishes_it():
    with Robot() as robot:
        robot.say("/camera/poes", floats([0, 0]))
        with Node({"camera": "/camera/pose"}, TOGETHER, wire=open_wire("cyclonedds")) as node:
            waited = []
            with pytest.raises(DataError, match=r"within 0.3 s") as caught:
                node.wait(0.3, waited.append)
    assert "/camera/poes (std_msgs/msg/Float32MultiArray)" in str(caught.value)
    assert "did you mean '/camera/poes'" in str(caught.value)
    assert waited and all(0 < left <= 0.3 for left in waited), "the wait is seen"


@pytest.mark.parametrize("later", [False, True])
def test_a_topic_of_another_type(later):
    with Robot() as robot, Node(TOPICS, TOGETHER, wire=open_wire("cyclonedds")) as node:
        if later:
            robot.say("/wheel", floats([0, 0]))
            node.wait(0.2)
        robot.say("/camera/pose", T["std_msgs/msg/String"](data="here"))
        with pytest.raises(DataError, match="std_msgs/msg/String cannot be read") as caught:
            node.wait(0.2) if not later else list(node.events(20))
    assert "/camera/pose, of sensor 'camera'" in str(caught.value)


def test_a_listener_that_hangs_does_not_hold_up_the_end(monkeypatch):
    from cyclonedds.core import DDSException
    from cyclonedds.pub import DataWriter

    asked = []
    hangs = lambda self, ref, timeout: asked.append(timeout) or DDSException.DDS_RETCODE_TIMEOUT  # noqa: E731
    with Node({}, TOGETHER, beliefs=["motion"], wire=open_wire("cyclonedds")):
        monkeypatch.setattr(DataWriter, "_wait_for_acks", hangs)
    assert len(asked) == 2 and max(asked) <= 1_000_000_000


def test_neither_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "rclpy", None)
    monkeypatch.setitem(sys.modules, "cyclonedds", None)
    with pytest.raises(SerketError, match="neither is installed") as caught:
        open_wire()
    assert "serket-perception[ros]" in str(caught.value)


@pytest.mark.parametrize("text", ["-1", "300", "one"])
def test_no_such_domain(monkeypatch, text):
    monkeypatch.setenv("ROS_DOMAIN_ID", text)
    with pytest.raises(DataError, match="ROS_DOMAIN_ID: no such domain"):
        domain_id()


@pytest.mark.parametrize("pair", ["camra=/x", "camera", "camera=", "=/x"])
def test_topics_told_wrongly(pair):
    with pytest.raises(DataError, match="--topic") as caught:
        sensors_of([pair], TOPICS)
    assert "camera" in str(caught.value)


@pytest.mark.parametrize(
    ("policy", "kept"), [("drop_oldest", [3, 4]), ("block", [3, 4]), ("drop_newest", [0, 1]), ("error", None)]
)
def test_a_full_mailbox(policy, kept):
    box = Mailbox({"a": Queue(size=2, policy=policy), "b": Queue()})
    box.put(Observation("b", 9, 9, None))
    if kept is None:
        box.put(Observation("a", 0, 0, None))
        box.put(Observation("a", 1, 1, None))
        with pytest.raises(DataError, match="queue of 'a' is full"):
            box.put(Observation("a", 2, 2, None))
        return
    for k in range(5):
        box.put(Observation("a", k, k, None))
    assert [(one.sensor, one.recv_ns) for one in box.take(0)] == [("a", kept[0]), ("a", kept[1]), ("b", 9)]
    assert (box.lost(), box.lost(), box.take(0)) == ({("a", "queue"): 3}, {}, [])


def test_what_the_mailbox_loses_is_in_the_account():
    pipeline = open_stream(model(), TOGETHER)
    lost = [{("wheel", "queue"): 3}, {}]
    events = [(0, Observation("wheel", 0, 0, np.zeros(2))), (1, None)]
    follow(pipeline, events, [], lost=lambda: lost.pop(0))
    assert pipeline.counts["wheel"].as_dict()["dropped"] == {"queue": 3}
    assert pipeline.counts["wheel"].received == 4 and pipeline.counts["wheel"].balanced()


def test_the_command_over_the_wire_until_ctrl_c(tmp_path):
    """Another process hears every message, publishes what it believes, and ends in order."""
    graph = tmp_path / "position.yaml"
    graph.write_text(POSITION)
    command = [sys.executable, "-m", "serket.cli", "stream", str(graph), "--source", "ros2", "--sink", "ros2", "--json"]
    command += ["--topic", "gps=/fix", "--wait", "60"]
    with Robot() as robot:
        writers = [robot.advertise(topic, "std_msgs/msg/Float32MultiArray") for topic in ("/fix", "/wheel")]
        robot.hear("/serket/x", "std_msgs/msg/Float64MultiArray")
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                robot.until(lambda: all(w.get_matched_subscriptions() for w in writers), 60)
                robot.until(lambda: "/serket/x" in robot.wire.offers())
                time.sleep(0.3)
                for k in range(20):
                    robot.say("/fix", floats([k]))
                    robot.say("/wheel", floats([-k]))
                    robot.until(lambda k=k: robot.heard and abs(robot.heard[-1].data[2] - k / 1.5) < 1e-3)
                process.send_signal(signal.SIGINT)
                told = json.loads(process.communicate(timeout=30)[0])
            finally:
                process.kill()
    assert process.returncode == 0
    assert [told["sensors"][key]["received"] for key in ("gps", "wheel")] == [20, 20]
    assert told["sensors"]["gps"]["used"] == 20
    np.testing.assert_allclose(robot.heard[-1].data[4:], [1 / 3, 0, 0, 1 / 11], rtol=1e-6)


def test_mistakes_on_the_command_line(tmp_path):
    graph = tmp_path / "position.yaml"
    graph.write_text(POSITION)

    def told(*arguments):
        done = CliRunner().invoke(app, ["stream", str(graph), "--source", "ros2", *arguments])
        return str(done.exception)

    assert "a pace of its own" in told("--rate", "1.0")
    assert "nobody has published" in told("--wait", "0.2")
    assert "did you mean 'gps'" in told("--topic", "gpss=/fix")


@pytest.mark.skipif(RCLPY is None, reason="name an interpreter that has rclpy: SERKET_RCLPY=... (top of this file)")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of rclpy's own imports
@pytest.mark.parametrize("backend", ["cyclonedds", "rclpy"])
def test_both_ways_against_a_real_rclpy(backend):
    """200 messages of two sensors at 50 Hz: all arrive, and every belief arrives there, to the bit, with its stamp."""
    if backend == "rclpy" and importlib.util.find_spec("rclpy") is None:
        pytest.skip("run these tests by an interpreter that has rclpy beside Serket")
    pipeline, outputs = open_stream(model(), TOGETHER, service=measured), Keep()
    peer = Path(__file__).with_name("peer_rclpy.py")
    with subprocess.Popen([RCLPY, str(peer), "200", "50"], stdout=subprocess.PIPE, text=True) as process:
        with Node(TOPICS, TOGETHER, beliefs=["motion"], wire=open_wire(backend)) as node:
            node.wait(30)
            run(node, pipeline, [node, outputs], lambda: len(outputs) >= 200)
        told = json.loads(process.communicate(timeout=60)[0])
    assert {name: (c.received, c.used) for name, c in pipeline.counts.items()} == dict.fromkeys(TOPICS, (200, 200))
    assert len(outputs) == len(told["heard"]) == 200
    for heard, output in zip(told["heard"], outputs, strict=True):
        belief = output.inference.beliefs["motion"]
        expected = np.concatenate([belief.mean()[0], belief.covariance()[0].reshape(-1)])
        np.testing.assert_array_equal(np.array(heard["values"]), expected)
        assert (heard["sizes"], heard["strides"]) == ([5, 4], [20, 4])
        assert tuple(heard["stamp"]) == divmod(output.time_ns, 10**9)
    health = [tuple(stamp) for stamp in told["health"]]
    assert health == [divmod(output.time_ns, 10**9) for output in outputs]
