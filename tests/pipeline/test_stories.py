"""What happens to a bureau from day to day, one story at a time, on four accounts that a person can follow."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import date, timedelta

import pytest

from pipelines.status import status
from pipelines.warehouse import Warehouse
from schemas.errors import Locked, StateError, Unbalanced
from tests.pipeline.bureau import POLICY, Bureau, assert_balanced, assert_equal_marts
from tests.pipeline.worlds import account, ledger, meter, reading, second_version
from transforms.storage import Commit

MONDAY = date(2023, 3, 6)
LONG_AGO = date(2020, 1, 1)
USES = {"big": 100_000, "middle": 60_000, "small": 5_000, "tiny": 1_000}
"""Wh a day: `big` alone is class A, `middle` is B."""


def day(n: int) -> date:
    return MONDAY + timedelta(days=n)


def reference(names=USES):
    """Every account has one meter, named like it."""
    return [event for name in names for event in (account(name, LONG_AGO), meter(f"m-{name}", name, LONG_AGO))]


def used(first, last, names=USES, revision=1, **instead):
    """Readings of days `first .. last`, of every account or some."""
    uses = {name: USES[name] for name in names} | instead
    return [reading(f"m-{name}", day(n), wh, revision) for n in range(first, last + 1) for name, wh in uses.items()]


@pytest.fixture
def bureau(tmp_path):
    return Bureau(tmp_path / "bureau")


def opened(bureau, last=3):
    """The bureau after its first run: days 0 to `last`."""
    bureau.land_all([*reference(), *used(0, last)])
    bureau.run()
    return bureau


def tiers(bureau):
    return dict(bureau.query("SELECT account_id, tier FROM customer_tiers_current"))


def command(bureau, *arguments, **environment):
    """The command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-m", "pipelines", *arguments], cwd=bureau.folder, capture_output=True,
        text=True, check=False, env={**os.environ, **environment},
    )  # fmt: skip


# --- files


def test_a_first_day_can_be_checked_by_hand(bureau):
    opened(bureau, last=0)
    assert tiers(bureau) == {"big": "high", "middle": "mid_steady", "small": "low_small", "tiny": "low_small"}
    assert bureau.query("SELECT account_id, wh_7d, expected_7d FROM features ORDER BY wh_7d DESC LIMIT 1") == [
        ("big", 100_000, 7)
    ]
    bureau.check()


def test_without_anything_new_the_generation_stands(bureau):
    opened(bureau)
    again = bureau.run()
    assert (again.published, again.generation, again.days) == (False, 1, 0)
    assert bureau.query("SELECT generation FROM wattier_generation") == [(1,)]


def test_a_file_delivered_again_under_another_name_is_recognised(bureau):
    opened(bureau)
    before = bureau.keep_marts("before")
    file = next((bureau.folder / "landing" / "readings").iterdir())
    (file.parent / "readings-20260101.csv").write_bytes(file.read_bytes())
    report = bureau.run()
    assert (report.files, report.redelivered, report.restated_from) == (0, 1, None)
    assert_equal_marts(before, bureau.marts, same_deliveries=True)
    assert not bureau.run().published


@pytest.mark.slow
def test_a_file_that_changed_under_its_name_is_a_new_delivery(bureau):
    opened(bureau)
    last = [row for _, row in used(3, 3)]
    file = bureau.land("meter_readings", last, "readings-20260101.csv")
    assert bureau.run().redelivered == 0
    bureau.land("meter_readings", [row for _, row in used(3, 3, revision=2, big=70_000)], file.name)
    report = bureau.run()
    assert (report.files, report.restated_from) == (1, day(3))
    assert bureau.query(
        f"SELECT energy_wh FROM daily_consumption WHERE account_id = 'big' AND service_date = '{day(3)}'"
    ) == [(70_000,)]
    bureau.check()


@pytest.mark.slow
def test_a_row_taken_out_of_a_file_still_counts(bureau):
    """A delivery is an event: what was accepted stays, until a higher revision says otherwise."""
    opened(bureau)
    file = bureau.land("meter_readings", [row for _, row in used(4, 4)], "readings-20260101.csv")
    bureau.run()
    bureau.land("meter_readings", [row for _, row in used(4, 4, ("big", "middle"))], file.name)
    bureau.run()
    assert bureau.query(f"SELECT count(*) FROM daily_consumption WHERE service_date = '{day(4)}'") == [(4,)]
    bureau.check()


# --- one run at a time, in one shape


