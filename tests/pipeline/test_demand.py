"""Maximum demand and load factor: two accounts, whose figures can be checked by hand.

`shop` uses 24 kWh a day, at most 2 kW. `works` has a meter of registers that shows a 20th of what goes through it: 12 kWh a day
are 240 kWh, and 3 kW on the last day are 60 kW.

    day               0      1      2      3        month is over after day 1
    shop       kW     2      2      -      2
    works      kW    40     40     20     60
"""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from tests.pipeline.bureau import POLICY, Bureau, assert_balanced
from tests.pipeline.streams import Epochs
from tests.pipeline.worlds import account, index, meter, reading

LONG_AGO = date(2020, 1, 1)
PEAKY = POLICY.replace(
    "      - {rule: small, tier: low_small}\n",
    "      - {rule: even, tier: mid_large, when: [{column: load_factor_mtd_ppm, at_least: 500000}]}\n"
    "      - {rule: small, tier: low_small}\n",
)
WORKS = {0: "2", 1: "2", 2: "1", 3: "3"}
DEMAND = """
    SELECT max_demand_w_mtd, demand_days_mtd, load_factor_mtd_ppm, max_demand_w_last_month, demand_days_last_month,
        load_factor_last_month_ppm
    FROM features WHERE account_id = '{}' AND service_date = '{}'
"""


def day(n: int) -> date:
    """Day 0 is 30 March, day 2 the first of a month."""
    return date(2023, 3, 30) + timedelta(days=n)


def reference(multiplier=20, revision=1):
    return [
        account("shop", LONG_AGO), meter("m", "shop", LONG_AGO), account("works", LONG_AGO),
        meter("w", "works", LONG_AGO, multiplier=multiplier, revision=revision),
    ]  # fmt: skip


def world():
    events = [*reference(), index("w", day(-1), "100")]
    for n, shown in WORKS.items():
        events.append(reading("m", day(n), 24_000, demand="2" if n != 2 else ""))
        events.append(index("w", day(n), str(112 + 12 * n), demand=shown))
    return events


def demand(bureau, who, n):
    (row,) = bureau.query(DEMAND.format(who, day(n)))
    return row[:3], row[3:]


NONE = (None, 0, None)
HALF = (2_000, 1, 500_000)


@pytest.fixture
def bureau(tmp_path):
    bureau = Bureau(tmp_path / "bureau", policy=PEAKY)
    bureau.land_all(world())
    bureau.run()
    return bureau


def test_every_figure_can_be_checked_by_hand(bureau):
    assert bureau.query(
        "SELECT list(max_demand_w ORDER BY service_date) FROM daily_consumption GROUP BY account_id ORDER BY account_id"
    ) == [([2_000, 2_000, None, 2_000],), ([40_000, 40_000, 20_000, 60_000],)]
    march = (2_000, 2, 500_000)
    assert [demand(bureau, "shop", n) for n in range(4)] == [(HALF, NONE), (march, NONE), (NONE, march), (HALF, march)]
    # works: 240 kWh at most 40 kW are a quarter of 960 kWh; 240 of 480, then 480 of 2 x 24 x 60.
    march = (40_000, 2, 250_000)
    assert demand(bureau, "works", 1) == (march, NONE)
    assert demand(bureau, "works", 2) == ((20_000, 1, 500_000), march)
    assert demand(bureau, "works", 3) == ((60_000, 2, 166_666), march)
    tiers = "SELECT tier FROM customer_tiers WHERE account_id = 'shop' ORDER BY valid_from"
    assert bureau.query(tiers)[0] == ("mid_large",), "a rule of the policy can ask for it"
    bureau.check()
    assert_balanced(bureau)


@pytest.mark.slow
def test_a_correction_restates_its_month_and_the_next(bureau):
    """Day 0 had 3 kW, not 2; then a lower value of a lower revision, which changes nothing."""
    bureau.land_all([reading("m", day(0), 24_000, revision=2, demand="3")])
    assert bureau.run().restated_from == day(0)
    march = (3_000, 2, 48_000 * 1_000_000 // (3_000 * 48))
    assert demand(bureau, "shop", 1) == (march, NONE)
    assert demand(bureau, "shop", 3) == (HALF, march)
    bureau.land_all([reading("m", day(0), 24_000, revision=1, demand="1")])
    assert bureau.run().restated_from is None
    assert demand(bureau, "shop", 3) == (HALF, march)
    bureau.check()


@pytest.mark.slow
def test_a_wrong_multiplier_restates_demand_and_energy_alike(bureau):
    """At 10 times instead of 20 half of both is left, and the load factor stays; as much as no meter can have is named."""
    bureau.land_all([*reference(multiplier=10, revision=2)])
    bureau.run()
    assert demand(bureau, "works", 3) == ((30_000, 2, 166_666), (20_000, 2, 250_000))
    bureau.check()
    bureau.land_all([index("w", day(3), "148", revision=2, demand="900000000")])
    bureau.run()
    assert demand(bureau, "works", 3)[0] == (10_000, 1, 500_000)
    assert bureau.query("SELECT service_date, register, reason, step FROM reading_exceptions") == [
        (day(3), "max_demand", "implausible_demand", 900_000_000_000_000)
    ]
    bureau.check()
    bureau.land_all([index("w", day(3), "148", revision=3, demand="3")])
    bureau.run()
    assert demand(bureau, "works", 3) == ((30_000, 2, 166_666), (20_000, 2, 250_000))
    assert bureau.query("SELECT count(*) FROM reading_exceptions") == [(0,)]
    bureau.check()


@pytest.mark.slow
def test_a_stream_tells_the_same(tmp_path, bureau):
    streamed = Bureau(tmp_path / "streamed", policy=PEAKY)
    epochs = Epochs(streamed)
    events = world()
    epochs.take_all((events[:9], events[9:]), each=True)
    for who in ("shop", "works"):
        assert demand(streamed, who, 3) == demand(bureau, who, 3)
    streamed.check()
