"""Kafka topics to blocks: one element is one partition, which is read from an offset for ever.

A partition gives stretches of its offsets. Of each, what was rejected comes first, then one block of what was accepted,
also where that is empty, so that offsets can be counted by it.

    key     index of the partition in the list
    rows    kind: the source; schema: `accepted_schema(source)`, then `offset` int64, the offset of the row's message
    rejects kind: rejects;    schema: the mart `rejects`, then `offset`
    facts   of both: source, part (kafka:TOPIC/PARTITION), topic, partition, first (offset), next (after the last one),
            last_day (latest service day seen, as days since 1970, or empty), append_ms (latest Kafka timestamp, 0 where
            nothing came), revision (column, or delivery: still to be filled in), reject_blocks (how many came before the
            rows), idle (1 for a sign of life without messages, else 0)
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import apache_beam as beam
import confluent_kafka
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.coders import Coder, TupleCoder, VarIntCoder
from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.metrics import Metrics
from apache_beam.transforms.core import RestrictionProvider, WatermarkEstimatorProvider
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Duration, Timestamp
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from schemas.errors import ConfigError, WattierError
from schemas.kafka import KafkaSettings
from schemas.mapping import EVENT_DAYS, SourceMapping
from transforms.blocks import Keyed, tag
from transforms.kernels.messages import decode_messages, message_offsets
from transforms.kernels.parse import accepted_schema

OFFSET = "offset"
END = (1 << 63) - 1
NO_DAY = -(1 << 31)
DAY_MICROS = 86_400_000_000
ELEMENT_BYTES = 3_000_000
"""Messages of one block are cut here; a larger one goes alone."""

BUNDLE_SECONDS = 0.5
"""So long a bundle goes on while there is more to read."""

FILL_SECONDS = 0.02
"""While there is more to read, a block waits so long to be filled."""

DELAY_SECONDS = 0.1
"""After all that was there has been handed over, the partition is looked at again so much later."""

HEARTBEAT_SECONDS = 1.0
SILENCE_SECONDS = 10.0
"""A broker that sent nothing for so long is not there: it answers a fetch within half a second, also with nothing."""

ANSWER_SECONDS = 10.0
WAITED_OUT = frozenset(
    (
        KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE, KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE, KafkaError.REQUEST_TIMED_OUT, KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.LEADER_NOT_AVAILABLE, KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.NETWORK_EXCEPTION,
        KafkaError.REPLICA_NOT_AVAILABLE, KafkaError.KAFKA_STORAGE_ERROR, KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.FENCED_LEADER_EPOCH, KafkaError.UNKNOWN_LEADER_EPOCH,
    )
)  # fmt: skip
"""Errors that pass once the broker is back."""

_LOG = logging.getLogger(__name__)

Consumers = Callable[[dict[str, Any]], Any]


def open_consumer(options: dict[str, Any]) -> Any:
    """The client's own consumer; its class cannot be pickled, a function can."""
    return confluent_kafka.Consumer(options)