def test_a_second_run_meanwhile_is_refused(bureau):
    opened(bureau)
    with (
        Warehouse(bureau.config.warehouse).lock(),
        pytest.raises(Locked, match=rf"another run is at work \(process {os.getpid()} "),
    ):
        bureau.run()
    assert not bureau.run().published


@pytest.mark.slow
def test_the_command_says_so_and_exits_with_5(bureau):
    with Warehouse(bureau.config.warehouse).lock():
        refused = command(bureau, "run")
    assert refused.returncode == 5
    assert refused.stderr.startswith("wattier: ")
    assert "another run is at work" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_warehouse_keeps_its_number_of_shards(bureau):
    opened(bureau)
    bureau.configure(("shards: 2", "shards: 8"))
    with pytest.raises(StateError, match="is kept in 2 shards, the configuration says 8") as refused:
        bureau.run()
    assert refused.value.exit_code == 8


# --- what comes late, or is put right


def test_a_correction_restates_and_is_listed(bureau):
    opened(bureau, last=4)
    assert bureau.query("FROM tier_restatements") == []
    bureau.land_all([reading("m-tiny", day(3), 400_000, 2)])
    assert bureau.run().restated_from == day(3)
    listed = bureau.query(
        "SELECT account_id, valid_from, valid_to, from_tier, to_tier, cause, generation FROM tier_restatements ORDER BY ALL"
    )
    assert listed == [("tiny", day(3), day(4), "low_small", "mid_large", "correction", 2)]
    bureau.check()


def test_a_meter_that_never_reports_counts_as_expected_from_its_first_day(bureau):
    opened(bureau)
    bureau.land_all([meter("quiet", "big", day(2), day(3))])
    assert bureau.run().restated_from == day(2)
    expected = bureau.query("SELECT expected_7d FROM features WHERE account_id = 'big' ORDER BY service_date")
    assert expected == [(7,), (7,), (8,), (8,)]
    bureau.check()


@pytest.mark.slow
def test_every_kind_of_correction_restates_from_the_first_day_it_changes(bureau):
    """Daily runs leave a checkpoint every day: to begin a day too late would keep a wrong one."""
    for parcel in ([*reference(), *used(0, 0)], *(used(n, n) for n in range(1, 6))):
        bureau.land_all(parcel)
        bureau.run()
    for event, first in (
        (reading("m-small", day(4), 90_000, 2), day(4)),
        (ledger("big", "c", "charge", day(3), 5_000, day(3), "B"), day(3)),
        (ledger("big", "p", "payment", day(5), 5_000), day(5)),
        (ledger("big", "p", "payment", day(4), 5_000, bill="B", revision=2), day(4)),
        (account("tiny", day(2), "residential", LONG_AGO), day(2)),
        (account("small", LONG_AGO, closed=day(3), revision=2), day(4)),
        (meter("m-middle", "middle", LONG_AGO, day(3), 2), day(3)),
        (meter("m-middle", "tiny", day(4)), day(4)),
    ):
        bureau.land_all([event])
        assert bureau.run().restated_from == first, event
        bureau.check()


def test_late_readings_close_a_day_that_was_held(bureau):
    bureau.land_all([*reference(), *used(0, 2), *used(3, 3, ("big",))])
    assert bureau.run().through == day(2)
    assert bureau.query("SELECT max(service_date), count(*) FROM service_days") == [(day(2), 3)]
    bureau.land_all(used(3, 3, ("tiny", "small")))
    assert bureau.run().through == day(3)
    bureau.check()


@pytest.mark.slow
def test_days_that_are_no_longer_complete_are_taken_back(bureau):
    """Six more meters turn out to stand since day 3, and none of them has reported."""
    opened(bureau, last=4)
    more = [account("new", LONG_AGO), *(meter(f"n{n}", "new", day(3)) for n in range(6))]
    bureau.land_all(more)
    report = bureau.run()
    assert report.through == day(2)
    assert bureau.query("SELECT max(service_date) FROM features") == [(day(2),)]
    bureau.check()
    gone = bureau.query("SELECT valid_from, valid_to, to_tier, cause FROM tier_restatements WHERE account_id = 'big'")
    assert gone == [(day(3), day(4), None, "correction")]
    bureau.land_all([reading(f"n{n}", day(k), 10) for n in range(6) for k in (3, 4)])
    assert bureau.run().through == day(4)
    bureau.check()


