"""A stream against the clock: what closes a day, what keeps it open, and what comes too late for nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from itertools import count
from typing import Any

import apache_beam as beam
import duckdb
import pytest
from apache_beam.coders import TupleCoder, VarIntCoder
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_stream
from apache_beam.transforms import userstate
from apache_beam.utils.timestamp import Timestamp

from pipelines.config import load_config
from pipelines.cut import Inputs, Pace
from pipelines.stream import Session, begin, build
from pipelines.stream_publish import StreamPublisher
from pipelines.warehouse import Warehouse
from tests.feeding import streaming_config
from tests.pipeline.bureau import Bureau
from tests.streaming.job import Landed
from transforms.blocks import BlockCoder, tag
from transforms.kafka_partitions import Partition
from transforms.kernels.messages import decode_messages
from transforms.kernels.windows import date_of
from transforms.read_kafka import with_offsets

pytestmark = pytest.mark.slow

DAY = date(2025, 1, 1)
PARTITIONS = tuple(
    Partition(source, topic, number, 0, index)
    for index, (source, topic, number) in enumerate(
        [("accounts", "accounts", 0), ("meters", "meters", 0), ("meter_readings", "meter-readings", 0),
         ("meter_readings", "meter-readings", 1), ("tariffs", "tariffs", 0)]
    )
)  # fmt: skip
ACCOUNTS, METERS, READINGS, OTHER_READINGS, TARIFFS = PARTITIONS
STARTED, CUT = 1_764_547_200, 10


SPECS: dict[type, Any] = {}
"""States and timers by class of DoFn. Beam looks them up anew for every bundle, which is most of what its runner does here."""


def specs(dofn: beam.DoFn, look_up: Callable[[beam.DoFn], Any]) -> Any:
    """States and timers of a DoFn: of one of ours they are its class's."""
    kind = type(dofn)
    if kind.__module__.startswith("apache_beam"):
        return look_up(dofn)
    if kind not in SPECS:
        SPECS[kind] = look_up(dofn)
    return SPECS[kind]


