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
from schemas.marts import CLASSES, TIERS
from schemas.policy import PolicyVersion, parse_policy
from transforms.kernels.tiers import NONE, Day, Inside, TierState, assign_tiers, classify, first_match, holds

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
    credit_grades: &grades
      - {grade: C, when: [{column: overdue_minor, above: 20}]}
      - grade: A
        when:
          - {column: on_time_365d_ppm, at_least: 500000}
          - {column: overdue_minor, at_most: 5}
          - {column: credit_grade_before, not_one_of: [C], or_null: true}
      - {grade: B}
    tiers: &tiers
      - {rule: risky, tier: low_risk, immediate: true, when: [{column: credit_grade, equals: C}, {column: abc, equals: A}]}
      - {rule: steady, tier: high, when: [{column: abc, equals: A}, {column: growth_90d_ppm, at_least: 0, or_null: true}]}
      - {rule: big, tier: mid_large, when: [{column: abc, one_of: [A]}]}
      - {rule: middle, tier: mid_steady, when: [{column: abc, not_one_of: [A, C]}, {column: credit_grade, one_of: [A, B]}]}
      - {rule: homes, tier: abuse, when: [{column: category, equals: residential}, {column: on_time_365d_ppm, below: 300000}]}
      - {rule: small, tier: low_small}
    min_stay_days: 3
  - version: "2"
    effective_from: 2015-01-01
    abc: *abc
    credit_grades: *grades
    tiers: [{rule: first, tier: high, when: [{column: abc, equals: A}]}, {rule: rest, tier: low_small}]
    min_stay_days: 0
"""
VIOLATION = "      - {grade: C, when: [{column: days_since_violation, below: 3}]}\n"
FIRST, SECOND = parse_policy(
    POLICY.replace("grades: &grades\n", f"grades: &grades\n{VIOLATION}"), "policy.yaml"
).versions
COMPARE = {
    "at_least": operator.ge,
    "at_most": operator.le,
    "above": operator.gt,
    "below": operator.lt,
    "equals": operator.eq,
}
SIDES = tuple(Inside.__dataclass_fields__)
Row = dict[str, int | str | None]
Cuts = dict[str, bool]


# --- the oracle ----------------------------------------------------------------------------------------------------------


def condition_holds(condition: Condition, row: Row) -> bool:
    value = row[condition.column]
    if value is None:
        return condition.or_null
    if condition.op in ("one_of", "not_one_of"):
        return (value in condition.values) == (condition.op == "one_of")
    return bool(COMPARE[condition.op](value, condition.values[0]))


def first_rule(rules, row: Row):
    return next(rule for rule in rules if all(condition_holds(c, row) for c in rule.when))


def class_of(before: str | None, cuts: Cuts) -> str:
    if before is None:
        return "A" if cuts["a_cut"] else "B" if cuts["b_cut"] else "C"
    if cuts["a_entry"] or (before == "A" and cuts["a_exit"]):
        return "A"
    return "B" if cuts["b_entry"] or (before in "AB" and cuts["b_exit"]) else "C"


@dataclass(frozen=True)
class Standing:
    """An account's tier, and what it follows from."""

    tier: str
    abc: str
    grade: str
    candidate: str
    valid_from: int
    since: int
    rule: str
    version: str


@dataclass(frozen=True)
class Today:
    """What is known of an account on a day."""

    number: int
    row: Row
    violation_before: int | None
    cuts: Cuts
    cuts_before: Cuts | None
    policy: PolicyVersion
    policy_before: PolicyVersion


def moved_on(before: Standing | None, today: Today) -> tuple[Standing, str | None]:
    """The standing on a day, and the cause where the tier changed."""
    policy, number = today.policy, today.number
    abc = class_of(before.abc if before else None, today.cuts)
    graded = {**today.row, "credit_grade_before": before.grade if before else None}
    grade = first_rule(policy.credit_grades, graded).grade
    rule = first_rule(policy.tiers, {**today.row, "abc": abc, "credit_grade": grade})
    may = before is None or rule.immediate or number - before.since >= policy.min_stay_days
    tier = rule.tier if may or before is None else before.tier
    same = before is not None and (before.tier, before.abc, before.grade) == (tier, abc, grade)
    named = rule.rule if tier == rule.tier else "stay"
    new = Standing(
        tier, abc, grade, rule.tier,
        before.valid_from if same else number, before.since if before and before.tier == tier else number,
        before.rule if same else named, before.version if same else policy.version,
    )  # fmt: skip
    if before is None or before.tier == tier:
        return new, None
    return new, cause_of(before, today, grade, abc, rule.tier, tier)


def cause_of(before: Standing, today: Today, grade: str, abc: str, candidate: str, tier: str) -> str:
    def chosen(abc: str, grade: str) -> str:
        return first_rule(today.policy.tiers, {**today.row, "abc": abc, "credit_grade": grade}).tier

    if today.policy.version != today.policy_before.version:
        return "policy_changed"
    if candidate == before.candidate:
        return "stay_ended"
    row = {**today.row, "days_since_violation": today.violation_before, "credit_grade_before": before.grade}
    grade_before = first_rule(today.policy.credit_grades, row).grade
    by_conduct = first_rule(today.policy.tiers, {**row, "abc": abc, "credit_grade": grade_before}).tier
    if "abuse" in (before.tier, tier) or by_conduct == before.candidate:
        return "conduct"
    if chosen(abc, before.grade) == before.candidate:
        return "payment"
    remained = today.cuts_before is not None and class_of(before.abc, today.cuts_before) == before.abc
    return "cutoff_moved" if remained and chosen(before.abc, grade) == before.candidate else "own_use"


# --- the kernel, row by row ----------------------------------------------------------------------------------------------


