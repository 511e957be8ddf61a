"""Tiers by policy: conditions on columns, ABC classes with entry and exit, minimum stay, promotion by one notch, and history.

    facts    features and cut-offs of a day, under a policy version      who, how much, how well paid
    memory   what an account was, and for how long                       what buffers and stays go by
    decide   facts, memory -> class, grade, rule, tier                   a pure function: `causes` calls it again with other facts

Codes: a tier is its position in `TIERS`, a class or credit grade its position in `CLASSES`, -1 is none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from schemas.actions import ABUSE_STEP
from schemas.conditions import CLOSED as CLOSED_RULE
from schemas.conditions import NOTCH, STAY, Condition
from schemas.inbound import CATEGORIES
from schemas.marts import ABUSE_STEPS_TAKEN, CLASSES, TIERS
from schemas.policy import PolicyVersion
from schemas.scorecard import SCORE

Int8 = npt.NDArray[np.int8]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Columns = Mapping[str, npt.NDArray[Any]]
"""Feature columns of some accounts, (m,) each; a masked array where the column has nulls."""

CODES = {
    "category": CATEGORIES, "abc": CLASSES, "credit_grade": CLASSES, "credit_grade_before": CLASSES, "tier": TIERS,
    ABUSE_STEP: ABUSE_STEPS_TAKEN,
}  # fmt: skip
NONE = -1
ABUSE, CLOSED = TIERS.index("abuse"), TIERS.index("closed")


class _Rule(Protocol):
    @property
    def when(self) -> Sequence[Condition]: ...


def holds(condition: Condition, columns: Columns, has_it: Mask | None = None) -> Mask:
    """For which accounts a condition holds. A null holds only where the condition says so.

    has_it: (m,) who has already what the rule gives; for them the exit counts where the condition has one.
    """
    if condition.exit is not None and has_it is not None:
        enters = condition.model_copy(update={"exit": None})
        return np.where(has_it, holds(condition.to_stay(), columns), holds(enters, columns))
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
            held = ~_one_of(values, wanted)
        case _:
            held = _one_of(values, wanted)
    return np.where(null, condition.or_null, held)


def _one_of(values: npt.NDArray[Any], wanted: Sequence[Any]) -> Mask:
    """Which values are among few."""
    out: Mask = values == wanted[0]
    for other in wanted[1:]:
        out |= values == other
    return out


def first_match(
    rules: Sequence[_Rule], columns: Columns, n: int, gives: Int8 | None = None, had: Int8 | None = None
) -> Int8:
    """Index of the first rule all of whose conditions hold. (n,) int8; the last rule of a policy has none.

    gives: (rules,) what each gives; had: (n,) what each account had of it the day before.
    """
    chosen = np.full(n, NONE, np.int8)
    for number, rule in enumerate(rules):
        open_ = chosen == NONE
        has_it = None if gives is None or had is None else had == gives[number]
        for condition in rule.when:
            open_ &= holds(condition, columns, has_it)
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


class Cuts(Protocol):
    """The cut-offs of a day, and the ids of some accounts."""

    def inside(self, version: PolicyVersion, columns: Columns) -> Inside:
        """Which accounts are inside each cut of a version's ABC ranking, by their metric in `columns`."""

    def scores(self, version: PolicyVersion, columns: Columns) -> Columns:
        """The scores of a version's dimensions of value, by the percentiles of the day."""

    def take(self, rows: npt.NDArray[Any]) -> Cuts:
        """The same for some of the accounts."""


@dataclass(frozen=True)
class Facts:
    """What the tiers of some accounts follow from on a day. columns: features, scores and category, (m,) each."""

    version: PolicyVersion
    columns: Columns
    cuts: Cuts

    def take(self, rows: npt.NDArray[Any]) -> Facts:
        """Those of some of the accounts."""
        return Facts(self.version, {name: c[rows] for name, c in self.columns.items()}, self.cuts.take(rows))


