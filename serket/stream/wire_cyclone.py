"""ROS 2 without ROS: Eclipse Cyclone DDS speaks to nodes of any ROS 2 middleware over the wire."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, cast

from serket.errors import SerketError
from serket.stream.ros import typestore
from serket.stream.wire import DEPTH, Offer

__all__ = ["CycloneWire", "configuration"]

KEEP = 100  # messages that a reader holds until the next look, milliseconds later
MOST = 256  # messages taken in one look
BASES = {"bool": bool, "string": str, "byte": "uint8", "char": "uint8"}


def configuration(*, loopback: bool) -> str:
    """Return the settings of Cyclone; those in ``CYCLONEDDS_URI`` count after these.

    Fast DDS, vendor 1.15, sends type objects that Cyclone cannot read, and nothing matches unless they are ignored.
    Without multicast, a node that starts later is not found until the next announcement: one a second, instead of
    one in eight or more.
    """
    local = """
      <General>
        <AllowMulticast>false</AllowMulticast>
        <Interfaces><NetworkInterface name="lo"/></Interfaces>
      </General>
      <Discovery>
        <SPDPInterval>1s</SPDPInterval>
        <ParticipantIndex>auto</ParticipantIndex>
        <MaxAutoParticipantIndex>32</MaxAutoParticipantIndex>
        <Peers><Peer Address="127.0.0.1"/></Peers>
      </Discovery>"""
    ignore = "<Compatibility><IgnoreTypeInformation>1.15</IgnoreTypeInformation></Compatibility>"
    return f'<CycloneDDS><Domain Id="any">{local if loopback else ""}{ignore}</Domain></CycloneDDS>'


class CycloneWire:
    """A participant of a DDS domain whose topics, types and settings are those of ROS 2.

    Topic ``/x`` is ``rt/x`` there, type ``pkg/msg/Type`` is ``pkg::msg::dds_::Type_``, final, in XCDR version 1.
    Cyclone checks types and bytes; it neither makes nor reads objects of Python: bytes go through as they are.
    """

    name = "cyclonedds"

    def __init__(self, domain: int, *, loopback: bool) -> None:
        from cyclonedds.builtin import BuiltinDataReader, BuiltinTopicDcpsPublication
        from cyclonedds.core import DDSException, WaitSet
        from cyclonedds.domain import Domain, DomainParticipant

        settings = [configuration(loopback=loopback), os.environ.get("CYCLONEDDS_URI", "")]
        try:
            self._domain = Domain(domain, ",".join(filter(None, settings)))
        except DDSException as error:
            if error.code != DDSException.DDS_RETCODE_PRECONDITION_NOT_MET:  # then this process has joined it already
                raise _cannot(domain, error) from None
        try:
            self._participant = DomainParticipant(domain)
        except DDSException as error:
            raise _cannot(domain, error) from None
        self._types = _Types(typestore())
        self._published = BuiltinDataReader(self._participant, BuiltinTopicDcpsPublication)
        self._waiting = WaitSet(self._participant)
        self._readers: list[tuple[Any, Callable[[bytes], None]]] = []
        self._writers: list[Any] = []

    def offers(self) -> Mapping[str, Offer]:
        """Return what others publish, by topic."""
        from cyclonedds.core import InstanceState, Policy

        found: dict[str, Offer] = {}
        own = self._participant.guid
        for one in self._published.read(10_000):
            alive = one.sample_info.instance_state == InstanceState.Alive and one.participant_key != own
            if alive and one.topic_name.startswith("rt/") and "::dds_::" in one.type_name:
                topic, kind = one.topic_name[2:], one.type_name.replace("::dds_::", "::")[:-1].replace("::", "/")
                reliable = isinstance(one.qos[Policy.Reliability], Policy.Reliability.Reliable)
                before = found.get(topic)
                found[topic] = Offer(kind, reliable and (before is None or before.reliable))
        return found

    def listen(self, topic: str, offer: Offer, take: Callable[[bytes], None]) -> None:
        """Call ``take`` with every message from now on, within :meth:`poll`."""
        from cyclonedds.core import InstanceState, ReadCondition, SampleState, ViewState
        from cyclonedds.sub import DataReader

        reader = DataReader(self._participant, self._topic(topic, offer.kind), _quality(offer.reliable, KEEP))
        self._waiting.attach(ReadCondition(reader, SampleState.Any | ViewState.Any | InstanceState.Any))
        self._readers.append((reader, take))

    def poll(self, seconds: float) -> None:
        """Wait for messages, at most so long, and hand on what came."""
        self._waiting.wait(round(seconds * 1e9))
        for reader, take in self._readers:
            for sample in reader.take(MOST):
                if sample.sample_info.valid_data:
                    take(sample.raw)

    def talk(self, topic: str, kind: str) -> Callable[[bytes], None]:
        """Return what publishes on a topic."""
        from cyclonedds.pub import DataWriter

        writer = DataWriter(self._participant, self._topic(topic, kind), _quality(True, DEPTH))
        self._writers.append(writer)
        made = self._types.of(kind)

        def write(raw: bytes) -> None:
            sample = object.__new__(made)
            sample.raw = raw
            writer.write(sample)

        return write

    def close(self, seconds: float) -> None:
        """Wait, at most so long, until what was published has arrived; then leave."""
        end = time.monotonic() + seconds
        for writer in self._writers:
            with suppress(AttributeError):  # cyclonedds 11.0.1 looks for its code of a timeout in the wrong class
                writer.wait_for_acks(max(0, round((end - time.monotonic()) * 1e9)))
        # With all its own; else it would be seen until Python has collected the last object that refers to it.
        self._participant._delete(self._participant._ref)

    def _topic(self, topic: str, kind: str) -> Any:
        from cyclonedds.topic import Topic

        return Topic(self._participant, f"rt{topic}", self._types.of(kind), _quality(True, DEPTH))


class _Types:
    """Types of ROS 2 as Cyclone's, from the same definitions that the codec has."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._made: dict[str, Any] = {}

    def of(self, name: str) -> Any:
        """Return the type; its ``raw`` is a message in CDR."""
        from cyclonedds.idl import make_idl_struct
        from cyclonedds.idl.annotations import final

        if name not in self._made:
            package, _, short = name.split("/")
            fields = {field: self._field(kind) for field, kind in self._store.fielddefs[name][1]}
            made: Any = final(make_idl_struct(f"{short}_", f"{package}.msg.dds_.{short}_", fields))
            # Set here, not inherited: a subclass of the same name would be a type that contains itself.
            made.serialize = _serialize
            made.deserialize = classmethod(_deserialize)
            self._made[name] = made
        return self._made[name]

    def _field(self, definition: Any) -> Any:
        from cyclonedds.idl import types
        from rosbags.interfaces import Nodetype

        array, sequence = cast(Any, types.array), cast(Any, types.sequence)
        node, what = definition
        if node == Nodetype.BASE:
            named = BASES.get(what[0], what[0])
            return getattr(types, named) if isinstance(named, str) else named
        if node == Nodetype.NAME:
            return self.of(what)
        inner, size = self._field(what[0]), what[1]
        if node == Nodetype.ARRAY:
            return array[inner, size]
        return sequence[inner, size] if size else sequence[inner]


def _serialize(self: Any, **_: Any) -> bytes:
    raw: bytes = self.raw
    return raw


def _deserialize(cls: Any, data: bytes, /, **_: Any) -> Any:
    sample = object.__new__(cls)
    sample.raw = data
    return sample


def _quality(reliable: bool, depth: int) -> Any:
    """Return the quality of service that ROS 2 has by default, or that of its sensor data."""
    from cyclonedds.core import Policy, Qos

    return Qos(
        Policy.Reliability.Reliable(1_000_000_000) if reliable else Policy.Reliability.BestEffort,
        Policy.Durability.Volatile,
        Policy.History.KeepLast(depth),
        Policy.DataRepresentation(use_cdrv0_representation=True, use_xcdrv2_representation=False),
    )


def _cannot(domain: int, error: Exception) -> SerketError:
    return SerketError(
        "Cyclone DDS cannot join the domain",
        where=f"domain {domain}",
        found=str(error).splitlines()[0],
        fix="see CYCLONEDDS_URI and ROS_DOMAIN_ID; is there a network interface?",
    )