class Clock:
    """A stream's input as it comes: messages by partition, signs of life, and time that passes."""

    def __init__(
        self, bureau: Bureau | Landed, monkeypatch: pytest.MonkeyPatch, partitions: tuple[Partition, ...] = PARTITIONS
    ) -> None:
        self.bureau = bureau
        path = bureau.folder / "wattier.yaml"
        path.write_text(streaming_config(path.read_text(), "nowhere:1", out_of_order_days=0))
        self.config = load_config(path)
        self.stream = test_stream.TestStream(coder=TupleCoder([VarIntCoder(), BlockCoder()]))
        self.stream = self.stream.advance_processing_time(STARTED)
        looked_up = userstate.get_dofn_specs
        monkeypatch.setattr(userstate, "get_dofn_specs", lambda dofn: specs(dofn, looked_up))
        moments = count(STARTED, CUT)
        monkeypatch.setattr("pipelines.cut.now", lambda: Timestamp(next(moments)))
        self.next = dict.fromkeys(partitions, 0)
        self.last_day: dict[Partition, int] = {}
        monkeypatch.setattr("pipelines.stream.list_parts", lambda config, offsets: list(partitions))

    def send(self, partition: Partition, *rows: dict[str, object]) -> None:
        """One message for each row, all of them in order."""
        days = [str(row["service_date"]) for row in rows if "service_date" in row]
        rejected = self.send_messages(partition, [json.dumps(row).encode() for row in rows], days)
        assert rejected == 0

    def send_messages(self, partition: Partition, values: list[bytes], days: list[str]) -> int:
        """Messages as they are on a topic. days: the service days of their readings. Returns how many are rejected."""
        first = self.next[partition]
        offsets = list(range(first, first + len(values)))
        now = int(datetime(2026, 6, 1, tzinfo=UTC).timestamp() * 1000)
        mapping = self.config.sources[partition.source]
        decoded = decode_messages(values, offsets, [now] * len(values), mapping, partition.topic, partition.partition)
        for day in days:
            seen = (date.fromisoformat(day) - date(1970, 1, 1)).days
            self.last_day[partition] = max(seen, self.last_day.get(partition, seen))
        self.next[partition] += len(values)
        rejects = [decoded.rejects] if decoded.rejects.num_rows else []
        facts = self._facts(partition, first) | {"reject_blocks": str(len(rejects))}
        for block in rejects:
            self._add(partition, tag(with_offsets(block), "rejects", **facts))
        self._add(partition, tag(with_offsets(decoded.rows), partition.source, **facts))
        return decoded.rejects.num_rows

    def idle(self, partition: Partition) -> None:
        """A sign of life of a partition that has been silent for long."""
        block = decode_messages(
            [], [], [], self.config.sources[partition.source], partition.topic, partition.partition
        ).rows
        facts = self._facts(partition, self.next[partition]) | {"idle": "1"}
        self._add(partition, tag(with_offsets(block), partition.source, **facts))

    def _facts(self, partition: Partition, first: int) -> dict[str, str]:
        return {
            "source": partition.source, "part": partition.part, "topic": partition.topic,
            "partition": str(partition.partition), "first": str(first), "next": str(self.next[partition]),
            "last_day": str(self.last_day.get(partition, "")), "append_ms": "0", "revision": "column",
            "reject_blocks": "0", "idle": "0",
        }  # fmt: skip

    def _add(self, partition: Partition, block) -> None:
        self.stream.add_elements([(partition.index, block)])

    def cut(self) -> None:
        """Time passes, so that an epoch is cut."""
        self.stream.advance_processing_time(CUT)

    def run(self) -> list[list[date]]:
        """The stream to its end; the service days published after each epoch."""
        warehouse = Warehouse(self.config.warehouse)
        with warehouse.lock():
            session: Session = begin(self.config, warehouse)
        inputs: Inputs = session.inputs
        assert inputs.landing is None
        with beam.Pipeline("BundleBasedDirectRunner", PipelineOptions(["--streaming"])) as p:
            build(p, self.config, session, Pace(CUT, 1_000_000, 0), self.stream)
        days = []
        with warehouse.lock():
            publisher = StreamPublisher(self.config, session.place.folder, audit=False)
            while publisher.take():
                publisher.publish()
                days.append([day for (day,) in self.query("SELECT service_date FROM service_days ORDER BY 1")])
        return days

    def query(self, sql: str) -> list[tuple]:
        with duckdb.connect(f"{self.config.warehouse}/marts.duckdb", read_only=True) as con:
            return con.execute(sql).fetchall()


def account(name: str) -> dict[str, object]:
    return {"account_id": name, "valid_from": "2020-01-01", "category": "industrial", "opened_on": "2020-01-01", "revision": 1,
            "region": "North", "voltage": "10kV", "tariff": "IND", "preferential": "false", "capacity_kva": 100,
            "prepaid": "false"}  # fmt: skip


def meter(name: str, of: str) -> dict[str, object]:
    return {"meter_id": name, "account_id": of, "installed_on": "2024-12-31", "revision": 1}


def reading(name: str, day: date, kwh: int, revision: int = 1) -> dict[str, object]:
    return {"meter_id": name, "service_date": f"{day}", "energy_kwh": kwh, "quality": "A", "revision": revision}


def days(first: int, last: int) -> list[date]:
    return [DAY + timedelta(days=n) for n in range(first, last + 1)]


@pytest.fixture
def clock(tmp_path, monkeypatch):
    clock = Clock(Bureau(tmp_path / "stream", shards=2), monkeypatch)
    clock.send(ACCOUNTS, account("A"), account("B"))
    clock.send(METERS, meter("M", "A"), meter("N", "B"))
    return clock


def on(clock: Clock, partition: Partition, name: str, *numbers: int, kwh: int = 5, revision: int = 1) -> None:
    clock.send(partition, *(reading(name, DAY + timedelta(days=n), kwh, revision) for n in numbers))


def test_a_day_closes_when_all_partitions_have_passed_it(clock):
    on(clock, READINGS, "M", 0, 1, 2)
    clock.cut()
    on(clock, OTHER_READINGS, "N", 0)
    clock.cut()
    on(clock, OTHER_READINGS, "N", 1, 2)
    clock.cut()
    published = clock.run()
    assert published == [[], days(0, 0), days(0, 2)]


