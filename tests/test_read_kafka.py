"""Reading partitions for ever, writing topics: no offset is lost, nothing is late, and a broker that is away is waited for."""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from types import SimpleNamespace
from typing import Any

import apache_beam as beam
import confluent_kafka
import pyarrow as pa
import pytest
from apache_beam.coders import Coder
from apache_beam.runners.pipeline_context import PipelineContext
from apache_beam.runners.sdf_utils import (
    RestrictionTrackerView,
    ThreadsafeRestrictionTracker,
    ThreadsafeWatermarkEstimator,
)
from apache_beam.utils.timestamp import MIN_TIMESTAMP, Timestamp
from confluent_kafka import KafkaError
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import ConfigError, WattierError
from schemas.kafka import KafkaSettings
from schemas.mapping import SourceMapping, parse_sources
from transforms import kafka_partitions, read_kafka
from transforms.blocks import BlockCoder, fact, kind_of
from transforms.kafka_partitions import (
    Partition,
    PartitionReader,
    consumer_options,
    high_watermark,
    list_partitions,
    open_consumer,
)
from transforms.kafka_spans import END, NO_DAY, DayWatermark, DayWatermarkProvider, Span, SpanProvider, SpanTracker
from transforms.kernels.key_groups import KEY_GROUPS, key_group
from transforms.kernels.parse import accepted_schema
from transforms.read_kafka import NamePartition, PollPartition, ReadKafka, ReadPartition, pieces, reader_keys
from transforms.write_kafka import KEY, VALUE, WriteMessages

NOW = datetime(2026, 2, 10, 6, tzinfo=UTC).timestamp()
TODAY = int(NOW) // 86_400
COLUMNS = {"meter_id": "m", "service_date": "d", "energy_wh": {"column": "wh", "unit": "Wh"}}
METERS = {"meter_id": "m", "installed_on": "d", "account_id": "a"}
SETTINGS = KafkaSettings(bootstrap_servers="broker:9092", max_poll_rows=3)
PARTITION = Partition("meter_readings", "readings", 0, 10, 4)


def mappings() -> dict[str, SourceMapping]:
    return parse_sources(
        {
            "meter_readings": {"topics": "readings", "columns": COLUMNS},
            "meters": {"topics": "meters", "columns": METERS},
        },
        "wattier.yaml",
    )


def reading(day: int) -> bytes:
    """A reading of a day of February 2026; 0 for a bad message."""
    return json.dumps({"m": "M1", "d": f"2026-02-{day:02d}", "wh": day}).encode() if day else b"{"


class Message:
    """One message, or an error, as the client gives them."""

    def __init__(self, offset: int, value: bytes | None, error: KafkaError | None = None) -> None:
        self.parts = offset, value, error

    def offset(self) -> int:
        return self.parts[0]

    def value(self) -> bytes | None:
        return self.parts[1]

    def error(self) -> KafkaError | None:
        return self.parts[2]

    def timestamp(self) -> tuple[int, int]:
        return 1, int(NOW * 1000) + self.parts[0]

    def __len__(self) -> int:
        return len(self.parts[1] or b"")


class Broker:
    """A partition in memory. `log`: offset -> value; `errors` are raised by the client at the next look."""

    def __init__(self, log: dict[int, bytes | None], high: int | None = None) -> None:
        self.log, self.errors, self.answers, self.assigned, self.closed = log, [], True, [], 0
        self.high = max(log, default=9) + 1 if high is None else high

    def __call__(self, options: dict[str, Any]) -> Broker:
        self.options, self.at = options, -1
        return self

    def assign(self, places: list[Any]) -> None:
        self.at = places[0].offset
        self.assigned.append(self.at)

    def consume(self, most: int, timeout: float) -> list[Message]:
        if self.errors:
            for error in self.errors:
                self.options["error_cb"](error)
            self.errors = []
            return []
        here = {"leader": 1, "hi_offset": self.high}
        brokers = {"b": {"nodeid": 1, "state": "UP" if self.answers else "DOWN", "rxidle": 1000}}
        said = {"topics": {"readings": {"partitions": {"0": here}}, "meters": {"partitions": {"0": here}}}}
        self.options["stats_cb"](json.dumps({**said, "brokers": brokers}))
        found = [Message(offset, self.log[offset]) for offset in sorted(self.log) if offset >= self.at][:most]
        if found:
            self.at = found[-1].offset() + 1
        if len(found) < most and self.answers:
            found.append(Message(self.high, None, KafkaError(KafkaError._PARTITION_EOF)))
        return found

    def get_watermark_offsets(self, place: Any, timeout: float) -> tuple[int, int]:
        return min(self.log), self.high

    def close(self) -> None:
        self.closed += 1


