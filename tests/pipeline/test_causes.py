"""A story for each cause of a migration, in one small utility; the oracle finds the same ones."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from schemas.marts import CAUSES
from tests.pipeline.bureau import Bureau
from tests.pipeline.worlds import account, conduct, ledger, meter, reading

FIRST = date(2023, 3, 6)
VERSION = """  - version: "1"
    effective_from: 2000-01-01
    abc:
      metric: wh_7d
      scope: all
      rule: cumulative_share
      cuts: {A: 50 %, B: 90 %}
      buffers: {A: {entry: 40 %, exit: 60 %}, B: {entry: 85 %, exit: 95 %}}
    credit_grades: [{grade: B}]
    tiers:
      - {rule: thief, tier: abuse, immediate: true, when: [{column: days_since_theft, below: 7}]}
      - {rule: owing, tier: low_risk, immediate: true, when: [{column: overdue_minor, above: 0}]}
      - {rule: fresh, tier: new, when: [{column: tenure_days, below: 20}]}
      - {rule: idle, tier: low_small, when: [{column: wh_7d, at_most: 5000}]}
      - {rule: farm, tier: mid_large, when: [{column: category, equals: agricultural}]}
      - {rule: big, tier: high, when: [{column: abc, equals: A}]}
      - {rule: rest, tier: mid_steady}
    min_stay_days: 3
"""
POLICY = (
    "day_close: {coverage_floor_ppm: 0, below_floor: provisional}\naudit: {reject_share_limit_ppm: 0}\nversions:\n"
    + VERSION
    + VERSION.replace('"1"', '"2"')
    .replace("2000-01-01", str(FIRST + timedelta(days=13)))
    .replace("farm, tier: mid_large", "farm, tier: high")
)
WATTS = {"giant": 10_000, "edge": 50_000, "waker": 100}


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


def used(name: str, number: int) -> int | None:
    """Wh of an account on a day; None: not read."""
    if name == "quiet" and number >= 5:
        return None
    if (name == "waker" and number >= 7) or (name == "giant" and number >= 10):
        return 2_000_000 if name == "giant" else 20_000
    return WATTS.get(name, 2_000)


def events():
    names = ("giant", "edge", "waker", "quiet", "young", "thief", "payer", "farmer", "leaver", "plain")
    long_ago = day(-900)
    for name in names:
        opened = day(-17) if name == "young" else long_ago
        yield account(name, opened, "industrial", closed=day(5) if name == "leaver" else None)
        yield meter(f"M-{name}", name, opened)
    yield account("farmer", day(8), "agricultural", opened=long_ago)
    yield account("leaver", day(9), "industrial", opened=day(9))
    yield conduct("thief", "t", "theft_confirmed", day(4))
    yield ledger("payer", "c", "charge", day(0), 5_000, day(5), "B")
    yield ledger("payer", "p", "payment", day(10), 5_000, bill="B")
    for name in names:
        for number in range(15):
            if (wh := used(name, number)) is not None:
                yield reading(f"M-{name}", day(number), wh)


STORIES = {
    "young": [(3, "new", "mid_steady", "new_ended")],
    "plain": [(3, "low_small", "mid_steady", "stay_ended")],
    "thief": [(3, "low_small", "mid_steady", "stay_ended"), (4, "mid_steady", "abuse", "conduct"),
              (11, "abuse", "mid_steady", "lockout_ended")],
    "payer": [(3, "low_small", "mid_steady", "stay_ended"), (6, "mid_steady", "low_risk", "due_date"),
              (10, "low_risk", "mid_steady", "payment")],
    "quiet": [(3, "low_small", "mid_steady", "stay_ended"), (9, "mid_steady", "low_small", "window_decay")],
    "waker": [(7, "low_small", "mid_steady", "own_use")],
    "edge": [(10, "high", "mid_steady", "cutoff_moved")],
    "farmer": [(3, "low_small", "mid_steady", "stay_ended"), (8, "mid_steady", "mid_large", "reference"),
               (13, "mid_large", "high", "policy_changed")],
    "leaver": [(3, "low_small", "mid_steady", "stay_ended"), (6, "mid_steady", "closed", "closed"), (9, "closed", "new", "opened")],
}  # fmt: skip


@pytest.fixture(scope="module")
def bureau(tmp_path_factory):
    made = Bureau(tmp_path_factory.mktemp("causes") / "bureau", policy=POLICY)
    made.land_all(list(events()))
    made.run()
    return made


@pytest.mark.parametrize("name", STORIES)
def test_each_account_moves_for_its_own_reason(bureau, name):
    moves = "SELECT service_date, from_tier, to_tier, cause FROM tier_migrations WHERE account_id = '{}' ORDER BY 1"
    assert [((on - FIRST).days, *more) for on, *more in bureau.query(moves.format(name))] == STORIES[name]


def test_every_cause_has_a_story_and_the_oracle_finds_the_same():
    told = {cause for moves in STORIES.values() for *_, cause in moves}
    assert told == set(CAUSES) - {"correction"}


def test_the_oracle_finds_the_same_causes_and_a_correction_is_told_of(bureau):
    bureau.check()
    before, after = bureau.query("SELECT metric_before, metric_after FROM tier_migrations WHERE account_id = 'waker'")[
        0
    ]
    assert (before, after) == (700, 20_600)
    bureau.land_all(
        [reading("M-plain", day(2), 0, 2), reading("M-plain", day(3), 0, 2), reading("M-plain", day(1), 0, 2)]
    )
    bureau.run()
    assert {cause for (cause,) in bureau.query("SELECT cause FROM tier_restatements")} == {"correction"}
    bureau.check()
