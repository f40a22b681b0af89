"""ROS 2 bags of both kinds, written and read back; every message type to the number; what is wrong with a bag."""

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from serket.errors import DataError, DataWarning
from serket.stream import from_arrays, open_stream
from serket.stream.bags import from_bag, is_bag
from serket.stream.play import play
from serket.stream.ros import shaped, typestore
from serket.stream.sinks import BagSink
from tests.stream.test_session import KEYS, model, recording

rosbag2 = pytest.importorskip("rosbags.rosbag2")
STORE = typestore()
T = STORE.types
TOPICS = {"camera": "/camera/pose", "wheel": "/wheel"}


def header(stamp):
    return T["std_msgs/msg/Header"](
        stamp=T["builtin_interfaces/msg/Time"](sec=stamp // 10**9, nanosec=stamp % 10**9), frame_id=""
    )


def floats(values):
    layout = T["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
    return T["std_msgs/msg/Float32MultiArray"](layout=layout, data=np.asarray(values, dtype="f4"))


def joints(stamp, values):
    empty = np.zeros(0)
    return T["sensor_msgs/msg/JointState"](
        header=header(stamp), name=["u", "v"], position=np.asarray(values), velocity=empty, effort=empty
    )


def bag(path, plugin, observations):
    """Write observations: the camera as joints, with stamps; the wheel as bare floats, stamped on receipt."""
    with rosbag2.Writer(path, version=9, storage_plugin=plugin) as writer:
        camera = writer.add_connection(TOPICS["camera"], "sensor_msgs/msg/JointState", typestore=STORE)
        wheel = writer.add_connection(TOPICS["wheel"], "std_msgs/msg/Float32MultiArray", typestore=STORE)
        other = writer.add_connection("/tf", "std_msgs/msg/Float32MultiArray", typestore=STORE)
        for one in observations:
            connection = camera if one.sensor == "camera" else wheel
            message = joints(one.stamp_ns, one.values) if one.sensor == "camera" else floats(one.values)
            writer.write(connection, one.recv_ns, STORE.serialize_cdr(message, message.__msgtype__))
            writer.write(other, one.recv_ns, STORE.serialize_cdr(floats([0.0]), "std_msgs/msg/Float32MultiArray"))
    return path


@pytest.mark.parametrize("plugin", list(rosbag2.StoragePlugin), ids=lambda plugin: plugin.name)
def test_a_bag_is_read_as_it_was_received(tmp_path, plugin):
    written = [o for o in from_arrays(recording(), KEYS) if o.stamp_ns > 0]
    path = bag(tmp_path / "bag", plugin, written)
    assert is_bag(path)
    read = list(from_bag(path, TOPICS))
    assert [(o.sensor, o.recv_ns) for o in read] == [(o.sensor, o.recv_ns) for o in written]
    for told, one in zip(read, written, strict=True):
        assert told.stamp_ns == (one.stamp_ns if one.sensor == "camera" else one.recv_ns)
        np.testing.assert_allclose(told.values, one.values, rtol=1e-6)


def test_two_sensors_may_read_one_topic(tmp_path):
    written = [o for o in from_arrays(recording(), KEYS) if o.stamp_ns > 0]
    path = bag(tmp_path / "bag", rosbag2.StoragePlugin.MCAP, written)
    read = list(from_bag(path, {"near": "/wheel", "far": "wheel"}))
    wheel = [o.recv_ns for o in written if o.sensor == "wheel"]
    assert [(o.sensor, o.recv_ns) for o in read] == [(key, moment) for moment in wheel for key in ("near", "far")]
    with pytest.raises(DataError, match="--topic near="):
        list(from_bag(path, {"near": "/gone", "far": "/gone"}))


def test_beliefs_and_health_in_a_bag(tmp_path):
    outputs = []

    class Watch:
        def put(self, output):
            outputs.append(output)

    with BagSink(tmp_path / "beliefs") as sink:
        play(open_stream(model()), from_arrays(recording(), KEYS), [sink, Watch()])
    told = list(from_bag(tmp_path / "beliefs", {"motion": "/serket/motion"}))
    assert len(told) == len(outputs) == 60
    for one, output in zip(told, outputs, strict=True):
        belief = output.inference.beliefs["motion"]
        np.testing.assert_array_equal(one.values[:4], belief.mean()[0].numpy())  # its stamp, in front, is no value
        np.testing.assert_array_equal(one.values[4:].reshape(4, 4), belief.covariance()[0].numpy())
    from rosbags.highlevel import AnyReader

    with AnyReader([tmp_path / "beliefs"], default_typestore=STORE) as reader:
        health = [c for c in reader.connections if c.topic == "/serket/health"]
        first = reader.deserialize(next(reader.messages(connections=health))[2], "diagnostic_msgs/msg/DiagnosticArray")
    assert first.status[0].message == "OK"
    assert {pair.key for pair in first.status[0].values} >= {"present", "conflict", "age_ms.wheel"}
    with pytest.raises(DataError, match="cannot be written"):
        BagSink(tmp_path / "beliefs")


PIXELS = np.arange(2 * 3 * 3, dtype="u1").reshape(2, 3, 3)


def image(encoding, array, step=None, big=0):
    raw = np.frombuffer(array.tobytes(), dtype="u1").reshape(array.shape[0], -1)
    padded = np.pad(raw, ((0, 0), (0, (step or raw.shape[1]) - raw.shape[1])))
    return T["sensor_msgs/msg/Image"](
        header=header(5), height=array.shape[0], width=array.shape[1], encoding=encoding, is_bigendian=big,
        step=padded.shape[1], data=padded.reshape(-1),
    )  # fmt: skip


def cloud(points, fields="xyz", datatype=7):
    field = T["sensor_msgs/msg/PointField"]
    packed = np.pad(np.asarray(points, dtype="<f4"), ((0, 0), (1, 0)))  # four bytes of something else first
    return T["sensor_msgs/msg/PointCloud2"](
        header=header(5), height=1, width=len(points), is_bigendian=False, point_step=16, row_step=16 * len(points),
        fields=[field(name=n, offset=4 * i + 4, datatype=datatype, count=1) for i, n in enumerate(fields)],
        data=np.frombuffer(packed.tobytes(), dtype="u1"), is_dense=True,
    )  # fmt: skip


def vector(x, y, z):
    return T["geometry_msgs/msg/Vector3"](x=x, y=y, z=z)


def imu():
    return T["sensor_msgs/msg/Imu"](
        header=header(5), orientation=T["geometry_msgs/msg/Quaternion"](x=0.1, y=0.2, z=0.3, w=0.9),
        orientation_covariance=np.zeros(9), angular_velocity=vector(1.0, 2.0, 3.0), angular_velocity_covariance=np.zeros(9),
        linear_acceleration=vector(4.0, 5.0, 9.8), linear_acceleration_covariance=np.zeros(9),
    )  # fmt: skip


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return T["sensor_msgs/msg/CompressedImage"](
        header=header(5), format="png", data=np.frombuffer(file.getvalue(), dtype="u1")
    )


def audio(samples):
    data = np.frombuffer(np.asarray(samples, dtype="<i2").tobytes(), dtype="u1")
    return T["audio_common_msgs/msg/AudioDataStamped"](
        header=header(5), audio=T["audio_common_msgs/msg/AudioData"](data=data)
    )


DEPTH = np.arange(6, dtype="<u2").reshape(2, 3) * 300


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (image("rgb8", PIXELS), PIXELS),
        (image("rgb8", PIXELS, step=16), PIXELS),
        (image("bgr8", PIXELS), PIXELS[..., ::-1]),
        (image("mono8", PIXELS[..., 0].copy()), PIXELS[..., 0]),
        (image("16UC1", DEPTH), DEPTH),
        (image("16UC1", DEPTH.astype(">u2"), big=1), DEPTH),
        (image("32FC1", DEPTH.astype("<f4") / 7), DEPTH.astype("f4") / 7),
        (png(PIXELS), PIXELS),
        (joints(5, [0.5, -1.0]), [0.5, -1.0]),
        (imu(), [0.1, 0.2, 0.3, 0.9, 1, 2, 3, 4, 5, 9.8]),
        (cloud([[1, 2, 3], [4, 5, 6]]), [1, 2, 3, 4, 5, 6]),
        (floats([1.5, 2.5]), [1.5, 2.5]),
        (audio([0, 16384, -32768]), [0, 0.5, -1]),
    ],
)  # fmt: skip
def test_messages_as_numbers(message, expected):
    raw = STORE.serialize_cdr(message, message.__msgtype__)
    again = STORE.deserialize_cdr(raw, message.__msgtype__)
    told = shaped(again, "here")
    assert told.shape == np.shape(expected), "an image keeps its shape"
    np.testing.assert_allclose(told, np.asarray(expected, dtype=float), rtol=1e-6)


