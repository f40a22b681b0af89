"""ROS 2 bags, mcap and sqlite3, as sources. No ROS is needed."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from serket.errors import DataError, DataWarning, suggestion
from serket.stream.observation import Observation
from serket.stream.ros import named, shaped, stamp_of, typestore

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader

__all__ = ["from_bag", "is_bag"]

KINDS = (".mcap", ".db3")


def is_bag(path: str | Path) -> bool:
    """Tell whether this is a ROS 2 bag: an .mcap or .db3 file, or a folder with one or with metadata.yaml."""
    path = Path(path)
    return path.suffix in KINDS or (path / "metadata.yaml").is_file() or bool(_parts(path))


def from_bag(path: str | Path, topics: Mapping[str, str]) -> Iterator[Observation]:
    """Yield the observations of a bag, in the order of receipt.

    Files without their metadata.yaml, as of a recording that was not ended, are read as they are.

    Args:
        path: the folder of the bag, or its file.
        topics: by sensor, with or without the first slash; a sensor whose topic is not in the bag is missing, if
            another is there.

    Raises:
        DataError: no such topic, a type that cannot be read, or a damaged bag.
    """
    path = Path(path)
    reader = _opened(path)
    try:
        if _bare(path):
            names = ", ".join(file.name for file in _parts(path))
            text = f"{path} has no metadata.yaml, as a recording that was not ended: {names} is read without it"
            warnings.warn(f"{text}; {_indexing(path)} writes it", DataWarning, stacklevel=2)
        wanted = _wanted(reader.connections, topics, path)
        chosen = [connection for connection in reader.connections if named(connection.topic) in wanted]
        messages = reader.messages(connections=chosen)
        while True:
            try:
                connection, received, raw = next(messages)
                message = reader.deserialize(raw, connection.msgtype)
            except StopIteration:
                return
            except Exception as error:  # of rosbags, of apsw, of whatever a damaged byte leads to
                raise DataError(
                    "the bag ends in the middle of a message",
                    where=str(path),
                    found=_told(error),
                    fix=f"it was cut short; {_mending(path)}",
                ) from None
            stamp, values = stamp_of(message), shaped(message, f"{path}: {connection.topic}")
            for key in wanted[named(connection.topic)]:
                yield Observation.of(key, received if stamp is None else stamp, received, values)
    finally:
        reader.close()


def _opened(path: Path) -> AnyReader:
    from rosbags.highlevel import AnyReader

    store, files = typestore(), _files(path)
    try:
        reader = AnyReader(files, default_typestore=store)
        reader.open()
    except Exception as error:
        where = str(path if len(files) > 1 else files[0])
        found = f"no metadata.yaml, and {_told(error)}" if _bare(path) else _told(error)
        raise DataError("the bag cannot be opened", where=where, found=found, fix=_mending(path)) from None
    return reader


def _wanted(connections: Iterable[Any], topics: Mapping[str, str], path: Path) -> dict[str, list[str]]:
    """Return the sensors that read each topic; warn where another may be one that is not there; refuse if none is."""
    wanted: dict[str, list[str]] = {}
    for key, topic in topics.items():
        wanted.setdefault(named(topic), []).append(key)
    known = {named(connection.topic): connection.msgtype for connection in connections}
    missing = [topic for topic in wanted if topic not in known]
    if not missing:
        return wanted
    there = [f"{topic} ({kind})" for topic, kind in known.items()]
    key = wanted[missing[0]][0]
    fix = next(filter(None, (suggestion(topic, known.keys() - wanted) for topic in missing)), "")
    if len(missing) == len(wanted):
        raise DataError(
            "the bag has none of the sensors' topics",
            where=str(path),
            expected=" or ".join(wanted),
            available=there,
            fix=fix or f"name them: --topic {key}=/NAME",
        )
    if known.keys() <= wanted.keys():  # none is left that could be theirs: they are not in this bag
        return wanted
    text = f"{path}: no topic {', '.join(missing)}; there are {', '.join(there)}"
    fix = fix or f"if one is {key}'s, say so: --topic {key}=/NAME"
    warnings.warn(f"{text}; {fix}", DataWarning, stacklevel=3)
    return wanted


def _parts(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*") if file.suffix in KINDS)


def _bare(path: Path) -> bool:
    return path.is_dir() and not (path / "metadata.yaml").is_file()


def _files(path: Path) -> list[Path]:
    """Return what to open: the folder where it has its metadata, else the files alone."""
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        raise DataError("the bag cannot be opened", where=str(path), found="nothing is there", fix="check the path")
    if (folder / "metadata.yaml").is_file():
        return [folder]
    files = _parts(path) if path.is_dir() else [path]
    if not files:
        found = "neither metadata.yaml nor a file that ends in .mcap or .db3"
        raise DataError("the bag cannot be opened", where=str(path), found=found, fix="name the folder of a bag")
    return files


def _mending(path: Path) -> str:
    """Return how to save what is in a damaged bag."""
    mcap = path.suffix == ".mcap" or any(file.suffix == ".mcap" for file in _parts(path))
    return f"{'mcap recover FILE -o NEW saves what came before; then ' if mcap else ''}{_indexing(path)}"


def _indexing(path: Path) -> str:
    folder = path if path.is_dir() else path.parent
    kind = "mcap" if any(file.suffix == ".mcap" for file in _parts(folder)) else "sqlite3"
    return f"ros2 bag reindex -s {kind} {folder}"


def _told(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