@pytest.mark.slow
def test_when_no_reading_counts_any_more_no_day_is_published(bureau):
    opened(bureau)
    bureau.land_all([meter(f"m-{name}", "nobody", LONG_AGO, None, 2) for name in USES])
    assert bureau.run().through is None
    assert bureau.query(
        "SELECT (SELECT count(*) FROM features), (SELECT count(*) FROM customer_tiers), (SELECT count(*) FROM pending)"
    ) == [(0, 0, 20)]
    bureau.check()
    bureau.land_all([meter(f"m-{name}", name, LONG_AGO, None, 3) for name in USES])
    assert bureau.run().through == day(3)
    bureau.check()
    assert_balanced(bureau)


@pytest.mark.slow
def test_a_calendar_that_begins_later_drops_what_was_before(bureau):
    bureau.land_all([*reference(), *used(0, 1, ("tiny",)), *used(2, 4)])
    bureau.run()
    bureau.land_all([meter("m-tiny", "tiny", day(2), None, 1), meter("m-tiny", "tiny", LONG_AGO, LONG_AGO, 2)])
    bureau.run()
    assert bureau.query("SELECT min(service_date) FROM features") == [(day(2),)]
    bureau.check()


def test_a_bill_paid_late_restates_the_credit_grade(bureau):
    opened(bureau, last=5)
    bureau.land_all([ledger("big", "b1", "charge", day(0), 5_000, day(2), "B1")])
    bureau.run()
    assert tiers(bureau)["big"] == "low_risk"
    bureau.land_all([ledger("big", "p1", "payment", day(2), 5_000, bill="B1")])
    assert bureau.run().restated_from == day(2)
    assert tiers(bureau)["big"] == "high"
    bureau.check()


# --- the policy


def test_a_changed_policy_restates_from_the_day_it_differs(bureau):
    opened(bureau, last=4)
    bureau.set_policy(
        second_version(
            day(3),
            ("{A: 50 %, B: 90 %}", "{A: 70 %, B: 90 %}"),
            ("A: {entry: 40 %, exit: 60 %}", "A: {entry: 70 %, exit: 70 %}"),
        )
    )
    assert status(bureau.config)["policy"] == f"has changed: from {day(3)} on, `wattier run` goes by the new one"
    report = bureau.run()
    assert status(bureau.config)["policy"] == "as published"
    assert (report.published, report.restated_from) == (True, day(3))
    assert bureau.query("SELECT DISTINCT cause FROM tier_restatements") == [("policy_changed",)]
    assert bureau.query("SELECT account_id, service_date, cause FROM tier_migrations") == [
        ("middle", day(3), "policy_changed")
    ]
    bureau.check()


@pytest.mark.parametrize("below_floor", ["hold", "provisional"])
def test_a_day_below_the_floor_is_held_or_provisional(bureau, below_floor):
    bureau.set_policy(POLICY.replace("below_floor: hold", f"below_floor: {below_floor}"))
    moved_out = [meter("m-tiny", "tiny", LONG_AGO, day(5), 2)]
    bureau.land_all([*reference(), *moved_out, *used(0, 2), *used(3, 3, ("big",))])
    report = bureau.run(through=day(6))
    status = bureau.query("SELECT service_date, status, meters_expected FROM service_days ORDER BY 1 OFFSET 2")
    if below_floor == "hold":
        assert status == [(day(2), "closed", 4)]
    else:
        assert status == [(day(2), "closed", 4), *((day(n), "provisional", 4 if n < 5 else 3) for n in range(3, 7))]
        assert report.through == day(6)
        assert bureau.run().through == day(6)  # what was published provisionally stays
    bureau.check()


@pytest.mark.slow
def test_a_floor_that_is_raised_takes_days_back(bureau):
    bureau.land_all([*reference(), *used(0, 2), *used(3, 3, ("big", "middle", "small"))])
    assert bureau.run().through == day(3)
    bureau.set_policy(POLICY.replace("floor_ppm: 500000", "floor_ppm: 900000"))
    assert bureau.run().through == day(2)
    bureau.check()
    bureau.set_policy(POLICY)
    assert bureau.run().through == day(3)
    bureau.check()


# --- every row is accounted for


@pytest.mark.slow
def test_the_balance_holds_over_runs_with_waiting_rows(bureau):
    """Readings and payments come before their account, the account before its meter; then a meter goes elsewhere."""
    readings, money = used(0, 2), [ledger("big", "p1", "payment", day(1), 100)]
    for parcel in (
        [*readings, *money],
        [event for event in reference() if event[0] == "meters"],
        [account("big", LONG_AGO)],
        [event for event in reference() if event[0] == "accounts"],
        [*used(1, 1), meter("m-big", "gone", LONG_AGO, None, 2)],
        [account("gone", LONG_AGO)],
    ):
        bureau.land_all(parcel)
        bureau.run()
        assert_balanced(bureau)
        bureau.check()
    assert bureau.query("SELECT sum(rows_pending) FROM pipeline_runs WHERE generation = 1") == [(13,)]
    assert bureau.query("SELECT count(*) FROM pending") == [(0,)]


