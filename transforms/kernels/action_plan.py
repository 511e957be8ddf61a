"""The plan of scarce actions: who gets a place of a resource on a day.

Every action takes one place, so of all plans within K places the first K accounts in order are worth most: no solver is needed.

    order    (priority, then value; or value alone), ties by account id. A standing assignment counts for a bonus more
    plan     of each account the first of its actions; of these the first K

The first K of all are among the first K of each shard, so a shard hands on no more than that (`hand_on`).
Rules: docs/explanation/definitions.md, "The plan of service actions".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.actions import ACTIONS, LONGEST_REST, STANDING
from schemas.capacity import Capacity
from schemas.fields import PPM_LIMIT
from schemas.strategy import Strategy
from transforms.kernels.tiers import Columns, holds
from transforms.kernels.windows import date_of

Int = npt.NDArray[np.int64]
Int8 = npt.NDArray[np.int8]
Int32 = npt.NDArray[np.int32]

LIMIT = 1 << 61
"""An account counts for no more than this, so that a bonus stays within 64 bits."""

NEVER = -(1 << 31)


def applying(strategy: Strategy, numbers: Sequence[int], columns: Columns, n: int) -> tuple[Int, Int8]:
    """Which of some rules apply to which of n accounts: of each action the first whose conditions hold.

    Returns (rows, rules), (k,) each: positions of accounts, and numbers of rules, ascending by rule.
    """
    taken: dict[str, npt.NDArray[np.bool_]] = {}
    rows, rules = [np.zeros(0, np.int64)], [np.zeros(0, np.int8)]
    for number in numbers:
        rule = strategy.actions[number]
        mine = np.ones(n, np.bool_)
        for condition in rule.when:
            mine &= holds(condition, columns)
        before = taken.get(rule.action)
        if before is not None:
            mine &= ~before
        taken[rule.action] = mine if before is None else before | mine
        found = np.flatnonzero(mine)
        rows.append(found)
        rules.append(np.full(len(found), number, np.int8))
    return np.concatenate(rows), np.concatenate(rules)


@dataclass(frozen=True)
class Places:
    """The places of a resource for the plan of a service day. usual: those of a working day."""

    free: int
    usual: int


def places(capacity: Capacity | None, day: int) -> dict[str, Places]:
    """The limited resources of a service day's plan, which is for the day after it.

    >>> from schemas.capacity import parse_capacity
    >>> staff = parse_capacity("versions: [{effective_from: 2025-01-01, calls: 7}]", "capacity.yaml")
    >>> places(staff, 20088)  # 31 December 2024, a Tuesday
    {'calls': Places(free=7, usual=7)}
    >>> places(staff, 20091)  # a Friday
    {'calls': Places(free=0, usual=7)}
    """
    if capacity is None:
        return {}
    after = date_of(day + 1)
    works = capacity.works(after)
    return {
        name: Places(usual if works or name == STANDING else 0, usual)
        for name, usual in capacity.on(after).places().items()
    }


def may_rest(there_are: Callable[[int], Mapping[str, Places]], strategy: Strategy, resource: str, day: int) -> int:
    """How many may rest on a day at most: all that were planned within the longest `again_days` of the resource.

    there_are: the places of a day.
    """
    longest = max((strategy.actions[number].again_days or 0 for number in strategy.of(resource)), default=0)
    earlier = (there_are(day - ago).get(resource) for ago in range(1, longest))
    return sum(found.free for found in earlier if found)


def counted(value: Int, kept: Any, bonus_ppm: int) -> Int:
    """What accounts count for: their value, and a part of it more where they keep an assignment. value, kept: (k,).

    >>> counted(np.array([10, 10, -10]), np.array([False, True, True]), 250_000).tolist()
    [10, 12, -10]
    """
    value = np.clip(value, -LIMIT, LIMIT)
    plus = np.maximum(value, 0)
    bonus = plus // PPM_LIMIT * bonus_ppm + plus % PPM_LIMIT * bonus_ppm // PPM_LIMIT
    out: Int = value + np.where(kept, bonus, 0)
    return out


def keys(strategy: Strategy, rule: Int8, count: Int) -> tuple[Int, Int]:
    """Two numbers that candidates go by, the smallest first. rule, count: (k,)."""
    priority = np.array([action.priority for action in strategy.actions], np.int64)[rule]
    return (-count, priority) if strategy.order == "value" else (priority, -count)


def hand_on(strategy: Strategy, account: Int, rule: Int8, value: Int, most: int, *, standing: bool) -> Int:
    """Positions of those candidates of a shard that can be among the first `most` accounts of all.

    account: (k,) places of the accounts in order of their ids. Of a standing resource also those that only the bonus would bring
    there: who has an assignment is not known here.
    """
    none = np.zeros(len(account), np.bool_)
    if most <= 0 or len(account) == 0:
        return np.flatnonzero(none)
    plain = keys(strategy, rule, counted(value, none, 0))
    order = np.lexsort((rule, account, plain[1], plain[0]))
    first = np.sort(np.unique(account[order], return_index=True)[1])
    if len(first) <= most:
        return np.arange(len(account))
    last = order[first[most - 1]]
    if not standing:
        out: Int = np.sort(order[: first[most - 1] + 1])
        return out
    best = keys(strategy, rule, counted(value, ~none, strategy.keep_bonus_ppm))
    at = (plain[0][last], plain[1][last], account[last])
    before = (best[0] < at[0]) | ((best[0] == at[0]) & ((best[1] < at[1]) | ((best[1] == at[1]) & (account <= at[2]))))
    return np.flatnonzero(before)


@dataclass(frozen=True)
class Candidates:
    """Who wants a place. account: (k,) ids; rule: (k,) numbers of rules; value: (k,)."""

    account: pa.StringArray
    rule: Int8
    value: Int

    def take(self, at: Int) -> Candidates:
        """Some of them."""
        return Candidates(self.account.take(pa.array(at)), self.rule[at], self.value[at])

    @classmethod
    def concat(cls, parts: Sequence[Candidates]) -> Candidates:
        """All of them together."""
        return cls(
            pa.concat_arrays([pa.array([], pa.string()), *(part.account for part in parts)]),
            np.concatenate([np.zeros(0, np.int8), *(part.rule for part in parts)]),
            np.concatenate([np.zeros(0, np.int64), *(part.value for part in parts)]),
        )


@dataclass(frozen=True)
class Given:
    """Places given out before. account, action: (k,) ids and numbers in `ACTIONS`, each pair once; since: (k,) days: of a
    standing assignment its first, of another the last on which it was planned.
    """

    account: pa.StringArray
    action: Int8
    since: Int32

    @classmethod
    def none(cls) -> Given:
        """Nothing was."""
        return cls(pa.array([], pa.string()), np.zeros(0, np.int8), np.zeros(0, np.int32))

    def take(self, at: Int) -> Given:
        """Some of them."""
        return Given(self.account.take(pa.array(at)), self.action[at], self.since[at])

    def find(self, account: pa.StringArray, action: Int8) -> Int32:
        """The day of each pair; `NEVER` where there is none. (k,)."""
        out = np.full(len(account), NEVER, np.int32)
        for number in np.unique(self.action):
            mine, held = np.flatnonzero(action == number), np.flatnonzero(self.action == number)
            ids, known = account.take(pa.array(mine)), self.account.take(pa.array(held))
            at = pc.fill_null(pc.index_in(ids, value_set=known), -1).to_numpy(zero_copy_only=False)
            out[mine[at >= 0]] = self.since[held[at[at >= 0]]]
        return out


@dataclass(frozen=True)
class Planned:
    """The first of a day's order. at: (k,) positions among the candidates, in order; since: (k,); placed: how many get a place;
    resting: how many accounts rest on the day.
    """

    at: Int
    since: Int32
    placed: int
    resting: int


def codes(strategy: Strategy) -> Int8:
    """The number in `ACTIONS` of each rule."""
    return np.array([ACTIONS.index(rule.action) for rule in strategy.actions], np.int8)


def give_out(strategy: Strategy, resource: str, day: int, there_is: Places, found: Candidates, given: Given) -> Planned:
    """Give out the places of a resource: to the first in order. Those next in order follow, as many as there are places usually.

    given: of a standing resource the assignments of the day before, of another all that was planned before.
    """
    standing = resource == STANDING
    action = codes(strategy)[found.rule]
    again = np.array([rule.again_days or 0 for rule in strategy.actions], np.int64)
    before = given.find(found.account, action).astype(np.int64)
    if standing:
        some, kept, resting = np.arange(len(before)), before > NEVER, 0
    else:
        some, kept = np.flatnonzero(day - before >= again[found.rule]), np.zeros(len(before), np.bool_)
        resting = _resting(strategy, resource, day, given)
    count = counted(found.value, kept, strategy.keep_bonus_ppm)[some]
    first, second = keys(strategy, found.rule[some], count)
    account = found.account.take(pa.array(some))
    names = ["first", "second", "account", "rule"]
    table = pa.table([first, second, account, found.rule[some]], names=names)
    order = pc.sort_indices(table, sort_keys=[(name, "ascending") for name in names]).to_numpy()
    coded = account.dictionary_encode().indices.to_numpy()
    order = order[np.sort(np.unique(coded[order], return_index=True)[1])][: there_is.free + there_is.usual]
    at = some[order]
    since = np.where(kept[at], before[at], day).astype(np.int32)
    return Planned(at, since, min(there_is.free, len(at)), resting)


def _resting(strategy: Strategy, resource: str, day: int, given: Given) -> int:
    """How many accounts have an action that is not to be planned again yet."""
    again = np.zeros(len(ACTIONS), np.int64)
    for number in strategy.of(resource):
        rule = strategy.actions[number]
        again[ACTIONS.index(rule.action)] = max(again[ACTIONS.index(rule.action)], rule.again_days or 0)
    rests = day - given.since.astype(np.int64) < again[given.action]
    return len(pc.unique(given.account.filter(pa.array(rests))))


def go_on(strategy: Strategy, resource: str, day: int, found: Candidates, given: Given, done: Planned) -> Given:
    """What was given out of a resource as of the end of a day."""
    at = done.at[: done.placed]
    new = Given(found.account.take(pa.array(at)), codes(strategy)[found.rule[at]], done.since[: done.placed])
    if resource == STANDING:
        return new
    kept = np.flatnonzero(
        (new.find(given.account, given.action) == NEVER) & (day - given.since.astype(np.int64) < LONGEST_REST)
    )
    return Given(
        pa.concat_arrays([given.account.take(pa.array(kept)), new.account]),
        np.r_[given.action[kept], new.action],
        np.r_[given.since[kept], new.since],
    )
