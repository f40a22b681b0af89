"""ROS 2 bags, mcap and sqlite3, as sources and sinks. No ROS is needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from serket.errors import DataError, suggestion
from serket.stream.observation import Observation
from serket.stream.output import Output
from serket.stream.publish import messages_of
from serket.stream.ros import shaped, stamp_of, typestore

__all__ = ["BagSink", "from_bag", "is_bag"]


def is_bag(path: str | Path) -> bool:
    """Tell whether this is a ROS 2 bag: a folder with metadata.yaml, or an .mcap or .db3 file."""
    path = Path(path)
    return (path / "metadata.yaml").is_file() or path.suffix in (".mcap", ".db3")


def from_bag(path: str | Path, topics: Mapping[str, str]) -> Iterator[Observation]:
    """Yield the observations of a bag, in the order of receipt.

    Args:
        path: the folder of the bag.
        topics: by sensor; a sensor whose topic is not in the bag is missing, if another is there.

    Raises:
        DataError: no such topic, a type that cannot be read, or a damaged bag.
    """
    from rosbags.highlevel import AnyReader, AnyReaderError
    from rosbags.rosbag2 import ReaderError

    store, path = typestore(), Path(path)
    folder = path if path.is_dir() else path.parent
    damaged = (AnyReaderError, ReaderError, OSError, ValueError, KeyError, IndexError, AssertionError)
    try:
        reader = AnyReader([folder], default_typestore=store)
        reader.open()
    except Exception as error:
        raise DataError(
            "the bag cannot be opened", where=str(path), found=_told(error), fix="try ros2 bag reindex on it"
        ) from None
    try:
        known = {connection.topic: connection.msgtype for connection in reader.connections}
        wanted = {topic: key for key, topic in topics.items() if topic in known}
        if not wanted:
            missing = next(iter(topics.values()))
            raise DataError(
                "the bag has none of the sensors' topics",
                where=str(path),
                expected=" or ".join(topics.values()),
                available=[f"{topic} ({kind})" for topic, kind in known.items()],
                fix=suggestion(missing, known) or "name them in the graph: stream: {sensors: {KEY: {topic: ...}}}",
            )
        chosen = [connection for connection in reader.connections if connection.topic in wanted]
        messages = reader.messages(connections=chosen)
        while True:
            try:
                connection, received, raw = next(messages)
                message = reader.deserialize(raw, connection.msgtype)
            except StopIteration:
                return
            except damaged as error:
                raise DataError(
                    "the bag ends in the middle of a message",
                    where=str(path),
                    found=_told(error),
                    fix="it was cut short; ros2 bag reindex saves what came before",
                ) from None
            where = f"{path}: {connection.topic}"
            stamp, values = stamp_of(message), shaped(message, where)
            stamp = received if stamp is None else stamp
            yield Observation.of(wanted[connection.topic], stamp, received, values)
    finally:
        reader.close()


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
                "the bag cannot be written", where=str(path), found=_told(error), fix="choose another --sink"
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


def _told(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