@dataclass(frozen=True)
class Memory:
    """What some accounts were the day before. All (m,); NONE where there was nothing.

    dwell: days since the tier began; grade: that before the one to be found.
    """

    tier: Int8
    abc: Int8
    grade: Int8
    dwell: Int32

    def take(self, rows: npt.NDArray[Any]) -> Memory:
        """Those of some of the accounts."""
        return Memory(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Decision:
    """What some accounts are. All (m,). rule: its number; candidate: what the rule gives; tier: what the account gets."""

    abc: Int8
    grade: Int8
    rule: Int8
    candidate: Int8
    tier: Int8


def decide(facts: Facts, memory: Memory) -> Decision:
    """Class, grade and tier of some accounts. Rules: docs/explanation/definitions.md, "Tiers"."""
    version, columns = facts.version, facts.columns
    abc = classify(memory.abc, facts.cuts.inside(version, columns))
    grade = grades_of(version, columns, memory.grade)
    rule, candidate = rule_candidates(version, columns, abc, grade, memory.tier)
    return Decision(abc, grade, rule, candidate, settle(version, rule, candidate, memory.tier, memory.dwell))


def rule_candidates(
    version: PolicyVersion, columns: Columns, abc: Int8, grade: Int8, before: Int8
) -> tuple[Int8, Int8]:
    """(rule number, tier code) that the tier rules choose. abc, grade: of the day; before: tiers of the day before. All (m,)."""
    gives = np.array([TIERS.index(r.tier) for r in version.tiers], np.int8)
    rule = first_match(version.tiers, {**columns, "abc": abc, "credit_grade": grade}, len(abc), gives, before)
    return rule, gives[rule]


def grades_of(version: PolicyVersion, columns: Columns, before: Int8) -> Int8:
    """The credit grade of each account. before: (n,) grades of the day before, `NONE` where there was none. (n,) codes."""
    columns = {**columns, "credit_grade_before": np.ma.masked_array(before, before == NONE)}
    gives = np.array([CLASSES.index(g.grade) for g in version.credit_grades], np.int8)
    return gives[first_match(version.credit_grades, columns, len(before), gives, before)]


def settle(version: PolicyVersion, rule: Int8, candidate: Int8, before: Int8, dwell: Int32) -> Int8:
    """What accounts get of what the rules give them: the stay may keep them, and they may climb one at a time. All (m,)."""
    immediate = np.array([r.immediate for r in version.tiers], np.bool_)[rule]
    nobody = (before == NONE) | (before == CLOSED)
    place = np.full(len(TIERS) + 1, NONE, np.int8)  # the last one is that of NONE
    steps = np.array([TIERS.index(tier) for tier in version.one_notch], np.int8)
    place[steps] = np.arange(len(steps))
    now, wanted = place[before], place[candidate]
    climbs = ~immediate & (now != NONE) & (wanted > now)
    target = candidate.copy()
    target[climbs] = steps[now[climbs] + 1]
    may_move = nobody | immediate | (dwell >= max(version.min_stay_days, 1))
    return np.where(may_move, target, before).astype(np.int8)


@dataclass
class TierState:
    """The tiers of a shard as of a service day, dense by account slot; tier -1: none yet.

    tier, abc, grade, grade_before: (n,) int8, the last one that of the day before; valid_from, since: (n,) day numbers;
    rule, version: (n,) numbers into `names`.
    """

    tier: Int8
    abc: Int8
    grade: Int8
    grade_before: Int8
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
            for name in ("tier", "abc", "grade", "grade_before"):
                setattr(self, name, np.r_[getattr(self, name), np.full(more, NONE, np.int8)])
            for name in ("valid_from", "since", "rule", "version"):
                setattr(self, name, np.r_[getattr(self, name), np.zeros(more, np.int32)])

    def number(self, name: str) -> int:
        """The number of a rule's or version's name."""
        if name not in self.names:
            self.names.append(name)
        return self.names.index(name)

    def memory(self, rows: Int64, day: int) -> Memory:
        """What accounts take from here to a day; those that are closed begin anew. rows: (m,) slots."""
        tier = self.tier[rows]
        closed = tier == CLOSED
        abc, grade = (np.where(closed, NONE, codes[rows]).astype(np.int8) for codes in (self.abc, self.grade))
        return Memory(tier, abc, grade, np.int32(day) - self.since[rows])

    def memory_before(self, rows: Int64, day: int) -> Memory:
        """The same, but with the clock and the grade that the day before was decided by. day: that the memory is for."""
        memory = self.memory(rows, day)
        return replace(memory, grade=self.grade_before[rows], dwell=memory.dwell - 1)


@dataclass(frozen=True)
class Closed:
    """Rows of the tier history that ended. All (k,); valid_to inclusive."""

    slot: Int64
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
    """Changes of tier on one day. All (k,); figures are masked where not known."""

    slot: Int64
    from_tier: Int8
    to_tier: Int8
    from_abc: Int8
    to_abc: Int8
    from_grade: Int8
    to_grade: Int8
    cause: npt.NDArray[np.object_]
    rule: Int32
    metric_before: Any
    metric_after: Any
    score_before: Any
    score_after: Any


@dataclass(frozen=True)
class Yesterday:
    """What is asked of the day before where tiers changed.

    columns, clock: slots, (k,) -> features of the day before, and those of the day before any of its own events; masked where an
    account was not there. cuts: of accounts in the rows of the day. alike: whether both days rank and cut in the same way.
    """

    version: PolicyVersion
    cuts: Cuts
    alike: bool
    columns: Callable[[Int64], Columns]
    clock: Callable[[Int64], Columns]


@dataclass(frozen=True)
class Day:
    """A service day. rows: (m,) slots of those in the population, ascending; facts: theirs; yesterday: None on the first day."""

    number: int
    rows: Int64
    facts: Facts
    yesterday: Yesterday | None


FindCauses = Callable[[Facts, Yesterday, Memory, Memory, Int64], npt.NDArray[np.object_]]
"""See `causes.find_causes`."""


def assign_tiers(state: TierState, day: Day, find_causes: FindCauses) -> tuple[Closed, Migrations]:
    """Move the tiers of a shard on by one service day, in place. Rules: docs/explanation/definitions.md, "Tiers"."""
    version, rows, number = day.facts.version, day.rows, day.number
    before = state.copy()
    memory = before.memory(rows, number)
    new = (memory.tier == NONE) | (memory.tier == CLOSED)
    found = decide(day.facts, memory)

    names = np.array([state.number(r.rule) for r in version.tiers], np.int32)
    kept = np.where(found.tier == memory.tier, state.number(STAY), state.number(NOTCH))
    rule = np.where(found.tier == found.candidate, names[found.rule], kept).astype(np.int32)
    changed = found.tier != memory.tier
    turned = new | changed | (found.abc != memory.abc) | (found.grade != memory.grade)
    gone = (before.tier != NONE) & (before.tier != CLOSED)
    gone[rows] = False
    left = np.flatnonzero(gone)
    ended = np.sort(np.r_[left, rows[turned & (memory.tier != NONE)]])
    closed = Closed(
        ended, before.valid_from[ended], np.full(len(ended), number - 1, np.int32), before.tier[ended],
        before.abc[ended], before.grade[ended], before.since[ended], before.rule[ended], before.version[ended],
    )  # fmt: skip

    state.tier[rows], state.abc[rows], state.grade[rows] = found.tier, found.abc, found.grade
    state.grade_before[rows] = memory.grade
    state.since[rows[changed]] = number
    state.valid_from[rows[turned]] = number
    state.rule[rows[turned]] = rule[turned]
    state.version[rows[turned]] = state.number(version.version)
    state.tier[left], state.grade_before[left], state.since[left], state.valid_from[left] = CLOSED, NONE, number, number
    state.rule[left], state.version[left] = state.number(CLOSED_RULE), state.number(version.version)
    moved = np.flatnonzero(changed & (memory.tier != NONE))
    return closed, _migrations(before, state, day, memory, moved, left, rule, find_causes)


def masked(n: int) -> Any:
    """A column of nulls. (n,) int64."""
    return np.ma.masked_array(np.zeros(n, np.int64), np.ones(n, np.bool_))


def _joined(*columns: Any) -> Any:
    values = np.concatenate([np.ma.getdata(column) for column in columns])
    return np.ma.masked_array(values, np.concatenate([np.ma.getmaskarray(column) for column in columns]))


def _migrations(
    before: TierState, state: TierState, day: Day, memory: Memory, moved: Int64, left: Int64, rule: Int32,
    find_causes: FindCauses,
) -> Migrations:  # fmt: skip
    """moved: (k,) places in the rows of the day; left: slots of accounts that were closed."""
    again = memory.tier[moved] == CLOSED
    cause = np.full(len(moved), "opened", np.object_)
    if (~again).any():
        assert day.yesterday is not None
        some = moved[~again]
        cause[~again] = find_causes(
            day.facts.take(some), replace(day.yesterday, cuts=day.yesterday.cuts.take(some)), memory.take(some),
            before.memory_before(day.rows[some], day.number), day.rows[some],
        )  # fmt: skip
    slot = np.r_[day.rows[moved], left]
    order = np.argsort(slot)
    slot, cause = slot[order], np.r_[cause, np.full(len(left), "closed", np.object_)][order]
    gone = masked(len(left))
    figures: dict[str, Any] = {}
    was = day.yesterday.columns(slot) if day.yesterday is not None and len(slot) else {}
    for figure, name in (("metric", day.facts.version.abc.metric), ("score", SCORE)):
        none = masked(len(slot))
        figures[f"{figure}_before"] = was.get(name, none)
        mine = day.facts.columns.get(name)
        figures[f"{figure}_after"] = none if mine is None else _joined(mine[moved], gone)[order]
    closed_by = np.full(len(left), state.number(CLOSED_RULE), np.int32)
    return Migrations(
        slot, before.tier[slot], state.tier[slot], before.abc[slot], state.abc[slot], before.grade[slot], state.grade[slot],
        cause, np.r_[rule[moved], closed_by][order], **figures,
    )  # fmt: skip
