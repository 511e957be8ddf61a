"""Service actions from day to day, on four accounts that a person can follow, with two managers' places and few calls."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import pipelines.restate
from pipelines.plan import policy_change, policy_state
from pipelines.verify import verify
from pipelines.warehouse import Warehouse
from schemas.errors import ConfigError
from schemas.marts import PLANNED_ACTIONS
from tests.pipeline.bureau import CAPACITY, POLICY, WITH_ACTIONS, Bureau, assert_equal_marts
from tests.pipeline.streams import Epochs
from tests.pipeline.test_stories import LONG_AGO, day, opened, reference, used
from tests.pipeline.worlds import account, conduct, ledger, meter, reading, second_version
from transforms.kernels.windows import day_of as number

CALLS = (
    "SELECT service_date, account_id, action FROM planned_actions WHERE resource = 'calls' ORDER BY service_date, rank"
)
MANAGED = "SELECT account_id, since FROM planned_actions WHERE resource = 'managers' AND service_date = DATE '{}' ORDER BY rank"


@pytest.fixture
def bureau(tmp_path):
    return Bureau(tmp_path / "bureau", policy=WITH_ACTIONS)


def test_a_first_plan_can_be_checked_by_hand(bureau):
    """Two calls a day: `big` and `middle` are called, `small` and `tiny` are offered the valley tariff; who was called rests."""
    bureau.land_all([*reference(), *used(0, 6)])
    bureau.run()
    offer, call = "valley_tariff_offer", "follow_up_call"
    assert bureau.query(CALLS) == [
        (day(0), "big", call), (day(0), "middle", call),
        (day(1), "big", offer), (day(1), "middle", offer),
        (day(2), "small", offer), (day(2), "tiny", offer),
        (day(3), "big", call), (day(3), "middle", call),
        (day(6), "big", call), (day(6), "middle", call),
    ]  # fmt: skip
    assert bureau.query(MANAGED.format(day(6))) == [("big", day(0)), ("middle", day(0))]
    sunday = f"SELECT * EXCLUDE (policy_version) FROM plan_capacity WHERE service_date = DATE '{day(5)}' AND resource = 'calls'"
    assert bureau.query(sunday) == [(day(5), "calls", 0, 4, 4, 0, 996_000, 0, None)]
    bureau.check()


def test_one_rank_that_is_otherwise_is_found_and_named(bureau):
    opened(bureau)
    (entry,) = Warehouse(bureau.config.warehouse).load().of("mart:planned_actions")
    path = bureau.folder / "warehouse" / entry.path
    rows = pq.read_table(path).to_pylist()
    rows[0]["rank"] += 1
    pq.write_table(pa.Table.from_pylist(rows, schema=PLANNED_ACTIONS.schema), path)
    report = verify(str(bureau.marts), bureau.config.policy, all_days=True)
    assert [(found.mart, found.column) for found in report.differences] == [("planned_actions", "rank")]


def test_who_gets_no_place_stands_next_in_order_with_the_reason(bureau):
    bureau.set_capacity(CAPACITY.replace("accounts_each: 2", "accounts_each: 1"))
    opened(bureau, last=4)
    rows = bureau.query(
        "SELECT account_id, resource, planned, not_planned_reason, since, rank, due_date FROM service_actions"
        " WHERE resource IN ('managers', 'visits') ORDER BY resource, rank"
    )
    assert (
        rows
        == [
            ("big", "managers", True, None, day(0), 1, day(3)),
            ("middle", "managers", False, "no_place", None, 2, day(8)),
            ("big", "visits", False, "day_off", None, 1, day(6)),  # for Saturday; seen on Monday, it may be again
        ]
        or rows == []
    )
    bureau.check()


def events():
    """Ten days of five accounts: a theft and its ladder, arrears, readings that come late, an account that closes."""
    told = [*reference(), account("gone", LONG_AGO, closed=day(6)), meter("m-gone", "gone", LONG_AGO)]
    yield [*told, *used(0, 3), *(reading("m-gone", day(n), 90_000) for n in range(7))]
    yield [
        *used(4, 6), conduct("middle", "t1", "theft_confirmed", day(5)), ledger("small", "c1", "charge", day(1), 500, day(2)),
        conduct("big", "t2", "theft_confirmed", day(3)),
    ]  # fmt: skip
    yield [
        *used(7, 9), conduct("middle", "i1", "inspection_passed", day(9)), reading("m-tiny", day(2), 190_000, 2),
        conduct("big", "t2", "withdrawn", day(3), 2),
    ]  # fmt: skip


@pytest.mark.slow
def test_runs_day_by_day_late_and_a_stream_give_the_plans_of_one_run(tmp_path, monkeypatch):
    monkeypatch.setattr(pipelines.restate, "MOST_PPM", 1_000_000)
    by_account = []
    at_once, chunks, streamed = (Bureau(tmp_path / name, policy=WITH_ACTIONS) for name in ("once", "chunks", "stream"))
    epochs = Epochs(streamed)
    for portion in events():
        for bureau in (at_once, chunks, streamed):
            bureau.land_all(portion)
        by_account.append(chunks.run().days_by_account)
        epochs.cut()
    at_once.run()
    epochs.run()
    epochs.publish()
    assert at_once.query("SELECT count(DISTINCT resource) FROM planned_actions") == [(4,)]
    assert at_once.query("SELECT account_id FROM service_actions WHERE action = 'release'") == [("middle",)]
    assert any(by_account)
    at_once.check()
    for bureau in (chunks, streamed):
        assert_equal_marts(bureau.marts, at_once.marts, same_deliveries=True)


@pytest.mark.slow
def test_staff_from_a_later_day_on_leaves_the_plans_before_it_as_they_are(bureau):
    opened(bureau, last=4)
    before = bureau.query("FROM planned_actions ORDER BY ALL")
    was = bureau.config.policy
    more = CAPACITY.replace("calls: 2", "calls: 3").replace("2000-01-01", f"{day(6)}").replace("\nversions:\n", "")
    bureau.set_capacity(CAPACITY + more)
    assert policy_change(policy_state(was), bureau.config.policy) == number(day(5))
    assert not bureau.run().days
    bureau.land_all(used(5, 8))
    assert bureau.run().restated_from is None
    assert bureau.query(f"FROM planned_actions WHERE service_date <= DATE '{day(4)}' ORDER BY ALL") == before
    places = bureau.query("SELECT capacity FROM plan_capacity WHERE resource = 'calls' ORDER BY service_date")
    assert places == [(2,), (2,), (2,), (2,), (0,), (0,), (3,), (3,), (3,)]
    bureau.check()
    bureau.set_capacity(CAPACITY + more + f"holidays: [{day(3)}]\n")
    assert bureau.run().restated_from == day(2), "the plan for the holiday, and what follows"
    bureau.check()


@pytest.mark.slow
def test_another_strategy_from_a_day_on(bureau):
    """Value first, no bonus, other rests, an action that takes another resource; then none at all, and a third one."""
    changes = [
        ("keep_bonus_ppm: 300000", "order: value\n      value: wh_30d"),
        ("called, resource: calls, again_days: 3", "called, resource: calls, again_days: 5"),
        ("offered, resource: calls", "offered, resource: visits"),
    ]
    bureau.set_policy(second_version(day(4), *changes, policy=WITH_ACTIONS))
    bureau.land_all([*reference(), *used(0, 6), ledger("tiny", "c1", "charge", day(1), 500, day(2))])
    bureau.run()
    wanted = "SELECT candidates FROM plan_capacity WHERE resource = 'visits' ORDER BY service_date"
    assert bureau.query(wanted) == [(2,)] * 4 + [(4,)] * 3
    bureau.check()
    none = second_version(day(5), policy=WITH_ACTIONS)
    begin = none.rindex("    strategy:")
    bureau.set_policy(none[:begin] + none[none.index("    vee:", begin) :])
    assert bureau.run().restated_from == day(4)
    assert bureau.query("SELECT max(service_date) FROM plan_capacity") == [(day(4),)]
    assert bureau.query("SELECT count(*) FROM service_actions") == [(0,)]
    bureau.check()
    bureau.set_policy(second_version(day(6), *changes, policy=WITH_ACTIONS))
    bureau.run()
    bureau.check()


def test_a_faulty_capacity_file_stops_every_command_before_anything_runs(bureau):
    bureau.set_capacity(CAPACITY.replace("staff: 1", "staff: -1", 1))
    with pytest.raises(
        ConfigError, match=r"capacity.yaml: versions\[0\].managers.staff: -1: must be greater than or equal to 0"
    ):
        bureau.run()
    bureau.set_policy(POLICY.replace("min_stay_days", "min_stay"))
    with pytest.raises(
        ConfigError, match=r"policy.yaml: versions\[0\].min_stay_days: is missing(.|\n)*capacity.yaml: .*staff: -1"
    ):
        bureau.run()
    bureau.set_policy(POLICY)
    bureau.set_capacity(CAPACITY.replace("calls: 2", "calls: 2.5"))
    with pytest.raises(ConfigError, match=r"capacity.yaml: versions\[0\].calls: 2.5: must be a whole number"):
        bureau.run()
    (bureau.folder / "capacity.yaml").unlink()
    with pytest.raises(ConfigError, match=r"capacity.yaml: cannot be read: .*`wattier init` writes a capacity file"):
        bureau.run()


def test_without_a_capacity_file_every_action_is_listed_and_nothing_is_planned(bureau):
    bureau.configure(("capacity: capacity.yaml", "# capacity: capacity.yaml"))
    opened(bureau, last=1)
    assert bureau.query("SELECT bool_and(planned), count(rank), count(*) FROM service_actions") == [(True, 0, 13)]
    assert bureau.query("SELECT count(*) FROM planned_actions") == [(0,)]
    assert bureau.query("SELECT count(*) FROM plan_capacity") == [(0,)]
    bureau.check()