class Reading:
    """A runner that does one bundle after another of a partition."""

    def __init__(self, broker: Broker, settings: KafkaSettings = SETTINGS, partition: Partition = PARTITION) -> None:
        self.fn = ReadPartition(settings, mappings(), broker)
        self.fn.setup()
        self.partition, self.element = partition, partition.to_json()
        self.span: Span | None = SpanProvider().initial_restriction(self.element)
        self.state = DayWatermarkProvider().initial_estimator_state(self.element, self.span)
        self.delay = 0.0

    def bundle(self, cut_after: int | None = None) -> list[tuple[Timestamp, pa.RecordBatch]]:
        """What a bundle gives. cut_after: so many blocks later the runner takes the rest away."""
        assert self.span is not None
        provider = DayWatermarkProvider()
        tracker = ThreadsafeRestrictionTracker(SpanProvider().create_tracker(through(SpanProvider(), self.span)))
        watermark = ThreadsafeWatermarkEstimator(provider.create_watermark_estimator(self.state))
        out, rest = [], None
        before = watermark.current_watermark() or MIN_TIMESTAMP
        for value in self.fn.process(self.element, RestrictionTrackerView(tracker), watermark):
            index, block = value.value
            assert index == self.partition.index
            assert value.timestamp >= before
            BlockCoder().decode(BlockCoder().encode(block)).validate(full=True)
            out.append((value.timestamp, block))
            if len(out) == cut_after:
                rest = tracker.try_split(0)[1]
        tracker.check_done()
        deferred = tracker.deferred_status()
        if rest is None:
            rest, delay = deferred
            self.delay = delay.micros / 1e6
        after = watermark.current_watermark() or MIN_TIMESTAMP
        assert after >= before
        self.span, self.state = Span(*rest), watermark.get_estimator_state()
        return out

    def blocks(self) -> list[pa.RecordBatch]:
        return [block for _, block in self.bundle()]


class Cell:
    """A state cell, and a timer."""

    def __init__(self) -> None:
        self.value: Any = None

    def read(self) -> Any:
        return self.value

    def write(self, value: Any) -> None:
        self.value = value

    set = write


class Polling(Reading):
    """A runner that wakes the reader of a partition."""

    def __init__(self, broker: Broker, settings: KafkaSettings = SETTINGS, partition: Partition = PARTITION) -> None:
        super().__init__(broker, settings, partition)
        self.fn, self.at, self.alarm = PollPartition(settings, mappings(), broker), Cell(), Cell()
        self.fn.setup()
        self.fn.process((partition.index, self.element), self.at, self.alarm)

    def bundle(self, cut_after: int | None = None) -> list[tuple[Timestamp, pa.RecordBatch]]:
        assert self.alarm.value <= Timestamp(NOW + 3600)
        out = [(value.timestamp, value.value[1]) for value in self.fn.on_poll(self.at, self.alarm)]
        self.delay = float(self.alarm.value) - NOW
        return out