def test_a_broken_balance_stops_the_run(bureau, monkeypatch):
    opened(bureau)
    before = bureau.keep_marts("before")
    bureau.land_all(used(4, 4))
    read_all = Commit.read_all

    def one_row_lost(store, folder):
        for commit in read_all(store, folder):
            yield (
                replace(commit, counts={"meter_readings": {"read": 5, "rejected": 0}})
                if commit.stage == "read"
                else commit
            )

    with monkeypatch.context() as patched:
        patched.setattr(Commit, "read_all", one_row_lost)
        with pytest.raises(
            Unbalanced, match=r"meter_readings: 5 rows came in \(5 read, 0 pending before\), but 4 are accounted for"
        ) as stopped:
            bureau.run()
    assert stopped.value.exit_code == 7
    assert before.read_bytes() == bureau.marts.read_bytes()
    assert bureau.run().published
    bureau.check()


# --- what is kept


@pytest.mark.slow
def test_retention_keeps_the_same_rows_in_a_backfill_and_in_daily_runs(tmp_path):
    short = ("features: 4000", "features: 3"), ("daily_consumption: 4000", "daily_consumption: 5")
    backfill, daily = (Bureau(tmp_path / name, *short) for name in ("backfill", "daily"))
    for parcel in (reference(), *(used(n, n) for n in range(7))):
        for one in (backfill, daily):
            one.land_all(parcel)
        daily.run()
    backfill.run()
    assert_equal_marts(backfill.marts, daily.marts, same_deliveries=True)
    for mart, days in (("features", 3), ("daily_consumption", 5), ("cutoffs", 7)):
        assert daily.query(f"SELECT count(DISTINCT service_date) FROM {mart}") == [(days,)]
    backfill.check()


@pytest.mark.slow
def test_gc_removes_what_a_killed_run_left_and_old_generations(bureau):
    opened(bureau)
    bureau.land_all(used(4, 4))
    killed = command(bureau, "run", "--no-audit", WATTIER_CRASH_AT="after_tick")
    assert killed.returncode == -signal.SIGKILL
    assert bureau.query("SELECT max(service_date) FROM service_days") == [(day(3),)]
    for n in range(5, 9):
        bureau.run()
        bureau.land_all(used(n, n))
    bureau.run()
    before = bureau.keep_marts("before")
    warehouse = Warehouse(bureau.config.warehouse)
    held = [warehouse.read(number) for number in (4, 5, 6)]
    files, size = warehouse.collect_garbage(keep=3)
    assert files > 0
    assert size > 0
    assert_equal_marts(before, bureau.marts, same_deliveries=True)
    bureau.check()
    for generation in held:  # the last three can still be read, to the last file
        for entry in warehouse.read(generation.number).entries:
            assert warehouse.store.digest(entry.path) == entry.sha256
    with pytest.raises(StateError, match="missing"):
        warehouse.read(3)
    needed = {e.path for generation in held for e in generation.entries}
    assert {
        str(p.relative_to(warehouse.root)) for p in (bureau.folder / "warehouse" / "data").rglob("*") if p.is_file()
    } == needed
    assert warehouse.collect_garbage(keep=3) == (0, 0)
    bureau.land_all(used(9, 9))
    bureau.run()
    bureau.check()


# --- more than a year


@pytest.mark.slow
def test_corrections_of_any_age_change_every_window_that_holds_the_day(tmp_path):
    """458 days; then days at the edges of all windows are put right, in two runs, the far ones first."""
    bureau, days = Bureau(tmp_path / "bureau", shards=1), 458
    small = ("big", "middle")
    bureau.land_all(
        [*reference(small), *used(0, days - 1, small), ledger("big", "b", "charge", day(90), 700, day(94), "B")]
    )
    bureau.run()
    for revision, ages in enumerate(((364, 365, 366, 454, 455, 456), (0, 6, 7, 29, 30, 89, 90)), start=2):
        parcel = [reading("m-big", day(days - 1 - age), 250_000 + age, revision) for age in ages]
        bureau.land_all(
            [
                *parcel,
                ledger("big", "b", "charge", day(days - 80 * revision), 800, day(days - 80), "B", revision=revision),
            ]
        )
        assert bureau.run().through == day(days - 1)
    assert bureau.query("SELECT count(*) FROM rejects") == [(0,)]
    bureau.check()
