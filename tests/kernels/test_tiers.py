"""Tiers against a row-by-row oracle in plain Python: classes, candidates, minimum stay, causes, and history."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.conditions import Condition
from schemas.inbound import CATEGORIES
from schemas.marts import CAUSES, CLASSES, TIERS
from schemas.policy import PolicyVersion, parse_policy
from tests.oracles.whole import score_of
from transforms.kernels.causes import find_causes
from transforms.kernels.score import credit_score
from transforms.kernels.tiers import (
    NONE,
    Day,
    Facts,
    Inside,
    TierState,
    Yesterday,
    assign_tiers,
    classify,
    first_match,
    holds,
)

POLICY = """
day_close: {coverage_floor_ppm: 500000, below_floor: hold}
audit: {reject_share_limit_ppm: 20000}
versions:
  - version: "1"
    effective_from: 2000-01-01
    abc: &abc
      metric: wh_7d
      scope: all
      rule: cumulative_share
      cuts: {A: 50 %, B: 90 %}
      buffers: {A: {entry: 40 %, exit: 60 %}, B: {entry: 85 %, exit: 95 %}}
    credit_score: &score
      parts:
        - {part: paid, column: on_time_365d_ppm, weight: 100, bins: [{at_least: 500000, points: 90}, {points: 40}], if_null: 70}
      demerits: [{demerit: owes, points: 30, when: [{column: overdue_minor, above: 5}]}]
    credit_grades: &grades
      - {grade: C, when: [{column: days_since_violation, below: 3}]}
      - {grade: C, when: [{column: overdue_minor, above: 20, exit: 5}]}
      - grade: A
        when:
          - {column: credit_score, at_least: 80, exit: 60}
          - {column: credit_grade_before, not_one_of: [C], or_null: true}
      - {grade: B}
    tiers: &tiers
      - {rule: fresh, tier: new, when: [{column: tenure_days, below: 104}]}
      - {rule: risky, tier: low_risk, immediate: true, when: [{column: credit_grade, equals: C}, {column: abc, one_of: [A, B]}]}
      - {rule: steady, tier: high, when: [{column: abc, equals: A}, {column: growth_90d_ppm, at_least: 5, exit: 0, or_null: true}]}
      - {rule: big, tier: mid_large, when: [{column: abc, one_of: [A]}]}
      - {rule: middle, tier: mid_steady, when: [{column: abc, not_one_of: [A, C]}, {column: credit_grade, one_of: [A, B]}]}
      - {rule: homes, tier: abuse, when: [{column: category, equals: residential}, {column: on_time_365d_ppm, below: 300000}]}
      - {rule: small, tier: low_small}
    one_notch: [low_small, mid_steady, mid_large, high]
    min_stay_days: 2
  - version: "2"
    effective_from: 2015-01-01
    abc:
      metric: wh_7d
      scope: all
      rule: cumulative_share
      cuts: {A: 50 %, B: 80 %}
      buffers: {A: {entry: 40 %, exit: 60 %}, B: {entry: 75 %, exit: 95 %}}
    credit_score: *score
    credit_grades: *grades
    tiers:
      - {rule: first, tier: high, when: [{column: abc, equals: A}, {column: growth_90d_ppm, at_most: 6, exit: 7, or_null: true}]}
      - {rule: rest, tier: low_small}
    min_stay_days: 0
    cause_order:
      - cutoff_moved
      - own_use
      - policy_changed
      - new_ended
      - conduct
      - lockout_ended
      - payment
      - window_decay
      - due_date
      - reference
      - stay_ended
"""
FIRST, SECOND = parse_policy(POLICY, "policy.yaml").versions
COMPARE = {
    "at_least": operator.ge,
    "at_most": operator.le,
    "above": operator.gt,
    "below": operator.lt,
    "equals": operator.eq,
}
SIDES = tuple(Inside.__dataclass_fields__)
CREDIT_COLUMNS, CONDUCT_COLUMNS = ("overdue_minor", "on_time_365d_ppm", "bills_due_1d"), ("days_since_violation",)
USE_COLUMNS = ("wh_7d", "growth_90d_ppm")
Row = dict[str, int | str | None]
Levels = dict[str, int]


# --- the oracle ----------------------------------------------------------------------------------------------------------


def condition_holds(condition: Condition, row: Row, *, has_it: bool = False) -> bool:
    value = row[condition.column]
    if value is None:
        return condition.or_null
    if condition.op in ("one_of", "not_one_of"):
        return (value in condition.values) == (condition.op == "one_of")
    bound = condition.exit if has_it and condition.exit is not None else condition.values[0]
    return bool(COMPARE[condition.op](value, bound))


def first_rule(rules, row: Row, gives: str = "", had: str | None = None):
    """gives: what a rule's attribute is called; had: what the account had of it the day before."""

    def has_it(rule) -> bool:
        return bool(gives) and getattr(rule, gives) == had

    return next(rule for rule in rules if all(condition_holds(c, row, has_it=has_it(rule)) for c in rule.when))


