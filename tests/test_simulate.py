"""The laws of a simulated utility: repeatable, skewed, with every kind of delivery, and bounded in memory."""

from __future__ import annotations

from collections import Counter
from datetime import date, timedelta
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from pipelines.simulate import MALFORMED, SOURCES, Pending, Settings, simulate
from pipelines.utility import PRICES, READING, World, build_world, readings_for_day
from schemas.errors import ConfigError
from schemas.inbound import CATEGORIES, CONDUCT_TYPES, EVENT_TYPES

START = date(2026, 1, 1)
Record = dict[str, Any]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


def landed(folder: Path, source: str) -> list[Record]:
    """All rows of a source in order of landing, values as text, each with its landing day."""
    rows: list[Record] = []
    for path in sorted((folder / source).iterdir()):
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            table = pa.table({name: table[name].cast(pa.string()) for name in table.column_names})
        else:
            names = path.read_text().split("\n", 1)[0].split(",")
            types = pa_csv.ConvertOptions(
                column_types={name: pa.string() for name in names}, strings_can_be_null=True, null_values=[""]
            )
            table = pa_csv.read_csv(path, convert_options=types)
        stamp = path.stem.rsplit("-", 1)[1]
        lands = date(int(stamp[:4]), int(stamp[4:6]), int(stamp[6:]))
        rows += [{**row, "lands": lands} for row in table.to_pylist()]
    return rows


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's size: 2,000 accounts, 60 days, CSV."""
    out = tmp_path_factory.mktemp("demo")
    simulate(Settings(2_000, 60, 7, START, out))
    return out