@pytest.mark.parametrize(
    ("message", "match"),
    [
        (T["std_msgs/msg/String"](data="x"), "type std_msgs/msg/String cannot be read"),
        (image("yuv422", PIXELS), "is malformed"),
        (cloud([[1, 2, 3]], fields="xyi"), "is malformed"),
        (cloud([[1, 2, 3]], datatype=2), "is malformed"),
    ],
)
def test_messages_that_cannot_be_read(message, match):
    with pytest.raises(DataError, match=match) as caught:
        shaped(message, "bag: /camera")
    assert "bag: /camera" in str(caught.value)


def test_a_picture_that_is_not_what_it_says():
    short = image("rgb8", PIXELS)
    cut = T["sensor_msgs/msg/Image"](
        header=header(5), height=9, width=3, encoding="rgb8", is_bigendian=0, step=9, data=short.data
    )
    with pytest.raises(DataError, match="malformed"):
        shaped(cut, "here")


def test_topics_that_are_not_there(tmp_path):
    path = bag(tmp_path / "bag", rosbag2.StoragePlugin.SQLITE3, list(from_arrays(recording(), KEYS))[:4])
    with pytest.raises(DataError, match="none of the sensors' topics") as caught:
        list(from_bag(path, {"camera": "/camera/pos"}))
    assert "/camera/pose (sensor_msgs/msg/JointState)" in str(caught.value)
    with pytest.warns(DataWarning, match="no topic /camera/pos; there are /camera/pose ") as told:
        assert len(list(from_bag(path, TOPICS | {"camera": "/camera/pos"}))) == 3, "one sensor may be missing"
    assert "did you mean '/camera/pose'?" in str(told[0].message)
    with pytest.warns(DataWarning, match="if one is camera's, say so: --topic camera=/NAME"):
        list(from_bag(path, TOPICS | {"camera": "/gone"}))
    list(from_bag(path, TOPICS | {"other": "/tf", "name": "/name"}))  # no topic is left that could be its: no warning