@dataclass(frozen=True)
class Partition:
    """One partition to read: its source, its place in Kafka, the first offset wanted, and its number in the list."""

    source: str
    topic: str
    partition: int
    start: int
    index: int

    @property
    def part(self) -> str:
        """How facts and rejects name it."""
        return f"kafka:{self.topic}/{self.partition}"

    def to_json(self) -> str:
        """As an element that needs no coder of its own."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Partition:
        """The inverse of `to_json`."""
        return cls(**json.loads(text))


# --- at submission ------------------------------------------------------------------------------------------------


def list_partitions(
    settings: KafkaSettings,
    mappings: Mapping[str, SourceMapping],
    starts: Mapping[tuple[str, int], int] | None = None,
    consumers: Consumers = open_consumer,
) -> list[Partition]:
    """The partitions of all topics that the mappings name, as the broker has them now; later ones count at the next start.

    Args:
        starts: (topic, partition) -> first offset wanted; the earliest there is where it says nothing.

    Raises: ConfigError where no broker answers or a topic does not exist; WattierError where an offset is not there.
    """
    consumer = consumers(consumer_options(settings))
    try:
        found = _topics(consumer, settings)
        shown = ", ".join(sorted(found)[:50]) or "none"
        for name in ("tier_changes_topic", "dead_letter_topic"):
            if (written := getattr(settings, name)) is not None and written not in found:
                raise ConfigError(f"kafka.{name}: {written!r}: no such topic; there are {shown}")
        out: list[Partition] = []
        given = dict(starts or {})
        for source, mapping in mappings.items():
            for topic in sorted(mapping.topics):
                if topic not in found:
                    raise ConfigError(f"sources.{source}.topics: {topic!r}: no such topic; there are {shown}")
                for number in found[topic]:
                    low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=ANSWER_SECONDS)
                    partition = Partition(source, topic, number, given.pop((topic, number), low), len(out))
                    if not low <= partition.start <= high:
                        raise _out_of_range(partition, partition.start, (low, high))
                    out.append(partition)
        for topic, number in given:
            raise WattierError(f"kafka:{topic}/{number}: was read before, but is not there any more.")
        return out
    except KafkaException as error:
        raise _unreachable(settings, error) from None
    finally:
        consumer.close()


def _topics(consumer: Any, settings: KafkaSettings) -> dict[str, list[int]]:
    """Topic -> its partitions. Raises ConfigError."""
    try:
        listed = consumer.list_topics(timeout=ANSWER_SECONDS).topics
    except KafkaException as error:
        raise _unreachable(settings, error) from None
    return {name: sorted(topic.partitions) for name, topic in listed.items() if not name.startswith("__")}


def _unreachable(settings: KafkaSettings, error: KafkaException) -> ConfigError:
    return ConfigError(f"kafka.bootstrap_servers: {settings.bootstrap_servers!r}: {error.args[0].str()}")


def _out_of_range(partition: Partition, offset: int, there: tuple[int, int] | None) -> WattierError:
    has = f"it has {there[0]} to {there[1]}" if there else "what it has is not known"
    return WattierError(
        f"{partition.part}: offset {offset} is not there; {has}. Messages that were not read yet have been deleted, or "
        "the topic was made anew. Bring them from another place, then start from an offset that is there."
    )


def consumer_options(settings: KafkaSettings) -> dict[str, str]:
    """Options of a consumer of one partition. Raises ConfigError for a variable that is not set."""
    return {
        "group.id": "wattier",
        "log_level": "2",  # what goes wrong is told once, and counted, by the reader
        "fetch.queue.backoff.ms": "20",
        "queued.max.messages.kbytes": "16384",
        **settings.client_options(os.environ),
        "enable.auto.commit": "false",
        "auto.offset.reset": "error",
        "enable.partition.eof": "true",
        "statistics.interval.ms": "1000",
    }


# --- one partition ------------------------------------------------------------------------------------------------


class PartitionReader:
    """The consumer of one partition. It stays where it is between bundles, and reads ahead."""

    def __init__(self, partition: Partition, options: dict[str, str], consumers: Consumers) -> None:
        self.partition = partition
        self.errors = 0
        self.beat_at = 0.0
        self.seen_at = time.monotonic()
        self._position = self._eof = -1
        self._away = False
        self._noted: list[KafkaError] = []
        self._told, self._told_at = "", 0.0
        self._consumer = consumers({**options, "error_cb": self._noted.append, "stats_cb": self._hear})

    def poll(self, position: int, most: int, wait_seconds: float) -> list[Any]:
        """At most `most` messages from an offset on: what is there, or comes while it waits for so many.

        Raises WattierError for an offset that is not there, and for what does not pass by itself.
        """
        if position != self._position:
            self._consumer.assign([TopicPartition(self.partition.topic, self.partition.partition, position)])
            self._position, self._eof = position, -1
        messages = []
        for message in self._consumer.consume(most, timeout=wait_seconds):
            error = message.error()
            if error is None:
                messages.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                self._eof = message.offset()
            else:
                self._noted.append(error)
        if messages:
            self._position = messages[-1].offset() + 1
            self._away, self.seen_at = False, time.monotonic()
        self._judge()
        return messages

    @property
    def caught_up(self) -> bool:
        """Whether the broker had nothing more at the last look."""
        return self._eof >= self._position

    def at_end(self) -> bool:
        """Whether the broker answers, and has nothing left to read. It is not asked: that would wait for the open fetch."""
        fresh = time.monotonic() - self._told_at < 3 * HEARTBEAT_SECONDS
        high = high_watermark(self._told, self.partition) if fresh else None
        if high is None or high > max(self._position, self._eof):
            return False
        self._away = False
        return True

    def _hear(self, statistics: str) -> None:
        self._told, self._told_at = statistics, time.monotonic()

    def close(self) -> None:
        """Give the connection up."""
        self._consumer.close()

    def _judge(self) -> None:
        """Wait out what passes; raise for the rest."""
        noted, self._noted[:] = list(self._noted), []
        for error in noted:
            if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                raise _out_of_range(self.partition, self._position, self._there())
            if error.code() not in WAITED_OUT and not error.retriable():
                raise WattierError(f"{self.partition.part}: {error.str()}.")
            self.errors += 1
            self.seen_at = time.monotonic()
            if not self._away:
                self._away = True
                _LOG.warning("%s: the broker is away, waiting for it (%s)", self.partition.part, error.str())

    def _there(self) -> tuple[int, int] | None:
        try:
            place = TopicPartition(self.partition.topic, self.partition.partition)
            low, high = self._consumer.get_watermark_offsets(place, timeout=ANSWER_SECONDS)
        except KafkaException:
            return None
        return low, high


def high_watermark(statistics: str, partition: Partition) -> int | None:
    """The offset after the last message, from the client's statistics; None unless its broker answers.

    >>> said = {"topics": {"t": {"partitions": {"0": {"leader": 1, "hi_offset": 7}}}}}
    >>> said["brokers"] = {"b:9092/1": {"nodeid": 1, "state": "UP", "rxidle": 400_000}}
    >>> high_watermark(json.dumps(said), Partition("meter_readings", "t", 0, 0, 0))
    7
    """
    said = json.loads(statistics)
    here = said["topics"].get(partition.topic, {}).get("partitions", {}).get(str(partition.partition))
    for broker in said["brokers"].values():
        if here and broker["nodeid"] == here["leader"] and broker["state"] == "UP":
            silent = broker["rxidle"]
            return int(here["hi_offset"]) if 0 <= silent < SILENCE_SECONDS * 1e6 and here["hi_offset"] >= 0 else None
    return None


class Readers:
    """The readers of this process that no bundle holds right now. Each belongs to a pipeline: its DoFns close them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: dict[tuple[str, str], PartitionReader] = {}
        self._users: Counter[str] = Counter()

    def enter(self, owner: str) -> None:
        """One more DoFn of a pipeline."""
        with self._lock:
            self._users[owner] += 1

    def leave(self, owner: str) -> None:
        """One less; the last one closes."""
        with self._lock:
            self._users[owner] -= 1
            mine = [key for key in self._idle if key[0] == owner and not self._users[owner]]
            closing = [self._idle.pop(key) for key in mine]
        for reader in closing:
            reader.close()

    def take(self, owner: str, part: str, make: Callable[[], PartitionReader]) -> PartitionReader:
        """The reader of a partition, for one bundle alone."""
        with self._lock:
            reader = self._idle.pop((owner, part), None)
        return reader or make()

    def give_back(self, owner: str, reader: PartitionReader) -> None:
        """Keep a reader for the next bundle."""
        with self._lock:
            spare = (
                not self._users[owner] or self._idle.setdefault((owner, reader.partition.part), reader) is not reader
            )
        if spare:
            reader.close()


