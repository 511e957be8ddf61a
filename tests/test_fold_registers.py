"""Register readings through fold 0, batch by batch in any order, against the oracle over all of them at once."""

from __future__ import annotations

import random
from datetime import date, timedelta
from decimal import Decimal
from itertools import permutations
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pipelines import oracle
from pipelines.warehouse import Draft
from schemas.inbound import INDEX_COLUMNS, MEASURES, METERS, REGISTER_READINGS, REGISTERS
from tests.oracles import worlds as tables
from tests.pipeline.worlds import INGREDIENTS, a_world, index, meter
from transforms.blocks import by_kind, one_batch, tag
from transforms.checkpoints import METER_STATE
from transforms.fold_meters import FoldMetersShard
from transforms.fold_reference import METERS_SCHEMA, TO_METER_SHARD
from transforms.fold_registers import REGISTERS_SCHEMA
from transforms.interval_days import READINGS_SCHEMA
from transforms.shards import Place, state_block
from transforms.storage import Commit

QUALITY = {"A": "actual", "E": "estimated", "D": "edited"}
MILLI = Decimal(1_000_000)


def as_day(text):
    return date.fromisoformat(text) if text else None


def as_index(text):
    return int(Decimal(text) * MILLI) if text else None


def typed(event):
    """An event of a generated world as a row of its source, where it is about meters."""
    source, row = event
    if source == "register_readings":
        meter, day, total, peak, valley, reverse, quality, revision, demand, times = row
        given = {"total": total, "peak": peak, "valley": valley, "reverse": reverse, "max_demand": demand}
        read = {column: as_index(given.get(name)) for name, column in INDEX_COLUMNS.items()}
        return {
            "meter_id": meter,
            "service_date": as_day(day),
            **read,
            "multiplier": int(times) if times else None,
            "quality": QUALITY[quality],
            "revision": int(revision),
        }
    if source == "meter_readings" and "e" not in row[2]:
        meter, day, kwh, quality, revision, *apart = row
        energy = Decimal(kwh) * 1000
        told = zip(("peak_wh", "valley_wh", "reverse_wh", "max_demand_w"), apart, strict=True)
        if energy == int(energy):
            return {
                "meter_id": meter, "service_date": as_day(day), "energy_wh": int(energy), "quality": QUALITY[quality],
                **{name: int(Decimal(wh) * 1000) if wh else None for name, wh in told}, "revision": int(revision),
            }  # fmt: skip
    if source == "meters":
        meter, installed, account, removed, role, times, modulus, opening, closing, revision = row
        return {
            "meter_id": meter, "installed_on": as_day(installed), "account_id": account, "removed_on": as_day(removed),
            "role": role or None, "multiplier": int(times) if times else None, "modulus": as_index(modulus),
            "installed_total": as_index(opening), "removed_total": as_index(closing), "revision": int(revision),
        }  # fmt: skip
    return None