def class_of(before: str | None, cuts: dict[str, bool]) -> str:
    if before is None:
        return "A" if cuts["a_cut"] else "B" if cuts["b_cut"] else "C"
    if cuts["a_entry"] or (before == "A" and cuts["a_exit"]):
        return "A"
    return "B" if cuts["b_entry"] or (before in "AB" and cuts["b_exit"]) else "C"


@dataclass(frozen=True)
class Held:
    """What an account was, as a day takes it."""

    tier: str | None
    abc: str | None
    grade: str | None
    dwell: int


@dataclass(frozen=True)
class Found:
    """What an account is. rule: the one that chose the candidate, or stay or one_notch."""

    tier: str
    abc: str
    grade: str
    rule: str


def found_by(version: PolicyVersion, row: Row, levels: Levels, held: Held) -> Found:
    """What an account is by a day's facts, and what it was."""
    return ruled(
        version, row, class_of(held.abc, {side: row["wh_7d"] >= level for side, level in levels.items()}), held
    )


def ruled(version: PolicyVersion, row: Row, abc: str, held: Held) -> Found:
    """What an account of a class is."""
    row = {**row, "credit_score": score_of(version.credit_score, row), "credit_grade_before": held.grade, "abc": abc}
    row["credit_grade"] = grade = first_rule(version.credit_grades, row, "grade", held.grade).grade
    rule = first_rule(version.tiers, row, "tier", held.tier)
    aim, steps = rule.tier, version.one_notch
    if not rule.immediate and held.tier in steps and aim in steps and steps.index(aim) > steps.index(held.tier):
        aim = steps[steps.index(held.tier) + 1]
    free = held.tier in (None, "closed") or rule.immediate or held.dwell >= max(version.min_stay_days, 1)
    tier = aim if free else held.tier
    name = rule.rule if tier == rule.tier else "stay" if tier == held.tier else "one_notch"
    return Found(tier, abc, grade, name)


@dataclass(frozen=True)
class Standing:
    """An account's tier, and what it follows from."""

    tier: str
    abc: str
    grade: str
    grade_before: str | None
    valid_from: int
    since: int
    rule: str
    version: str


@dataclass(frozen=True)
class Today:
    """What is known of an account on a day: features at its end, on its clock, and of the day before; cut-offs of both days."""

    number: int
    row: Row
    clock: Row
    before: Row | None
    levels: Levels
    levels_before: Levels
    version: PolicyVersion
    version_before: PolicyVersion


def moved_on(was: Standing | None, today: Today) -> tuple[Standing, str | None]:
    """The standing on a day, and the cause where the tier changed."""
    number, version = today.number, today.version
    held = Held(None, None, None, 0)
    if was:
        again = was.tier == "closed"
        held = Held(was.tier, None if again else was.abc, None if again else was.grade, number - was.since)
    found = found_by(version, today.row, today.levels, held)
    same = (
        was is not None
        and held.abc is not None
        and (was.tier, was.abc, was.grade) == (found.tier, found.abc, found.grade)
    )
    new = Standing(
        found.tier, found.abc, found.grade, held.grade, was.valid_from if was and same else number,
        was.since if was and was.tier == found.tier else number, was.rule if was and same else found.rule,
        was.version if was and same else version.version,
    )  # fmt: skip
    if was is None or was.tier == found.tier:
        return new, None
    return new, "opened" if was.tier == "closed" else cause_of(was, held, today)