_READERS = Readers()


# --- the splittable DoFn ------------------------------------------------------------------------------------------


class Span(NamedTuple):
    """Offsets from the first up to but without the second, and the latest day seen before them, NO_DAY where none was.

    Pairs in pairs, as Beam's own coders have them.
    """

    offsets: tuple[int, int]
    last_day: int


class SpanTracker(RestrictionTracker):
    """Tracks (offset, latest day up to it). A span is cut behind what was claimed, nowhere else: one reader per partition."""

    def __init__(self, span: Span) -> None:
        (self._start, self._stop), self._day_before = span
        self._next, self._last_day = self._start, self._day_before

    def current_restriction(self) -> Span:
        """What this bundle has."""
        return Span((self._start, self._stop), self._day_before)

    def current_progress(self) -> RestrictionProgress:
        """How much of it is done; what will come is not known."""
        return RestrictionProgress(completed=float(self._next - self._start), remaining=1.0)

    def try_claim(self, position: tuple[int, int]) -> bool:
        """Take everything up to and with an offset, unless the span ends before it. position: (offset, latest day)."""
        offset, last_day = position
        if offset < self._next:
            raise ValueError(f"offset {offset} is claimed after {self._next - 1}")
        if offset >= self._stop:
            return False
        self._next, self._last_day = offset + 1, last_day
        return True

    def try_split(self, fraction_of_remainder: float) -> tuple[Span, Span] | None:
        """Cut behind what was claimed, at a checkpoint."""
        if fraction_of_remainder != 0 or self._next >= self._stop:
            return None
        rest = Span((self._next, self._stop), self._last_day)
        self._stop = self._next
        return self.current_restriction(), rest

    def check_done(self) -> None:
        """Raises ValueError where a bundle ended without handing the rest on."""
        if self._next < self._stop:
            raise ValueError(f"the bundle ended before offset {self._next}, and the rest was not deferred")

    def is_bounded(self) -> bool:
        """A partition has no end."""
        return False


