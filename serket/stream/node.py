"""Live ROS 2 topics: observations as they come, beliefs as they are found."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from serket.errors import DataError, suggestion
from serket.graph.stream import StreamEntry
from serket.stream.mailbox import Mailbox
from serket.stream.observation import Observation
from serket.stream.output import Output
from serket.stream.publish import BELIEF, HEALTH, HEALTH_TOPIC, messages_of
from serket.stream.ros import check_kind, named, shaped, stamp_of, typestore
from serket.stream.wire import Offer, Wire, open_wire

__all__ = ["Node"]

LOOK_S, TICK_S, DISCOVER_S, ACK_S = 0.05, 0.01, 0.5, 1.0
OWN = ("/rosout", "/parameter_events")
Heard = tuple[int, Observation | None]


class Node:
    """A ROS 2 node that hears a model's sensors and publishes its beliefs.

    One thread listens, decodes, and puts readings into a :class:`Mailbox`, which holds as many of each sensor as its
    ``queue`` in the graph allows; topics that appear later are heard from then on. A reading's stamp is that of its
    header, or else the time of receipt. Beliefs and health go out as
    :func:`serket.stream.publish.messages_of` has them.

    Args:
        topics: by sensor.
        entry: the graph's ``stream:``.
        beliefs: variables that are published, with the health; none, and nothing is.
        tell: what is said to the user, once each.
        wire: joins ROS 2; :func:`serket.stream.wire.open_wire` if None.
    """

    def __init__(
        self,
        topics: Mapping[str, str],
        entry: StreamEntry,
        *,
        beliefs: Iterable[str] = (),
        tell: Callable[[str], None] = lambda text: None,
        wire: Wire | None = None,
    ) -> None:
        self._store = typestore()
        self.wire = wire or open_wire()
        self.topics = {key: named(topic) for key, topic in topics.items()}
        self.mailbox = Mailbox({key: entry.sensor(key).queue for key in topics})
        self._tell, self._told = tell, set[str]()
        self._heard: set[str] = set()
        # Announced before anything goes out, so that who listens has found them by then.
        kinds = {f"/serket/{name}": BELIEF for name in beliefs}
        kinds |= {HEALTH_TOPIC: HEALTH} if kinds else {}
        self._writers = {topic: self.wire.talk(topic, kind) for topic, kind in kinds.items()}
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._epoch = time.time_ns() - time.monotonic_ns()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self._thread is not None:
            self._thread.join()
        self.wire.close(ACK_S)

    def now(self) -> int:
        """Return the time of receipt, in nanoseconds since 1970; it never runs backwards."""
        return self._epoch + time.monotonic_ns()

    def stop(self) -> None:
        """End :meth:`events` after what has been received."""
        self._stop.set()

    def wait(self, seconds: float, waiting: Callable[[float], None] = lambda left: None) -> None:
        """Wait until every topic is published, then hear them; after ``seconds`` those that are, if any is.

        Args:
            seconds: how long at most.
            waiting: called again and again with the seconds left.

        Raises:
            DataError: nobody publishes any of them, or a topic holds messages that cannot be read.
        """
        end = time.monotonic() + seconds
        while True:
            offers = self._offered()
            missing = [topic for topic in self.topics.values() if topic not in offers]
            left = end - time.monotonic()
            if not missing or left <= 0 or self._stop.is_set():
                break
            waiting(left)
            self.wire.poll(min(left, LOOK_S))
        self._hear(offers)  # only now: nobody takes readings while there is one to wait for
        if not self._heard and not self._stop.is_set():
            others = {topic: offer.kind for topic, offer in offers.items() if topic not in OWN}
            raise DataError(
                f"nobody has published a sensor's topic within {seconds:g} s",
                where=f"ROS 2, by {self.wire.name}",
                expected=" or ".join(self.topics.values()),
                available=[f"{topic} ({kind})" for topic, kind in others.items()] or ["no topic at all"],
                fix=next((text for topic in missing if (text := suggestion(topic, others))), None)
                or "name them: --topic KEY=/NAME; is ROS_DOMAIN_ID the same?",
            )
        for topic in missing:
            self._note(f"{topic}: nobody publishes it yet")
        self._thread = threading.Thread(target=self._listen, name="serket-ros2", daemon=True)
        self._thread.start()

    def events(self, seconds: float | None = None) -> Iterator[Heard]:
        """Yield readings as they come, and, while there are none, what time it is; until :meth:`stop`."""
        end = None if seconds is None else time.monotonic() + seconds
        while not self._stop.is_set() and (end is None or time.monotonic() < end):
            now = self.now()  # before looking: whatever comes later is received later
            readings = self.mailbox.take(TICK_S)
            for one in readings:
                yield one.recv_ns, one
            if not readings:
                yield now, None
        for one in self.mailbox.take(0):
            yield one.recv_ns, one

    def put(self, output: Output) -> None:
        """Publish an output."""
        for topic, message in messages_of(output, self._store):
            if topic in self._writers:
                self._writers[topic](bytes(self._store.serialize_cdr(message, message.__msgtype__)))

    def _listen(self) -> None:
        looked = time.monotonic()
        try:
            while not self._stop.is_set():
                self.wire.poll(LOOK_S)
                if len(self._heard) < len(self.topics) and time.monotonic() - looked > DISCOVER_S:
                    self._hear(self._offered())
                    looked = time.monotonic()
        except Exception as error:  # the thread's end is the stream's: who reads the mailbox is told
            self.mailbox.fail(error)

    def _offered(self) -> Mapping[str, Offer]:
        """Return what others publish; refuse a topic whose messages cannot be read."""
        offers = self.wire.offers()
        for key, topic in self.topics.items():
            if topic in offers:
                check_kind(offers[topic].kind, f"{topic}, of sensor '{key}'")
        return offers

    def _hear(self, offers: Mapping[str, Offer]) -> None:
        for key, topic in self.topics.items():
            if key not in self._heard and topic in offers:
                self._heard.add(key)
                self.wire.listen(topic, offers[topic], self._taking(key, topic, offers[topic].kind))

    def _taking(self, key: str, topic: str, kind: str) -> Callable[[bytes], None]:
        def take(raw: bytes) -> None:
            received = self.now()
            try:
                message = self._store.deserialize_cdr(raw, kind)
                values = shaped(message, topic)
            except Exception as error:  # one bad message is counted, and does not end the stream
                self._note(f"{key}: {', '.join(line.strip() for line in str(error).splitlines())}")
                self.mailbox.reject(key, "unreadable")
                return
            stamp = stamp_of(message)
            if stamp is None:
                self._note(f"{key}: its messages have no stamp; the time of receipt counts")
                stamp = received
            self.mailbox.put(Observation.of(key, stamp, received, values))

        return take

    def _note(self, text: str) -> None:
        if text not in self._told and len(self._told) < 100:
            self._told.add(text)
            self._tell(text)


def sensors_of(pairs: list[str], keys: Mapping[str, Any]) -> dict[str, str]:
    """Return the topics in ``KEY=/NAME``, by sensor.

    Raises:
        DataError: no such sensor, or no topic after it.
    """
    found = {}
    for pair in pairs:
        key, _, topic = pair.partition("=")
        if key not in keys or not topic:
            raise DataError(
                "no such sensor, or no topic after it",
                where="--topic",
                expected="KEY=/NAME",
                found=pair,
                available=list(keys),
                fix=suggestion(key, keys) or f"--topic {next(iter(keys), 'camera')}=/camera/image",
            )
        found[key] = topic
    return found
