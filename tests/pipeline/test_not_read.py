"""Days that are not read have a provisional energy, until they are. One account, whose every Wh can be checked by hand.

    day          0   1   2   3   4   5   6   7   8   9
    read, kWh    1   2   3   4   5   6   7
    instead                                  1   2   3     like a week before

`other` is read every day, so that days close.
"""

from __future__ import annotations

import pytest

from tests.pipeline.bureau import Bureau, assert_balanced, assert_equal_marts
from tests.pipeline.streams import Epochs
from tests.pipeline.test_stories import LONG_AGO, day
from tests.pipeline.worlds import account, meter, reading

WEEK = [reading("m", day(n), 1_000 * (n + 1)) for n in range(7)]
OTHER = [reading("o", day(n), 10_000) for n in range(10)]
KNOWN = [account("A", LONG_AGO), meter("m", "A", LONG_AGO), account("other", LONG_AGO), meter("o", "other", LONG_AGO)]
SUMS = "SELECT wh_30d, provisional_wh_30d, provisional_wh_365d FROM features WHERE account_id = 'A' AND service_date = '{}'"


@pytest.fixture
def bureau(tmp_path):
    return Bureau(tmp_path / "bureau", shards=2)


def provisional(bureau):
    """Day number -> provisional kWh, of the days that have any."""
    rows = bureau.query(
        "SELECT account_id, service_date, provisional_wh, energy_wh, meters_received, meters_expected FROM daily_consumption"
        " WHERE provisional_wh IS NOT NULL ORDER BY service_date"
    )
    assert all((name, *rest) == ("A", 0, 0, 1) for name, _, _, *rest in rows)
    return {(when - day(0)).days: wh / 1_000 for _, when, wh, *_ in rows}


@pytest.mark.slow
def test_a_day_that_is_not_read_is_like_a_week_before_until_it_is(bureau):
    bureau.land_all([*KNOWN, *WEEK, *OTHER])
    bureau.run()
    assert provisional(bureau) == {7: 1, 8: 2, 9: 3}
    assert bureau.query(SUMS.format(day(9))) == [(28_000, 6_000, 6_000)]
    bureau.check()

    # A correction of day 1 is one of day 8, too.
    bureau.land_all([reading("m", day(1), 2_500, 2)])
    bureau.run()
    assert provisional(bureau) == {7: 1, 8: 2.5, 9: 3}

    # Day 8 is read after all: 9 kWh. What stood in for it is gone, from the day and from the sums.
    bureau.land_all([reading("m", day(8), 9_000)])
    assert bureau.run().restated_from == day(8)
    assert provisional(bureau) == {7: 1, 9: 3}
    assert bureau.query(SUMS.format(day(9))) == [(37_500, 4_000, 4_000)]
    assert bureau.query(SUMS.format(day(7))) == [(28_500, 1_000, 1_000)]

    # Five weeks of silence: days 10 and 11 still have a like day, four weeks back at most, the last ones none.
    bureau.land_all([reading("o", day(n), 10_000) for n in range(10, 46)])
    bureau.run()
    assert provisional(bureau)[36] == 9  # day 8 is four weeks before
    assert not set(provisional(bureau)) & {8, 37, 44, 45}
    assert_balanced(bureau)
    bureau.check()


@pytest.mark.slow
def test_a_stream_knows_them_as_a_run_does(bureau, tmp_path):
    runs = Bureau(tmp_path / "runs", shards=2)
    portions = [[*KNOWN, *WEEK, *OTHER], [reading("m", day(8), 9_000)], [reading("o", day(10), 10_000)]]
    bureau.land_all(portions[0])
    bureau.run()  # the stream starts from a state that has them
    Epochs(bureau).take_all(portions[1:])
    for portion in portions:
        runs.land_all(portion)
        runs.run()
    assert provisional(bureau) == {7: 1, 9: 3, 10: 4}
    assert_equal_marts(runs.marts, bureau.marts, same_deliveries=True)
    bureau.check()
    bureau.land_all([reading("o", day(11), 10_000)])
    bureau.run()  # and a run goes on from what the stream leaves
    assert provisional(bureau) == {7: 1, 9: 3, 10: 4, 11: 5}
    bureau.check()


@pytest.mark.slow
def test_a_stream_begins_anew_where_the_calendar_begins_later(bureau):
    """m turns out to have been installed on day 8: what was read before belongs to nobody, and no day before day 8 is left."""
    epochs = Epochs(bureau)
    later = [meter("m", "A", LONG_AGO, LONG_AGO, 2), meter("m", "A", day(8))]
    epochs.take_all(([*KNOWN[:2], *WEEK, reading("m", day(7), 1_000)], [reading("m", day(8), 2_000)], later))
    assert bureau.query(SUMS.format(day(8))) == [(2_000, 0, 0)]
    bureau.check()