class SpanProvider(RestrictionProvider):
    """A partition's offsets from its start to infinity, in one span."""

    def initial_restriction(self, element: str) -> Span:
        """From where the descriptor says."""
        return Span((Partition.from_json(element).start, END), NO_DAY)

    def create_tracker(self, restriction: Span) -> SpanTracker:
        """A tracker of a span."""
        return SpanTracker(restriction)

    def restriction_size(self, element: str, restriction: Span) -> float:
        """All partitions are alike."""
        return 1.0

    def restriction_coder(self) -> Coder:
        """Whole numbers in pairs: nothing is pickled."""
        return TupleCoder([TupleCoder([VarIntCoder(), VarIntCoder()]), VarIntCoder()])


class DayWatermark(ManualWatermarkEstimator):
    """A watermark that never goes back. Its state is microseconds, Beam's earliest moment while nothing is known."""

    def __init__(self, micros: int) -> None:
        super().__init__(Timestamp(micros=micros) if micros > MIN_TIMESTAMP.micros else None)

    def get_estimator_state(self) -> int:
        """Microseconds since 1970."""
        now = self.current_watermark()
        return int((MIN_TIMESTAMP if now is None else now).micros)

    def reach_day(self, day: int) -> None:
        """Advance to the start of a day, UTC, unless it is further already. day: days since 1970."""
        start = Timestamp(micros=day * DAY_MICROS)
        now = self.current_watermark()
        if now is None or start > now:
            self.set_watermark(start)


class DayWatermarkProvider(WatermarkEstimatorProvider):
    """Makes the watermark of a partition."""

    def initial_estimator_state(self, element: str, restriction: Span) -> int:
        """Nothing is known."""
        return int(MIN_TIMESTAMP.micros)

    def create_watermark_estimator(self, estimator_state: int) -> DayWatermark:
        """From where it was."""
        return DayWatermark(estimator_state)

    def estimator_state_coder(self) -> Coder:
        """A whole number: nothing is pickled."""
        return VarIntCoder()