class Shard:
    """One meter shard, fed batch by batch; every account is known, its slot its place in a list."""

    def __init__(self, folder: Path, accounts: list[str]) -> None:
        self.root, self.accounts, self.batches = str(folder), accounts, 0
        self.draft = Draft([])
        self.used: dict[tuple[str, int], list[int]] = {}
        self.periods: dict[tuple[str, int, str], int] = {}
        self.counts = {"accepted": 0, "superseded": 0, "read": 0, "pending": 0}

    def fold(self, rows: dict[str, list[dict]]) -> None:
        self.batches += 1
        place = Place(self.root, f"{self.batches:04d}", 1)
        state = [entry for entry in self.draft.entries if entry.kind in METER_STATE]
        blocks = [state_block(state)]
        meters = rows.get("meters", [])
        slots = np.array([self.accounts.index(row["account_id"]) for row in meters], np.int64)
        table = self._table(METERS_SCHEMA, meters)
        table = table.append_column("known", pa.array([True] * len(meters), pa.bool_()))
        blocks.append(tag(one_batch(table.append_column("account", pa.array(slots)).cast(TO_METER_SHARD)), "meters"))
        for source, schema in (("meter_readings", READINGS_SCHEMA), ("register_readings", REGISTERS_SCHEMA)):
            blocks.append(tag(one_batch(self._table(schema, rows.get(source, []))), source))
        out = list(FoldMetersShard(place).process((0, blocks)))
        commits = list(Commit.read_all(place.store(), place.folder))
        self.draft.apply(commits)
        for commit in commits:
            counted = (commit.counts or {}).get("register_readings", {})
            for name in ("accepted", "superseded"):
                self.counts[name] += counted.get(name, 0)

        kinds = by_kind(block for _, block in out)
        for block in kinds.get("difference", []):
            for slot, day, *rest in zip(*(column.to_pylist() for column in block.columns), strict=True):
                total = self.used.setdefault((self.accounts[slot], day), [0, 0, 0, 0])
                for i, value in enumerate(rest):
                    total[i] += value
        for block in kinds.get("period_difference", []):
            for slot, day, register, energy, _ in zip(*(column.to_pylist() for column in block.columns), strict=True):
                key = (self.accounts[slot], day, MEASURES[register])
                self.periods[key] = self.periods.get(key, 0) + energy

    def _table(self, schema: pa.Schema, rows: list[dict]) -> pa.Table:
        stamped = [{"delivery": self.batches, "row": n, **row} for n, row in enumerate(rows, 1)]
        return pa.Table.from_pylist([{f.name: row.get(f.name) for f in schema} for row in stamped], schema=schema)

    def pending(self) -> int:
        return sum(entry.rows for entry in self.draft.entries if entry.kind == "pending_registers")


HAS = frozenset(INGREDIENTS) - {"unknown_accounts"}


@settings(max_examples=8, phases=(Phase.explicit, Phase.generate))
@given(seed=st.integers(0, 2**32 - 1), batches=st.integers(1, 12), ordered=st.booleans(), days=st.integers(5, 70))
def test_any_sequence_of_batches_gives_what_the_oracle_says(tmp_path_factory, seed, batches, ordered, days):
    rng = random.Random(seed)
    world = a_world(rng, rng.randrange(2, 6), days, HAS)
    events = [(source, row) for source, row in ((e[0], typed(e)) for e in world.events) if row is not None]
    accounts = sorted({row["account_id"] for source, row in events if source == "meters"})
    if not ordered:
        rng.shuffle(events)
    shard = Shard(tmp_path_factory.mktemp("shard"), accounts)
    edges = sorted(rng.randrange(len(events) + 1) for _ in range(batches - 1))
    for start, end in zip([0, *edges], [*edges, len(events)], strict=True):
        by_source: dict[str, list[dict]] = {}
        for source, row in events[start:end]:
            by_source.setdefault(source, []).append(row)
        shard.fold(by_source)

    def of(wanted: str) -> list[dict]:
        return [row for source, row in events if source == wanted]

    with duckdb.connect() as con:
        known = [tables.account(name) for name in accounts]
        tables.fill(con, known, of("meters"), of("meter_readings"), registers=of("register_readings"))
        oracle.calendar(con, tables.policy(), date(2030, 1, 1))
        wanted = con.execute(
            "SELECT account_id, service_date - DATE '1970-01-01', sum(energy_wh)::BIGINT, count(*), "
            "count(*) FILTER (quality <> 'actual'), count(*) FILTER (is_conflict) FROM oracle.counted_reading GROUP BY ALL"
        ).fetchall()
        exceptions = con.execute("SELECT * FROM oracle.reading_exceptions").fetchall()
        waiting = con.execute("SELECT count(*) FROM oracle.pending WHERE source = 'register_readings'").fetchall()[0][0]
        periods = con.execute(
            "SELECT account_id, service_date - DATE '1970-01-01', register, sum(energy_wh)::BIGINT "
            "FROM oracle.counted_apart GROUP BY ALL"
        ).fetchall()
    assert {key: value for key, value in shard.used.items() if any(value)} == {
        (account, day): list(rest) for account, day, *rest in wanted
    }
    assert {key: value for key, value in shard.periods.items() if value} == {
        (account, day, register): wh for account, day, register, wh in periods if wh
    }
    assert shard.pending() == waiting
    store = Place(shard.root, "", 1).store()
    stored = [
        tuple(row.values()) for entry in shard.draft.entries if entry.kind == "mart:reading_exceptions"
        for row in store.read_parquet(entry).to_pylist()
    ]  # fmt: skip
    assert sorted(stored) == sorted(exceptions)


