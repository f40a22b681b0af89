"""ROS 2 messages as numbers. No ROS is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from serket.errors import DataError, not_installed

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

__all__ = ["check_kind", "named", "shaped", "stamp_of", "typestore"]

Array = npt.NDArray[Any]
PIXELS: Mapping[str, tuple[str, int]] = {
    "mono8": ("u1", 1), "8UC1": ("u1", 1), "mono16": ("u2", 1), "16UC1": ("u2", 1), "32FC1": ("f4", 1),
    "rgb8": ("u1", 3), "bgr8": ("u1", 3), "8UC3": ("u1", 3), "rgba8": ("u1", 4), "bgra8": ("u1", 4),
}  # fmt: skip
POINTS = {7: "f4", 8: "f8"}  # sensor_msgs/PointField: FLOAT32, FLOAT64
AUDIO = {
    "audio_common_msgs/msg/AudioData": "uint8[] data",
    "audio_common_msgs/msg/AudioDataStamped": "std_msgs/Header header\naudio_common_msgs/AudioData audio",
}


def typestore() -> Typestore:
    """Return the message types of ROS 2 Jazzy and of audio_common.

    Raises:
        SerketError: the package ``rosbags`` is not installed.
    """
    try:
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore
    except ImportError:
        raise not_installed("ROS 2 messages need the package rosbags", "ros") from None
    store = get_typestore(Stores.ROS2_JAZZY)
    for name, definition in AUDIO.items():
        store.register(get_types_from_msg(definition, name))
    return store


def named(topic: str) -> str:
    """Return a topic's full name: of the root, if nothing else is said."""
    return topic if topic.startswith("/") else f"/{topic}"


def check_kind(kind: str, where: str) -> None:
    """Refuse messages of a type that cannot be read.

    Raises:
        DataError: it is none of those that can.
    """
    if kind not in DECODERS:
        raise DataError(
            f"messages of type {kind} cannot be read",
            where=where,
            available=list(DECODERS),
            fix="publish one of these, or name another topic; Float32MultiArray holds any vector",
        )


def shaped(message: Any, where: str) -> Array:
    """Return a message as numbers, float32 unless it holds float64: an image by rows and columns, all else a vector.

    Images as (rows, columns) or (rows, columns, channels), pixels as they are (whole numbers 0 to 255 or 65535, metres
    in 32FC1); joints as positions, then velocities, then efforts, as far as given; Imu as orientation (x, y, z, w),
    angular velocity, linear acceleration; points as x, y, z each; audio as 16-bit samples over 32768.

    Raises:
        DataError: no such type can be read, or the message is not what its own fields say.
    """
    kind = message.__msgtype__
    check_kind(kind, where)
    try:
        return DECODERS[kind](message)
    except (ValueError, KeyError, OSError) as error:
        raise DataError(
            f"a message of type {kind} is malformed", where=where, found=str(error).strip("'")[:120]
        ) from None


def stamp_of(message: Any) -> int | None:
    """Return the stamp of its header in nanoseconds; None where it has no header, or an empty one."""
    header = getattr(message, "header", None)
    stamp = 0 if header is None else header.stamp.sec * 1_000_000_000 + header.stamp.nanosec
    return stamp or None


def _image(message: Any) -> Array:
    if message.encoding not in PIXELS:
        raise ValueError(f"encoding {message.encoding}, known are {', '.join(PIXELS)}")
    kind, channels = PIXELS[message.encoding]
    dtype = np.dtype(kind).newbyteorder(">" if message.is_bigendian else "<")
    row = message.width * channels * dtype.itemsize
    if message.step < row or len(message.data) != message.step * message.height:
        raise ValueError(f"{message.width} x {message.height} {message.encoding} in {len(message.data)} bytes")
    packed = message.data.reshape(message.height, message.step)[:, :row]
    pixels = np.ascontiguousarray(packed).view(dtype).reshape(message.height, message.width, channels)
    if message.encoding.startswith("bgr"):
        pixels = pixels[..., [2, 1, 0, *range(3, channels)]]
    return (pixels[..., 0] if channels == 1 else pixels).astype("f4")


def _compressed(message: Any) -> Array:
    from PIL import Image

    return np.asarray(Image.open(BytesIO(message.data.tobytes()))).astype("f4")


def _joints(message: Any) -> Array:
    return np.concatenate([message.position, message.velocity, message.effort])


def _imu(message: Any) -> Array:
    q, w, a = message.orientation, message.angular_velocity, message.linear_acceleration
    return np.array([q.x, q.y, q.z, q.w, w.x, w.y, w.z, a.x, a.y, a.z])


def _cloud(message: Any) -> Array:
    fields = {field.name: field for field in message.fields}
    count = message.width * message.height
    if len(message.data) < count * message.point_step:
        raise ValueError(f"{count} points of {message.point_step} bytes in {len(message.data)}")
    rows = message.data[: count * message.point_step].reshape(count, message.point_step)
    columns = []
    for name in "xyz":
        field = fields[name] if name in fields else None
        if field is None or field.datatype not in POINTS:
            raise ValueError(f"no field {name} of floats; fields are {', '.join(fields)}")
        dtype = np.dtype(POINTS[field.datatype]).newbyteorder(">" if message.is_bigendian else "<")
        columns.append(np.ascontiguousarray(rows[:, field.offset : field.offset + dtype.itemsize]).view(dtype)[:, 0])
    return np.stack(columns, 1).reshape(-1).astype("f4")


def _array(message: Any) -> Array:
    offset = message.layout.data_offset
    if offset > len(message.data):
        raise ValueError(f"data_offset {offset} of {len(message.data)} numbers")
    return np.array(message.data[offset:])


def _audio(message: Any) -> Array:
    data = message.audio.data if hasattr(message, "audio") else message.data
    if len(data) % 2:
        raise ValueError(f"{len(data)} bytes are no 16-bit samples")
    samples: Array = data.view("<i2").astype("f4") / 32768
    return samples


DECODERS: Mapping[str, Callable[[Any], Array]] = {
    "sensor_msgs/msg/Image": _image,
    "sensor_msgs/msg/CompressedImage": _compressed,
    "sensor_msgs/msg/JointState": _joints,
    "sensor_msgs/msg/Imu": _imu,
    "sensor_msgs/msg/PointCloud2": _cloud,
    "std_msgs/msg/Float32MultiArray": _array,
    "std_msgs/msg/Float64MultiArray": _array,
    "audio_common_msgs/msg/AudioData": _audio,
    "audio_common_msgs/msg/AudioDataStamped": _audio,
}
