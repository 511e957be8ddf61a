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

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.coders import Coder, TupleCoder, VarIntCoder
from apache_beam.io.iobase import RestrictionProgress, RestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.metrics import Metrics
from apache_beam.transforms.core import RestrictionProvider, WatermarkEstimatorProvider
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
from transforms.kernels.messages import OFFSET, decode_messages, message_offsets
from transforms.kernels.parse import accepted_schema

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

_READERS = Readers()


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