def through(provider: SpanProvider, span: Span) -> Any:
    """A span as the runner gives it back."""
    coder = provider.restriction_coder()
    return coder.decode(coder.encode(span))


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands still until a test moves it."""
    hands = SimpleNamespace(at=NOW)
    for module in (read_kafka, kafka_partitions):
        monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: hands.at, monotonic=lambda: hands.at))
    return hands


def facts(block: pa.RecordBatch, *names: str) -> tuple[str, ...]:
    return tuple(fact(block, name) for name in names)


def rows_of(blocks: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    return [block for block in blocks if kind_of(block) != "rejects"]


def day(text: str) -> int:
    return (date.fromisoformat(text) - date(1970, 1, 1)).days


# --- stretches ----------------------------------------------------------------------------------------------------


def test_one_by_hand() -> None:
    log = {10: reading(7), 11: reading(0), 13: reading(9)}
    [rejects, rows] = Reading(Broker(log, high=15)).blocks()
    about = (
        "kafka:readings/0", "meter_readings", "readings", "0", "10", "14", str(day("2026-02-09")),
        str(int(NOW * 1000) + 13), "delivery", "1", "0",
    )  # fmt: skip
    names = (
        "part", "source", "topic", "partition", "first", "next", "last_day", "append_ms", "revision", "reject_blocks",
        "idle",
    )  # fmt: skip
    assert facts(rejects, *names) == facts(rows, *names) == about
    assert (kind_of(rejects), kind_of(rows)) == ("rejects", "meter_readings")
    assert rows.schema.names == [*accepted_schema("meter_readings").names, "offset"]
    assert rows["offset"].to_pylist() == rows["row"].to_pylist() == [10, 13]
    assert rejects["offset"].to_pylist() == [11]


def test_what_is_there_is_handed_over_in_blocks_of_so_many_messages() -> None:
    run = Reading(Broker({offset: reading(9) for offset in range(10, 18)}))
    assert [facts(block, "first", "next") for block in run.blocks()] == [("10", "13"), ("13", "16"), ("16", "18")]
    assert run.blocks() == []
    assert 0 < run.delay <= read_kafka.OTHER_DELAY_SECONDS


@given(
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from([0, 5, 8, 9, 11])), max_size=20),
    st.lists(st.integers(0, 3), max_size=6), st.integers(1, 7),
)  # fmt: skip
def test_offsets_follow_without_a_gap_however_bundles_end(
    gaps: list[tuple[int, int]], cuts: list[int], most: int
) -> None:
    """The same rows as at once, also where the runner takes the rest of a bundle away."""
    log, offset = {}, 9
    for step, number in gaps:
        offset += step
        log[offset] = reading(number)
    with pytest.MonkeyPatch.context() as patch:
        for module in (read_kafka, kafka_partitions):
            patch.setattr(module, "time", SimpleNamespace(time=lambda: NOW, monotonic=lambda: NOW))
        settings = SETTINGS.model_copy(update={"max_poll_rows": most})
        broker = Broker(log)
        run = Reading(broker, settings)
        bundles = [run.bundle(cut or None) for cut in [*cuts, 0, 0]]
        blocks = [block for bundle in bundles for _, block in bundle]
        whole = Reading(Broker(log), SETTINGS.model_copy(update={"max_poll_rows": 1000})).blocks()
    ends = [facts(block, "first", "next") for block in rows_of(blocks)]
    assert [first for first, _ in ends] == ["10", *[after for _, after in ends]][: len(ends)]
    assert run.span == Span((max(log, default=9) + 1, END), run.span.last_day if run.span else 0)
    for kind in ("meter_readings", "rejects"):
        one, other = (
            [block.replace_schema_metadata(None) for block in some if kind_of(block) == kind]
            for some in (blocks, whole)
        )
        assert [row for block in one for row in block.to_pylist()] == [
            row for block in other for row in block.to_pylist()
        ]
    days = [int(fact(block, "last_day") or NO_DAY) for block in rows_of(blocks)]
    assert days == sorted(days)
    if whole:
        assert days[-1] == int(fact(whole[-1], "last_day") or NO_DAY)


def test_a_split_keeps_rejects_with_their_rows() -> None:
    """A stretch is claimed before its first block: taken away after the rejects, its rows come all the same."""
    run = Reading(Broker({10: reading(0), 11: reading(9)}))
    assert [kind_of(block) for _, block in run.bundle(cut_after=1)] == ["rejects", "meter_readings"]
    assert run.span == Span((12, END), day("2026-02-09"))


def test_large_messages_go_in_blocks_of_their_own() -> None:
    sizes = [5, 4, 3, 20, 1, 1]
    messages = [Message(at, b"x" * size) for at, size in enumerate(sizes)]
    assert [[len(message) for message in piece] for piece in pieces(messages, 10)] == [[5, 4], [3], [20], [1, 1]]
    assert list(pieces([], 10)) == []


def test_a_timer_reads_what_a_splittable_dofn_reads() -> None:
    log = {10: reading(7), 11: reading(0), 13: reading(9), 14: reading(8), 17: reading(9)}
    for bundles in zip(
        *([run.bundle() for _ in range(3)] for run in (Polling(Broker(log)), Reading(Broker(log)))), strict=True
    ):
        timer, splittable = bundles
        assert [at for at, _ in timer] == [at for at, _ in splittable]
        assert all(a.equals(b, check_metadata=True) for (_, a), (_, b) in zip(timer, splittable, strict=True))
    broker = Broker(log)
    first, second = Polling(broker), Polling(broker)
    assert len(first.blocks()) == 3
    assert first.delay == pytest.approx(read_kafka.OTHER_DELAY_SECONDS, abs=1e-4)
    second.at = first.at
    assert second.blocks() == [], "another process goes on from the state cell"
    broker.log[18], broker.high = reading(9), 19
    assert [facts(block, "first", "next") for block in second.blocks()] == [("18", "19")]


def test_a_partition_is_named_once_and_never_done() -> None:
    provider = SpanProvider()
    span: Any = provider.initial_restriction(PARTITION.to_json())
    named = []
    for _ in range(3):
        tracker = ThreadsafeRestrictionTracker(provider.create_tracker(through(provider, span)))
        named += [
            value.value
            for value in NamePartition(range(40, 50)).process(
                PARTITION.to_json(), RestrictionTrackerView(tracker), None
            )
        ]
        tracker.check_done()
        span, delay = tracker.deferred_status()
        assert delay.micros >= 3600_000_000
    assert named == [(40 + PARTITION.index, PARTITION.to_json())]


def test_the_partitions_of_each_topic_are_spread_over_the_subtasks() -> None:
    topics = [("accounts", 1), ("ledger_events", 2), ("meter_readings", 4)]
    listed = [(topic, number) for topic, count in topics for number in range(count)]
    partitions = [Partition(topic, topic, number, 0, index) for index, (topic, number) in enumerate(listed)]
    keys = reader_keys(partitions)
    assert len(set(keys)) == len(keys)
    subtasks = {one: key_group(key) * 4 // KEY_GROUPS for one, key in zip(listed, keys, strict=True)}
    assert sorted(subtasks["meter_readings", number] for number in range(4)) == [0, 1, 2, 3]
    assert [subtasks["ledger_events", number] // 2 for number in range(2)] == [0, 1]


# --- time ---------------------------------------------------------------------------------------------------------


def test_the_watermark_lags_the_latest_service_day() -> None:
    run = Reading(Broker({10: reading(7), 11: reading(9), 12: reading(5), 13: reading(8)}))
    first, second = run.bundle()
    assert first[0] == MIN_TIMESTAMP
    assert second[0] == Timestamp(day("2026-02-08") * 86_400)
    assert run.state == day("2026-02-08") * 86_400_000_000


def test_sources_without_a_service_day_follow_kafka_s_clock() -> None:
    message = json.dumps({"m": "M1", "d": "1999-01-01", "a": "A1"}).encode()
    run = Reading(Broker({10: message}), partition=Partition("meters", "meters", 0, 10, 1))
    [block] = run.blocks()
    assert fact(block, "last_day") == ""
    assert run.state == (TODAY - 1) * 86_400_000_000


def test_a_partition_that_is_idle_shows_a_sign_of_life_each_second(clock: SimpleNamespace) -> None:
    run = Reading(Broker({10: reading(1)}, high=12))
    run.blocks()
    clock.at += SETTINGS.idle_timeout_seconds - 1
    assert run.blocks() == []
    clock.at += 1
    [beat] = run.blocks()
    assert facts(beat, "first", "next", "idle", "append_ms", "reject_blocks") == ("11", "11", "1", "0", "0")
    assert fact(beat, "last_day") == str(day("2026-02-01"))
    assert (beat.num_rows, kind_of(beat), beat.schema.names[-1]) == (0, "meter_readings", "offset")
    assert run.state == (TODAY - 1) * 86_400_000_000
    assert run.blocks() == []
    clock.at += 1.5
    assert len(run.blocks()) == 1


def test_a_message_after_an_idle_time_takes_nothing_back(clock: SimpleNamespace) -> None:
    broker = Broker({10: reading(1)})
    run = Reading(broker)
    run.blocks()
    clock.at += 60
    run.blocks()
    broker.log[11], broker.high = reading(2), 12
    [(at, block)] = run.bundle()
    assert at == Timestamp((TODAY - 1) * 86_400)
    assert fact(block, "last_day") == str(day("2026-02-02"))


@pytest.mark.parametrize("trouble", ["silent", "more to come"])
def test_nothing_is_idle_while_the_broker_is_away_or_has_more(clock: SimpleNamespace, trouble: str) -> None:
    broker = Broker({10: reading(1)})
    run = Reading(broker)
    run.blocks()
    if trouble == "silent":
        broker.answers = False
    else:
        broker.high, broker.consume = 20, lambda most, timeout: []  # type: ignore[method-assign]
    clock.at += 60
    assert run.blocks() == []
    assert run.state == (day("2026-02-01") - 1) * 86_400_000_000


@given(st.lists(st.integers(0, 40_000)))
def test_a_watermark_never_goes_back(days: list[int]) -> None:
    watermark = DayWatermark(int(MIN_TIMESTAMP.micros))
    assert watermark.current_watermark() is None
    for number, one in enumerate(days):
        watermark.reach_day(one)
        watermark = DayWatermark(watermark.get_estimator_state())
        assert watermark.current_watermark() == Timestamp(max(days[: number + 1]) * 86_400)


# --- errors -------------------------------------------------------------------------------------------------------


def test_a_broker_that_is_away_is_waited_for_and_told_once(
    clock: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    broker = Broker({10: reading(1)})
    run = Reading(broker)
    run.blocks()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            clock.at += 20
            broker.errors = [KafkaError(KafkaError._ALL_BROKERS_DOWN), KafkaError(KafkaError._TRANSPORT)]
            assert run.blocks() == []
    assert len(caplog.records) == 1
    assert "kafka:readings/0: the broker is away, waiting for it" in caplog.text
    clock.at += SETTINGS.idle_timeout_seconds
    assert [fact(block, "idle") for block in run.blocks()] == ["1"]


@pytest.mark.parametrize("code", [KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE])
def test_messages_that_were_deleted_unread_stop_the_stream(code: int) -> None:
    broker = Broker({30: reading(1)})
    broker.errors = [KafkaError(code)]
    run = Reading(broker)
    with pytest.raises(WattierError, match="kafka:readings/0: offset 10 is not there; it has 30 to 31"):
        run.blocks()
    assert broker.closed == 1


def test_what_does_not_pass_by_itself_stops_the_stream() -> None:
    broker = Broker({})
    broker.errors = [KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)]
    with pytest.raises(WattierError, match=r"kafka:readings/0: Broker: Topic authorization failed"):
        Reading(broker).blocks()


def test_statistics_that_say_nothing() -> None:
    here = {"topics": {"readings": {"partitions": {"0": {"leader": 1, "hi_offset": 7}}}}}
    for broker in (
        {"nodeid": 1, "state": "DOWN", "rxidle": 5},
        {"nodeid": 1, "state": "UP", "rxidle": -1},
        {"nodeid": 1, "state": "UP", "rxidle": 60_000_000},
        {"nodeid": 2, "state": "UP", "rxidle": 5},
    ):
        assert high_watermark(json.dumps({**here, "brokers": {"b": broker}}), PARTITION) is None
    assert high_watermark(json.dumps({"topics": {}, "brokers": {"b": broker}}), PARTITION) is None


# --- parts --------------------------------------------------------------------------------------------------------


def test_a_span_is_cut_behind_what_was_claimed_and_nowhere_else() -> None:
    tracker = SpanTracker(Span((5, END), NO_DAY))
    assert not tracker.is_bounded()
    assert tracker.try_split(0.5) is None
    assert tracker.try_claim((9, 100))
    with pytest.raises(ValueError, match="claimed after 9"):
        tracker.try_claim((9, 100))
    with pytest.raises(ValueError, match="not deferred"):
        tracker.check_done()
    assert tracker.try_split(0) == (Span((5, 10), NO_DAY), Span((10, END), 100))
    assert tracker.try_split(0) is None
    assert not tracker.try_claim((10, 101))
    tracker.check_done()
    assert tracker.current_progress().completed_work == 5


def test_one_consumer_stays_where_it_is_and_the_last_dofn_closes_it() -> None:
    broker = Broker({offset: reading(9) for offset in range(10, 14)})
    run = Reading(broker)
    other = pickle.loads(pickle.dumps(ReadPartition(SETTINGS, mappings()))).__class__(SETTINGS, mappings(), broker)
    other.owner = run.fn.owner
    other.setup()
    run.blocks()
    run.blocks()
    run.fn, first = other, run.fn
    run.blocks()
    assert broker.assigned == [10]
    first.teardown()
    assert broker.closed == 0
    other.teardown()
    assert broker.closed == 1


@pytest.mark.parametrize("splittable", [False, True])
def test_nothing_is_pickled_between_steps(splittable: bool) -> None:
    p = beam.Pipeline()
    settings = SETTINGS.model_copy(update={"splittable": splittable})
    read = p | "ReadKafka" >> ReadKafka(settings, mappings(), [PARTITION, Partition("meters", "meters", 0, 0, 1)])
    assert not read.is_bounded
    coders = {coder.spec.urn for coder in p.to_runner_api().components.coders.values()}
    assert not [urn for urn in coders if "pickle" in urn or "python" in urn]
    assert pickle.loads(pickle.dumps(ReadPartition(SETTINGS, mappings()))).settings == SETTINGS


def test_the_restriction_s_coder_is_beam_s_own() -> None:
    coder: Coder = SpanProvider().restriction_coder()
    context = PipelineContext()
    assert context.coders.get_by_id(context.coders.get_id(coder)) == coder
    assert Partition.from_json(PARTITION.to_json()) == PARTITION


def test_secrets_come_from_the_environment_and_are_not_shown() -> None:
    settings = KafkaSettings(
        bootstrap_servers="b:1", options={"sasl.password": "${WATTIER_SECRET}!", "enable.ssl": True, "a.ms": 5}
    )
    assert "SECRET" not in repr(settings)
    assert settings.client_options({"WATTIER_SECRET": "x"}) == {
        "bootstrap.servers": "b:1", "sasl.password": "x!", "enable.ssl": "true", "a.ms": "5",
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"sasl\.password: the environment variable WATTIER_SECRET is not set"):
        settings.client_options({})
    with pytest.raises(ConfigError, match="WATTIER_SECRET"):
        consumer_options(settings)


# --- a broker -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The client's own broker in this process: topics come into being when they are written to, with four partitions."""
    owner = confluent_kafka.Producer({"test.mock.num.brokers": 1, "log_level": 2})
    broker = next(iter(owner.list_topics(timeout=10).brokers.values()))
    yield f"{broker.host}:{broker.port}"
    owner.flush(1)