@beam.typehints.with_input_types(str)
@beam.typehints.with_output_types(Keyed)
class ReadPartition(beam.DoFn):
    """Reads one partition for ever, in stretches. See the module for what comes out.

    The watermark is the start of the latest service day less `out_of_order_days`; of sources without such a day, of
    Kafka's latest timestamp. After `idle_timeout_seconds` without a message, while the broker answers, today takes the
    place of that day. Blocks carry the watermark's time as it was before them, so none is ever late.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        mappings: Mapping[str, SourceMapping],
        consumers: Consumers = open_consumer,
    ) -> None:
        self.settings, self.mappings, self.consumers = settings, dict(mappings), consumers
        self.owner = os.urandom(8).hex()
        self.events = {name: Metrics.counter("stream", f"events_in_{name}") for name in self.mappings}
        self.rejected = {name: Metrics.counter("stream", f"events_rejected_{name}") for name in self.mappings}
        self.broker_errors = Metrics.counter("stream", "broker_errors")
        self.append_lag = Metrics.distribution("stream", "append_lag_ms")

    def setup(self) -> None:
        """Readers of the process are shared by the DoFns of a pipeline."""
        _READERS.enter(self.owner)

    def teardown(self) -> None:
        """The last one closes them."""
        _READERS.leave(self.owner)

    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        element: str,
        tracker: Any = beam.DoFn.RestrictionParam(SpanProvider()),  # noqa: B008
        watermark: Any = beam.DoFn.WatermarkEstimatorParam(DayWatermarkProvider()),  # noqa: B008
    ) -> Iterator[Any]:
        """element: a partition as JSON. Hands over what is there, then gives way. Raises WattierError."""
        partition = Partition.from_json(element)

        def make() -> PartitionReader:
            return PartitionReader(partition, consumer_options(self.settings), self.consumers)

        reader = _READERS.take(self.owner, partition.part, make)
        errors, ended = reader.errors, False
        try:
            yield from self._read(partition, reader, tracker, watermark)
            ended = True
        finally:
            self.broker_errors.inc(reader.errors - errors)
            if ended:
                _READERS.give_back(self.owner, reader)
            else:  # it told of its fault once; tried again, the bundle has to hear of it again
                reader.close()

    def _read(self, partition: Partition, reader: PartitionReader, tracker: Any, watermark: Any) -> Iterator[Any]:
        (position, _), last_day = tracker.current_restriction()
        most, late_days = self.settings.max_poll_rows, self.settings.out_of_order_days
        until, wait, more = time.monotonic() + BUNDLE_SECONDS, 0.0, True
        while more and time.monotonic() < until:
            messages = reader.poll(position, most, wait)
            # A trickle is handed on at once: what a bundle gives waits for its end.
            more, wait = len(messages) >= most // 4 and not reader.caught_up, FILL_SECONDS
            for piece in pieces(messages, ELEMENT_BYTES):
                stretch = self._decode(partition, piece, position, last_day)
                if not tracker.try_claim((stretch.next - 1, stretch.last_day)):
                    return
                at = watermark.current_watermark()
                for block in stretch.blocks:
                    yield _stamped(at, partition.index, block)
                position, last_day = stretch.next, stretch.last_day
                self._count(partition.source, stretch)
                if stretch.clock_day != NO_DAY:
                    watermark.reach_day(stretch.clock_day - late_days)
        if self._idle(reader):
            watermark.reach_day(int(time.time()) // 86_400 - late_days)
            heartbeat = self._heartbeat(partition, position, last_day)
            yield _stamped(watermark.current_watermark(), partition.index, heartbeat)
        self._tell_lag(partition, watermark.current_watermark())
        tracker.defer_remainder(None if more else Duration(DELAY_SECONDS))

    def _decode(self, partition: Partition, messages: Sequence[Any], first: int, last_day: int) -> Stretch:
        """Blocks of messages that follow each other, from an offset on."""
        mapping, most = self.mappings[partition.source], self.settings.max_message_bytes
        offsets = [message.offset() for message in messages]
        times = [message.timestamp()[1] for message in messages]
        values = [message.value() for message in messages]
        decoded = decode_messages(values, offsets, times, mapping, partition.topic, partition.partition, most)
        after, append_ms = offsets[-1] + 1, max(times)
        clock_day = append_ms // 86_400_000
        if day := next((name for name in EVENT_DAYS if name in decoded.rows.schema.names), None):
            latest = pc.max(decoded.rows.column(day).cast(pa.int32())).as_py()
            clock_day = last_day = last_day if latest is None else max(last_day, latest)
        rejects = [decoded.rejects] if decoded.rejects.num_rows else []
        facts = self._facts(partition, first, after, last_day, append_ms, reject_blocks=len(rejects))
        blocks = [
            *(tag(with_offsets(block), "rejects", **facts) for block in rejects),
            tag(with_offsets(decoded.rows), partition.source, **facts),
        ]
        return Stretch(blocks, after, last_day, clock_day, append_ms, decoded.rows_read, decoded.rejects.num_rows)

    def _heartbeat(self, partition: Partition, position: int, last_day: int) -> pa.RecordBatch:
        facts = self._facts(partition, position, position, last_day, 0, idle=1)
        nothing = pa.RecordBatch.from_pylist([], accepted_schema(partition.source))
        return tag(with_offsets(nothing), partition.source, **facts)

    def _facts(
        self, partition: Partition, first: int, after: int, last_day: int, append_ms: int,
        reject_blocks: int = 0, idle: int = 0,
    ) -> dict[str, str]:  # fmt: skip
        column = self.mappings[partition.source].revision.column
        return {
            "source": partition.source,
            "part": partition.part,
            "topic": partition.topic,
            "partition": str(partition.partition),
            "first": str(first),
            "next": str(after),
            "last_day": "" if last_day == NO_DAY else str(last_day),
            "append_ms": str(append_ms),
            "revision": "delivery" if column is None else "column",
            "reject_blocks": str(reject_blocks),
            "idle": str(idle),
        }

    def _idle(self, reader: PartitionReader) -> bool:
        """Whether it is time for a sign of life."""
        now = time.monotonic()
        if now - reader.seen_at < self.settings.idle_timeout_seconds or now - reader.beat_at < HEARTBEAT_SECONDS:
            return False
        reader.beat_at = now
        return reader.at_end()

    def _count(self, source: str, stretch: Stretch) -> None:
        self.events[source].inc(stretch.read)
        self.rejected[source].inc(stretch.rejected)
        self.append_lag.update(max(0, int(time.time() * 1000) - stretch.append_ms))

    def _tell_lag(self, partition: Partition, watermark: Timestamp | None) -> None:
        if watermark is not None:
            lag = int(time.time()) // 86_400 - watermark.micros // DAY_MICROS
            Metrics.gauge("stream", f"watermark_lag_days_{partition.topic}_{partition.partition}").set(lag)


class Stretch(NamedTuple):
    """Blocks of some messages, the offset after them, and what is known after them."""

    blocks: list[pa.RecordBatch]
    next: int
    last_day: int
    clock_day: int
    append_ms: int
    read: int
    rejected: int


def with_offsets(block: pa.RecordBatch) -> pa.RecordBatch:
    """Rows or rejects with the offset of their message as last column."""
    return block.append_column(pa.field(OFFSET, pa.int64(), nullable=False), message_offsets(block.column("row")))


def pieces(messages: Sequence[Any], most_bytes: int) -> Iterator[Sequence[Any]]:
    """Cut a row of messages where it passes a number of bytes. None is empty; a message over the number is alone."""
    start, held = 0, 0
    for at, message in enumerate(messages):
        size = len(message)
        if held + size > most_bytes and at > start:
            yield messages[start:at]
            start, held = at, 0
        held += size
    if start < len(messages):
        yield messages[start:]


def _stamped(at: Timestamp | None, index: int, block: pa.RecordBatch) -> TimestampedValue:
    return TimestampedValue((index, block), MIN_TIMESTAMP if at is None else at)


class ReadKafka(beam.PTransform):
    """The partitions of a list -> their stretches for ever, as (index in the list, block)."""

    def __init__(
        self,
        settings: KafkaSettings,
        mappings: Mapping[str, SourceMapping],
        partitions: Sequence[Partition],
        consumers: Consumers = open_consumer,
    ) -> None:
        super().__init__()
        self.settings, self.partitions, self.consumers = settings, list(partitions), consumers
        self.mappings = {name: mapping for name, mapping in mappings.items() if mapping.topics}

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection[Keyed]:
        """List, then read. The runner spreads what a splittable DoFn reads (Beam's Reshuffle would pickle)."""
        listed = begin | "Partitions" >> beam.Create([one.to_json() for one in self.partitions], reshuffle=False)
        return listed | "ReadPartition" >> beam.ParDo(ReadPartition(self.settings, self.mappings, self.consumers))
