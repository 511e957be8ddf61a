"""Kafka topics to blocks: one element is one partition, which is read from an offset for ever.

Two DoFns do that, by the same steps. `PollPartition` keeps the offset in a state cell, and a timer wakes it.
`ReadPartition` is splittable: the offsets are its restriction. Beam's job server keeps something of every pause of a
splittable DoFn in all later checkpoints (Beam issue 27648), so the first is what a stream takes unless told otherwise.

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
import os
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.coders import StrUtf8Coder
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Duration, Timestamp

from schemas.kafka import KafkaSettings
from schemas.mapping import EVENT_DAYS, SourceMapping
from transforms.blocks import Keyed, tag
from transforms.kafka_partitions import (
    HEARTBEAT_SECONDS,
    Consumers,
    Partition,
    PartitionReader,
    Readers,
    consumer_options,
    open_consumer,
)
from transforms.kafka_spans import (
    DAY_MICROS,
    END,
    NO_DAY,
    DayWatermark,
    DayWatermarkProvider,
    Span,
    SpanProvider,
    SpanTracker,
)
from transforms.kernels.key_groups import spread_key
from transforms.kernels.messages import OFFSET, decode_messages, message_offsets
from transforms.kernels.parse import accepted_schema
from transforms.metrics import metric

ELEMENT_BYTES = 3_000_000
"""Messages of one block are cut here; a larger one goes alone."""

BUNDLE_SECONDS = 0.5
"""So long a bundle goes on while there is more to read."""

FILL_SECONDS = 0.02
"""While there is more to read, a block waits so long to be filled."""

DELAY_SECONDS = {"ledger_events": 0.2, "conduct_events": 0.2}
OTHER_DELAY_SECONDS = 1.0
"""After all that was there has been handed over, the partition is looked at again so much later. Only events of accounts
are answered at once; each look costs the runner a bundle in every step that follows.
"""

NAMED_SECONDS = 86_400
"""Whoever names partitions looks up so seldom, as each pause stays in checkpoints."""

_READERS = Readers()


class PartitionReads(beam.DoFn):
    """What both ways to read a partition have in common. See the module for what comes out.

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
        self.events = {name: metric("events_in_{source}", source=name) for name in self.mappings}
        self.rejected = {name: metric("events_rejected_{source}", source=name) for name in self.mappings}
        self.broker_errors = metric("broker_errors")
        self.append_lag = metric("append_lag_ms")

    def setup(self) -> None:
        """Readers of the process are shared by the DoFns of a pipeline."""
        _READERS.enter(self.owner)

    def teardown(self) -> None:
        """The last one closes them."""
        _READERS.leave(self.owner)

    def read(self, partition: Partition, tracker: Any, watermark: Any) -> Generator[Any, None, float | None]:
        """Hands over what is there. Returns after how many seconds to look again, None where the rest was taken away.

        Raises WattierError.
        """

        def make() -> PartitionReader:
            return PartitionReader(partition, consumer_options(self.settings), self.consumers)

        reader = _READERS.take(self.owner, partition.part, make)
        errors, ended = reader.errors, False
        try:
            delay = yield from self._read(partition, reader, tracker, watermark)
            ended = True
            return delay
        finally:
            self.broker_errors.inc(reader.errors - errors)
            if ended:
                _READERS.give_back(self.owner, reader)
            else:  # it told of its fault once; tried again, the bundle has to hear of it again
                reader.close()

    def _read(
        self, partition: Partition, reader: PartitionReader, tracker: Any, watermark: Any
    ) -> Generator[Any, None, float | None]:
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
                    return None
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
        return 0.0 if more else DELAY_SECONDS.get(partition.source, OTHER_DELAY_SECONDS)

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
            of = {"topic": partition.topic, "partition": partition.partition}
            metric("watermark_lag_days_{topic}_{partition}", **of).set(lag)