SHOWN = {0: "101", 1: "1000", 2: "1102", 3: "107"}
"""kWh at the end of day n, on a dial of 1,000 kWh that began day 0 at 100: what days 1 and 2 show is beyond it."""


def on(n):
    return date(2023, 3, 6) + timedelta(days=n)


def dial(revision=1, modulus="1000", opening="100", times=""):
    """The meter of `SHOWN`."""
    return {"meters": [typed(("meters", ("m", str(on(0)), "a", "", "", times, modulus, opening, "", str(revision))))]}


def shows(shown, revision=1, quality="A", **more):
    """What the meter shows, by day, as rows."""
    events = [index("m", on(n), kwh, revision, quality, **more) for n, kwh in shown.items()]
    return {"register_readings": [typed(event) for event in events]}


def what_stands(shard):
    """Wh and whether estimated by day, and the exceptions as (day, reason, opened_on, kWh)."""
    store, first = Place(shard.root, "", 1).store(), (on(0) - date(1970, 1, 1)).days
    tables = [store.read_parquet(e) for e in shard.draft.entries if e.kind == "mart:reading_exceptions"]
    rows = [row for table in tables for row in table.to_pylist()]
    return {day - first: (wh, bool(estimated)) for (_, day), (wh, n, estimated, _) in shard.used.items() if n}, sorted(
        ((row["service_date"] - on(0)).days, row["reason"], row["opened_on"], row["step"] / 10**6) for row in rows
    )


def test_rows_of_a_register_that_is_not_wanted_are_accepted(tmp_path):
    """Alone, beside others, and again; of a meter that is not known they wait, and are accepted then."""
    shard = Shard(tmp_path, ["a"])
    told, nothing = shows({0: "101"})["register_readings"], shows({0: "", 1: ""})["register_readings"]
    shard.fold({"register_readings": nothing})
    assert (shard.counts["accepted"], shard.counts["superseded"], shard.pending()) == (0, 0, 2)
    shard.fold({**dial(), "register_readings": [*told, *nothing]})
    assert (shard.counts["accepted"], shard.counts["superseded"], shard.pending()) == (5, 0, 0)
    shard.fold({"register_readings": [*told, *nothing]})
    assert (shard.counts["accepted"], shard.counts["superseded"]) == (7, 1)


@pytest.mark.parametrize("order", list(permutations(SHOWN)), ids=str)
def test_an_index_beyond_the_modulus_is_no_point_in_any_order(tmp_path, order):
    shard = Shard(tmp_path, ["a"])
    shard.fold(dial())
    for n in order:
        shard.fold(shows({n: SHOWN[n]}))
    # 107 - 101 is shared by days 1 to 3.
    energy = {0: (1000, False), 1: (2000, True), 2: (2000, True), 3: (2000, True)}
    alone = [(1, "index_beyond_modulus", None, 0), (2, "index_beyond_modulus", None, 102)]
    assert what_stands(shard) == (energy, alone)


def test_an_index_just_below_the_modulus_is_a_point(tmp_path):
    shard = Shard(tmp_path, ["a"])
    shard.fold({**dial(), **shows({0: "999.999999"})})
    assert what_stands(shard) == ({0: (899_999, False)}, [])


def test_an_index_beyond_the_modulus_counts_when_the_modulus_is_mended(tmp_path):
    shard = Shard(tmp_path, ["a"])
    shard.fold({**dial(), **shows(SHOWN)})
    before = what_stands(shard)
    shard.fold(dial(2, modulus="1102.000001"))  # 1,102 is just below it, and 107 after it is a turn-over
    energy = {0: (1000, False), 1: (899_000, False), 2: (102_000, False), 3: (107_000, False)}
    assert what_stands(shard) == (energy, [])
    shard.fold(dial(3))
    assert what_stands(shard) == before


