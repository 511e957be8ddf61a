"""The oracle against figures computed by hand, section by section, and against tests/oracles on random worlds."""

from __future__ import annotations

import random
from datetime import timedelta

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import oracle
from schemas import inbound
from schemas.conditions import Condition
from schemas.marts import MARTS, SCORE_COLUMNS
from schemas.policy import parse_policy
from tests.oracles import ledger as clerk
from tests.oracles import whole
from tests.oracles.worlds import (
    POLICY,
    account,
    complete,
    conduct,
    day,
    event,
    fill,
    index,
    meter,
    policy,
    price,
    reading,
    readings,
    table,
)

ONE = timedelta(days=1)


@pytest.fixture
def con():
    with duckdb.connect() as connection:
        yield connection


def recomputed(con, first, through, rules=None, **more):
    oracle.recompute(con, rules or policy(), day(first), day(through), **more)


def features(con, when, who="a"):
    (row,) = table(con, f"SELECT * FROM oracle.features WHERE account_id = '{who}' AND service_date = '{when}'")
    return row


def one(con, query):
    (row,) = con.execute(query).fetchall()
    return row


# ------------------------------------------------------------------------------------------------------- arithmetic
@pytest.mark.parametrize(("a", "b"), [(7, 2), (-7, 2), (-6, 2), (-1, 3), (0, 5), (2**100, 3), (-(2**100), 7)])
def test_division_rounds_down(con, a, b):
    fill(con)
    oracle.calendar(con, policy(), day("2016-01-01"))
    assert one(con, f"SELECT oracle.floor_div({a}, {b})") == (a // b,)


def test_text_is_compared_in_binary_order(con):
    assert one(con, "SELECT 'Z' < 'a', 'a' < 'é', 'a' < 'aa', '10' < '9'") == (True, True, True, True)


# ------------------------------------------------------------------------------------------- which reading counts
def test_highest_revision_wins_then_the_smallest_energy_as_a_conflict(con):
    fill(
        con,
        [account("a")],
        [meter("m", "a"), meter("n", "a")],
        [
            reading("m", "2016-01-01", 5, revision=1),
            reading("m", "2016-01-01", 9, revision=2),
            reading("m", "2016-01-01", 8, revision=2),
            reading("n", "2016-01-01", 1, quality="estimated"),
            reading("n", "2016-01-01", 1, quality="estimated"),
        ],
    )
    recomputed(con, "2016-01-01", "2016-01-01")
    assert table(con, "SELECT * FROM oracle.daily_consumption") == [
        {
            "account_id": "a", "service_date": day("2016-01-01"), "energy_wh": 9, "meters_received": 2,
            "meters_expected": 2, "meters_estimated": 1, "meters_conflict": 1,
            **dict.fromkeys((
                "sharp_wh", "peak_wh", "flat_wh", "valley_wh", "reverse_wh", "max_demand_w", "as_read_wh", "provisional_wh",
            )),
        }
    ]  # fmt: skip


def test_a_reading_belongs_to_the_account_of_the_day_or_is_pending(con):
    fill(
        con,
        [account("a"), account("b")],
        [
            meter("m", "a", "2016-01-01", "2016-01-03"),
            meter("m", "b", "2016-01-03", "2016-01-05", revision=2),
            meter("m", "a", "2016-01-03", "2016-01-09", revision=1),
            meter("x", "nobody"),
        ],
        [
            *readings("m", "2015-12-31", [1, 2, 4, 8, 16, 32]),
            reading("x", "2016-01-01", 1),
            reading("y", "2016-01-01", 1),
        ],
        [event("nobody", "e", "payment", "2016-01-02", 5)],
    )
    recomputed(con, "2016-01-01", "2016-01-05")
    sums = con.execute(
        "SELECT account_id, sum(energy_wh) FROM oracle.daily_consumption GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert sums == [("a", 2 + 4), ("b", 8 + 16)]
    assert con.execute('SELECT source, "row", name, reason FROM oracle.pending ORDER BY 1, 2').fetchall() == [
        ("ledger_events", 1, "nobody", "unknown_account"),
        ("meter_readings", 1, "m", "meter_not_assigned"),
        ("meter_readings", 6, "m", "meter_not_assigned"),
        ("meter_readings", 7, "nobody", "unknown_account"),
        ("meter_readings", 8, "y", "unknown_meter"),
        ("meters", 4, "nobody", "unknown_account"),
    ]


def test_a_later_assignment_ends_those_before_it(con):
    fill(
        con,
        [account("a"), account("b")],
        [meter("m", "a"), meter("m", "b", "2016-01-02", "2016-01-03")],
        readings("m", "2016-01-01", [1, 2, 4]),
    )
    recomputed(con, "2016-01-01", "2016-01-03")
    assert con.execute("SELECT account_id, energy_wh FROM oracle.daily_consumption ORDER BY 2").fetchall() == [
        ("a", 1), ("b", 2),
    ]  # fmt: skip
    assert one(con, "SELECT sum(meters_expected) FROM oracle.service_days") == (2,)


def test_equal_revisions_of_reference_rows_are_settled_by_their_text(con):
    fill(
        con,
        [
            account("a", category="residential"),
            account("a", category="commercial"),
            account("a", category="industrial"),
        ],
        [meter("m", "b"), meter("m", "a")],
        [reading("m", "2016-01-01", 1)],
    )
    recomputed(con, "2016-01-01", "2016-01-01")
    assert features(con, "2016-01-01")["category"] == "commercial"
    assert features(con, "2016-01-01")["wh_7d"] == 1


def test_the_account_row_of_the_day_decides_category_and_population(con):
    fill(
        con,
        [
            account("a", "2016-01-02", "2016-01-01", category="residential"),
            account("a", "2016-01-04", "2016-01-01", category="commercial", closed_on=day("2016-01-05")),
        ],
        [meter("m", "a")],
        readings("m", "2015-12-31", [1] * 8),
    )
    recomputed(con, "2015-12-31", "2016-01-07")
    assert con.execute("SELECT service_date, category FROM oracle.features ORDER BY 1").fetchall() == [
        (day("2016-01-01"), "residential"),
        (day("2016-01-02"), "residential"),
        (day("2016-01-03"), "residential"),
        (day("2016-01-04"), "commercial"),
        (day("2016-01-05"), "commercial"),
    ]
    assert con.execute("SELECT valid_from, valid_to FROM oracle.accounts ORDER BY 1").fetchall() == [
        (day("2016-01-02"), day("2016-01-03")), (day("2016-01-04"), None),
    ]  # fmt: skip


def test_as_known_leaves_out_later_deliveries(con):
    fill(
        con,
        [account("a"), account("late", delivery=2)],
        [meter("m", "a")],
        [reading("m", "2016-01-01", 5), reading("m", "2016-01-01", 7, revision=2, delivery=2)],
    )
    recomputed(con, "2016-01-01", "2016-01-01", as_known=1)
    assert con.execute("SELECT account_id, wh_7d FROM oracle.features").fetchall() == [("a", 5)]
    recomputed(con, "2016-01-01", "2016-01-01")
    assert con.execute("SELECT account_id, wh_7d FROM oracle.features ORDER BY 1").fetchall() == [("a", 7), ("late", 0)]


# ---------------------------------------------------------------------------------------------- rolling consumption
def test_windows_end_on_the_day_and_hold_exactly_their_days(con):
    # n Wh on day n: the sum tells which days are in.
    fill(con, [account("a")], [meter("m", "a", "2014-01-01")], readings("m", "2014-01-01", range(1, 501)))
    recomputed(con, "2015-05-15", "2015-05-15")
    row = features(con, "2015-05-15")  # day 500
    for w in (7, 30, 90, 365):
        assert row[f"wh_{w}d"] == sum(range(501 - w, 501))
        assert (row[f"received_{w}d"], row[f"expected_{w}d"], row[f"coverage_{w}d_ppm"]) == (w, w, 1_000_000)
    assert (row["wh_mtd"], row["received_mtd"]) == (sum(range(486, 501)), 15)
    # D-365-89 .. D-365 are days 46 .. 135
    assert row["wh_90d_year_ago"] == sum(range(46, 136))
    assert (row["received_90d_year_ago"], row["expected_90d_year_ago"]) == (90, 90)
    assert row["growth_90d_ppm"] == (sum(range(411, 501)) - sum(range(46, 136))) * 1_000_000 // sum(range(46, 136))


def test_missing_days_lower_coverage_and_growth_rounds_down(con):
    fill(
        con,
        [account("a")],
        [meter("m", "a", "2015-01-01")],
        [reading("m", "2015-01-01", 3), reading("m", "2016-01-01", 2)],
    )
    recomputed(con, "2015-12-31", "2016-01-01")
    row = features(con, "2016-01-01")
    assert (row["received_7d"], row["expected_7d"], row["coverage_7d_ppm"]) == (1, 7, 142_857)
    assert (row["wh_90d"], row["days_90d"]) == (2, 1)
    assert (row["wh_90d_year_ago"], row["received_90d_year_ago"], row["expected_90d_year_ago"]) == (3, 1, 1)
    assert row["growth_90d_ppm"] == -333_334
    before = features(con, "2015-12-31")
    assert (before["received_90d"], before["cv_90d_ppm"], before["growth_90d_ppm"]) == (0, None, None)


def test_days_before_the_first_service_day_are_expected_too(con):
    fill(con, [account("a")], [meter("m", "a", "2015-12-30")], [reading("m", "2016-01-01", 1)])
    recomputed(con, "2016-01-01", "2016-01-01")
    row = features(con, "2016-01-01")
    assert (row["expected_7d"], row["expected_mtd"], row["coverage_7d_ppm"]) == (3, 1, 333_333)


def variations(con, many):
    """The coefficients of variation of many accounts, each of its energies, on the last of them."""
    last, names = day("2016-03-30"), [f"a{n:03}" for n in range(len(many))]
    read = [
        row
        for name, energies in zip(names, many, strict=True)
        for row in readings(name, str(last - ONE * (len(energies) - 1)), energies)
    ]
    fill(con, [account(name) for name in names], [meter(name, name) for name in names], read)
    oracle.recompute(con, policy(), last, last)
    return [cv for (cv,) in con.execute("SELECT cv_90d_ppm FROM oracle.features ORDER BY account_id").fetchall()]


def exact_variation(energies):
    n, square = len(energies), sum(energies) ** 2
    return whole.isqrt((n * sum(x * x for x in energies) - square) * 10**12 // square) if square else None


def test_coefficient_of_variation(con):
    wanted = [
        ([5], 0),
        ([1, 3], 500_000),  # mean 2, deviation 1
        ([0, 0], None),
        ([0, 4], 1_000_000),
        ([1, 2], 333_333),  # mean 1.5, deviation 0.5
        ([50_000_000_000] * 3 + [50_000_000_003], 0),  # root of 6.75e-22, in ppm below 1
        ([2**38, 0, 2**38, 1], exact_variation([2**38, 0, 2**38, 1])),
        ([2**38] * 45 + [0] * 45, 1_000_000),
        ([2**38] + [0] * 89, 9_433_981),
    ]
    assert variations(con, [energies for energies, _ in wanted]) == [cv for _, cv in wanted]


@settings(max_examples=3)
@given(st.lists(st.lists(st.integers(0, 50_000_000_000 * 5), min_size=1, max_size=90), min_size=1, max_size=9))
def test_coefficient_of_variation_is_exact_for_days_of_50_gwh(many):
    with duckdb.connect() as con:
        assert variations(con, many) == [exact_variation(energies) for energies in many]


# ---------------------------------------------------------------------------------------------- what energy is worth
def test_energy_is_worth_the_prices_of_its_days(con):
    """a: 1 kWh a day at 1.00, from the third day on at 3.00: 1, 2, 5, 8. b: by period, and on its second day one meter of two
    tells none, so that the total price counts: 2 kWh of the peak at 2.00, then 5 kWh at 0.10. c is not open yet on day 1."""
    nano = 10**9
    fill(
        con,
        [account("a", tariff="T"), account("b", tariff="P"), account("c", opened_on="2016-01-02", tariff="T")],
        [meter("m", "a"), meter("n", "b"), meter("o", "b", "2016-01-02"), meter("p", "c")],
        [
            *readings("m", "2016-01-01", [1_000] * 4),
            reading("n", "2016-01-01", 2_000, peak_wh=2_000, valley_wh=0),
            reading("n", "2016-01-02", 2_000, peak_wh=2_000),
            reading("o", "2016-01-02", 3_000),
            *readings("p", "2016-01-01", [1_000, 1_000]),
        ],
        tariffs=[
            price("T", "2010-01-01", "total", nano, cost_nano=6 * nano // 10),
            price("T", "2016-01-03", "total", 7 * nano, cost_nano=nano),
            price("T", "2016-01-03", "total", 3 * nano),  # of one revision: what comes first as text
            price("P", "2010-01-01", "peak", 9 * nano),
            price("P", "2010-01-01", "peak", 2 * nano, revision=2),
            price("P", "2010-01-01", "total", nano // 10, cost_nano=nano // 2),
        ],
    )
    recomputed(con, "2016-01-01", "2016-01-04", policy(("wh_7d", "valued_30d_minor")))
    found = {}
    for who, minor, wh in con.execute(
        "SELECT account_id, valued_365d_minor, valued_wh_365d FROM oracle.features ORDER BY service_date"
    ).fetchall():
        found.setdefault(who, []).append((minor, wh))
    assert found["a"] == [(100, 1_000), (200, 2_000), (500, 3_000), (800, 4_000)]
    assert found["b"] == [(400, 2_000), (450, 7_000), (450, 7_000), (450, 7_000)]
    assert found["c"] == [(100, 1_000)] * 3
    beyond = "SELECT list(contribution_365d_minor ORDER BY service_date) FROM oracle.features WHERE account_id = '{}'"
    assert one(con, beyond.format("a")) == ([40, 80, 80, 80],), "100 less 60 a day, until a row tells no cost"
    assert one(con, beyond.format("b")) == ([None, -200, -200, -200],), "5 kWh at 0.10 cost 0.50"
    level = "SELECT list(price_level_365d_milli ORDER BY service_date) FROM oracle.features WHERE account_id = 'b'"
    assert one(con, level) == ([200_000, *[64_285] * 3],), "4.50 of 7 kWh"
    assert one(con, "SELECT max(total) FROM oracle.cutoffs WHERE metric = 'valued_30d_minor'") == (800 + 450 + 100,)


def test_halves_of_a_minor_unit_go_up_once(con):
    """5 Wh a day at 1.00 are half a fen: 0.5, 1.0, 1.5 are 1, 1, 2; and the window of 30 days begins anew 30 days later."""
    fill(
        con,
        [account("a", tariff="T")],
        [meter("m", "a")],
        [*readings("m", "2016-01-01", [5, 5, 5]), reading("m", "2016-02-02", 0)],
        tariffs=[price("T", "2010-01-01", "total", 10**9)],
    )
    recomputed(con, "2016-01-01", "2016-02-02")
    rows = con.execute(
        "SELECT valued_30d_minor, valued_365d_minor FROM oracle.features ORDER BY service_date"
    ).fetchall()
    assert [month for month, _ in rows] == [1, 1] + [2] * 28 + [1, 1, 0]
    assert [year for _, year in rows] == [1, 1] + [2] * 31


def test_the_calendar_does_not_begin_at_an_installation_of_long_ago(con):
    fill(
        con,
        [account("a")],
        [meter("m", "a", "2014-01-01", installed_total=0), meter("n", "a", "2013-12-01", installed_total=0)],
        registers=[index("m", "2016-03-10", 800_000), index("n", "2016-03-10", 5), index("n", "2016-03-11", 1_005)],
    )
    assert oracle.calendar(con, policy(), day("2016-03-11"))[0] == day("2014-01-01")  # 800 days before the first index
    assert con.execute("SELECT * FROM oracle.reading_exceptions").fetchall() == [
        ("n", day("2016-03-10"), "total", "gap_too_long", day("2013-11-30"), 5)
    ]
    assert con.execute(
        "SELECT meter_id, count(*), sum(energy_wh) FROM oracle.counted_reading GROUP BY ALL ORDER BY ALL"
    ).fetchall() == [("m", 800, 800), ("n", 1, 1)]


@pytest.mark.parametrize(
    "metric", ["period_wh_30d", "reverse_wh_90d", "valued_wh_30d", "billed_365d_minor", "overdue_minor", "wh_mtd"]
)
def test_what_can_be_ranked_is_found(con, metric):
    fill(con, [account("a")], [meter("m", "a")], [reading("m", "2016-01-01", 5, peak_wh=5, reverse_wh=5)])
    recomputed(con, "2016-01-01", "2016-01-01", policy(("wh_7d", metric)))
    total = 0 if metric in ("valued_wh_30d", "billed_365d_minor", "overdue_minor") else 5
    assert one(con, "SELECT max(total) FROM oracle.cutoffs") == (total,)


# ---------------------------------------------------------------------------------------------------- maximum demand
def test_demand_of_a_month_is_of_days_that_every_meter_tells(con):
    """Two meters: 12 kWh each a day, at most 1 kW and 3 kW, not at one time. On the 30th one tells none; February begins anew."""
    fill(
        con,
        [account("a")],
        [meter("m", "a"), meter("n", "a")],
        [
            *(reading("m", f"2016-01-{n}", 12_000, max_demand_w=1_000) for n in (29, 30, 31)),
            reading("n", "2016-01-29", 12_000, max_demand_w=3_000),
            reading("n", "2016-01-30", 12_000),
            reading("n", "2016-01-31", 0, max_demand_w=5_000),  # the smallest of one revision
            reading("n", "2016-01-31", 12_000, max_demand_w=2_000),
            reading("m", "2016-02-01", 12_000, max_demand_w=0),
        ],
    )
    recomputed(con, "2016-01-29", "2016-03-01")
    names = ("max_demand_w", "demand_days", "load_factor")

    def months(when):
        row = features(con, when)
        return [tuple(row[f"{n}_{m}{'_ppm' * (n == names[2])}"] for n in names) for m in ("mtd", "last_month")]

    told = "SELECT list(max_demand_w ORDER BY service_date) FROM oracle.daily_consumption WHERE meters_received > 0"
    assert one(con, told) == ([4_000, 1_000, 3_000, 0],)
    none = (None, 0, None)
    assert months("2016-01-30") == [(4_000, 1, 24_000 * 1_000_000 // (4_000 * 24)), none]
    january = (4_000, 2, (24_000 + 12_000) * 1_000_000 // (4_000 * 24 * 2))
    assert months("2016-01-31") == [january, none]
    assert months("2016-02-01") == [(0, 1, None), january]
    assert months("2016-03-01") == [none, (0, 1, None)]


def test_a_demand_shown_is_multiplied_and_one_that_no_meter_can_have_is_named(con):
    fill(
        con,
        [account("a")],
        [meter("m", "a", "2016-01-01", multiplier=200), meter("m", "a", "2016-01-03", multiplier=100)],
        registers=[
            index("m", "2016-01-01", None, max_demand=1_500_009),
            index("m", "2016-01-02", None, max_demand=2_000_000, quality="estimated"),
            index("m", "2016-01-03", None, max_demand=(1 << 37) * 10),
            index("m", "2016-01-04", None, max_demand=(1 << 37) * 10 + 10),
        ],
    )
    recomputed(con, "2016-01-01", "2016-01-04")
    assert con.execute(
        "SELECT service_date, energy_wh, max_demand_w FROM oracle.daily_consumption ORDER BY 1"
    ).fetchall() == [(day("2016-01-01"), 0, 300_001), (day("2016-01-03"), 0, 1 << 37)]
    assert con.execute("SELECT * FROM oracle.reading_exceptions").fetchall() == [
        ("m", day("2016-01-04"), "max_demand", "implausible_demand", None, (1 << 37) * 10 + 10)
    ]
    assert features(con, "2016-01-04")["max_demand_w_mtd"] is None, "no energy was received"


# ----------------------------------------------------------------------------------------------------------- ledger
def ledger_on(con, when, *events):
    fill(con, [account("a")], [], [], events)
    oracle.recompute(con, policy(), day(when) - ONE, day(when))
    return features(con, when)


def test_directed_credits_pay_their_bill_and_the_rest_joins_the_pool(con):
    row = ledger_on(
        con,
        "2016-03-01",
        event("a", "b1", "charge", "2016-01-01", 100, "2016-01-20"),
        event("a", "b2", "charge", "2016-01-05", 100, "2016-02-20", bill_id="no-2"),
        event("a", "p1", "payment", "2016-02-25", 130, bill_id="no-2"),  # 100 to no-2, 30 to b1
        event("a", "p2", "payment", "2016-02-26", 40),  # pooled: b1
        event("a", "p3", "payment", "2016-02-27", 5, bill_id="no-such"),  # pooled: b1
    )
    # b1: 100 - 30 - 40 - 5 = 25 open, 41 days overdue; no-2: settled 2016-02-25, 5 days late
    assert (row["overdue_31_60_minor"], row["overdue_minor"], row["balance_minor"]) == (25, 25, 25)
    assert (row["billed_365d_minor"], row["current_minor"], row["unallocated_minor"]) == (200, 0, 0)
    assert (row["bills_due_365d"], row["bills_on_time_365d"], row["on_time_365d_ppm"]) == (2, 0, 0)
    assert (row["beyond_terms_365d_days"], row["mean_beyond_terms_365d_milli"]) == (41 + 5, 23_000)


def test_a_reversal_takes_its_payment_back_from_its_own_day_on(con):
    events = [
        event("a", "b1", "charge", "2016-01-01", 100, "2016-01-10"),
        event("a", "p1", "payment", "2016-01-08", 100),
        event("a", "r1", "reversal", "2016-01-15", 100, ref_event_id="p1"),
    ]
    row = ledger_on(con, "2016-01-15", *events)
    assert (row["balance_minor"], row["overdue_1_30_minor"], row["beyond_terms_365d_days"]) == (100, 100, 5)
    before = features(con, "2016-01-14")
    assert (before["balance_minor"], before["overdue_minor"], before["on_time_365d_ppm"]) == (0, 0, 1_000_000)


def test_adjustments_write_offs_and_revisions(con):
    row = ledger_on(
        con,
        "2016-01-31",
        event("a", "b1", "charge", "2016-01-01", 999, "2016-01-10", revision=1),
        event("a", "b1", "charge", "2016-01-01", 100, "2016-01-10", revision=2),
        event("a", "a1", "adjustment", "2016-01-31", 7),  # a bill, due on its day
        event("a", "a2", "adjustment", "2016-01-05", -60),  # a credit
        event("a", "w1", "write_off", "2016-01-12", 50),  # 40 to b1, 7 to a1, 3 left
    )
    assert (row["balance_minor"], row["unallocated_minor"], row["current_minor"]) == (-3, 3, 0)
    assert (row["bills_due_365d"], row["beyond_terms_365d_days"]) == (1, 2)


def test_ageing_edges(con):
    when = day("2016-05-02")
    aged = {
        0: "current", 1: "overdue_1_30", 30: "overdue_1_30", 31: "overdue_31_60", 60: "overdue_31_60", 61: "overdue_61_90",
        90: "overdue_61_90", 91: "overdue_91",
    }  # fmt: skip
    bills = [event(f"late {n}", "b", "charge", "2016-01-20", 9, str(when - ONE * n)) for n in aged]
    fill(con, [account(f"late {n}") for n in aged], [], [], bills)
    oracle.recompute(con, policy(), when, when)
    for late, column in aged.items():
        row = features(con, when, f"late {late}")
        names = ("current", "overdue_1_30", "overdue_31_60", "overdue_61_90", "overdue_91")
        assert {c: row[f"{c}_minor"] for c in names} == dict.fromkeys(names, 0) | {column: 9}, late
        assert row["bills_due_365d"] == (1 if late else 0)


def test_a_year_of_bills_by_issue_and_by_due_day(con):
    events = [event("a", "b", "charge", "2015-01-10", 9, "2015-01-20")]
    fill(con, [account("a")], [], [], events)
    oracle.recompute(con, policy(), day("2016-01-09"), day("2016-01-21"))
    assert [features(con, d)["billed_365d_minor"] for d in ("2016-01-09", "2016-01-10")] == [9, 0]
    assert [features(con, d)["bills_due_365d"] for d in ("2016-01-20", "2016-01-21")] == [1, 0]


def test_a_bill_is_settled_by_its_latest_portion(con):
    row = ledger_on(
        con,
        "2016-01-31",
        event("a", "b1", "charge", "2016-01-01", 100, "2016-01-10"),
        event("a", "p1", "payment", "2016-01-05", 60),  # pooled, and yet applied after the directed one
        event("a", "p2", "payment", "2016-01-13", 40, bill_id="b1"),
    )
    assert (row["balance_minor"], row["bills_on_time_365d"], row["beyond_terms_365d_days"]) == (0, 0, 3)


def test_the_pool_fills_the_bill_due_first(con):
    row = ledger_on(
        con,
        "2016-01-31",
        event("a", "b1", "charge", "2016-01-01", 10, "2016-01-30"),
        event("a", "b2", "charge", "2016-01-02", 10, "2016-01-10"),
        event("a", "p1", "payment", "2016-01-05", 10),
    )
    assert (row["overdue_minor"], row["bills_on_time_365d"], row["beyond_terms_365d_days"]) == (10, 1, 1)


@settings(max_examples=4)
@given(st.integers(0, 10**6), st.sampled_from(["fifo", "priority"]))
def test_random_ledgers_equal_a_clerk(seed, allocation):
    pick = random.Random(seed)
    start, names = day("2016-01-01"), "abcdefgh"
    events = []
    for _ in range(120):
        kind = pick.choice(["charge", "charge", "payment", "payment", *inbound.EVENT_TYPES])
        when = start + ONE * pick.randint(0, 20)
        amount = pick.choice([5, 10, 15, 20]) * (pick.choice([1, -1]) if kind == "adjustment" else 1)
        due = str(when + ONE * pick.randint(-1, 9)) if kind == "charge" else None
        events.append(event(
            pick.choice(names), f"e{pick.randint(1, 15)}", kind, str(when), amount, due, revision=pick.randint(1, 2),
            bill_id=pick.choice([None, "", "e1", "e2", "x", "y"]), ref_event_id=f"e{pick.randint(1, 15)}",
            priority=pick.choice([None, 1, 2]),
        ))  # fmt: skip
    with duckdb.connect() as con:
        last = {k: start + ONE * pick.randint(5, 30) for k in "abc"}
        fill(con, [account(k, closed_on=last.get(k)) for k in names], [], [], events)
        rules = policy(("versions:", f"ledger: {{allocation: {allocation}}}\nversions:"))
        oracle.recompute(con, rules, start + ONE * 10, start + ONE * 25)
        for row in table(con, "FROM oracle.features"):
            own = [e for e in complete(inbound.LEDGER_EVENTS, events) if e["account_id"] == row["account_id"]]
            expected = clerk.features([as_clerk_reads(e) for e in own], row["service_date"], allocation)
            assert {name: row[name] for name in expected} == expected, (row["account_id"], row["service_date"])
        found = con.execute(
            "SELECT account_id, event_id, reason, named_id, closed_on FROM oracle.ledger_exceptions ORDER BY ALL"
        ).fetchall()
        expected = []
        for k in names:
            own = [as_clerk_reads(e) for e in complete(inbound.LEDGER_EVENTS, events) if e["account_id"] == k]
            expected += [(k, *row) for row in clerk.exceptions(own, start + ONE * 25, last.get(k), allocation)]
        assert found == expected


def test_of_one_account_events_count_up_to_what_int64_holds(con):
    """Two amounts of 2^62 reach 2^63: the second does not count, nor does what comes after it."""
    events = [
        event("a", "b1", "charge", "2016-01-01", 1 << 62, "2016-01-10"),
        event("a", "p1", "payment", "2016-01-02", 1 << 62),
        event("a", "p2", "payment", "2016-01-03", 1),
        event("a", "r1", "reversal", "2016-01-04", 0, ref_event_id="p1"),
    ]
    row = ledger_on(con, "2016-01-15", *events)
    assert (row["balance_minor"], row["overdue_minor"]) == (1 << 62, 1 << 62)
    assert con.execute("SELECT event_id, reason FROM oracle.ledger_exceptions ORDER BY ALL").fetchall() == [
        ("p1", "beyond_limit"), ("p2", "beyond_limit"),
    ]  # fmt: skip


@settings(max_examples=3)
@given(st.integers(0, 10**6))
def test_windows_of_a_random_ledger_equal_a_clerk(seed):
    """Few events over two years, looked at for seven weeks: what enters and leaves by 30, 90 and 365 days, and by month."""
    pick = random.Random(seed)
    start, names = day("2015-01-01"), "abcd"
    events = []
    for n in range(160):
        kind = pick.choice(["charge", "charge", "payment", "payment", "reversal"])
        when = start + ONE * pick.randint(0, 700)
        due = str(when + ONE * pick.randint(5, 20)) if kind == "charge" else None
        events.append(event(
            pick.choice(names), f"e{n}", kind, str(when), pick.choice([5, 10, 15]), due, bill_id=pick.choice([None, "e1", "x"]),
            ref_event_id=f"e{pick.randint(max(0, n - 30), n)}",
        ))  # fmt: skip
    with duckdb.connect() as con:
        fill(con, [account(k) for k in names], [], [], events)
        flat = [3, *[1] * 11, 0]
        rules = policy(("    credit_score:", f"    credit_decay: {{weights: {flat}}}\n    credit_score:"))
        oracle.recompute(con, rules, start + ONE * 500, start + ONE * 550)
        for row in table(con, "FROM oracle.features"):
            own = [e for e in complete(inbound.LEDGER_EVENTS, events) if e["account_id"] == row["account_id"]]
            expected = clerk.features([as_clerk_reads(e) for e in own], row["service_date"], weights=flat)
            assert {name: row[name] for name in expected} == expected, (row["account_id"], row["service_date"])


def as_clerk_reads(e):
    names = ("event_id", "event_type", "event_date", "amount_minor", "due_date", "bill_id", "ref_event_id", "revision")
    names = (*names, "priority")
    return clerk.Event(*(e[name] for name in names))


# --------------------------------------------------------------------------------------------------------- cut-offs
def energies(con, values, first="2016-01-01", rules=None):
    """One day; account k uses values[k] Wh."""
    fill(
        con,
        [account(k) for k in values],
        [meter(k, k) for k in values],
        [reading(k, first, wh) for k, wh in values.items()],
    )
    recomputed(con, first, first, rules)


def test_share_and_count_cuts_split_ties_by_account(con):
    energies(con, {"a": 30, "b": 20, "c": 20, "d": 20, "e": 10, "f": 0})
    rows = table(con, "SELECT * FROM oracle.cutoffs WHERE side = 'cut'")
    cut = {
        (r["rule"], r["class"]): (r["amount"], r["boundary_account_id"], r["inside_customers"], r["inside_total"])
        for r in rows
    }
    assert cut == {
        ("cumulative_share", "A"): (20, "b", 2, 50),  # before c: 50, not below 50 %
        ("cumulative_share", "B"): (20, "d", 4, 90),
        ("top_fraction", "A"): (20, "b", 2, 50),  # a third of 5, rounded up
        ("top_fraction", "B"): (20, "d", 4, 90),
        ("turnover_fraction", "A"): (20, "b", 2, 50),  # before b: 30 < 33.3
        ("turnover_fraction", "B"): (20, "d", 4, 90),
    }  # fmt: skip
    assert {(r["customers"], r["total"], r["top20_share_ppm"], r["gini_ppm"]) for r in rows} == {
        (5, 100, 300_000, 160_000)
    }
    sides = con.execute(
        "SELECT class, side, inside_customers FROM oracle.cutoffs WHERE rule = 'cumulative_share' ORDER BY ALL"
    )
    assert sides.fetchall() == [
        ("A", "cut", 2), ("A", "entry", 2), ("A", "exit", 3), ("B", "cut", 4), ("B", "entry", 4), ("B", "exit", 5),
    ]  # fmt: skip


@pytest.mark.parametrize(("amounts", "gini"), [([256, 257], 0), ([256, 260], 3_876), ([1, 1], 0), ([1, 3], 250_000)])
def test_gini_of_value_groups(con, amounts, gini):
    energies(con, {f"a{n}": wh for n, wh in enumerate(amounts)})
    assert one(con, "SELECT DISTINCT gini_ppm FROM oracle.cutoffs") == (gini,)


def test_cuts_of_an_empty_scope_are_null(con):
    energies(con, {"a": 0}, rules=policy(("scope: all", "scope: category")))
    rows = table(con, "SELECT * FROM oracle.cutoffs")
    assert {r["scope"] for r in rows} == {f"category={c}" for c in inbound.CATEGORIES}
    assert {(r["amount"], r["inside_customers"], r["customers"], r["gini_ppm"]) for r in rows} == {(None, 0, 0, None)}


@settings(max_examples=10)
@given(st.lists(st.integers(0, 2**38) | st.integers(1000, 1100), min_size=1, max_size=20))
def test_gini_groups_by_leading_bits(amounts):
    with duckdb.connect() as con:
        energies(con, {f"a{n}": wh for n, wh in enumerate(amounts)})
        positive = [wh for wh in amounts if wh]
        assert one(con, "SELECT any_value(gini_ppm) FROM oracle.cutoffs") == (
            whole.gini_ppm(positive) if positive else None,
        )


# ---------------------------------------------------------------------------------------------------- ABC and tiers
def weekly(con, weeks, rules=None):
    """Every week has its own daily energies, so that the 7-day window of its last day holds that week alone."""
    rows = []
    for n, parts in enumerate(parts for parts in weeks for _ in range(7)):
        rows += [reading(k, day("2016-01-01") + ONE * n, wh) for k, wh in parts.items()]
    names = sorted(weeks[0])
    fill(con, [account(k) for k in names], [meter(k, k) for k in names], rows)
    oracle.recompute(con, rules or policy(), day("2016-01-01"), day("2016-01-01") + ONE * (7 * len(weeks) - 1))


def history(con, who, column):
    query = f"SELECT {column} FROM oracle.tier_day WHERE account_id = '{who}' ORDER BY service_date"
    return [value for (value,) in con.execute(query).fetchall()]


def migrations(con, who):
    columns = "service_date, from_tier, to_tier, cause"
    query = f"SELECT {columns} FROM oracle.tier_migrations WHERE account_id = '{who}' ORDER BY service_date"
    return con.execute(query).fetchall()


def test_a_class_is_entered_and_left_by_its_own_threshold(con):
    # Of 100 a day, the share before b is a's energy. A: cut at 50, in below 40, out at 60.
    weeks = [
        {"a": 45, "b": 40, "c": 15},  # no class yesterday: the plain cut, A
        {"a": 58, "b": 30, "c": 12},  # still inside the exit
        {"a": 62, "b": 30, "c": 8},  # out
        {"a": 45, "b": 40, "c": 15},  # where it was A at first, but not inside the entry
        {"a": 39, "b": 38, "c": 23},  # in again
    ]
    weekly(con, weeks)
    assert history(con, "b", "abc")[6::7] == ["A", "A", "B", "B", "A"]
    # Over 7 days the share before b is 58 + 4 k / 7 after k days of the third week: 60 is reached on its fourth day;
    # b's own energy has not changed.
    assert migrations(con, "b")[0] == (day("2016-01-18"), "high", "mid_steady", "cutoff_moved")


def test_who_rises_by_own_use_pushes_others_down_by_a_moved_cutoff(con):
    weekly(con, [{"a": 60, "b": 40, "c": 15}, {"a": 60, "b": 200, "c": 15}])
    # Of 7 days a has 420, c 105, and b 280 + 160 k after k days: 440, 600, 760, 920; before a it is 46, 53, 59, 64 %.
    assert migrations(con, "b") == [(day("2016-01-08"), "mid_steady", "high", "own_use")]
    assert migrations(con, "a") == [(day("2016-01-11"), "high", "mid_steady", "cutoff_moved")]


def test_who_is_not_read_any_more_moves_by_what_leaves_the_window(con):
    weekly(con, [{"a": 60, "b": 100, "c": 15}, {"a": 60, "c": 15}])
    assert [(tier, cause) for _, _, tier, cause in migrations(con, "b")] == [("mid_steady", "window_decay")]


def paying_late(con, rules=None):
    fill(
        con,
        [account("a")],
        [meter("m", "a")],
        readings("m", "2016-01-01", [5] * 9),
        [
            event("a", "b", "charge", "2016-01-01", 10, "2016-01-03"),
            event("a", "p", "payment", "2016-01-06", 10),
        ],
    )
    recomputed(con, "2016-01-01", "2016-01-09", rules)


def test_a_risk_is_immediate_and_the_way_back_takes_the_minimum_stay(con):
    paying_late(con)
    assert con.execute("SELECT * EXCLUDE (account_id) FROM oracle.customer_tiers ORDER BY valid_from").fetchall() == [
        (day("2016-01-01"), day("2016-01-03"), "high", "A", "B", day("2016-01-01"), "big", "1"),
        (day("2016-01-04"), day("2016-01-05"), "low_risk", "A", "C", day("2016-01-04"), "risky", "1"),
        (day("2016-01-06"), day("2016-01-06"), "low_risk", "A", "B", day("2016-01-04"), "stay", "1"),
        (day("2016-01-07"), None, "high", "A", "B", day("2016-01-07"), "big", "1"),
    ]
    assert history(con, "a", "rule") == ["big"] * 3 + ["risky"] * 2 + ["stay"] + ["big"] * 3
    assert migrations(con, "a") == [
        (day("2016-01-04"), "high", "low_risk", "due_date"),
        (day("2016-01-07"), "low_risk", "high", "stay_ended"),
    ]
    (current,) = table(con, "SELECT * FROM oracle.customer_tiers_current")
    assert (current["valid_from"], current["credit_grade"], current["tier"]) == (day("2016-01-07"), "B", "high")


def test_a_new_policy_version_is_the_cause(con):
    paying_late(con, two_versions())
    assert migrations(con, "a")[-1] == (day("2016-01-08"), "high", "mid_large", "policy_changed")
    assert history(con, "a", "policy_version") == ["1"] * 7 + ["2"] * 2
    assert one(con, "SELECT status, policy_version FROM oracle.service_days WHERE service_date = '2016-01-08'") == (
        "closed",
        "2",
    )


def two_versions():
    """From 2016-01-08 on, without a minimum stay, who is A is mid_large."""
    second = POLICY[POLICY.index("  - version:") :]
    for old, new in (
        ('"1"', '"2"'),
        ("2000-01-01", "2016-01-08"),
        ("tier: high", "tier: mid_large"),
        ("days: 3", "days: 0"),
    ):
        second = second.replace(old, new)
    return parse_policy(POLICY + second, "policy.yaml")


def test_who_leaves_and_returns_begins_anew(con):
    fill(
        con,
        [account("a", closed_on=day("2016-01-02")), account("a", "2016-01-05", "2016-01-05")],
        [meter("m", "a")],
        readings("m", "2016-01-01", [5] * 6),
    )
    recomputed(con, "2016-01-01", "2016-01-06")
    assert con.execute("SELECT valid_from, valid_to, tier_since FROM oracle.customer_tiers ORDER BY 1").fetchall() == [
        (day("2016-01-01"), day("2016-01-02"), day("2016-01-01")),
        (day("2016-01-03"), day("2016-01-04"), day("2016-01-03")),
        (day("2016-01-05"), None, day("2016-01-05")),
    ]
    assert migrations(con, "a") == [
        (day("2016-01-03"), "high", "closed", "closed"),
        (day("2016-01-05"), "closed", "high", "opened"),
    ]


def test_the_matrix_compares_month_ends(con):
    fill(
        con,
        [account("a"), account("gone", closed_on=day("2016-02-03")), account("new", opened_on="2016-02-02")],
        [meter("m", "a")],
        readings("m", "2016-01-30", [5] * 5),
    )
    recomputed(con, "2016-01-30", "2016-02-04")
    assert con.execute("SELECT * FROM oracle.tier_migration_matrix ORDER BY ALL").fetchall() == [
        (day("2016-02-01"), "high", "high", 1, 1_000_000, 25, 0),
        (day("2016-02-01"), "low_small", "closed", 1, 1_000_000, None, None),
        (day("2016-02-01"), "none", "low_small", 1, 1_000_000, 0, 0),
    ]


def test_conditions_do_not_hold_on_null_unless_they_say_so(con):
    def holds(value, **condition):
        sql = oracle.condition_sql(Condition(column="x", **condition))
        return one(con, f"SELECT coalesce({sql}, false) FROM (SELECT {value} AS x)")[0]

    assert holds("3", at_least=3)
    assert holds("3", at_most=3)
    assert not holds("3", above=3)
    assert not holds("3", below=3)
    assert holds("'it''s'", equals="it's")
    assert holds("'A'", one_of=("A", "B"))
    assert not holds("'A'", not_one_of=("A", "B"))
    assert not holds("NULL::INT", at_least=0)
    assert not holds("NULL::VARCHAR", not_one_of=("A",))
    assert holds("NULL::INT", at_least=0, or_null=True)


# --------------------------------------------------------------------------------------------------------- calendar
def test_a_day_below_the_floor_is_provisional_and_not_the_end(con):
    fill(
        con,
        [account("a")],
        [meter(m, "a", "2016-01-01") for m in ("m", "n", "o")],
        [
            *readings("m", "2016-01-01", [1] * 3),
            *readings("n", "2016-01-01", [1, None, 1]),
            reading("m", "2016-01-05", 1),
        ],
        [event("a", "p", "payment", "2015-12-30", 1)],
    )
    assert oracle.calendar(con, policy(), day("2016-01-09")) == (day("2016-01-01"), day("2016-01-03"))
    assert oracle.calendar(con, policy(), day("2016-01-02")) == (day("2016-01-01"), day("2016-01-01"))
    onwards = policy(("below_floor: hold", "below_floor: provisional"))
    assert oracle.calendar(con, onwards, day("2016-01-09")) == (day("2016-01-01"), day("2016-01-09"))
    recomputed(con, "2015-12-30", "2016-01-03")
    assert con.execute("SELECT * FROM oracle.service_days ORDER BY 1").fetchall() == [
        (day("2015-12-30"), 0, 0, None, "closed", "1"),
        (day("2015-12-31"), 0, 0, None, "closed", "1"),
        (day("2016-01-01"), 3, 2, 666_666, "closed", "1"),
        (day("2016-01-02"), 3, 1, 333_333, "provisional", "1"),
        (day("2016-01-03"), 3, 2, 666_666, "closed", "1"),
    ]


def test_days_of_periods_alone_open_the_calendar_and_may_end_it(con):
    fill(
        con,
        [account("a")],
        [meter("m", "a")],
        registers=[
            index("m", "2016-01-01", None, index_peak=1_000, max_demand=7_000),
            index("m", "2016-01-02", None, index_peak=9_000),
            index("m", "2016-01-04", 5, index_peak=9_000),
            index("m", "2016-01-05", 1_005),
            index("m", "2016-01-06", None, index_peak=9_000),
        ],
    )
    assert oracle.calendar(con, policy(), day("2016-01-09")) == (day("2016-01-02"), day("2016-01-05"))
    every = policy(("coverage_floor_ppm: 500000", "coverage_floor_ppm: 0"))
    assert oracle.calendar(con, every, day("2016-01-09")) == (day("2016-01-02"), day("2016-01-06"))
    recomputed(con, "2016-01-02", "2016-01-05")
    assert one(con, "SELECT list((energy_wh, peak_wh) ORDER BY service_date) FROM oracle.daily_consumption") == (
        [(0, 8), (0, 0), (0, 0), (1, 0)],
    )


def test_the_calendar_of_a_ledger_alone_ends_with_its_last_event(con):
    fill(
        con,
        [account("a")],
        [],
        [],
        [event("a", "p", "payment", "2016-01-02", 1), event("b", "p", "payment", "2016-01-01", 1)],
    )
    assert oracle.calendar(con, policy(), day("2016-01-09")) == (day("2016-01-02"), day("2016-01-02"))


def test_the_calendar_of_nothing_is_empty(con):
    fill(con)
    assert oracle.calendar(con, policy(), day("2016-01-09")) == (None, None)


# ------------------------------------------------------------------------------- everything, against plain Python
def random_world(seed):
    """Some accounts, meters that move between them, readings around two stretches a year apart, and a ledger."""
    pick = random.Random(seed)
    start = day("2016-02-20")
    near = lambda: start + ONE * pick.randint(-3, 22)  # noqa: E731
    names = ["a", "b", "c", "d", "Z"]
    accounts = [account(n, category=pick.choice(inbound.CATEGORIES)) for n in names if pick.random() < 0.9]
    for n in names:
        if pick.random() < 0.4:
            closed = near() if pick.random() < 0.5 else None
            opened = str(near() - ONE * 9)
            accounts.append(
                account(n, str(near()), opened, closed_on=closed, category="commercial", revision=pick.randint(1, 2))
            )
    meters = [meter(f"m{n}", pick.choice(names), "2015-02-25", revision=pick.randint(1, 2)) for n in range(6)]
    for n in (0, 1, 2, 2):
        installed = near()
        removed = pick.choice([None, str(installed + ONE * pick.randint(1, 9))])
        meters += [meter(f"m{n}", pick.choice(names), str(installed), removed)]
    read = []
    for _ in range(pick.randint(1, 160)):
        when = near() if pick.random() < 0.85 else near() - ONE * pick.choice([365, 340, 90, 30])
        wh = pick.choice([0, 7, 7, pick.randint(0, 300), pick.randint(0, 2**38)])
        quality = pick.choice(inbound.QUALITIES)
        read.append(reading(f"m{pick.randint(0, 6)}", when, wh, quality=quality, revision=pick.randint(1, 2)))
    ledger = []
    for _ in range(pick.randint(0, 25)):
        kind = pick.choice(["charge", "charge", *inbound.EVENT_TYPES, "payment"])
        amount = pick.choice([5, 10, 20]) * (pick.choice([1, -1]) if kind == "adjustment" else 1)
        when = near() - ONE * pick.choice([0, 0, 0, 40, 350])
        ledger.append(event(
            pick.choice(names), f"e{pick.randint(1, 9)}", kind, str(when), amount, revision=pick.randint(1, 3),
            due_date=str(when + ONE * pick.randint(0, 12)) if kind == "charge" else None,
            bill_id=pick.choice([None, None, "e1", "e2", "x"]), ref_event_id=f"e{pick.randint(1, 9)}",
        ))  # fmt: skip
    return accounts, meters, read, ledger


def random_conduct(seed):
    pick = random.Random(seed)
    return [
        conduct(
            pick.choice(["a", "b", "c", "d", "Z", "nobody"]), f"c{pick.randint(1, 3)}", pick.choice(inbound.CONDUCT_TYPES),
            str(day("2016-02-20") + ONE * pick.choice([0, 1, 4, 9, -360, -725, -900])), revision=pick.randint(1, 3),
        )
        for _ in range(pick.randint(0, 20))
    ]  # fmt: skip


def same_rows(con, mart, expected):
    """expected: key -> row. Compares every column that expected has."""
    names = MARTS[mart.removesuffix("_clock")].keys
    published = {tuple(row[k] for k in names): row for row in table(con, f"SELECT * FROM oracle.{mart}")}
    assert published.keys() == expected.keys()
    for key, row in expected.items():
        assert {name: published[key][name] for name in row} == row, (mart, key)


@settings(max_examples=6)
@given(st.integers(0, 10**6), st.sampled_from(["all", "category"]), st.sampled_from(["wh_7d", "billed_365d_minor"]))
def test_random_worlds_equal_plain_python(seed, scope, metric):
    parts, found = random_world(seed), random_conduct(seed)
    rules = policy(("scope: all", f"scope: {scope}"), ("wh_7d", metric))
    with duckdb.connect() as con:
        fill(con, *parts, conduct=found)
        first, _ = oracle.calendar(con, rules, day("2020-01-01"))
        if first is None:
            return
        last = day("2016-03-10")
        first = max(first, day("2016-02-17"))  # tiers begin here, on both sides
        oracle.recompute(con, rules, first, last)
        relations = (inbound.ACCOUNTS, inbound.METERS, inbound.METER_READINGS, inbound.LEDGER_EVENTS)
        rows = [complete(relation, part) for relation, part in zip(relations, parts, strict=True)]
        world = whole.World(*rows, rules, first, last, complete(inbound.CONDUCT_EVENTS, found))
        days, moves, cutoffs, every = world.tiers()
        same_rows(con, "daily_consumption", world.daily_consumption())
        same_rows(con, "features", every)
        con.execute("CREATE OR REPLACE TABLE oracle.moved_pair AS SELECT account_id, service_date FROM oracle.features")
        oracle._clock(con)
        clock = {key: world.features(*key, clock=True) for key in every}
        same_rows(con, "features_clock", clock)
        same_rows(con, "cutoffs", {(d, *key): row for d, by_key in cutoffs.items() for key, row in by_key.items()})
        same_rows(con, "tier_migrations", moves)
        tier_days = {(row["account_id"], row["service_date"]): row for row in table(con, "FROM oracle.tier_day")}
        assert tier_days.keys() == days.keys()
        for key, row in days.items():
            assert {name: tier_days[key][name] for name in row} == row, key


DIMENSIONS = """    dimensions:
      - dimension: potential
        parts:
          - part: growth
            column: growth_90d_ppm
            weight: 60
            scope: region
            top: [{share: 1/3, points: 99}, {points: 8}]
            if_null: 5
          - {part: tenure, column: tenure_days, weight: 40, order: smallest_first, top: [{share: 40 %, points: 70}, {points: 0}]}
      - dimension: stability
        parts: [{part: owed, column: overdue_minor, weight: 100, scope: category, top: [{share: 1/2, points: 7}, {points: 90}]}]
      - dimension: credit
        parts:
          - part: first
            column: credit_score
            weight: 50
            top: [{share: 1/4, points: 100}, {share: 3/4, points: 41}, {points: 3}]
            if_null: 1
          - {part: score, column: credit_score, weight: 50, points: value, if_null: 50}
"""


def dimensioned(seed):
    """A random world with regions, and a policy with dimensions."""
    parts = random_world(seed)
    for number, row in enumerate(parts[0]):
        row["region"] = (None, "N|=1", "n")[(seed + number) % 3]
    rule = "      - {rule: big, tier: high, when: [{column: abc, equals: A}]}\n"
    by_score = "      - {rule: scored, tier: mid_large, when: [{column: potential_score, at_least: 40}]}\n"
    return parts, policy(("    credit_grades:\n", DIMENSIONS + "    credit_grades:\n"), (rule, by_score + rule))


@settings(max_examples=4)
@given(st.integers(0, 10**6))
def test_scores_and_percentiles_of_random_worlds_equal_plain_python(seed):
    parts, rules = dimensioned(seed)
    with duckdb.connect() as con:
        fill(con, *parts)
        first, last = day("2016-02-17"), day("2016-03-02")
        oracle.recompute(con, rules, first, last)
        relations = (inbound.ACCOUNTS, inbound.METERS, inbound.METER_READINGS, inbound.LEDGER_EVENTS)
        rows = [complete(relation, part) for relation, part in zip(relations, parts, strict=True)]
        world = whole.World(*rows, rules, first, last)
        cutoffs, scores = {}, {}
        for when in world.service_days():
            today = {
                row["account_id"]: row for row in table(con, f"FROM oracle.features WHERE service_date = '{when}'")
            }
            for row in today.values():
                row["service_date"] = when
            cutoffs |= {(when, *key): row for key, row in world.cutoffs(when, today).items()}
            for account_id, by_name in world.scores(when, today).items():
                scores[account_id, when] = dict.fromkeys(SCORE_COLUMNS.values()) | {
                    SCORE_COLUMNS[name]: score for name, score in by_name.items()
                }
        same_rows(con, "cutoffs", cutoffs)
        same_rows(con, "scores", scores)


def test_a_sample_has_the_scores_of_all(con):
    parts, rules = dimensioned(3)
    fill(con, *parts)
    days = day("2016-02-20"), day("2016-03-01")
    oracle.recompute(con, rules, *days)
    marts = ("scores", "customer_tiers", "cutoffs")
    mine = dict.fromkeys(marts, "account_id IN ('a', 'Z')") | {"cutoffs": "true"}
    every = {mart: table(con, f"FROM oracle.{mart} WHERE {where}") for mart, where in mine.items()}
    oracle.recompute(con, rules, *days, accounts=["a", "Z"])
    for mart in marts:
        found = table(con, f"FROM oracle.{mart}")
        assert sorted(map(str, found)) == sorted(map(str, every[mart])), mart


def test_a_sample_has_the_figures_of_all(con):
    fill(con, *random_world(3))
    rules = policy(("wh_7d", "billed_365d_minor"))
    first, last = day("2016-02-17"), day("2016-03-10")
    oracle.recompute(con, rules, first, last)
    for mart in ("features", "cutoffs", "customer_tiers"):
        con.execute(f"CREATE TABLE all_{mart} AS FROM oracle.{mart}")
    oracle.recompute(con, rules, first, last, accounts=["a", "Z"])
    for mart, where in (
        ("features", "account_id IN ('a', 'Z')"),
        ("cutoffs", "true"),
        ("customer_tiers", "account_id IN ('a', 'Z')"),
    ):
        both = [
            con.execute(f"FROM {name} WHERE {where} ORDER BY ALL").fetchall()
            for name in (f"all_{mart}", f"oracle.{mart}")
        ]
        assert both[0] == both[1] != []
        assert one(con, f"SELECT count(*) FROM oracle.{mart} WHERE NOT ({where})") == (0,)
