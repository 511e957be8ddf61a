"""VEE that edits: one account, whose every Wh can be checked by hand; then worlds, in any order.

    day               0-6     7     8   9-13    14    15
    read, kWh        10.0  90.0   0.5   10.0  90.0  50.0
    counts           10.0  10.0     -   10.0  90.0  10.0
    demand, kW          1     5     -      1     1     1     (of 9 on day 8)

Day 7 is above three times day 0, and is put at it. Day 8 is below a tenth of day 1, and is taken as not received. Day 14 is like
day 7 as it was read. Day 15 is put at day 1: day 8 is passed over, since it was edited itself. `other` is read every day, so that
days close.
"""

from __future__ import annotations

import random
from datetime import date

import pytest

from pipelines.verify import verify
from tests.pipeline.bureau import POLICY, Bureau, assert_balanced, assert_equal_marts
from tests.pipeline.streams import Epochs
from tests.pipeline.test_known_now import deliver
from tests.pipeline.test_not_read import KNOWN
from tests.pipeline.test_stories import day
from tests.pipeline.worlds import EDITS, INGREDIENTS, a_world, account, meter, reading

pytestmark = pytest.mark.slow

BEFORE = POLICY[: POLICY.index("    vee:")]
RULES = """    vee:
      spike: {severity: estimate, factor_ppm: 3000000, at_least_wh: 1000, like_days: 1}
      low: {severity: reject, factor_ppm: 100000, at_least_wh: 1000, like_days: 1}
"""
EDITING = BEFORE + RULES
FLAGGING = BEFORE[BEFORE.index('  - version: "1"') :] + RULES.replace("estimate", "flag")
LATER = EDITING + FLAGGING.replace('version: "1"', 'version: "2"').replace("2000-01-01", f"{day(14)}")
READ = {**dict.fromkeys(range(14), 10_000), 7: 90_000, 8: 500, 14: 90_000, 15: 50_000}
EVENTS = [
    *KNOWN,
    *(reading("m", day(n), wh, demand={7: "5", 8: "9"}.get(n, "1")) for n, wh in READ.items()),
    *(reading("o", day(n), 10_000) for n in range(16)),
]


@pytest.fixture
def bureau(tmp_path):
    bureau = Bureau(tmp_path / "bureau", policy=EDITING, shards=2)
    bureau.land_all(EVENTS)
    bureau.run()
    return bureau


def test_an_account_beyond_all_limits_loses_its_day_and_stops_no_run(tmp_path):
    """64 meters of 2^38 Wh each on day 1, 63 on day 2; then one more of them is corrected."""
    bureau = Bureau(tmp_path / "bureau", policy=BEFORE, shards=2)
    most, meters = 1 << 38, [f"b{n}" for n in range(64)]
    bureau.land_all([*KNOWN, *(meter(name, "big", day(0)) for name in meters), account("big", day(0), "industrial")])
    bureau.land_all(reading("o", day(n), 10_000) for n in range(4))
    bureau.land_all(
        reading(name, day(n), most if n != 2 or at else 0) for n in range(4) for at, name in enumerate(meters) if n
    )
    bureau.run()
    columns = "service_date, energy_wh, as_read_wh, meters_received"
    used = f"SELECT {columns} FROM daily_consumption WHERE account_id = 'big' ORDER BY ALL"
    assert bureau.query(used) == [
        (day(1), 0, 64 * most, 0), (day(2), 63 * most, None, 64), (day(3), 0, 64 * most, 0),
    ]  # fmt: skip
    named = "SELECT service_date, vee_rule, severity, as_read_wh, after_wh FROM vee_results ORDER BY ALL"
    assert bureau.query(named) == [(day(n), "day_limit", "reject", 64 * most, 0) for n in (1, 3)]
    bureau.check()
    bureau.land_all([reading("b0", day(1), 5, 2)])
    bureau.run()
    assert bureau.query(used)[0] == (day(1), 63 * most + 5, None, 64)
    bureau.check()


def edited(bureau):
    """Day number -> (kWh as read, kWh that counts, meters received, of them estimated) of the days that are edited."""
    rows = bureau.query(
        "SELECT service_date, as_read_wh, energy_wh, meters_received, meters_estimated FROM daily_consumption"
        " WHERE as_read_wh IS NOT NULL ORDER BY 1"
    )
    return {(when - day(0)).days: (read / 1000, wh / 1000, *meters) for when, read, wh, *meters in rows}


def results(bureau):
    rows = bureau.query("SELECT service_date, vee_rule, severity, after_wh FROM vee_results ORDER BY 1")
    return [((when - day(0)).days, *rest) for when, *rest in rows]


def demands(bureau):
    """kW by day, and on the last day those of its month: the highest, and the number of days that tell one."""
    days = bureau.query(
        "SELECT max_demand_w // 1000 FROM daily_consumption WHERE account_id = 'A' ORDER BY service_date"
    )
    columns = "max_demand_w_mtd // 1000, demand_days_mtd"
    (month,) = bureau.query(f"SELECT {columns} FROM features WHERE account_id = 'A' ORDER BY service_date DESC LIMIT 1")
    return [kw for (kw,) in days], month