def test_a_topic_needs_no_slash(tmp_path):
    path = bag(tmp_path / "bag", rosbag2.StoragePlugin.MCAP, list(from_arrays(recording(), KEYS))[:4])
    assert len(list(from_bag(path, {"camera": "camera/pose", "wheel": "wheel"}))) == 4


def test_a_topic_of_another_type(tmp_path):
    path = tmp_path / "bag"
    with rosbag2.Writer(path, version=9) as writer:
        told = T["std_msgs/msg/String"](data="here")
        connection = writer.add_connection("/wheel", told.__msgtype__, typestore=STORE)
        writer.write(connection, 5, STORE.serialize_cdr(told, told.__msgtype__))
    with pytest.raises(DataError, match="type std_msgs/msg/String cannot be read") as caught:
        list(from_bag(path, {"wheel": "/wheel"}))
    assert f"{path}: /wheel" in str(caught.value)


@pytest.mark.parametrize("plugin", list(rosbag2.StoragePlugin), ids=lambda plugin: plugin.name)
def test_a_truncated_bag(tmp_path, plugin):
    path = bag(tmp_path / "bag", plugin, list(from_arrays(recording(), KEYS)))
    file = next(p for p in path.iterdir() if p.suffix in (".mcap", ".db3"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    with pytest.raises(DataError, match=r"the bag (cannot be opened|ends in the middle)") as caught:
        list(from_bag(path, TOPICS))
    assert "reindex" in str(caught.value)


@pytest.mark.parametrize("plugin", list(rosbag2.StoragePlugin), ids=lambda plugin: plugin.name)
def test_a_recording_that_was_not_ended_has_no_metadata(tmp_path, plugin):
    path = bag(tmp_path / "bag", plugin, list(from_arrays(recording(), KEYS)))
    whole = [(o.sensor, o.recv_ns, o.values.tolist()) for o in from_bag(path, TOPICS)]
    (path / "metadata.yaml").unlink()
    assert is_bag(path)
    with pytest.warns(DataWarning, match=r"no metadata.yaml.* is read without it; ros2 bag reindex -s"):
        told = list(from_bag(path, TOPICS))
    assert [(o.sensor, o.recv_ns, o.values.tolist()) for o in told] == whole
    file = next(iter(path.iterdir()))
    assert is_bag(file)
    assert [(o.sensor, o.recv_ns, o.values.tolist()) for o in from_bag(file, TOPICS)] == whole
    file.write_bytes(file.read_bytes()[:-4000])
    with (
        pytest.raises(DataError, match=r"the bag (cannot be opened|ends in the middle)") as caught,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        list(from_bag(path, TOPICS))
    assert "ros2 bag reindex -s" in str(caught.value) and str(path) in str(caught.value)
    if "cannot be opened" in str(caught.value):
        assert "found: no metadata.yaml, and " in str(caught.value)


def test_no_bag(tmp_path):
    with pytest.raises(DataError, match="cannot be opened") as caught:
        list(from_bag(tmp_path / "nothing", TOPICS))
    assert "check the path" in str(caught.value)
    assert not is_bag(tmp_path)
    with pytest.raises(DataError, match="neither metadata.yaml nor a file"):
        list(from_bag(tmp_path, TOPICS))