@pytest.fixture
def real_clock(monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace) -> None:
    import time

    for module in (read_kafka, kafka_partitions):
        monkeypatch.setattr(module, "time", time)


def write(server: str, topic: str, rows: list[tuple[str, bytes | None]]) -> None:
    fn = pickle.loads(pickle.dumps(WriteMessages(KafkaSettings(bootstrap_servers=server), topic)))
    fn.setup()
    fn.start_bundle()
    for start in range(0, len(rows), 7):
        some = rows[start : start + 7]
        fn.process((0, pa.record_batch([[k for k, _ in some], [v for _, v in some]], schema=pa.schema([KEY, VALUE]))))
    fn.finish_bundle()
    fn.teardown()


def until(done: Callable[[], bool], step: Callable[[], None]) -> None:
    import time

    for _ in range(200):
        step()
        if done():
            return
        time.sleep(0.05)
    raise AssertionError("it took too long")


@pytest.mark.usefixtures("real_clock")
def test_what_was_written_is_read_once_from_where_it_is_wanted(server: str) -> None:
    write(server, "readings", [(f"M{number % 9}", reading(number % 10)) for number in range(100)])
    settings = KafkaSettings(bootstrap_servers=server, max_poll_rows=7)
    only = {"meter_readings": mappings()["meter_readings"]}
    listed = list_partitions(settings, only)
    assert [(part.index, part.partition, part.start) for part in listed] == [(n, n, 0) for n in range(4)]
    rows = rejects = 0
    for partition in listed:
        run = Reading(Broker({}), settings, partition)
        run.fn.consumers = open_consumer
        blocks: list[pa.RecordBatch] = []
        high = confluent_kafka.Consumer(consumer_options(settings)).get_watermark_offsets(
            confluent_kafka.TopicPartition("readings", partition.partition), timeout=10
        )[1]
        until(
            lambda run=run, high=high: run.span.offsets[0] == high, lambda run=run, to=blocks: to.extend(run.blocks())
        )
        run.fn.teardown()
        rows += sum(block.num_rows for block in rows_of(blocks))
        rejects += sum(block.num_rows for block in blocks if kind_of(block) == "rejects")
    assert (rows, rejects) == (90, 10)
    [high_now] = [part for part in listed if part.partition == 0]
    later = list_partitions(settings, only, {("readings", 0): 1})
    assert (later[0].start, later[1].start) == (1, high_now.start)