def test_an_index_beyond_the_modulus_does_not_open_a_meter(tmp_path):
    shard = Shard(tmp_path, ["a"])
    shard.fold({**dial(opening=""), **shows({-1: "1100", 0: "101", 1: "102"})})
    assert what_stands(shard) == ({1: (1000, False)}, [(-1, "index_beyond_modulus", None, 100)])
    shard.fold(shows({-1: "100"}, revision=2))
    assert what_stands(shard) == ({0: (1000, False), 1: (1000, False)}, [])


@pytest.mark.parametrize(("days", "found"), [(800, [(799, 1_000)]), (801, [])])
def test_an_installation_long_ago_gives_energy_up_to_800_days(tmp_path, days, found):
    """800 kWh in 800 days are 1 kWh each; a day more, and there are none. The index after it counts as ever."""
    shard = Shard(tmp_path, ["a"])
    shard.fold({**dial(modulus="", opening="100"), **shows({days - 1: "900", days: "905"})})
    energy, exceptions = what_stands(shard)
    assert energy.pop(days) == (5_000, False)
    assert [(n, wh) for n, (wh, estimated) in energy.items() if n == 799 and estimated] == found
    assert len(energy) == (800 if found else 0)
    assert exceptions == ([] if found else [(800, "gap_too_long", on(-1), 800)])
    shard.fold(shows({10: "110"}))  # a read between closes the gap
    energy, exceptions = what_stands(shard)
    assert exceptions == []
    assert sum(wh for wh, _ in energy.values()) == 805_000


def mismatches(shard):
    """Multipliers that are not the reference's: day -> by how much."""
    _, found = what_stands(shard)
    assert all(reason == "multiplier_mismatch" and opened is None for _, reason, opened, _ in found)
    return {day: round(step * 10**6) for day, _, _, step in found}


def test_a_multiplier_that_is_not_the_references_is_named_until_one_is_mended(tmp_path):
    shard = Shard(tmp_path, ["a"])
    shard.fold({**dial(times="20"), **shows({0: "101", 1: "102"}, multiplier=20)})
    shard.fold(shows({-1: "100"}, multiplier=9))
    assert mismatches(shard) == {}  # day -1 is before the meter's days
    shard.fold(shows({2: "103"}, multiplier=30))
    shard.fold(shows({3: "104"}))  # tells none
    used = dict.fromkeys(range(4), (20_000, False))
    assert what_stands(shard)[0] == used
    assert mismatches(shard) == {2: 10}
    shard.fold(dial(2, times="30"))
    assert mismatches(shard) == {0: -10, 1: -10}
    assert what_stands(shard)[0] == dict.fromkeys(range(4), (30_000, False))  # the reference's counts
    shard.fold(shows({0: "101"}, revision=2, multiplier=30))
    assert mismatches(shard) == {1: -10}
    shard.fold(shows({1: "102"}, revision=2))  # tells none: that of revision 1 stands
    assert mismatches(shard) == {1: -10}
    shard.fold(dial(3, times="20"))
    assert mismatches(shard) == {0: 10, 2: 10}
    assert what_stands(shard)[0] == used


def test_a_multiplier_told_waits_for_its_meter_and_needs_no_index_that_counts(tmp_path):
    shard = Shard(tmp_path, ["a"])
    shard.fold(shows({2: "103"}, multiplier=2, quality="E"))
    assert (mismatches(shard), shard.pending()) == ({}, 1)
    shard.fold(dial())  # an empty multiplier is 1
    assert (mismatches(shard), shard.pending()) == ({2: 1}, 0)
    shard.fold(shows({2: "103"}, multiplier=1))
    assert mismatches(shard) == {}  # the smaller of one revision


def test_a_multiplier_told_with_each_register_is_named_once(tmp_path):
    """As where a row has one register."""
    shard = Shard(tmp_path, ["a"])
    rows = (
        shows({2: "103"}, multiplier=30)["register_readings"]
        + shows({2: ""}, peak="9", multiplier=30)["register_readings"]
    )
    shard.fold({**dial(), "register_readings": rows})
    assert mismatches(shard) == {2: 29}
    assert (shard.counts["accepted"], shard.counts["superseded"]) == (2, 0)
    shard.fold(shows({2: "103"}, revision=2, multiplier=1))
    assert mismatches(shard) == {}