def test_a_partition_that_stalls_keeps_days_open_until_it_is_idle(clock):
    on(clock, READINGS, "M", 0, 1, 2)
    on(clock, OTHER_READINGS, "N", 0)
    clock.cut()
    on(clock, READINGS, "M", 3, 4)
    clock.cut()
    clock.idle(OTHER_READINGS)
    clock.cut()
    assert clock.run() == [days(0, 0), days(0, 0), days(0, 4)]


def test_when_all_partitions_are_idle_the_calendar_goes_on(clock):
    on(clock, READINGS, "M", 0, 1)
    on(clock, OTHER_READINGS, "N", 0, 1)
    clock.cut()
    clock.idle(READINGS)
    clock.idle(OTHER_READINGS)
    clock.cut()
    published = clock.run()
    assert published[0] == days(0, 1)
    assert published[-1] == days(0, 1), "days without any reading are held, by the policy"


@pytest.mark.parametrize("age", [1, 100])
def test_a_correction_of_any_age_restates(tmp_path, monkeypatch, clock, age):
    last = age + 1
    on(clock, READINGS, "M", *range(last + 1))
    on(clock, OTHER_READINGS, "N", *range(last + 1))
    clock.cut()
    on(clock, READINGS, "M", last - age, kwh=50, revision=2)
    clock.cut()
    assert clock.run() == [days(0, last), days(0, last)]
    corrected = clock.query(
        f"SELECT energy_wh FROM daily_consumption WHERE account_id = 'A' AND service_date = DATE '{DAY}' + {last - age}"
    )
    assert corrected == [(50_000,)]

    other = Clock(Bureau(tmp_path / "at_once", shards=2), monkeypatch)
    other.send(ACCOUNTS, account("A"), account("B"))
    other.send(METERS, meter("M", "A"), meter("N", "B"))
    on(other, READINGS, "M", *(n for n in range(last + 1) if n != last - age))
    on(other, READINGS, "M", last - age, kwh=50, revision=2)
    on(other, OTHER_READINGS, "N", *range(last + 1))
    other.cut()
    other.run()
    marts = [bureau.marts for bureau in (clock.bureau, other.bureau)]
    (restated,) = clock.query("SELECT count(*) FROM accepted_readings")
    assert restated == (2 * (last + 1) + 1,), "nothing was dropped for being late"
    with duckdb.connect() as con:
        for name, path in zip(("one", "other"), marts, strict=True):
            con.execute(f"ATTACH '{path}' AS {name} (READ_ONLY)")
        for mart in ("features", "daily_consumption", "cutoffs", "customer_tiers", "tier_migrations"):
            sides = [f"FROM {name}.{mart}" for name in ("one", "other")]
            assert con.execute(f"{sides[0]} EXCEPT ALL {sides[1]}").fetchall() == []
            assert con.execute(f"{sides[1]} EXCEPT ALL {sides[0]}").fetchall() == []


def test_a_repeated_message_counts_once(clock):
    on(clock, READINGS, "M", 0, 1)
    on(clock, READINGS, "M", 0)
    on(clock, OTHER_READINGS, "N", 0, 1)
    clock.cut()
    assert clock.run() == [days(0, 1)]
    (row,) = clock.query("SELECT rows_accepted, rows_superseded FROM pipeline_runs WHERE source = 'meter_readings'")
    assert row == (4, 1)
    assert date_of(clock.last_day[READINGS]) == DAY + timedelta(days=1)


def test_prices_of_a_topic_go_to_every_shard_and_count_once(clock):
    """Both accounts, in whichever of the two shards, use 5 kWh at 0.60."""
    row = {"tariff": "IND", "valid_from": "2020-01-01", "period": "total", "yuan_per_kwh": "0.60", "revision": 1}
    clock.send(TARIFFS, row, {**row, "tariff": "RES"})
    on(clock, READINGS, "M", 0)
    on(clock, OTHER_READINGS, "N", 0)
    clock.cut()
    assert clock.run() == [days(0, 0)]
    assert clock.query("SELECT account_id, valued_30d_minor FROM features ORDER BY 1") == [("A", 300), ("B", 300)]
    (counts,) = clock.query("SELECT rows_read, rows_accepted FROM pipeline_runs WHERE source = 'tariffs'")
    assert counts == (2, 2)