def cause_of(was: Standing, held: Held, today: Today) -> str:
    """What is put back when the change is undone; `AssertionError` where it never is."""
    assert today.before is not None
    version, row, levels = today.version, dict(today.row), today.levels
    alike = today.version.abc == today.version_before.abc
    due = max(today.before["overdue_minor"], today.clock["overdue_minor"]) > 0
    due |= today.clock["bills_due_1d"] > 0
    for cause in today.version.cause_order:
        if cause == "policy_changed":
            version = today.version_before
            levels = levels if alike else today.levels_before
        elif cause == "cutoff_moved" and (alike or version is today.version_before):
            levels = today.levels_before
        elif cause == "stay_ended":
            held = Held(held.tier, held.abc, was.grade_before, held.dwell - 1)
        elif cause == "reference":
            row["category"] = today.before["category"]
        elif cause == "new_ended":
            row["tenure_days"] = today.before["tenure_days"]
        elif cause in ("conduct", "payment", "own_use"):
            of = {"conduct": CONDUCT_COLUMNS, "payment": CREDIT_COLUMNS, "own_use": USE_COLUMNS}[cause]
            row |= {name: today.clock[name] for name in of}
        elif cause in ("lockout_ended", "due_date", "window_decay"):
            credit = CREDIT_COLUMNS if due == (cause == "due_date") else ()
            of = {"lockout_ended": CONDUCT_COLUMNS, "due_date": credit, "window_decay": (*USE_COLUMNS, *credit)}[cause]
            row |= {name: today.before[name] for name in of}
        if found_by(version, row, levels, held).tier == was.tier:
            return cause
    raise AssertionError(f"all is as it was, but the tier is not: {was} {today}")


# --- the kernel, row by row ----------------------------------------------------------------------------------------------


def masked(values: list[int | None]) -> np.ma.MaskedArray:
    return np.ma.masked_array([value or 0 for value in values], [value is None for value in values], dtype=np.int64)


def columns_of(rows: list[Row]) -> dict[str, np.ndarray]:
    out = {
        name: masked([row[name] for row in rows])
        for name in (*USE_COLUMNS, *CREDIT_COLUMNS, *CONDUCT_COLUMNS, "tenure_days")
    }
    out["category"] = np.array([CATEGORIES.index(row["category"]) for row in rows], np.int8)
    return out


@dataclass(frozen=True)
class DayLevels:
    """Cut-offs as amounts that are the same for all accounts."""

    levels: Levels

    def inside(self, version: PolicyVersion, columns) -> Inside:
        return Inside(*(np.ma.getdata(columns[version.abc.metric]) >= self.levels[side] for side in SIDES))

    def scores(self, version: PolicyVersion, columns) -> dict:
        return {}

    def take(self, rows) -> DayLevels:
        return self


def inside_of(cuts: list[dict[str, bool]]) -> Inside:
    return Inside(*(np.array([cut[side] for cut in cuts], np.bool_) for side in SIDES))


def random_row(chance: Random, number: int = 0) -> Row:
    return {
        "wh_7d": chance.randint(0, 9),
        "overdue_minor": chance.choice([0, 5, 6, 20, 21]),
        "bills_due_1d": chance.randint(0, 2),
        "on_time_365d_ppm": chance.choice([None, 0, 299_999, 300_000, 500_000, 1_000_000]),
        "growth_90d_ppm": chance.choice([None, -1, 0, 3, 5, 6, 7, 8]),
        "category": chance.choice(CATEGORIES),
        "days_since_violation": chance.choice([None, None, None, 0, 2, 3]),
        "tenure_days": number if chance.random() < 0.7 else 200,
    }


def random_levels(chance: Random) -> Levels:
    """Entry within cut within exit, A within B."""
    b_exit, b_cut, b_entry = sorted(chance.choices(range(1, 7), k=3))
    a = {
        side: level + chance.randint(0, 3)
        for side, level in (("a_exit", b_exit), ("a_cut", b_cut), ("a_entry", b_entry))
    }
    a["a_cut"] = max(a["a_cut"], a["a_exit"])
    a["a_entry"] = max(a["a_entry"], a["a_cut"])
    return {**a, "b_exit": b_exit, "b_cut": b_cut, "b_entry": b_entry}


def random_cuts(chance: Random) -> dict[str, bool]:
    """Whether an account is inside."""
    value = chance.randint(0, 9)
    return {side: value >= level for side, level in random_levels(chance).items()}


ACCOUNTS, DAYS = 6, 12