def sums(bureau):
    """On the last day: kWh, provisional kWh and meter-days received in 30 days."""
    columns = "wh_30d // 1000, provisional_wh_30d // 1000, received_30d"
    (row,) = bureau.query(f"SELECT {columns} FROM features WHERE account_id = 'A' ORDER BY service_date DESC LIMIT 1")
    return row


def test_every_wh_can_be_checked_by_hand(bureau):
    assert edited(bureau) == {7: (90, 10, 1, 1), 8: (0.5, 0, 0, 0), 15: (50, 10, 1, 1)}
    assert results(bureau) == [
        (7, "spike", "estimate", 10_000), (8, "low", "reject", 0), (15, "spike", "estimate", 10_000),
    ]  # fmt: skip
    assert sums(bureau) == (70 + 10 + 50 + 90 + 10, 10, 15)
    assert demands(bureau) == ([*[1] * 7, 5, None, *[1] * 7], (5, 15))
    assert bureau.query("SELECT sum(meters_received) FROM service_days") == [(32,)]  # coverage is as read
    bureau.check()
    assert verify(str(bureau.marts), bureau.config.policy, sample=1).ok  # cut-offs follow from the edits of all

    # Day 7 turns out to be 12 kWh: it counts, and day 14 is held against it, and put at it.
    bureau.land_all([reading("m", day(7), 12_000, 2)])
    assert bureau.run().restated_from == day(7)
    assert edited(bureau) == {8: (0.5, 0, 0, 0), 14: (90, 12, 1, 1), 15: (50, 10, 1, 1)}
    assert sums(bureau) == (70 + 12 + 50 + 12 + 10, 10, 15)
    bureau.check()

    # From day 14 on spikes are flagged only: what they were counts again; the edit of day 8 stays.
    bureau.set_policy(LATER)
    assert bureau.run().restated_from == day(14)
    assert edited(bureau) == {8: (0.5, 0, 0, 0)}
    assert results(bureau)[1:] == [(14, "spike", "flag", None), (15, "spike", "flag", None)]
    assert sums(bureau) == (70 + 12 + 50 + 90 + 50, 10, 15)
    assert_balanced(bureau)
    bureau.check()


def test_an_edit_leaves_the_windows_as_it_came(bureau):
    """Each day through day 45: what is edited on days 7, 8 and 15 is in windows, and out of them again."""
    bureau.land_all([reading(meter, day(n), 10_000) for n in range(16, 46) for meter in "mo"])
    bureau.run(through=day(30))
    bureau.run()
    assert sums(bureau) == (300, 0, 30)
    assert bureau.query(
        f"SELECT wh_365d, provisional_wh_365d FROM features WHERE account_id = 'A' AND service_date = '{day(45)}'"
    ) == [(230_000 + 300_000, 10_000)]
    bureau.check()


def test_a_stream_edits_as_a_run_does(bureau, tmp_path):
    streamed = Bureau(tmp_path / "streamed", policy=EDITING, shards=2)
    portions = [[e for e in EVENTS if e not in EVENTS[-4:]], EVENTS[-4:], [reading("m", day(7), 12_000, 2)]]
    streamed.land_all(portions[0])
    streamed.run()
    Epochs(streamed).take_all(portions[1:])
    bureau.land_all(portions[2])
    bureau.run()
    assert edited(streamed) == {8: (0.5, 0, 0, 0), 14: (90, 12, 1, 1), 15: (50, 10, 1, 1)}
    assert_equal_marts(bureau.marts, streamed.marts, same_deliveries=False)
    streamed.check()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_world_in_any_order_has_the_same_edits(tmp_path, seed):
    policy = POLICY
    for old, new in EDITS:
        policy = policy.replace(old, new)
    world = a_world(random.Random(seed), 9, 40, frozenset(INGREDIENTS), date(2020, 2, 18), policy)
    at_once, shuffled = (Bureau(tmp_path / name, policy=policy) for name in ("at_once", "shuffled"))
    at_once.land_all(world.events)
    at_once.run()
    deliver(shuffled, world, random.Random(seed), 3)
    for bureau in (at_once, shuffled):
        bureau.check()
    assert_equal_marts(at_once.marts, shuffled.marts, same_deliveries=False)
    found = dict(at_once.query("SELECT severity, count(after_wh) FROM vee_results GROUP BY 1"))
    assert found["estimate"] > 9
    assert found["reject"] > 9
    assert found["flag"] == 0
    units = "SELECT count(DISTINCT as_read_wh > limit_wh) FROM vee_results WHERE vee_rule = 'unit_mismatch'"
    assert at_once.query(units) == [(2,)]  # read in too small a unit, and in too large a one
    overruled = "SELECT count(*) FROM vee_results WHERE severity <> 'flag' AND after_wh IS NULL"
    assert at_once.query(overruled)[0][0] > 0