@pytest.mark.usefixtures("real_clock")
def test_what_is_not_there_is_told_when_the_job_is_sent_off(server: str) -> None:
    write(server, "readings", [("M1", reading(1))])
    settings = KafkaSettings(bootstrap_servers=server)
    only = {"meter_readings": mappings()["meter_readings"]}
    with pytest.raises(ConfigError, match=r"sources.meters.topics: 'meters': no such topic; there are .*readings"):
        list_partitions(settings, mappings())
    with pytest.raises(ConfigError, match=r"kafka.dead_letter_topic: 'dead': no such topic; there are .*readings"):
        list_partitions(settings.model_copy(update={"dead_letter_topic": "dead"}), only)
    with pytest.raises(WattierError, match=r"kafka:readings/1: offset 5000 is not there; it has 0 to"):
        list_partitions(settings, only, {("readings", 1): 5000})
    with pytest.raises(WattierError, match=r"kafka:readings/9: was read before, but is not there any more"):
        list_partitions(settings, only, {("readings", 9): 0})


@pytest.mark.usefixtures("real_clock")
def test_an_offset_beyond_the_log_stops_the_stream(server: str) -> None:
    write(server, "readings", [("M1", reading(1))])
    run = Reading(
        Broker({}), KafkaSettings(bootstrap_servers=server), Partition("meter_readings", "readings", 0, 9999, 0)
    )
    run.fn.consumers = open_consumer
    with pytest.raises(WattierError, match="kafka:readings/0: offset 9999 is not there; it has 0 to"):
        until(lambda: False, lambda: run.blocks() and None)
    run.fn.teardown()


