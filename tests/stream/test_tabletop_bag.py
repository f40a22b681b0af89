"""A recorded episode of the tabletop as a ROS 2 bag: pictures, forces and joints come back to the number."""

import numpy as np
import pytest

from serket.data.tabletop.record import episode
from serket.stream.bags import from_bag
from serket.stream.ros import typestore

rosbag2 = pytest.importorskip("rosbags.rosbag2")
STORE = typestore()
T = STORE.types
TOPICS = {"camera": "/camera/image", "touch": "/fingers", "joints": "/joint_states"}


def header(stamp):
    time = T["builtin_interfaces/msg/Time"](sec=stamp // 10**9, nanosec=stamp % 10**9)
    return T["std_msgs/msg/Header"](stamp=time, frame_id="")


def message(key, stamp, values):
    if key == "camera":  # depth travels in the place of alpha
        height, width, _ = values.shape
        return T["sensor_msgs/msg/Image"](
            header=header(stamp), height=height, width=width, encoding="rgba8", is_bigendian=0, step=4 * width,
            data=values.reshape(-1),
        )  # fmt: skip
    if key == "joints":
        position, velocity, effort = values.astype("f8").reshape(3, 5)
        names = ["lift", "sway", "wrist", "left", "right"]
        kind = T["sensor_msgs/msg/JointState"]
        return kind(header=header(stamp), name=names, position=position, velocity=velocity, effort=effort)
    layout = T["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
    return T["std_msgs/msg/Float32MultiArray"](layout=layout, data=values.astype("f4"))


def test_an_episode_in_a_bag(tmp_path):
    one = episode(0, 1, frames=[10, 60, 110])
    with rosbag2.Writer(tmp_path / "bag", version=9) as writer:
        for key, topic in TOPICS.items():
            kind = message(key, 0, one[key][0]).__msgtype__
            connection = writer.add_connection(topic, kind, typestore=STORE)
            for stamp, values in zip(one[f"{key}_stamp_ns"].tolist(), one[key], strict=True):
                writer.write(connection, stamp, STORE.serialize_cdr(message(key, stamp, values), kind))
    read = list(from_bag(tmp_path / "bag", TOPICS))
    assert [o.recv_ns for o in read] == sorted(o.recv_ns for o in read) and len(read) == 3 + 400 + 400
    for key in TOPICS:
        mine = [o for o in read if o.sensor == key]
        assert [o.stamp_ns for o in mine] == one[f"{key}_stamp_ns"].tolist()
        np.testing.assert_array_equal(np.stack([o.values for o in mine]), one[key].reshape(len(mine), -1))
    assert {o.shape for o in read if o.sensor == "camera"} == {(64, 64, 4)}
