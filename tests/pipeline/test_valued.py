"""What energy is worth by the tariffs in force: two accounts, whose every fen can be checked by hand.

`shop` uses 10 kWh a day at one price; `works` uses 6 kWh in the peak and 4 kWh in the valley. `farm` has no tariff.

    day                 0      1      2      3      sum
    shop    0.50/0.80   5.00   5.00   8.00   8.00   26.00      0.80 from day 2 on
    works   1.00/0.25   7.00   7.00   7.00   7.00   28.00
"""

from __future__ import annotations

from datetime import date

import pytest

from tests.pipeline.bureau import POLICY, Bureau, assert_balanced
from tests.pipeline.streams import Epochs
from tests.pipeline.test_stories import LONG_AGO, day
from tests.pipeline.worlds import account, meter, price, reading

TARIFF = {"shop": "ONE", "works": "TWO", "farm": ""}
PRICES = [
    price("ONE", LONG_AGO, "total", "0.50"),
    price("ONE", day(2), "total", "0.80"),
    price("TWO", LONG_AGO, "peak", "1.00", cost="0.45"),
    price("TWO", LONG_AGO, "valley", "0.25"),
]
RANKED = POLICY.replace("metric: wh_7d", "metric: valued_30d_minor")
VALUED = "SELECT account_id, valued_30d_minor, valued_wh_30d FROM features WHERE service_date = '{}' ORDER BY 1"


def known(name, tariff, valid_from=LONG_AGO, revision=1):
    return account(name, valid_from, opened=LONG_AGO, tariff=tariff, revision=revision)


def world(first=0, last=3):
    events = [known(name, tariff) for name, tariff in TARIFF.items()] + [meter(f"m-{n}", n, LONG_AGO) for n in TARIFF]
    for n in range(first, last + 1):
        events += [reading(f"m-{name}", day(n), 10_000) for name in ("shop", "farm")]
        events.append(reading("m-works", day(n), 10_000, peak="6", valley="4"))
    return events


LAST = day(3)


def valued(bureau, on=LAST):
    return {name: (minor, wh) for name, minor, wh in bureau.query(VALUED.format(on))}


@pytest.fixture
def bureau(tmp_path):
    bureau = Bureau(tmp_path / "bureau", policy=RANKED)
    bureau.land_all([*world(), *PRICES])
    bureau.run()
    return bureau


def test_every_fen_can_be_checked_by_hand(bureau):
    assert valued(bureau) == {"shop": (2_600, 40_000), "works": (2_800, 40_000), "farm": (0, 0)}
    assert valued(bureau, day(1))["shop"] == (1_000, 20_000)
    assert bureau.query("SELECT metric, customers, total FROM cutoffs ORDER BY service_date DESC LIMIT 1") == [
        ("valued_30d_minor", 2, 5_400)
    ]
    (counted,) = bureau.query("SELECT rows_read, rows_accepted FROM pipeline_runs WHERE source = 'tariffs'")
    assert counted == (4, 4), "every shard gets the prices, one counts them"
    assert bureau.query("SELECT count(*) FROM accepted_tariffs") == [(4,)]
    bureau.check()
    assert_balanced(bureau)


def test_a_corrected_price_restates_from_its_first_day(bureau):
    """At 2.00 from day 2 on, shop comes to 5 + 5 + 20 + 20 = 50.00 and is ahead of works."""
    assert bureau.query("SELECT account_id FROM customer_tiers_current WHERE abc = 'A'") == [("works",)]
    bureau.land_all([price("ONE", day(2), "total", "2.00", revision=2)])
    report = bureau.run()
    assert report.restated_from == day(2)
    assert valued(bureau)["shop"] == (5_000, 40_000)
    assert valued(bureau, day(1))["shop"] == (1_000, 20_000)
    assert bureau.query("SELECT account_id FROM customer_tiers_current WHERE abc = 'A'") == [("shop",)]
    assert bureau.query("SELECT DISTINCT account_id, cause FROM tier_restatements ORDER BY 1") == [
        ("shop", "correction"), ("works", "correction"),
    ]  # fmt: skip
    bureau.check()


def test_an_account_on_another_tariff_is_valued_by_it_from_then_on(bureau):
    """shop goes to tariff TWO on day 3, which has no total price, and its meter tells no periods: 5 + 5 + 8."""
    bureau.land_all([known("shop", "TWO", day(3))])
    assert bureau.run().restated_from == day(3)
    assert valued(bureau)["shop"] == (1_800, 30_000)
    bureau.check()


def test_a_cost_tells_what_energy_contributes(bureau):
    """works: 4 days of 6 kWh at 1.00 that cost 0.45; the valley tells none. shop: none at all, then 2 days at 0.80 less 0.90."""
    columns = "account_id, contribution_365d_minor, price_level_365d_milli"
    beyond = f"SELECT {columns} FROM features WHERE service_date = '{LAST}' ORDER BY 1"
    assert bureau.query(beyond) == [("farm", None, None), ("shop", None, 65_000), ("works", 4 * 330, 70_000)]
    bureau.land_all([price("ONE", day(2), "total", "0.80", revision=2, cost="0.90")])
    assert bureau.run().restated_from == day(2)
    assert bureau.query(beyond)[1:] == [("shop", -200, 65_000), ("works", 4 * 330, 70_000)]
    bureau.check()


def test_what_changes_no_price_restates_nothing(bureau):
    bureau.land_all([price("ONE", day(2), "total", "0.80", revision=2), price("ONE", date(2030, 1, 1), "total", "9")])
    assert bureau.run().restated_from is None
    bureau.land_all([known("farm", "NEVER-PRICED", day(1))])
    assert bureau.run().restated_from is None
    bureau.check()


@pytest.mark.slow
def test_prices_that_come_late_value_the_days_before(tmp_path):
    bureau = Bureau(tmp_path / "bureau", policy=RANKED)
    bureau.land_all(world())
    bureau.run()
    assert set(valued(bureau).values()) == {(0, 0)}
    bureau.land_all([*PRICES, *world(4, 5)])
    assert bureau.run().restated_from == day(0)
    assert valued(bureau, day(5))["shop"] == (4_200, 60_000)
    bureau.check()


@pytest.mark.slow
def test_days_leave_the_window_at_the_prices_they_came_in_by(tmp_path):
    """After 33 days the 30 up to it are left, all but the first two seasons' days: 30 times 8.00."""
    bureau = Bureau(tmp_path / "bureau", policy=RANKED)
    bureau.land_all([*world(0, 33), *PRICES])
    bureau.run()
    assert valued(bureau, day(29))["shop"] == (2 * 500 + 28 * 800, 300_000)
    assert valued(bureau, day(33))["shop"] == (30 * 800, 300_000)
    bureau.check()


@pytest.mark.slow
def test_a_stream_values_as_a_run_does(tmp_path):
    bureau = Bureau(tmp_path / "bureau", policy=RANKED)
    epochs = Epochs(bureau)
    bureau.land_all([*world(), *PRICES])
    epochs.cut()
    bureau.land_all([price("ONE", day(2), "total", "2.00", revision=2), *world(4, 4)])
    epochs.cut()
    epochs.run()
    epochs.publish(each=True)
    assert valued(bureau, day(4))["shop"] == (7_000, 50_000)
    assert_balanced(bureau)
    bureau.check()