@pytest.mark.usefixtures("real_clock")
def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_partitions, "ANSWER_SECONDS", 0.2)
    with pytest.raises(ConfigError, match=r"kafka.bootstrap_servers: '127.0.0.1:1': no broker answers .*Is it up"):
        list_partitions(KafkaSettings(bootstrap_servers="127.0.0.1:1"), mappings())


def test_what_the_broker_does_not_take_fails_the_bundle(server: str) -> None:
    settings = KafkaSettings(bootstrap_servers=server, options={"message.max.bytes": 1000})
    fn = WriteMessages(settings, "changes")
    fn.setup()
    fn.start_bundle()
    with pytest.raises(WattierError, match=r"kafka:changes: Unable to produce message: Broker: Message size too large"):
        fn.process((0, pa.record_batch([["k"], [b"x" * 5000]], schema=pa.schema([KEY, VALUE]))))
    fn.finish_bundle()
    nobody = KafkaSettings(bootstrap_servers="127.0.0.1:1", options={"message.timeout.ms": 300, "linger.ms": 0})
    fn = WriteMessages(nobody, "changes")
    fn.setup()
    fn.start_bundle()
    fn.process((0, pa.record_batch([["k"], [b"x"]], schema=pa.schema([KEY, VALUE]))))
    with pytest.raises(WattierError, match=r"kafka:changes: a message was not written: .*timed out"):
        fn.finish_bundle()


