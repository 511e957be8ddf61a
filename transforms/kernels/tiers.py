"""Tiers by policy: conditions on columns, ABC classes with entry and exit, minimum stay, and why a tier changed.

Codes: a tier is its position in `TIERS`, a class or credit grade its position in `CLASSES`, -1 is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from schemas.actions import ABUSE_STEP
from schemas.conditions import Condition
from schemas.inbound import CATEGORIES
from schemas.marts import ABUSE_STEPS_TAKEN, CLASSES, TIERS
from schemas.policy import PolicyVersion

Int8 = npt.NDArray[np.int8]
Int32 = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]
Columns = Mapping[str, npt.NDArray[Any]]
"""Feature columns of some accounts, (m,) each; a masked array where the column has nulls."""

CODES = {
    "category": CATEGORIES, "abc": CLASSES, "credit_grade": CLASSES, "credit_grade_before": CLASSES, "tier": TIERS,
    ABUSE_STEP: ABUSE_STEPS_TAKEN,
}  # fmt: skip
NONE = -1
ABUSE = TIERS.index("abuse")


class _Rule(Protocol):
    @property
    def when(self) -> Sequence[Condition]: ...


def holds(condition: Condition, columns: Columns) -> Mask:
    """For which accounts a condition holds. A null holds only where the condition says so."""
    column = columns[condition.column]
    values, null = np.ma.getdata(column), np.ma.getmaskarray(column)
    wanted = condition.values
    if condition.column in CODES:
        wanted = tuple(CODES[condition.column].index(str(value)) for value in wanted)
    match condition.op:
        case "at_least":
            held = values >= wanted[0]
        case "at_most":
            held = values <= wanted[0]
        case "above":
            held = values > wanted[0]
        case "below":
            held = values < wanted[0]
        case "not_one_of":
            held = ~np.isin(values, wanted)
        case _:
            held = np.isin(values, wanted)
    return np.where(null, condition.or_null, held)


def first_match(rules: Sequence[_Rule], columns: Columns, n: int) -> Int8:
    """Index of the first rule all of whose conditions hold. (n,) int8; the last rule of a policy has none."""
    chosen = np.full(n, NONE, np.int8)
    for number, rule in enumerate(rules):
        open_ = chosen == NONE
        for condition in rule.when:
            open_ &= holds(condition, columns)
        chosen[open_] = number
    return chosen


@dataclass(frozen=True)
class Inside:
    """Which accounts are inside each cut of their scope. All (m,)."""

    a_cut: Mask
    a_entry: Mask
    a_exit: Mask
    b_cut: Mask
    b_entry: Mask
    b_exit: Mask

    def take(self, rows: npt.NDArray[Any]) -> Inside:
        """The same for some of the accounts."""
        return Inside(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def classify(previous: Int8, inside: Inside) -> Int8:
    """ABC class from yesterday's class and today's cuts; the plain cuts decide where there was none. All (m,)."""
    was_a, was_b, none = previous == 0, previous == 1, previous == NONE
    a = np.where(none, inside.a_cut, inside.a_entry | (was_a & inside.a_exit))
    b = np.where(none, inside.b_cut, inside.b_entry | ((was_a | was_b) & inside.b_exit))
    return np.where(a, 0, np.where(b, 1, 2)).astype(np.int8)


@dataclass
class TierState:
    """The tiers of a shard as of a service day, dense by account slot; tier -1: not in the population.

    tier, abc, grade, candidate: (n,) int8; valid_from, since: (n,) day numbers; rule, version: (n,) numbers into `names`.
    """

    tier: Int8
    abc: Int8
    grade: Int8
    candidate: Int8
    valid_from: Int32
    since: Int32
    rule: Int32
    version: Int32
    names: list[str]

    @classmethod
    def empty(cls) -> TierState:
        """Nobody has a tier yet."""
        codes, days = np.zeros(0, np.int8), np.zeros(0, np.int32)
        return cls(codes, codes, codes, codes, days, days, days, days, [])

    def copy(self) -> TierState:
        """A state of its own; the names are shared."""
        arrays = {name: getattr(self, name).copy() for name in self.__dataclass_fields__ if name != "names"}
        return TierState(**arrays, names=self.names)

    def grow(self, n: int) -> None:
        """Make room for `n` slots."""
        more = n - len(self.tier)
        if more > 0:
            for name in ("tier", "abc", "grade", "candidate"):
                setattr(self, name, np.r_[getattr(self, name), np.full(more, NONE, np.int8)])
            for name in ("valid_from", "since", "rule", "version"):
                setattr(self, name, np.r_[getattr(self, name), np.zeros(more, np.int32)])

    def number(self, name: str) -> int:
        """The number of a rule's or version's name."""
        if name not in self.names:
            self.names.append(name)
        return self.names.index(name)


@dataclass(frozen=True)
class Closed:
    """Rows of the tier history that ended. All (k,); valid_to inclusive."""

    slot: npt.NDArray[np.int64]
    valid_from: Int32
    valid_to: Int32
    tier: Int8
    abc: Int8
    grade: Int8
    since: Int32
    rule: Int32
    version: Int32


@dataclass(frozen=True)
class Migrations:
    """Changes of tier on one day. All (k,)."""

    slot: npt.NDArray[np.int64]
    from_tier: Int8
    to_tier: Int8
    from_abc: Int8
    to_abc: Int8
    cause: list[str]
    rule: Int32


@dataclass(frozen=True)
class Day:
    """What fold 2 knows of a service day: the accounts in the population and what their tiers follow from.

    rows: (m,) slots; columns: features (m,); inside, inside_before: by today's and by yesterday's cut-offs (None: unknown);
    conduct_before: those of the columns that tell of conduct, as of yesterday.
    """

    number: int
    policy: PolicyVersion
    policy_before: PolicyVersion
    rows: npt.NDArray[np.int64]
    columns: Columns
    inside: Inside
    inside_before: Inside | None
    conduct_before: Columns = field(default_factory=dict)


def rule_candidates(policy: PolicyVersion, columns: Columns, abc: Int8, grade: Int8) -> tuple[Int8, Int8]:
    """(rule number, tier code) that the tier rules choose under these classes and grades. All (m,)."""
    rule = first_match(policy.tiers, {**columns, "abc": abc, "credit_grade": grade}, len(abc))
    return rule, np.array([TIERS.index(r.tier) for r in policy.tiers], np.int8)[rule]


def grades_of(policy: PolicyVersion, columns: Columns, before: Int8) -> Int8:
    """The credit grade of each account. before: (n,) grades of the day before, `NONE` where there was none. (n,) codes."""
    columns = {**columns, "credit_grade_before": np.ma.masked_array(before, before == NONE)}
    number = first_match(policy.credit_grades, columns, len(before))
    return np.array([CLASSES.index(g.grade) for g in policy.credit_grades], np.int8)[number]


def assign_tiers(state: TierState, day: Day) -> tuple[Closed, Migrations]:
    """Move the tiers of a shard on by one service day, in place. Rules: docs/explanation/definitions.md, "Tiers"."""
    policy, rows = day.policy, day.rows
    before = state.copy()
    tier0, abc0, grade0 = before.tier[rows], before.abc[rows], before.grade[rows]
    new = tier0 == NONE

    abc = classify(abc0, day.inside)
    grade = grades_of(policy, day.columns, grade0)
    rule, candidate = rule_candidates(policy, day.columns, abc, grade)
    immediate = np.array([r.immediate for r in policy.tiers], np.bool_)[rule]
    may_move = new | immediate | (day.number - before.since[rows] >= policy.min_stay_days)
    tier = np.where(may_move, candidate, tier0).astype(np.int8)

    names = np.array([state.number(r.rule) for r in policy.tiers], np.int32)
    rule_name = np.where(tier == candidate, names[rule], state.number("stay")).astype(np.int32)
    turned = new | (tier != tier0) | (abc != abc0) | (grade != grade0)
    gone = before.tier != NONE
    gone[rows] = False
    ended = np.sort(np.r_[np.flatnonzero(gone), rows[turned & ~new]])
    closed = Closed(
        ended, before.valid_from[ended], np.full(len(ended), day.number - 1, np.int32), before.tier[ended],
        before.abc[ended], before.grade[ended], before.since[ended], before.rule[ended], before.version[ended],
    )  # fmt: skip

    moved = np.flatnonzero(~new & (tier != tier0))
    causes = _causes(before, day, moved, abc, grade, candidate, tier[moved])
    migrations = Migrations(rows[moved], tier0[moved], tier[moved], abc0[moved], abc[moved], causes, rule_name[moved])

    state.tier[gone] = state.abc[gone] = state.grade[gone] = state.candidate[gone] = NONE
    state.tier[rows], state.abc[rows], state.grade[rows], state.candidate[rows] = tier, abc, grade, candidate
    state.since[rows[new | (tier != tier0)]] = day.number
    state.valid_from[rows[turned]] = day.number
    state.rule[rows[turned]] = rule_name[turned]
    state.version[rows[turned]] = state.number(policy.version)
    return closed, migrations


def _causes(
    before: TierState, day: Day, moved: npt.NDArray[Any], abc: Int8, grade: Int8, candidate: Int8, tier: Int8
) -> list[str]:
    """Why each of the moved accounts moved: the first cause that fits. tier: what they moved to."""
    if len(moved) == 0:
        return []
    if day.policy.version != day.policy_before.version:
        return ["policy_changed"] * len(moved)
    slots = day.rows[moved]
    candidate0, abc0, grade0 = before.candidate[slots], before.abc[slots], before.grade[slots]
    columns = {name: column[moved] for name, column in day.columns.items()}
    _, by_grade = rule_candidates(day.policy, columns, abc[moved], grade0)
    _, by_class = rule_candidates(day.policy, columns, abc0, grade[moved])
    found_before = {**columns, **{name: column[moved] for name, column in day.conduct_before.items()}}
    _, by_conduct = rule_candidates(day.policy, found_before, abc[moved], grades_of(day.policy, found_before, grade0))
    cut = np.zeros(len(moved), np.bool_)
    if day.inside_before is not None:
        cut = (classify(abc0, day.inside_before.take(moved)) == abc0) & (by_class == candidate0)
    stay, paid = candidate[moved] == candidate0, by_grade == candidate0
    conduct = (tier == ABUSE) | (before.tier[slots] == ABUSE) | (by_conduct == candidate0)
    names = ["stay_ended", "conduct", "payment", "cutoff_moved"]
    causes: list[str] = np.select([stay, conduct, paid, cut], names, "own_use").tolist()
    return causes
