"""The story of one meter, from installation to removal. Every number can be checked by hand; the oracle checks them too."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from tests.pipeline.bureau import Bureau, assert_balanced
from tests.pipeline.streams import Epochs
from tests.pipeline.worlds import account, index, meter, reading

pytestmark = pytest.mark.slow

LONG_AGO = date(2020, 1, 1)
MONDAY = date(2023, 3, 6)


def day(n: int) -> date:
    """Day n of the story; day 0 is a Monday."""
    return MONDAY + timedelta(days=n)


@pytest.fixture
def bureau(tmp_path):
    """One account, and its meter from day 0 on: 20 times what it shows, from 100 kWh, five digits before the point."""
    made = Bureau(tmp_path / "bureau")
    made.configure(("dates: {min: 2000-01-01}", "dates: {min: 2023-03-01}"))
    made.land_all([account("A", LONG_AGO), meter("m", "A", day(0), multiplier=20, modulus="100000", opening="100")])
    return made


def used(bureau):
    """Day number -> (kWh, how many meters of it are estimated), of every day with energy."""
    rows = bureau.query(
        "SELECT service_date, energy_wh, meters_estimated FROM daily_consumption WHERE meters_received > 0 ORDER BY 1"
    )
    return {(when - MONDAY).days: (wh / 1000, estimated) for when, wh, estimated in rows}


def exceptions(bureau):
    rows = bureau.query("SELECT service_date, reason, step FROM reading_exceptions ORDER BY 1")
    return [((when - MONDAY).days, reason, step / 1_000_000) for when, reason, step in rows]


def test_the_story_of_one_meter(bureau):
    # Installed on day 0 at 100 kWh. The first index closes day 0: 103.5 - 100, times 20.
    bureau.land_all([index("m", day(0), "103.5")])
    bureau.run()
    assert used(bureau) == {0: (70, 0)}

    # A week of daily reads: 3.5 kWh each day, 70 at the multiplier, but 1 and 20 at the weekend.
    shown = {1: "107.0", 2: "110.5", 3: "114.0", 4: "117.5", 5: "118.5", 6: "119.5"}
    bureau.land_all([index("m", day(n), kwh) for n, kwh in shown.items()])
    bureau.run()
    week = dict.fromkeys(range(5), (70, 0)) | {5: (20, 0), 6: (20, 0)}
    assert used(bureau) == week
    bureau.check()

    # Days 7 to 10 are not read. An index estimated by somebody is kept, but no energy is counted from it.
    bureau.land_all([index("m", day(9), "125.0", quality="E")])
    bureau.run()
    assert used(bureau) == week
    bureau.check()

    # Day 11, a Friday, is read: 137 - 119.5 = 17.5, times 20 is 350, for five days that were alike a week before.
    bureau.land_all([index("m", day(11), "137.0")])
    bureau.run()
    assert used(bureau) == week | dict.fromkeys(range(7, 12), (70, 1))
    # Sunday, day 13: 141 - 137 = 4, times 20 is 80, for two days that were alike a week before.
    bureau.land_all([index("m", day(13), "141.0")])
    bureau.run()
    weeks = week | dict.fromkeys(range(7, 12), (70, 1)) | {12: (40, 1), 13: (40, 1)}
    assert used(bureau) == weeks
    bureau.check()

    # The index of day 9 comes after all: 17.5 kWh divide into 8 for days 7 to 9 and 9.5 for days 10 and 11.
    # 8 in three equal parts, rounded down at every midnight to thousandths of a Wh: 53.333320, 53.333320, 53.333360.
    bureau.land_all([index("m", day(9), "127.5", revision=2)])
    bureau.run()
    gap = {7: (53.333, 1), 8: (53.333, 1), 9: (53.334, 1), 10: (95, 1), 11: (95, 1)}
    assert used(bureau) == weeks | gap
    bureau.check()

    # A correction of day 0: 102.5 in place of 103.5. Day 0 has 20 less and day 1 has 20 more.
    # Mondays and Tuesdays weigh otherwise then: 50, 90 and 70 of 210 parts of 8 kWh for days 7 to 9.
    bureau.land_all([index("m", day(0), "102.5", revision=2)])
    bureau.run()
    gap |= {7: (38.095, 1), 8: (68.571, 1), 9: (53.334, 1)}
    corrected = weeks | gap | {0: (50, 0), 1: (90, 0)}
    assert used(bureau) == corrected
    assert sum(kwh for kwh, _ in used(bureau).values()) == (141 - 100) * 20
    bureau.check()

    # Day 14 lies below day 13, by far too much to have turned over: neither clamped nor zero, but an exception.
    bureau.land_all([index("m", day(14), "120.0")])
    bureau.run()
    assert used(bureau) == corrected
    assert exceptions(bureau) == [(14, "register_decrease", -21)]
    bureau.check()
    # Mended by a higher revision, the exception is gone.
    bureau.land_all([index("m", day(14), "142.0", revision=2)])
    bureau.run()
    assert used(bureau) == corrected | {14: (20, 0)}
    assert exceptions(bureau) == []

    # Day 15: the meter is exchanged. The old one came to 143, the new one starts at 99,999 and counts 10 times what it shows.
    bureau.land_all(
        [
            meter("m", "A", day(0), day(15), multiplier=20, modulus="100000", opening="100", closing="143", revision=2),
            meter("m", "A", day(15), multiplier=10, modulus="100000", opening="99999"),
            index("m", day(15), "99999.5"),
            index("m", day(16), "1.5"),  # turned over: 0.5 to 100,000 and 1.5 more
        ]
    )
    bureau.run()
    new = {14: (40, 0), 15: (5, 0), 16: (20, 0)}
    assert used(bureau) == corrected | new
    bureau.check()

    # Removed after day 17, at 2 kWh. What is read later belongs to nobody, and waits.
    bureau.land_all(
        [
            meter(
                "m", "A", day(15), day(18), multiplier=10, modulus="100000", opening="99999", closing="2", revision=2
            ),
            index("m", day(19), "2"),
        ]
    )
    bureau.run()
    assert used(bureau) == corrected | new | {17: (5, 0)}
    assert bureau.query("SELECT source, name, reason FROM pending") == [
        ("register_readings", "m", "meter_not_assigned")
    ]
    assert_balanced(bureau)
    bureau.check()


def test_a_check_meter_is_read_but_not_counted(bureau):
    bureau.land_all(
        [meter("c", "A", day(0), role="check", opening="0"), index("c", day(0), "9"), index("m", day(0), "101")]
    )
    bureau.run()
    assert used(bureau) == {0: (20, 0)}
    assert bureau.query("SELECT meters_expected FROM service_days") == [(1,)]
    assert bureau.query("SELECT count(*) FROM pending") == [(0,)]
    bureau.check()


def test_a_meter_that_moves_to_another_account_splits_there(bureau):
    bureau.land_all([account("B", LONG_AGO), meter("m", "B", day(2), multiplier=20)])
    bureau.land_all([index("m", day(0), "101"), index("m", day(3), "104")])
    bureau.run()
    rows = bureau.query(
        "SELECT account_id, service_date, energy_wh FROM daily_consumption WHERE meters_received > 0 ORDER BY 2"
    )
    assert [(who, (when - MONDAY).days, wh // 1000) for who, when, wh in rows] == [
        ("A", 0, 20), ("A", 1, 20), ("B", 2, 20), ("B", 3, 20),
    ]  # fmt: skip
    bureau.check()


def test_a_multiplier_found_wrong_restates_what_it_touched(bureau):
    bureau.land_all([index("m", day(n), str(101 + n)) for n in range(5)])
    bureau.run()
    assert set(used(bureau).values()) == {(20, 0)}
    bureau.land_all([meter("m", "A", day(0), multiplier=30, modulus="100000", opening="100", revision=2)])
    bureau.run()
    assert set(used(bureau).values()) == {(30, 0)}
    bureau.check()


@pytest.mark.parametrize("streamed", [False, True], ids=["runs", "stream"])
def test_a_multiplier_told_is_held_against_the_reference(bureau, streamed):
    """The extract tells 20, then 30 from day 2 on; the reference says 20, and later that it has been 30 since day 1."""
    told = [index("m", day(n), str(101 + n), multiplier=20 if n < 2 else 30) for n in range(4)]
    bureau.land_all(told[:1])
    bureau.run()
    epochs = Epochs(bureau) if streamed else None

    def take(*events):
        if epochs:
            epochs.take_all([events], each=True)
        else:
            bureau.land_all(events)
            bureau.run()

    def mismatches():
        rows = bureau.query("SELECT service_date, register, reason, opened_on, step FROM reading_exceptions ORDER BY 1")
        assert {row[1:4] for row in rows} <= {("multiplier", "multiplier_mismatch", None)}
        return [((when - MONDAY).days, step) for when, *_, step in rows]

    take(*told[1:])
    assert used(bureau) == dict.fromkeys(range(4), (20, 0))
    assert mismatches() == [(2, 10), (3, 10)]
    bureau.check()
    take(
        meter("m", "A", day(0), day(1), multiplier=20, modulus="100000", opening="100", revision=2),
        meter("m", "A", day(1), multiplier=30, modulus="100000"),
    )
    assert used(bureau) == {0: (20, 0), 1: (30, 0), 2: (30, 0), 3: (30, 0)}
    assert mismatches() == [(1, -10)]
    bureau.check()
    take(index("m", day(1), "102", 2, multiplier=30))
    assert mismatches() == []
    bureau.check()
    assert_balanced(bureau)


def test_an_index_that_the_meter_cannot_show_is_not_counted_from(bureau):
    # 200,102 is no index of five digits: days 1 and 2 share what lies between 101 and 103 kWh. 99,999.9 just is one.
    bureau.land_all([index("m", day(0), "101"), index("m", day(1), "200102")])
    bureau.run()
    assert used(bureau) == {0: (20, 0)}
    bureau.land_all([index("m", day(2), "103"), index("m", day(3), "99999.9")])
    bureau.run()
    assert used(bureau) == {0: (20, 0), 1: (20, 1), 2: (20, 1), 3: (1_997_938, 0)}
    assert exceptions(bureau) == [(1, "index_beyond_modulus", 100_102)]
    bureau.check()

    # The dial turns out to have six digits: the index counts, and the step back to 103 is too large for a turn-over.
    bureau.land_all([meter("m", "A", day(0), multiplier=20, modulus="1000000", opening="100", revision=2)])
    bureau.run()
    assert used(bureau) == {0: (20, 0), 1: ((200_102 - 101) * 20, 0), 3: (1_997_938, 0)}
    assert exceptions(bureau) == [(2, "register_decrease", 103 - 200_102)]
    bureau.check()

    # It had five after all, and the index is corrected.
    bureau.land_all([meter("m", "A", day(0), multiplier=20, modulus="100000", opening="100", revision=3)])
    bureau.land_all([index("m", day(1), "102.5", revision=2), index("m", day(3), "104", revision=2)])
    bureau.run()
    assert used(bureau) == {0: (20, 0), 1: (30, 0), 2: (10, 0), 3: (20, 0)}
    assert exceptions(bureau) == []
    bureau.check()


def test_a_meter_is_not_installed_at_an_index_that_it_cannot_show(bureau):
    bureau.land_all([meter("n", "A", day(0), modulus="100000", opening="100000"), index("m", day(0), "101")])
    bureau.run()
    assert bureau.query('SELECT "column", value, reason FROM rejects') == [
        ("installed_total", "100000", "index_beyond_modulus")
    ]
    assert_balanced(bureau)
    bureau.check()


def test_days_of_a_period_alone_open_the_calendar_and_leave_their_windows(bureau):
    """Days 0 and 1 tell the peak alone, 20 x 1 kWh each; the total is told from day 3 on. On day 31 both have left the 30 days."""
    bureau.land_all([index("m", day(n), "", peak=str(kwh)) for n, kwh in ((-1, 10), (0, 11), (1, 12))])
    bureau.land_all([index("m", day(n), str(100 + n)) for n in range(2, 33)])
    bureau.land_all([meter("m", "A", day(0), multiplier=20, revision=2)])
    bureau.run()
    assert bureau.query("SELECT min(service_date), max(service_date) FROM service_days") == [(day(0), day(32))]
    peaks = dict(bureau.query("SELECT service_date, period_wh_30d FROM features"))
    assert [peaks[day(n)] for n in (0, 1, 2, 29, 30, 31, 32)] == [20_000, 40_000, 40_000, 40_000, 20_000, 0, 0]
    bureau.check()
    bureau.land_all([index("m", day(-1), "", 2, peak="11")])  # day 0 had none of it; it is told all the same
    bureau.run()
    assert bureau.query(
        "SELECT energy_wh, meters_received, peak_wh FROM daily_consumption ORDER BY service_date LIMIT 1"
    ) == [(0, 0, 0)]
    bureau.check()


def test_interval_energy_by_period_is_corrected_alone(bureau):
    """The total stays; the split is told anew, then one period, then the total of another day."""

    def told():
        rows = bureau.query(
            "SELECT service_date, energy_wh, peak_wh, valley_wh, reverse_wh FROM daily_consumption ORDER BY 1"
        )
        return {(when - MONDAY).days: rest for when, *rest in rows}

    bureau.land_all([reading("m", day(0), 10_000, peak="6", valley="4"), reading("m", day(1), 5_000)])
    bureau.run()
    assert told() == {0: [10_000, 6_000, 4_000, None], 1: [5_000, None, None, None]}
    bureau.land_all([reading("m", day(0), 10_000, 2, peak="7", valley="3")])
    assert bureau.run().restated_from == day(0)
    assert told()[0] == [10_000, 7_000, 3_000, None]
    bureau.check()
    # A later revision that tells no split leaves it; what is fed in comes by itself.
    bureau.land_all([reading("m", day(0), 9_000, 3, reverse="0.5"), reading("m", day(1), 5_000, 2, valley="5")])
    bureau.run()
    assert told() == {0: [9_000, 7_000, 3_000, 500], 1: [5_000, None, 5_000, None]}
    assert bureau.query("SELECT vee_rule FROM vee_results") == [("sum_check",)]
    bureau.check()
    assert_balanced(bureau)


def test_interval_energy_goes_before_registers(bureau):
    bureau.land_all([index("m", day(0), "101"), index("m", day(1), "102"), reading("m", day(1), 7_000)])
    bureau.run()
    assert used(bureau) == {0: (20, 0), 1: (7, 0)}
    bureau.check()