def simulate(seed: int):
    """Run both for some days. Yields per day (state, standings, closed, migrations, days in the population)."""
    chance = Random(seed)
    state, standings = TierState.empty(), {}
    state.grow(ACCOUNTS)
    change = chance.choice([0, DAYS // 2, DAYS + 1])
    rows: dict[int, Row] = {}
    levels = random_levels(chance)
    for number in range(100, 100 + DAYS):
        version, version_before = (SECOND if n >= 100 + change else FIRST for n in (number, number - 1))
        here = sorted(chance.sample(range(ACCOUNTS), chance.randint(ACCOUNTS - 1, ACCOUNTS)))
        rows_before, levels_before = rows, levels
        fresh = {account: random_row(chance, number) for account in here}
        rows = {
            a: row if chance.random() < 0.5 else {**row, **some_of(chance, rows.get(a, row))}
            for a, row in fresh.items()
        }
        clocks = {a: {**row, **some_of(chance, rows_before.get(a, row))} for a, row in rows.items()}
        levels = random_levels(chance) if chance.random() < 0.5 else levels
        day = day_of(number, here, rows, clocks, rows_before, levels, levels_before, version, version_before)
        closed, migrations = assign_tiers(state, day, find_causes)
        before, causes = standings, {}
        standings = {}
        for account in range(ACCOUNTS):
            was = before.get(account)
            if account in rows:
                today = Today(
                    number,
                    rows[account],
                    clocks[account],
                    rows_before.get(account),
                    levels,
                    levels_before,
                    version,
                    version_before,
                )
                standings[account], causes[account] = moved_on(was, today)
            elif was and was.tier == "closed":
                standings[account], causes[account] = was, None
            elif was:
                standings[account] = Standing(
                    "closed", was.abc, was.grade, None, number, number, "closed", version.version
                )
                causes[account] = "closed"
        yield number, state, before, standings, causes, closed, migrations


def some_of(chance: Random, row: Row) -> Row:
    return {name: value for name, value in row.items() if chance.random() < 0.5}


def day_of(number, here, rows, clocks, rows_before, levels, levels_before, version, version_before) -> Day:
    """The day as the kernel is told of it."""

    def at(slots, of) -> dict[str, np.ndarray]:
        return columns_of([of.get(slot) or random_row(Random(0)) for slot in slots.tolist()])

    def columns(slots):
        found = at(slots, rows_before)
        out = [slot not in rows_before for slot in slots.tolist()]
        return {name: np.ma.masked_array(column, np.ma.getmaskarray(column) | out) for name, column in found.items()}

    facts = Facts(version, columns_of([rows[a] for a in here]), DayLevels(levels))
    facts.columns["credit_score"] = credit_score(version.credit_score, facts.columns, len(here))
    yesterday = Yesterday(
        version_before,
        DayLevels(levels_before),
        version.abc == version_before.abc,
        columns,
        lambda slots: at(slots, clocks),
    )
    return Day(number, np.array(here, np.int64), facts, yesterday)


def standing_of(state: TierState, account: int) -> Standing | None:
    if state.tier[account] == NONE:
        return None
    grade_before = state.grade_before[account]
    return Standing(
        TIERS[state.tier[account]], CLASSES[state.abc[account]], CLASSES[state.grade[account]],
        None if grade_before == NONE else CLASSES[grade_before], int(state.valid_from[account]), int(state.since[account]),
        state.names[state.rule[account]], state.names[state.version[account]],
    )  # fmt: skip


@given(st.integers(0, 1 << 32))
def test_tiers_equal_the_oracle_row_by_row(seed: int) -> None:
    for _, state, _, standings, _, _, _ in simulate(seed):
        assert {a: s for a in range(ACCOUNTS) if (s := standing_of(state, a))} == standings


@given(st.integers(0, 1 << 32))
def test_migrations_and_their_causes_equal_the_oracle(seed: int) -> None:
    for _, state, before, after, causes, _, found in simulate(seed):
        expected = [
            (a, before[a].tier, after[a].tier, before[a].abc, after[a].abc, before[a].grade, after[a].grade, cause, after[a].rule)
            for a, cause in causes.items() if cause
        ]  # fmt: skip
        columns = [found.slot.tolist()]
        columns += [[TIERS[code] for code in codes] for codes in (found.from_tier, found.to_tier)]
        columns += [
            [CLASSES[code] for code in codes]
            for codes in (found.from_abc, found.to_abc, found.from_grade, found.to_grade)
        ]
        columns += [found.cause.tolist(), [state.names[rule] for rule in found.rule]]
        assert list(zip(*columns, strict=True)) == expected


def test_every_cause_occurs() -> None:
    seen = {cause for seed in range(150) for *_, causes, _, _ in simulate(seed) for cause in causes.values()}
    assert seen == {None, *CAUSES} - {"correction"}


def test_promotion_by_one_notch_takes_a_stay_for_each() -> None:
    state = TierState.empty()
    state.grow(1)
    rows = {0: random_row(Random(1), 500) | {"wh_7d": 1, "overdue_minor": 0, "on_time_365d_ppm": 1_000_000,
                                              "growth_90d_ppm": 9, "days_since_violation": None, "tenure_days": 500}}  # fmt: skip
    large = {0: rows[0] | {"wh_7d": 9}}
    levels = dict.fromkeys(SIDES, 5)
    said = []
    for number in range(100, 110):
        now, was = (rows if day < 103 else large for day in (number, number - 1))
        assign_tiers(state, day_of(number, [0], now, now, was, levels, levels, FIRST, FIRST), find_causes)
        said.append((TIERS[state.tier[0]], state.names[state.rule[0]]))
    assert (
        said
        == [("low_small", "small")] * 3
        + [("mid_steady", "one_notch")] * 2
        + [("mid_large", "one_notch")] * 2
        + [("high", "steady")] * 3
    )


@given(st.integers(0, 1 << 32))
def test_the_history_has_no_gap_and_no_overlap(seed: int) -> None:
    """Rows that ended and rows that go on say of each account and day what its tier, class and grade were, once."""
    said: dict[tuple[int, int], tuple[str, str, str]] = {}
    ends: list[tuple[int, int, int, str, str, str]] = []
    last, state = 0, TierState.empty()
    for number, state, _, standings, _, closed, _ in simulate(seed):  # noqa: B007
        said |= {(account, number): (s.tier, s.abc, s.grade) for account, s in standings.items()}
        ends += [
            (int(slot), int(start), int(end), TIERS[tier], CLASSES[abc], CLASSES[grade])
            for slot, start, end, tier, abc, grade in zip(
                closed.slot, closed.valid_from, closed.valid_to, closed.tier, closed.abc, closed.grade, strict=True
            )
        ]
        last = number
    ends += [(a, s.valid_from, last, s.tier, s.abc, s.grade) for a in range(ACCOUNTS) if (s := standing_of(state, a))]
    history = [((slot, day), codes) for slot, start, end, *codes in ends for day in range(start, end + 1)]
    assert len(history) == len(said)
    assert {key: tuple(codes) for key, codes in history} == said
    following = {(slot, start): codes for slot, start, _, *codes in ends}
    for slot, _, end, *codes in ends:
        assert following.get((slot, end + 1)) != codes


@given(st.lists(st.sampled_from([NONE, 0, 1, 2])), st.integers(0, 1 << 32))
def test_classes_equal_the_oracle(previous: list[int], seed: int) -> None:
    cuts = [random_cuts(chance) for chance in [Random(seed)] for _ in previous]
    expected = [class_of(None if p == NONE else CLASSES[p], cut) for p, cut in zip(previous, cuts, strict=True)]
    assert [CLASSES[code] for code in classify(np.array(previous, np.int8), inside_of(cuts))] == expected


VALUES = st.lists(st.one_of(st.none(), st.integers(-3, 3)), max_size=8)


@given(VALUES, st.sampled_from(list(COMPARE)), st.integers(-3, 3), st.booleans())
def test_conditions_on_numbers(values: list[int | None], op: str, bound: int, or_null: bool) -> None:
    condition = Condition.model_validate({"column": "growth_90d_ppm", op: bound, "or_null": or_null})
    expected = [condition_holds(condition, {"growth_90d_ppm": value}) for value in values]
    assert holds(condition, {"growth_90d_ppm": masked(values)}).tolist() == expected


@pytest.mark.parametrize(("op", "expected"), [("one_of", [True, False, True]), ("not_one_of", [False, True, False])])
def test_conditions_on_codes(op: str, expected: list[bool]) -> None:
    condition = Condition.model_validate({"column": "abc", op: ("A", "C")})
    assert holds(condition, {"abc": np.array([0, 1, 2], np.int8)}).tolist() == expected


@given(st.integers(0, 1 << 32), st.integers(0, 8))
def test_the_first_rule_that_fits_decides(seed: int, n: int) -> None:
    rows = [
        random_row(chance)
        | {"credit_grade_before": chance.choice([None, *CLASSES]), "credit_score": chance.choice([40, 60, 80])}
        for chance in [Random(seed)]
        for _ in range(n)
    ]
    before = np.array(
        [-1 if row["credit_grade_before"] is None else CLASSES.index(row["credit_grade_before"]) for row in rows],
        np.int8,
    )
    columns = columns_of(rows) | {"credit_grade_before": np.ma.masked_array(before, before < 0)}
    columns["credit_score"] = masked([row["credit_score"] for row in rows])
    gives = np.array([CLASSES.index(rule.grade) for rule in FIRST.credit_grades], np.int8)
    found = first_match(FIRST.credit_grades, columns, n, gives, before)
    expected = [first_rule(FIRST.credit_grades, row, "grade", row["credit_grade_before"]) for row in rows]
    assert [FIRST.credit_grades[i] for i in found] == expected