@pytest.mark.parametrize("told", ["", 20])
def test_what_no_meter_tells_is_not_stored(tmp_path, told):
    shard = Shard(tmp_path, ["a"])
    shard.fold({**dial(), **shows({0: "101"}, multiplier=told)})
    store = Place(shard.root, "", 1).store()
    stored = {e.kind: store.read_block(e).schema.names for e in shard.draft.entries if e.kind.startswith("register")}
    assert stored["register_last"] == ["total", "multiplier"][: 1 + bool(told)]
    assert ("multiplier_energy_wh" in stored["register_block"]) == bool(told)


def test_a_check_meter_that_is_none_gets_its_energy_back(tmp_path):
    shard = Shard(tmp_path, ["a"])
    read = {"meter_id": "m", "service_date": on(3), "energy_wh": 7_000, "quality": "actual", "revision": 1}
    shard.fold({"meters": [typed(meter("m", "a", on(0), role="check"))], "meter_readings": [read]})
    assert what_stands(shard)[0] == {}
    for revision, role, counts in ((2, "main", True), (3, "check", False), (4, "", True)):
        shard.fold({"meters": [typed(meter("m", "a", on(0), revision=revision, role=role))]})
        assert what_stands(shard)[0] == ({3: (7_000, False)} if counts else {})


@pytest.mark.parametrize("batches", [1, 2])
def test_interval_energy_takes_the_place_of_what_the_reference_alone_tells(tmp_path, batches):
    shard = Shard(tmp_path, ["a"])
    told = {"meters": [typed(meter("m", "a", on(0), on(10), opening="0", closing="100"))]}
    read = {"meter_id": "m", "service_date": on(3), "energy_wh": 7_000, "quality": "actual", "revision": 1}
    for rows in ([told | {"meter_readings": [read]}], [told, {"meter_readings": [read]}])[batches - 1]:
        shard.fold(rows)
    assert what_stands(shard)[0] == {n: (7_000, False) if n == 3 else (10_000, True) for n in range(10)}


@pytest.mark.parametrize(("earlier", "later"), [(40_000, 1), (1, 40_000)])
@pytest.mark.parametrize(("kwh", "plausible"), [("13743.895347", True), ("13743.895348", False)])
def test_a_step_is_judged_by_the_largest_multiplier_of_its_days(tmp_path, earlier, later, kwh, plausible):
    """2^38 Wh a day, twice, are 549,755,813.888 kWh: 40,000 times 13,743.8953472."""
    shard = Shard(tmp_path, ["a"])
    times = {0: earlier, 2: later}
    shard.fold({"meters": [typed(meter("m", "a", on(n), multiplier=by)) for n, by in times.items()]})
    shard.fold(shows({0: "0", 2: kwh}))
    energy, exceptions = what_stands(shard)
    assert (sorted(energy), [reason for _, reason, *_ in exceptions]) == (
        ([1, 2], []) if plausible else ([], ["implausible_step"])
    )


@pytest.mark.parametrize(("kwh", "plausible"), [("219.902325", True), ("219.902326", False)])
def test_a_long_gap_gives_no_more_than_32_days_of_the_limit(tmp_path, kwh, plausible):
    """However the days share it, none is too much for an account: 32 times 2^38 Wh are 40 million times 219.9023255 kWh."""
    shard = Shard(tmp_path, ["a"])
    shard.fold({"meters": [typed(meter("m", "a", on(0), multiplier=40_000_000))]})
    shard.fold(shows({0: "0", 1: "0", 40: kwh}))
    energy, exceptions = what_stands(shard)
    assert [reason for _, reason, *_ in exceptions] == ([] if plausible else ["implausible_step"])
    assert sum(wh for wh, _ in energy.values()) == (8_796_093_000_000 if plausible else 0)


def test_relations_agree():
    assert [f.name for f in REGISTERS_SCHEMA][:-2] == [c.name for c in REGISTER_READINGS.columns]
    assert {f"installed_{r}" for r in REGISTERS} <= {c.name for c in METERS.columns}


@pytest.mark.parametrize("n", [0, 3])
def test_nothing_new_changes_nothing(tmp_path, n):
    shard = Shard(tmp_path, ["a"])
    for _ in range(n):
        shard.fold({})
    assert shard.used == {}