@beam.typehints.with_input_types(str)
@beam.typehints.with_output_types(tuple[int, str])
class NamePartition(beam.DoFn):
    """Names a partition once, and then has no end: else the runner would take its readers for done, and stop their timers.

    keys: of all partitions, by their number in the list.
    """

    def __init__(self, keys: Sequence[int]) -> None:
        self.keys = tuple(keys)

    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        element: str,
        tracker: Any = beam.DoFn.RestrictionParam(SpanProvider()),  # noqa: B008
        watermark: Any = beam.DoFn.WatermarkEstimatorParam(DayWatermarkProvider()),  # noqa: B008
    ) -> Iterator[Any]:
        """element: a partition as JSON."""
        partition, position = Partition.from_json(element), tracker.current_restriction()[0][0]
        if position == partition.start:
            if not tracker.try_claim((position, NO_DAY)):
                return
            yield TimestampedValue((self.keys[partition.index], element), MIN_TIMESTAMP)
        tracker.defer_remainder(Duration(NAMED_SECONDS))


@beam.typehints.with_input_types(tuple[int, str])
@beam.typehints.with_output_types(Keyed)
class PollPartition(PartitionReads):
    """A timer wakes it to read on from the offset in a state cell. Nothing stays behind of a pause.

    The state cell holds the partition, the next offset, the latest day seen and the watermark, as JSON. For the runner
    the watermark does not move: no step of a stream waits for one, and what days may close is told by the blocks.
    """

    AT = ReadModifyWriteStateSpec("at", StrUtf8Coder())
    POLL = TimerSpec("poll", TimeDomain.REAL_TIME)

    def process(
        self,
        element: tuple[int, str],
        at: Any = beam.DoFn.StateParam(AT),  # noqa: B008
        poll: Any = beam.DoFn.TimerParam(POLL),  # noqa: B008
    ) -> None:
        """element: (key, partition as JSON), once."""
        start = Partition.from_json(element[1]).start
        at.write(json.dumps([element[1], start, NO_DAY, MIN_TIMESTAMP.micros]))
        poll.set(Timestamp(time.time()))

    @on_timer(POLL)
    def on_poll(
        self,
        at: Any = beam.DoFn.StateParam(AT),  # noqa: B008
        poll: Any = beam.DoFn.TimerParam(POLL),  # noqa: B008
    ) -> Iterator[Any]:
        """Hands over what is there, then has itself woken again."""
        text, position, day, micros = json.loads(at.read())
        tracker, watermark = SpanTracker(Span((position, END), day)), DayWatermark(micros)
        delay = yield from self.read(Partition.from_json(text), tracker, watermark)
        (position, _), day = tracker.rest()
        at.write(json.dumps([text, position, day, watermark.get_estimator_state()]))
        poll.set(Timestamp(time.time() + (delay or 0.0)))


@beam.typehints.with_input_types(str)
@beam.typehints.with_output_types(Keyed)
class ReadPartition(PartitionReads):
    """Reads one partition for ever, as a splittable DoFn."""

    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        element: str,
        tracker: Any = beam.DoFn.RestrictionParam(SpanProvider()),  # noqa: B008
        watermark: Any = beam.DoFn.WatermarkEstimatorParam(DayWatermarkProvider()),  # noqa: B008
    ) -> Iterator[Any]:
        """element: a partition as JSON. Hands over what is there, then gives way. Raises WattierError."""
        delay = yield from self.read(Partition.from_json(element), tracker, watermark)
        if delay is not None:
            tracker.defer_remainder(Duration(delay) if delay else None)


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


def reader_keys(partitions: Sequence[Partition]) -> list[int]:
    """The key of each partition, by its number in the list: a runner spreads the partitions of one topic evenly."""
    of = Counter(partition.topic for partition in partitions)
    at: Counter[str] = Counter()
    keys = []
    for partition in partitions:
        keys.append(spread_key(partition.index, at[partition.topic], of[partition.topic]))
        at[partition.topic] += 1
    return keys


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
        """List, then read. The runner spreads what is keyed, and what a splittable DoFn reads."""
        listed = [one.to_json() for one in self.partitions]
        given = self.settings, self.mappings, self.consumers
        partitions = begin | "Partitions" >> beam.Create(listed, reshuffle=False)
        if self.settings.splittable:
            return partitions | "ReadPartition" >> beam.ParDo(ReadPartition(*given))
        named = partitions | "NamePartition" >> beam.ParDo(NamePartition(reader_keys(self.partitions)))
        return named | "PollPartition" >> beam.ParDo(PollPartition(*given))