@pytest.fixture(scope="module")
def readings(demo: Path) -> list[Record]:
    return landed(demo, "readings")


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Long enough for every kind of ledger event."""
    out = tmp_path_factory.mktemp("year")
    simulate(Settings(600, 420, 3, START, out, format="parquet"))
    return out


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(2_000, 7, START)


def test_same_seed_same_bytes_and_another_seed_differs(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        simulate(Settings(50, 12, seed, START, tmp_path / name))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_longer_run_goes_on_where_a_shorter_one_ended(tmp_path: Path, kind: Any) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    simulate(Settings(80, 40, 5, START, whole, kind))
    simulate(Settings(80, 31, 5, START, parts, kind))
    told: list[date] = []
    simulate(Settings(80, 40, 5, START, parts, kind, skip_days=31), told.append)
    assert contents(parts) == contents(whole)
    assert told == [START + timedelta(days=k) for k in range(40)]


def test_csv_and_parquet_hold_the_same(tmp_path: Path) -> None:
    simulate(Settings(400, 45, 9, START, tmp_path / "csv", "csv"))
    simulate(Settings(400, 45, 9, START, tmp_path / "parquet", "parquet"))
    for source in SOURCES:
        text, typed = (landed(tmp_path / kind, source) for kind in ("csv", "parquet"))
        malformed = [row for row in text if row.get("energy_kwh") in MALFORMED]
        assert [row for row in text if row not in malformed] == typed
        assert bool(malformed) == (source == "readings")


def test_the_summary_counts_what_was_written(tmp_path: Path) -> None:
    summary = simulate(Settings(150, 40, 2, START, tmp_path))
    for source in SOURCES:
        assert summary.rows[source] == len(landed(tmp_path, source))
        assert summary.files[source] == len(list((tmp_path / source).iterdir()))
    assert summary.accounts >= len({row["account_id"] for row in landed(tmp_path, "accounts")})


def test_rows_land_on_the_day_after_at_the_earliest(demo: Path, readings: list[Record], year: Path) -> None:
    assert all(row["lands"] > date.fromisoformat(row["service_date"]) for row in readings)
    assert all(row["lands"] > date.fromisoformat(row["event_date"]) for row in landed(year, "ledger"))
    assert min(row["lands"] for row in readings) == START + timedelta(days=1)


def test_every_fate_of_a_reading_occurs(readings: list[Record]) -> None:
    sound = [row for row in readings if row["quality"] != "?" and row["energy_kwh"] not in MALFORMED]
    late = Counter((row["lands"] - date.fromisoformat(row["service_date"])).days for row in sound)
    assert late[1] > 95 * len(sound) // 100
    assert all(late[days] for days in range(2, 7))
    assert any(days > 6 for days in late)

    versions: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for row in sound:
        versions.setdefault((row["meter_id"], row["service_date"]), []).append((row["revision"], row["energy_kwh"]))
    again = [key for key, seen in versions.items() if len(seen) > len(set(seen))]
    corrected = [seen for seen in versions.values() if {revision for revision, _ in seen} == {"1", "2"}]
    conflicts = [seen for seen in versions.values() if len(set(seen)) > len({revision for revision, _ in seen})]
    assert len(again) > 100
    assert len(corrected) > 100
    assert all(len({energy for _, energy in seen}) == 2 for seen in corrected)
    assert 0 < len(conflicts) < len(again) // 4
    assert 0 < sum(row["quality"] == "E" for row in sound) < len(sound) // 100


def test_some_readings_never_come(world: World, readings: list[Record]) -> None:
    expected = sum(len(readings_for_day(world, day)) for day in range(20))
    last = (START + timedelta(days=20)).isoformat()
    came = {(row["meter_id"], row["service_date"]) for row in readings if row["service_date"] < last}
    assert 0 < expected - len(came) < expected // 100


def test_some_rows_must_be_rejected_in_either_format(tmp_path: Path, readings: list[Record]) -> None:
    assert {row["energy_kwh"] for row in readings} >= set(MALFORMED)
    assert sum(row["quality"] == "?" for row in readings) >= 6
    simulate(Settings(100, 20, 1, START, tmp_path, "parquet"))
    assert [row["quality"] for row in landed(tmp_path, "readings")].count("?") >= 2


def test_plain_brings_every_reading_once_and_on_time(tmp_path: Path) -> None:
    summary = simulate(Settings(300, 60, 4, START, tmp_path, plain=True))
    rows = landed(tmp_path, "readings")
    world = build_world(300, 4, START)
    assert len(rows) == sum(len(readings_for_day(world, day)) for day in range(60))
    assert all(row["lands"] - date.fromisoformat(row["service_date"]) == timedelta(days=1) for row in rows)
    assert {(row["quality"], row["revision"]) for row in rows} == {("A", "1")}
    assert not summary.fates
    assert "refund" not in {row["event_type"] for row in landed(tmp_path, "ledger")}
    reference = {row["account_id"]: row["lands"] for row in reversed(landed(tmp_path, "accounts"))}
    assert all(reference[row["account_id"]] <= row["lands"] for row in landed(tmp_path, "ledger"))


def test_without_ledger_there_is_no_ledger(tmp_path: Path) -> None:
    assert simulate(Settings(20, 40, 4, START, tmp_path, ledger=False)).rows["ledger"] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["accounts", "meters", "readings"]


def test_reference_data_opens_closes_changes_and_comes_late(year: Path) -> None:
    accounts, meters = landed(year, "accounts"), landed(year, "meters")
    assert {row["category"] for row in accounts} == set(CATEGORIES)
    opened = [row for row in accounts if START.isoformat() < row["opened_on"] == row["valid_from"]]
    late = [row for row in opened if row["lands"] > date.fromisoformat(row["opened_on"]) + timedelta(days=1)]
    assert 0 < len(late) < len(opened) // 3
    assert any(row["valid_from"] > row["opened_on"] for row in accounts)

    closed = {row["account_id"]: row["closed_on"] for row in accounts if row["closed_on"]}
    removed = {row["account_id"]: row["removed_on"] for row in meters if row["removed_on"]}
    assert closed
    for row in accounts + meters:
        assert row["revision"] == ("2" if row.get("closed_on") or row.get("removed_on") else "1")
    for account_id in closed.keys() & removed.keys():
        assert date.fromisoformat(removed[account_id]) == date.fromisoformat(closed[account_id]) + timedelta(days=1)
    per_account = Counter((row["account_id"]) for row in meters if row["revision"] == "1")
    assert 0 < sum(n > 1 for n in per_account.values()) < len(per_account) // 8


def test_a_meter_belongs_to_one_account_at_a_time(year: Path) -> None:
    stretches: dict[str, dict[str, str]] = {}
    for row in landed(year, "meters"):
        ends = stretches.setdefault(row["meter_id"], {})
        ends[row["installed_on"]] = max(ends.get(row["installed_on"], ""), row["removed_on"] or "")
    moved = [sorted(ends.items()) for ends in stretches.values() if len(ends) > 1]
    assert moved
    for stretch in moved:
        assert all(before[1] and before[1] <= after[0] for before, after in pairwise(stretch))


def test_ledger_events_name_known_accounts_bills_and_payments(year: Path) -> None:
    ledger = landed(year, "ledger")
    assert {row["event_type"] for row in ledger} == set(EVENT_TYPES)
    accounts = {row["account_id"] for row in landed(year, "accounts")}
    assert {row["account_id"] for row in ledger} <= accounts

    # An event may land up to a month late, so the newest may name what has yet to land.
    settled = (START + timedelta(days=380)).isoformat()
    bills = {(row["account_id"], row["bill_id"]) for row in ledger if row["event_type"] == "charge"}
    payments = {(row["account_id"], row["event_id"]) for row in ledger if row["event_type"] == "payment"}
    for row in ledger:
        assert bool(row["due_date"]) == (row["event_type"] == "charge")
        assert bool(row["ref_event_id"]) == (row["event_type"] == "reversal")
        assert row["event_type"] == "adjustment" or Decimal(row["amount_yuan"]) > 0
        if row["event_date"] < settled and row["bill_id"]:
            assert (row["account_id"], row["bill_id"]) in bills
        if row["event_date"] < settled and row["ref_event_id"]:
            assert (row["account_id"], row["ref_event_id"]) in payments
    paid = [row for row in ledger if row["event_type"] == "payment"]
    assert 0 < sum(row["bill_id"] is None for row in paid) < len(paid) // 2
    adjustments = {Decimal(row["amount_yuan"]) > 0 for row in ledger if row["event_type"] == "adjustment"}
    assert adjustments == {True, False}


def test_few_are_found_to_do_wrong_and_some_findings_are_withdrawn(year: Path) -> None:
    events = landed(year, "conduct")
    accounts = {row["account_id"] for row in landed(year, "accounts")}
    assert {row["event_type"] for row in events} == set(CONDUCT_TYPES)
    assert {row["account_id"] for row in events} <= accounts
    assert 10 < len({row["account_id"] for row in events}) < len(accounts) // 5
    first = {(row["account_id"], row["event_id"]): row for row in events if row["revision"] == "1"}
    for row in events:
        assert row["lands"] > date.fromisoformat(row["event_date"])
        assert (row["event_type"] == "withdrawn") == (row["revision"] == "2")
        if (row["account_id"], row["event_id"]) in first:  # a finding may be told after its withdrawal
            assert first[row["account_id"], row["event_id"]]["event_date"] <= row["event_date"]


def test_an_event_id_means_one_event(year: Path) -> None:
    seen: dict[tuple[str, str], tuple[str, str]] = {}
    for row in landed(year, "ledger"):
        event = (row["event_type"], row["event_date"])
        assert seen.setdefault((row["account_id"], row["event_id"]), event) == event


def test_bills_are_the_energy_used_times_the_price(tmp_path: Path) -> None:
    """Bills of the first 70 days, from the readings that landed and the price of the category, in whole fen."""
    simulate(Settings(60, 70, 8, START, tmp_path, plain=True))
    world = build_world(60, 8, START)
    used: Counter[tuple[str, str]] = Counter()
    meters = landed(tmp_path, "meters")
    holder = {row["meter_id"]: row["account_id"] for row in meters}
    steady = {row["account_id"] for row in landed(tmp_path, "accounts") if row["lands"] == START + timedelta(days=1)}
    steady -= {row["account_id"] for row in landed(tmp_path, "accounts") if row["lands"] > START + timedelta(days=1)}
    steady -= {row["account_id"] for row in meters if row["removed_on"]}
    for row in landed(tmp_path, "readings"):
        used[holder[row["meter_id"]], row["service_date"]] += int(Decimal(row["energy_kwh"]) * 1000)
    last: dict[str, str] = {}
    checked = 0
    for row in landed(tmp_path, "ledger"):
        account_id = row["account_id"]
        if row["event_type"] != "charge" or account_id not in steady:
            continue
        since = last.get(account_id, "")
        wh = sum(n for (who, day), n in used.items() if who == account_id and since < day <= row["event_date"])
        slot = int(account_id[1:8])
        price = int(PRICES[world.category[slot], int(world.preferential[slot])])
        assert Decimal(row["amount_yuan"]) == Decimal(wh * price // 100_000) / 100
        assert 15 <= (date.fromisoformat(row["due_date"]) - date.fromisoformat(row["event_date"])).days <= 20
        last[account_id] = row["event_date"]
        checked += 1
    assert checked > 60


def test_a_long_run_keeps_what_is_pending_bounded(tmp_path: Path) -> None:
    summary = simulate(Settings(200, 500, 6, START, tmp_path, "parquet"))
    assert 0 < summary.peak_pending < 3 * 200


def test_pending_gives_each_row_back_on_its_day_and_keeps_nothing() -> None:
    rows = np.zeros(6, READING)
    rows["meter"] = np.arange(6)
    pending = Pending(READING)
    pending.add(np.array([3, 1, 2, 1, 3, 9]), rows)
    pending.add(np.array([2]), rows[:1])
    assert pending.size == 7
    assert all(block.base is None for blocks in pending._blocks.values() for block in blocks)
    assert [pending.pop(day)["meter"].tolist() for day in (1, 2, 3, 4, 9)] == [[1, 3], [2, 0], [0, 4], [], [5]]
    assert pending.size == 0


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"accounts": 0}, "accounts is 0"),
        ({"days": 0}, "days is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"format": "json"}, "'json'; give csv or parquet"),
        ({"late_share": 1.2}, "1.2"),
        ({"corrections_share": -0.1}, "-0.1"),
        ({"skip_days": 11}, "skip_days is 11"),
    ],
)
def test_settings_refuse_with_the_value(tmp_path: Path, bad: Record, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Settings(**{"accounts": 10, "days": 10, "seed": 1, "start": START, "out": tmp_path, **bad})


def test_files_that_are_there_are_not_written_over(tmp_path: Path) -> None:
    simulate(Settings(10, 3, 1, START, tmp_path))
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=r"20260102\.csv is there already"):
        simulate(Settings(10, 5, 2, START, tmp_path))
    assert contents(tmp_path) == before
