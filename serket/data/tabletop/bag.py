"""An episode as a ROS 2 bag, as a robot would have recorded it. No ROS is needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serket.data.tabletop.scene import JOINTS
from serket.errors import DataError, not_installed

__all__ = ["write_bag"]

KEYS = ("camera", "touch", "joints")


def write_bag(path: str | Path, arrays: Mapping[str, Any]) -> None:
    """Write a new bag (mcap) with the topics ``/camera``, ``/touch`` and ``/joints``, received when they were measured.

    Pictures are ``Image``, rgba8 with depth in the place of alpha; joints at full rate ``JointState``; forces, and the
    summaries of either, ``Float32MultiArray``.

    Args:
        path: a folder that does not exist.
        arrays: of an episode, or of its moments: ``KEY`` and ``KEY_stamp_ns``.

    Raises:
        SerketError: the package ``rosbags`` is not installed.
        DataError: something stands where the bag should.
    """
    try:
        from rosbags.rosbag2 import StoragePlugin, Writer, WriterError
        from rosbags.typesys import Stores, get_typestore
    except ImportError:
        raise not_installed("a ROS 2 bag needs the package rosbags", "ros") from None
    store = get_typestore(Stores.ROS2_JAZZY)
    order = [(int(stamp), key, row) for key in KEYS for row, stamp in enumerate(arrays[f"{key}_stamp_ns"])]
    try:
        with Writer(Path(path), version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            kinds = {key: _message(store.types, 0, arrays[key][0]).__msgtype__ for key in KEYS}
            topics = {key: writer.add_connection(f"/{key}", kind, typestore=store) for key, kind in kinds.items()}
            for stamp, key, row in sorted(order, key=lambda one: one[0]):
                message, kind = _message(store.types, stamp, arrays[key][row]), kinds[key]
                writer.write(topics[key], stamp, store.serialize_cdr(message, kind))
    except (WriterError, OSError) as error:
        raise DataError(
            "the bag cannot be written", where=str(path), found=str(error)[:120], fix="choose another --bag"
        ) from None


def _message(types: Mapping[str, Any], stamp: int, values: NDArray[Any]) -> Any:
    time = types["builtin_interfaces/msg/Time"](sec=stamp // 10**9, nanosec=stamp % 10**9)
    header = types["std_msgs/msg/Header"](stamp=time, frame_id="")
    if values.ndim == 3:
        height, width, _ = values.shape
        return types["sensor_msgs/msg/Image"](
            header=header, height=height, width=width, encoding="rgba8", is_bigendian=0, step=4 * width,
            data=np.ascontiguousarray(values).reshape(-1),
        )  # fmt: skip
    if values.size == 3 * len(JOINTS):
        position, velocity, effort = values.astype("f8").reshape(3, -1)
        return types["sensor_msgs/msg/JointState"](
            header=header, name=list(JOINTS), position=position, velocity=velocity, effort=effort
        )
    layout = types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
    return types["std_msgs/msg/Float32MultiArray"](layout=layout, data=values.astype("f4"))
