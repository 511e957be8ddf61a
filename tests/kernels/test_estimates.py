"""Provisional energy of a day that was not read. Numbers can be checked by hand."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest

from transforms.kernels.days_read import Account, DaysRead
from transforms.kernels.estimates import Provisional, provisional
from transforms.kernels.reference import NEVER, Expected
from transforms.kernels.windows import DayBlock, day_of

TODAY = day_of(date(2026, 3, 2))
NOBODY = np.zeros(0, np.int32)


def estimate(used, *, inside=True, meters=1, since=400, received=None):
    """Provisional Wh of today, None where there is none. used: days back -> Wh; received: the same -> meters, else all."""

    def load(day):
        if (back := TODAY - day) not in used:
            return None
        one = np.array([(received or {}).get(back, meters)], np.int32)
        return DayBlock(np.array([used[back]]), one, 0 * one, 0 * one)

    due = Expected(*(np.array([n], np.int32) for n in (0, TODAY - since, NEVER, meters)))
    account = Account(np.array([inside]), np.array([True]), np.array([-1]), due)
    found = provisional(DaysRead(TODAY, 1, load, account), NOBODY, lambda _: NOBODY)
    assert found.slot.tolist() in ([], [0])
    return found.energy.tolist()[0] if len(found.slot) else None


@pytest.mark.parametrize(
    ("used", "more", "expected"),
    [
        ({7: 70, 14: 140}, {}, 70),  # the latest like day
        ({14: 140, 21: 210}, {}, 140),
        ({28: 280, 1: 1, 6: 6, 35: 350}, {}, 280),  # no other day
        ({7: 0}, {}, 0),  # nothing used is known, too
        ({6: 60, 8: 80, 35: 350}, {}, None),
        ({7: 70, 14: 140}, {"meters": 2, "received": {7: 1}}, 140),  # one of two meters: not complete
        ({7: 70}, {"since": 3}, None),  # no meter was expected on that day
        ({7: 70}, {"inside": False}, None),  # not in the population
        ({7: 70}, {"meters": 0, "received": {7: 1}}, None),  # no meter is expected
        ({0: 5, 7: 70}, {}, None),  # today was read
        ({0: 5, 7: 70}, {"meters": 2, "received": {0: 1}}, None),  # one of two meters was
    ],
)
def test_a_day_without_readings_has_the_energy_of_the_latest_complete_like_day(used, more, expected):
    assert estimate(used, **more) == expected


def test_as_stored():
    some = Provisional(np.array([1, 4], np.int32), np.array([10, 0]))
    again = Provisional.from_batch(some.to_batch())
    assert again.dense(6).tolist() == [0, 10, 0, 0, 0, 0]
    assert again.slot.tolist() == [1, 4]