def test_a_full_queue_is_waited_for(server: str) -> None:
    settings = KafkaSettings(bootstrap_servers=server, options={"queue.buffering.max.messages": 5})
    fn = WriteMessages(settings, "narrow")
    fn.setup()
    fn.start_bundle()
    keys = [str(number) for number in range(50)]
    fn.process((0, pa.record_batch([keys, [key.encode() for key in keys]], schema=pa.schema([KEY, VALUE]))))
    fn.finish_bundle()
    consumer = confluent_kafka.Consumer(consumer_options(settings))
    ends = [
        consumer.get_watermark_offsets(confluent_kafka.TopicPartition("narrow", number), timeout=10)[1]
        for number in range(4)
    ]
    consumer.close()
    assert sum(ends) == 50


def test_a_reader_goes_where_it_is_wanted() -> None:
    broker = Broker({offset: reading(9) for offset in range(10, 16)})
    reader = PartitionReader(PARTITION, consumer_options(SETTINGS), broker)
    assert [message.offset() for message in reader.poll(10, 2, 0)] == [10, 11]
    assert [message.offset() for message in reader.poll(12, 2, 0)] == [12, 13]
    assert [message.offset() for message in reader.poll(11, 1, 0)] == [11]
    assert broker.assigned == [10, 11]
    assert broker.options["auto.offset.reset"] == "error"
