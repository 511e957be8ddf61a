"""Each VEE rule: a day that trips it, and one that just does not. Numbers can be checked by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.vee import DAY_LIMIT, JUDGED, VEE_RULES, Vee
from transforms.kernels.days_read import Account, DaysRead
from transforms.kernels.reference import NEVER, Expected
from transforms.kernels.vee import NO_LIMIT, judge
from transforms.kernels.windows import DayBlock, day_of

TODAY = day_of(date(2026, 3, 2))
RULES = Vee.model_validate({
    "unit_mismatch": {"tolerance_ppm": 300_000, "at_least_wh": 1_000, "like_days": 1},
    "spike": {"factor_ppm": 3_000_000, "at_least_wh": 1_000, "like_days": 2},
    "low": {"factor_ppm": 100_000, "at_least_wh": 1_000, "like_days": 2},
    "capacity": {"factor_ppm": 1_200_000},
    "frozen": {"days": 3}, "zero_use": {"days": 3}, "prolonged_estimation": {"days": 3},
    "inactive_use": {}, "sum_check": {"tolerance_ppm": 5_000, "tolerance_wh": 10},
})  # fmt: skip


@dataclass
class Story:
    """One account with one meter: energy in Wh by days back, None where nothing was read."""

    used: dict[int, int | None]
    estimated: frozenset[int] = frozenset()
    inside: bool = True
    capacity: int = -1
    meters: int = 1
    periods: dict[str, int] = field(default_factory=dict)

    def found(self, rules: Vee = RULES) -> dict[str, int]:
        """Rule -> its limit, of the rules that today trips."""

        def load(day: int) -> DayBlock | None:
            back = TODAY - day
            if (wh := self.used.get(back)) is None:
                return None
            apart = {name: (np.array([e]), np.array([1], np.int32)) for name, e in self.periods.items() if back == 0}
            one, none = np.array([1], np.int32), np.array([0], np.int32)
            return DayBlock(np.array([wh]), one, one if back in self.estimated else none, none, apart)

        due = Expected(*(np.array([n], np.int32) for n in (0, TODAY - 400, NEVER, self.meters)))
        account = Account(np.array([self.inside]), np.array([True]), np.array([self.capacity]), due)
        verdicts = judge(rules, DaysRead(TODAY, 1, load, account))
        assert verdicts.as_read.tolist() == [self.used[0]] * len(verdicts.slot)
        names = [JUDGED[code] for code in verdicts.rule]
        return dict(zip(names, verdicts.limit.tolist(), strict=True))


WEEKS = {7: 2_000, 14: 4_000}
PAIRS = {
    # 1,000 x 2,000 Wh, and 30 % more
    "unit_mismatch": (Story({0: 2_600_000, 7: 2_000}), 2_600, Story({0: 2_600_001, 7: 2_000})),
    # limit: 3 x 4,000 Wh, the largest of two like days
    "spike": (Story({0: 12_001, **WEEKS}), 12_000, Story({0: 12_000, **WEEKS})),
    # limit: a tenth of 2,000 Wh, the smallest of two like days
    "low": (Story({0: 199, **WEEKS}), 200, Story({0: 200, **WEEKS})),
    # limit: 1,000 VA for 24 h, and a fifth more
    "capacity": (Story({0: 28_801}, capacity=1_000), 28_800, Story({0: 28_800}, capacity=1_000)),
    "frozen": (Story({0: 5, 1: 5, 2: 5}), NO_LIMIT, Story({0: 5, 1: 5, 2: 6})),
    "zero_use": (Story({0: 0, 1: 0, 2: 0, 3: 9}), NO_LIMIT, Story({0: 0, 1: 0, 2: 9})),
    "prolonged_estimation": (
        Story({0: 1, 1: 2, 2: 3}, frozenset({0, 1, 2})), NO_LIMIT, Story({0: 1, 1: 2, 2: 3}, frozenset({0, 1})),
    ),
    "inactive_use": (Story({0: 1}, inside=False), 0, Story({0: 0}, inside=False)),
    # tolerance: half a percent of 10,000 Wh
    "sum_check": (
        Story({0: 10_000}, periods={"peak": 6_000, "valley": 3_949}), 50,
        Story({0: 10_000}, periods={"peak": 6_000, "valley": 3_950}),
    ),
}  # fmt: skip


def test_no_rule_is_without_its_pair():
    assert list(PAIRS) == list(VEE_RULES) == list(Vee.model_fields)


@pytest.mark.parametrize("rule", VEE_RULES)
def test_a_day_that_trips_it_and_one_that_just_does_not(rule):
    trips, limit, does_not = PAIRS[rule]
    assert trips.found() == {rule: limit}
    assert does_not.found() == {}


@pytest.mark.parametrize(
    ("wh", "watts", "beyond"), [(2**44, 0, True), (2**44 - 1, 2**43 - 1, False), (0, 2**43, True), (2**50, None, True)]
)
def test_what_no_account_uses_is_told_by_whatever_policy(wh, watts, beyond):
    periods = {} if watts is None else {"max_demand": watts}
    assert Story({0: wh}, periods=periods).found(Vee()) == ({DAY_LIMIT: 2**44} if beyond else {})


@pytest.mark.parametrize(
    "story",
    [
        Story({0: 99_999, 7: 2_000}),  # one like day is too few
        Story({0: 1_000, 7: 100, 14: 100}),  # a small spike: not above 1,000 Wh
        Story({0: 99, 7: 900, 14: 2_000}),  # low, but the smallest like day is below 1,000 Wh
        Story({0: 199, **WEEKS}, meters=2),  # low, but one of two meters is missing
        Story({0: 5, 1: 5, 2: 5, 3: 5}),  # the fourth day of a run is not named again
        Story({0: 0, 1: 0, 2: 0}),  # nothing used, but nothing before that either
        Story({0: 0, 1: None, 2: 0, 3: 9}),  # a missing read is not zero use
        Story({0: 28_801}),  # no capacity is known
        Story({0: 10_000}, periods={"reverse": 1}),  # what is fed in is no part of the total
    ],
)
def test_what_trips_nothing(story):
    assert story.found() == {}


def unit_rule(**parameters):
    rule = {"tolerance_ppm": 300_000, "at_least_wh": 1_000, "like_days": 2}
    return Vee.model_validate({"unit_mismatch": rule | parameters})


@pytest.mark.parametrize(
    ("story", "limit"),
    [
        (Story({0: 2_600_000, 7: 2_000, 14: 2_000}), 2_600),  # Wh delivered, kWh read: up to 30 % above
        (Story({0: 2_600_001, 7: 2_000, 14: 2_000}), None),
        (Story({0: 1_400_000, 7: 2_000, 14: 2_000}), 1_400),  # and as far below
        (Story({0: 1_399_999, 7: 2_000, 14: 2_000}), None),
        (Story({0: 20, 7: 26_000, 14: 26_000}), 20_000),  # the other way round
        (Story({0: 20, 7: 26_001, 14: 26_000}), None),
        (Story({0: 20, 7: 14_000, 14: 14_000}), 20_000),
        (Story({0: 20, 7: 13_999, 14: 14_000}), None),
        (Story({0: 2_000_000, 7: 2_000, 14: 9, 21: 9, 28: 2_000}), 2_000),  # two of four fit
        (Story({0: 2_000_000, 7: 2_000, 14: 9, 21: 9}), None),
        (Story({0: 2_000, 7: 2_000_000, 14: 2_000}), None),  # a week after such a day all is well
        (Story({0: 1_000, 7: 1, 14: 1}), 1),
        (Story({0: 999, 7: 1, 14: 1}), None),  # small
        (Story({0: 1, 7: 999, 14: 1_000}), None),
        (Story({0: 20, 7: 20_000, 14: 20_000}, meters=2), None),  # a thousandth, but one of two meters is missing
        (Story({0: 20_000, 7: 20, 14: 20}, meters=2), 20),
        (Story({0: 0, 7: 0, 14: 0}), None),
        (Story({0: 0, 7: 1_000, 14: 1_000}), None),
        (Story({0: 1_000, 7: 0, 14: 0}), None),
        (Story({0: 1 << 61, 7: (1 << 61) // 1_000, 14: (1 << 61) // 1_000}), (1 << 61) // 1_000),
        (Story({0: 1 << 62, 7: (1 << 52) + 1, 14: (1 << 52) + 1}), None),
    ],
)
def test_a_thousand_times_or_a_thousandth(story, limit):
    found = {name: said for name, said in story.found(unit_rule()).items() if name != DAY_LIMIT}
    assert found == ({} if limit is None else {"unit_mismatch": limit})


AMOUNTS = st.one_of(
    st.none(),
    st.sampled_from((0, 1, 999, 1_000, 1_300_000, 700_000)),
    st.integers(0, 3_000_000),
    st.integers(0, 1 << 52),
)


@given(
    AMOUNTS.filter(lambda wh: wh is not None), st.lists(AMOUNTS, min_size=4, max_size=4),
    st.integers(0, 500_000), st.integers(1, 5_000), st.integers(1, 4), st.sampled_from((1, 2)),
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from((-1, 1)), st.integers(-500_001, 500_001)), max_size=4),
)  # fmt: skip
def test_a_thousand_times_is_so_day_by_day(wh, weeks, tolerance, least, like_days, meters, near):
    """Against the rule as definitions.md has it, day by day. near: like days put near a thousand times, or a thousandth."""
    for week, way, off in near:
        weeks[week] = wh * 1_000 * 1_000_000 // (1_000_000 + off) if way > 0 else wh * (1_000_000 + off) // 10**9

    def times(a, b):
        low, high = (b * (1_000_000 + off) // 1_000 for off in (-tolerance, tolerance))
        return low <= a <= high and a >= least and b <= 1 << 52

    weeks = [week if week is None or week < 1 << 62 else None for week in weeks]
    read = [week for week in weeks if week is not None]
    above = sum(times(wh, week) for week in read) >= like_days
    below = sum(times(week, wh) for week in read) >= like_days and meters == 1
    story = Story({0: wh, **{7 * (n + 1): week for n, week in enumerate(weeks)}}, meters=meters)
    rules = unit_rule(tolerance_ppm=tolerance, at_least_wh=least, like_days=like_days)
    limit = wh // 1_000 if above else wh * 1_000
    expected = {"unit_mismatch": limit} if above or below else {}
    assert story.found(rules) == (expected | {DAY_LIMIT: 2**44} if wh >= 2**44 else expected)


def test_rules_that_are_off_are_not_looked_at():
    assert Vee.model_validate({"spike": {"severity": "off", "factor_ppm": 1, "at_least_wh": 0}}).on() == {}
    assert Vee().on() == {}
