"""VEE of a service day: what each account used, held against its own days before. Nothing is changed by it.

    day   D-28   D-21   D-14   D-7 D-6 .. D-1   D
          like   like   like   like
                               +-- run of days --+

Formulas: docs/explanation/definitions.md, "VEE".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.inbound import PERIODS
from schemas.vee import LIKE_DAYS, VEE_RULES, Against, Capacity, RunOfDays, SumCheck, Vee
from transforms.kernels.reference import Expected
from transforms.kernels.registers import scaled
from transforms.kernels.windows import DayBlock

Int = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

NO_LIMIT = -1
HOURS = 24
PPM = 1_000_000
CAPACITY_LIMIT_VA = 1 << 42
"""A contracted capacity beyond this, 4 TVA, limits nothing."""


@dataclass(frozen=True)
class Account:
    """Accounts of a shard on a service day. inside: (n,) in the population; known: (n,) in the reference data; capacity: (n,) VA,
    -1 where unknown; expected: of all days.
    """

    inside: Mask
    known: Mask
    capacity: Int
    expected: Expected


@dataclass(frozen=True)
class Verdicts:
    """What was found of one day, by rule in the order of `VEE_RULES`, then by account. All (m,).

    slot: account; rule: its number in `VEE_RULES`; as_read: Wh; limit: Wh, `NO_LIMIT` where the rule has none.
    """

    slot: Int
    rule: npt.NDArray[np.int8]
    as_read: Int
    limit: Int


class _Day:
    """The accounts' energy of a day and of those before, grown to `n` slots."""

    def __init__(self, day: int, n: int, load: Callable[[int], DayBlock | None], accounts: Account) -> None:
        self.day, self.n, self.accounts = day, n, accounts
        self._load = load
        self._held: dict[int, DayBlock | None] = {}
        self.energy = self.energy_of(0)

    def block(self, back: int) -> DayBlock | None:
        """The block of so many days before."""
        if back not in self._held:
            self._held[back] = self._load(self.day - back)
        return self._held[back]

    def _column(self, back: int, name: str) -> Int:
        block, out = self.block(back), np.zeros(self.n, np.int64)
        if block is not None:
            column = getattr(block, name)
            out[: len(column)] = column
        return out

    def energy_of(self, back: int) -> Int:
        """Energy in Wh of so many days before. (n,)."""
        return self._column(back, "energy")

    def received_of(self, back: int) -> Int:
        """Meters received so many days before. (n,)."""
        return self._column(back, "received")

    def estimated_of(self, back: int) -> Mask:
        """Whether any meter's value of so many days before is not actual. (n,)."""
        result: Mask = self._column(back, "estimated") > 0
        return result

    def complete(self, back: int) -> Mask:
        """Whether all meters expected so many days before, at least one, were received. (n,)."""
        due = self.accounts.expected.between(self.day - back, self.day - back, self.n)
        result: Mask = (due > 0) & (self.received_of(back) >= due)
        return result

    @cached_property
    def like(self) -> tuple[Int, Int, Int]:
        """How many like days were read, and the largest and smallest energy of them. (n,) each; 0 and 2^62 where none."""
        count, high, low = np.zeros(self.n, np.int64), np.zeros(self.n, np.int64), np.full(self.n, 1 << 62, np.int64)
        for back in LIKE_DAYS:
            read, energy = self.received_of(back) > 0, self.energy_of(back)
            count += read
            high = np.where(read, np.maximum(high, energy), high)
            low = np.where(read, np.minimum(low, energy), low)
        return count, high, low


def judge(vee: Vee, day: int, n: int, load: Callable[[int], DayBlock | None], accounts: Account) -> Verdicts:
    """Hold the energy of a service day against the rules. load: the block of a day, None where nothing was read."""
    none = np.zeros(0, np.int64)
    held = _Day(day, n, load, accounts)
    parts: list[tuple[Int, int, Int, Int]] = []
    for name, rule in vee.on().items():
        tripped, limit = _CHECKS[name](held, rule)
        some = np.flatnonzero(tripped & accounts.known)
        parts.append((some, list(VEE_RULES).index(name), held.energy[some], limit[some]))
    return Verdicts(
        np.concatenate([none, *(slot for slot, *_ in parts)]),
        np.repeat(np.array([rule for _, rule, *_ in parts], np.int8), [len(slot) for slot, *_ in parts]),
        np.concatenate([none, *(read for *_, read, _ in parts)]),
        np.concatenate([none, *(limit for *_, limit in parts)]),
    )