def masked(values: list[int | None]) -> np.ma.MaskedArray:
    return np.ma.masked_array([value or 0 for value in values], [value is None for value in values], dtype=np.int64)


def columns_of(rows: list[Row]) -> dict[str, np.ndarray]:
    names = ("on_time_365d_ppm", "growth_90d_ppm", "days_since_violation")
    out = {name: masked([row[name] for row in rows]) for name in names}
    out["overdue_minor"] = np.array([row["overdue_minor"] for row in rows], np.int64)
    out["category"] = np.array([CATEGORIES.index(row["category"]) for row in rows], np.int8)
    return out


def inside_of(cuts: list[Cuts]) -> Inside:
    return Inside(*(np.array([cut[side] for cut in cuts], np.bool_) for side in SIDES))


def random_row(chance: Random) -> Row:
    return {
        "overdue_minor": chance.choice([0, 5, 6, 20, 21]),
        "on_time_365d_ppm": chance.choice([None, 0, 299_999, 300_000, 500_000, 1_000_000]),
        "growth_90d_ppm": chance.choice([None, -1, 0, 7]),
        "category": chance.choice(CATEGORIES),
        "days_since_violation": chance.choice([None, None, None, 0, 2, 3]),
    }


def random_cuts(chance: Random) -> Cuts:
    """Entry within cut within exit, A within B."""
    inside = sorted(chance.choices(range(4), k=2))
    levels = {"exit": 1, "cut": 2, "entry": 3}
    return {
        f"{cls}_{side}": level <= depth
        for cls, depth in zip("ab", inside, strict=True)
        for side, level in levels.items()
    }


ACCOUNTS, DAYS = 6, 12


def simulate(seed: int):
    """Run both for some days. Yields per day (state, standings, closed, migrations, days in the population)."""
    chance = Random(seed)
    state, standings = TierState.empty(), {}
    state.grow(ACCOUNTS)
    change = chance.choice([0, DAYS // 2, DAYS + 1])
    cuts_yesterday: dict[int, Cuts] | None = None
    for number in range(100, 100 + DAYS):
        policy, policy_before = (SECOND if n >= 100 + change else FIRST for n in (number, number - 1))
        inside = sorted(chance.sample(range(ACCOUNTS), chance.randint(ACCOUNTS - 2, ACCOUNTS)))
        rows = {account: random_row(chance) for account in inside}
        violations = {account: chance.choice([None, 1, 2, 5]) for account in inside}
        cuts = {account: random_cuts(chance) for account in range(ACCOUNTS)}
        yesterday = cuts_yesterday if chance.random() < 0.9 else None
        today = {
            a: Today(
                number, rows[a], violations[a], cuts[a], yesterday[a] if yesterday else None, policy, policy_before
            )
            for a in inside
        }
        day = Day(
            number, policy, policy_before, np.array(inside, np.int64), columns_of([rows[a] for a in inside]),
            inside_of([cuts[a] for a in inside]), inside_of([yesterday[a] for a in inside]) if yesterday else None,
            {"days_since_violation": masked([violations[a] for a in inside])},
        )  # fmt: skip
        closed, migrations = assign_tiers(state, day)
        before, causes = standings, {}
        standings = {}
        for account in inside:
            standings[account], causes[account] = moved_on(before.get(account), today[account])
        yield number, state, before, standings, causes, closed, migrations
        cuts_yesterday = cuts


def standing_of(state: TierState, account: int) -> Standing | None:
    if state.tier[account] == NONE:
        return None
    return Standing(
        TIERS[state.tier[account]], CLASSES[state.abc[account]], CLASSES[state.grade[account]], TIERS[state.candidate[account]],
        int(state.valid_from[account]), int(state.since[account]), state.names[state.rule[account]],
        state.names[state.version[account]],
    )  # fmt: skip


@given(st.integers(0, 1 << 32))
def test_tiers_equal_the_oracle_row_by_row(seed: int) -> None:
    for _, state, _, standings, _, _, _ in simulate(seed):
        assert {a: s for a in range(ACCOUNTS) if (s := standing_of(state, a))} == standings


@given(st.integers(0, 1 << 32))
def test_migrations_and_their_causes_equal_the_oracle(seed: int) -> None:
    for _, state, before, after, causes, _, found in simulate(seed):
        expected = [
            (a, before[a].tier, after[a].tier, before[a].abc, after[a].abc, cause, after[a].rule)
            for a, cause in causes.items() if cause
        ]  # fmt: skip
        columns = [found.slot.tolist()]
        columns += [[TIERS[code] for code in codes] for codes in (found.from_tier, found.to_tier)]
        columns += [[CLASSES[code] for code in codes] for codes in (found.from_abc, found.to_abc)]
        columns += [found.cause, [state.names[rule] for rule in found.rule]]
        assert list(zip(*columns, strict=True)) == expected


def test_every_cause_occurs() -> None:
    seen = {cause for seed in range(60) for *_, causes, _, _ in simulate(seed) for cause in causes.values()}
    assert seen == {None, "policy_changed", "stay_ended", "conduct", "payment", "cutoff_moved", "own_use"}


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
        random_row(chance) | {"credit_grade_before": chance.choice([None, *CLASSES])}
        for chance in [Random(seed)]
        for _ in range(n)
    ]
    before = np.array(
        [-1 if row["credit_grade_before"] is None else CLASSES.index(row["credit_grade_before"]) for row in rows]
    )
    columns = columns_of(rows) | {"credit_grade_before": np.ma.masked_array(before, before < 0)}
    found = first_match(FIRST.credit_grades, columns, n)
    assert [FIRST.credit_grades[i].grade for i in found] == [first_rule(FIRST.credit_grades, row).grade for row in rows]