def _part(amount: Int, ppm: int) -> Int:
    return scaled(amount, np.full(len(amount), ppm, np.int64), np.full(len(amount), PPM, np.int64))


def _no_limit(day: _Day) -> Int:
    return np.full(day.n, NO_LIMIT, np.int64)


def _spike(day: _Day, rule: Against) -> tuple[Mask, Int]:
    count, high, _ = day.like
    limit = np.maximum(_part(high, rule.factor_ppm), rule.at_least_wh)
    return (count >= rule.like_days) & (day.energy > limit), limit


def _low(day: _Day, rule: Against) -> tuple[Mask, Int]:
    count, _, low = day.like
    known = (count >= rule.like_days) & (low >= rule.at_least_wh)
    limit = _part(np.where(known, low, 0), rule.factor_ppm)
    return known & day.complete(0) & (day.energy < limit), limit


def _capacity(day: _Day, rule: Capacity) -> tuple[Mask, Int]:
    capacity = day.accounts.capacity
    known = day.accounts.inside & (capacity > 0) & (capacity <= CAPACITY_LIMIT_VA)
    limit = _part(np.where(known, capacity, 0) * HOURS, rule.factor_ppm)
    over: Mask = known & (day.energy > limit)
    return over, limit


def _frozen(day: _Day, rule: RunOfDays) -> tuple[Mask, Int]:
    def same(back: int) -> Mask:
        result: Mask = (day.received_of(back) > 0) & (day.energy_of(back) == day.energy) & (day.energy > 0)
        return result

    return _run(same, rule.days), _no_limit(day)


def _zero_use(day: _Day, rule: RunOfDays) -> tuple[Mask, Int]:
    def nothing(back: int) -> Mask:
        none: Mask = day.energy_of(back) == 0
        return day.complete(back) & none

    begins: Mask = day.energy_of(rule.days) > 0
    return _run(nothing, rule.days) & begins, _no_limit(day)


def _prolonged_estimation(day: _Day, rule: RunOfDays) -> tuple[Mask, Int]:
    return _run(day.estimated_of, rule.days), _no_limit(day)


def _run(holds: Callable[[int], Mask], days: int) -> Mask:
    """Where something holds on the last so many days, and not on the one before them."""
    out = holds(0)
    for back in range(1, days):
        if not out.any():  # then no day before needs to be read
            return out
        out = out & holds(back)
    return out & ~holds(days) if out.any() else out


def _inactive_use(day: _Day, rule: object) -> tuple[Mask, Int]:
    return ~day.accounts.inside & (day.energy > 0), np.zeros(day.n, np.int64)


def _sum_check(day: _Day, rule: SumCheck) -> tuple[Mask, Int]:
    total, whole, some = np.zeros(day.n, np.int64), np.ones(day.n, np.bool_), np.zeros(day.n, np.bool_)
    block = day.block(0)
    for name in PERIODS:
        if block is not None and name in block.apart:
            energy, meters = block.apart[name]
            k = len(energy)
            told = meters > 0
            total[:k] += energy
            some[:k] |= told
            whole[:k] &= ~told | (meters == block.received)
    limit = np.maximum(_part(day.energy, rule.tolerance_ppm), rule.tolerance_wh)
    return some & whole & (np.abs(day.energy - total) > limit), limit


_CHECKS: dict[str, Callable[[_Day, Any], tuple[Mask, Int]]] = {
    "spike": _spike, "low": _low, "capacity": _capacity, "frozen": _frozen, "zero_use": _zero_use,
    "prolonged_estimation": _prolonged_estimation, "inactive_use": _inactive_use, "sum_check": _sum_check,
}  # fmt: skip
