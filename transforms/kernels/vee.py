"""VEE of a service day: what each account used, as read, held against its own days before.

    day   D-28   D-21   D-14   D-7 D-6 .. D-1   D
          like   like   like   like
                               +-- run of days --+

Formulas: docs/explanation/definitions.md, "VEE".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.inbound import DEMAND, PERIODS
from schemas.vee import (
    DAY_LIMIT,
    JUDGED,
    LIKE_DAYS,
    SEVERITIES,
    UNIT_TOLERANCE_PPM,
    Above,
    Below,
    Capacity,
    OtherUnit,
    RunOfDays,
    SumCheck,
    Vee,
)
from transforms.kernels.days_read import DaysRead
from transforms.kernels.exact import DAY_LIMIT_W, DAY_LIMIT_WH
from transforms.kernels.registers import scaled

Int = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

NO_LIMIT = -1
HOURS = 24
PPM = 1_000_000
UNIT = 1_000
UNIT_LIMIT_WH = 1 << 52
"""Energy beyond this, 4.5 PWh, is a thousandth of nothing."""
CAPACITY_LIMIT_VA = 1 << 42
"""A contracted capacity beyond this, 4 TVA, limits nothing."""


@dataclass(frozen=True)
class Verdicts:
    """What was found of one day, by rule in the order of `JUDGED`, then by account. All (m,).

    slot: account; rule: its number in `VEE_RULES`; severity: its number in `SEVERITIES`; as_read: Wh; limit: Wh, `NO_LIMIT`
    where the rule has none.
    """

    slot: Int
    rule: npt.NDArray[np.int8]
    severity: npt.NDArray[np.int8]
    as_read: Int
    limit: Int


def judge(vee: Vee, held: DaysRead) -> Verdicts:
    """Hold the energy of a service day against the rules, and against what an account can use at all."""
    none = np.zeros(0, np.int64)
    parts: list[tuple[Int, int, int, Int, Int]] = []
    checks = [(name, rule.severity, *_CHECKS[name](held, rule)) for name, rule in vee.on().items()]
    for name, severity, tripped, limit in [*checks, (DAY_LIMIT, "reject", *_day_limit(held))]:
        some = np.flatnonzero(tripped & held.accounts.known)
        parts.append((some, JUDGED.index(name), SEVERITIES.index(severity), held.energy[some], limit[some]))
    sizes = [len(slot) for slot, *_ in parts]
    return Verdicts(
        np.concatenate([none, *(slot for slot, *_ in parts)]),
        np.repeat(np.array([rule for _, rule, *_ in parts], np.int8), sizes),
        np.repeat(np.array([severity for _, _, severity, *_ in parts], np.int8), sizes),
        np.concatenate([none, *(read for *_, read, _ in parts)]),
        np.concatenate([none, *(limit for *_, limit in parts)]),
    )


def _part(amount: Int, ppm: int) -> Int:
    return scaled(amount, np.full(len(amount), ppm, np.int64), np.full(len(amount), PPM, np.int64))


def _no_limit(day: DaysRead) -> Int:
    return np.full(day.n, NO_LIMIT, np.int64)


def _unit_mismatch(day: DaysRead, rule: OtherUnit) -> tuple[Mask, Int]:
    count, high, low = day.like
    tripped, limit = np.zeros(day.n, np.bool_), np.zeros(day.n, np.int64)
    least = UNIT * (PPM - UNIT_TOLERANCE_PPM) // PPM
    far = (day.energy // least >= low) | (high // least >= day.energy)
    some = np.flatnonzero((count >= rule.like_days) & (day.energy > 0) & far)
    energy, above, below = day.energy[some], np.zeros(len(some), np.int8), np.zeros(len(some), np.int8)
    for back in LIKE_DAYS if len(some) else ():
        read, like = day.received_of(back)[some] > 0, day.energy_of(back)[some]
        above += read & _thousandfold(energy, like, rule)
        below += read & _thousandfold(like, energy, rule)
    is_above, is_below = above >= rule.like_days, (below >= rule.like_days) & day.complete(0)[some]
    tripped[some] = is_above | is_below
    limit[some] = np.where(is_above, energy // UNIT, np.where(is_below, energy, 0) * UNIT)
    return tripped, limit


def _thousandfold(large: Int, small: Int, rule: OtherUnit) -> Mask:
    """Whether one energy is a thousand times another, within the tolerance. All (m,)."""
    fits = (small <= UNIT_LIMIT_WH) & (large >= rule.at_least_wh)
    times = np.full(len(small), UNIT, np.int64)
    least, most = (
        scaled(np.where(fits, small, 0), np.full(len(small), PPM + off, np.int64), times)
        for off in (-rule.tolerance_ppm, rule.tolerance_ppm)
    )
    return fits & (least <= large) & (large <= most)


def _spike(day: DaysRead, rule: Above) -> tuple[Mask, Int]:
    count, high, _ = day.like
    limit = np.maximum(_part(high, rule.factor_ppm), rule.at_least_wh)
    return (count >= rule.like_days) & (day.energy > limit), limit


def _low(day: DaysRead, rule: Below) -> tuple[Mask, Int]:
    count, _, low = day.like
    known = (count >= rule.like_days) & (low >= rule.at_least_wh)
    limit = _part(np.where(known, low, 0), rule.factor_ppm)
    return known & day.complete(0) & (day.energy < limit), limit


def _capacity(day: DaysRead, rule: Capacity) -> tuple[Mask, Int]:
    capacity = day.accounts.capacity
    known = day.accounts.inside & (capacity > 0) & (capacity <= CAPACITY_LIMIT_VA)
    limit = _part(np.where(known, capacity, 0) * HOURS, rule.factor_ppm)
    over: Mask = known & (day.energy > limit)
    return over, limit


def _frozen(day: DaysRead, rule: RunOfDays) -> tuple[Mask, Int]:
    def same(back: int) -> Mask:
        result: Mask = (day.received_of(back) > 0) & (day.energy_of(back) == day.energy) & (day.energy > 0)
        return result

    return _run(same, rule.days), _no_limit(day)


def _zero_use(day: DaysRead, rule: RunOfDays) -> tuple[Mask, Int]:
    def nothing(back: int) -> Mask:
        none: Mask = day.energy_of(back) == 0
        return day.complete(back) & none

    begins: Mask = day.energy_of(rule.days) > 0
    return _run(nothing, rule.days) & begins, _no_limit(day)


def _prolonged_estimation(day: DaysRead, rule: RunOfDays) -> tuple[Mask, Int]:
    return _run(day.estimated_of, rule.days), _no_limit(day)


def _run(holds: Callable[[int], Mask], days: int) -> Mask:
    """Where something holds on the last so many days, and not on the one before them."""
    out = holds(0)
    for back in range(1, days):
        if not out.any():  # then no day before needs to be read
            return out
        out = out & holds(back)
    return out & ~holds(days) if out.any() else out


def _inactive_use(day: DaysRead, rule: object) -> tuple[Mask, Int]:
    return ~day.accounts.inside & (day.energy > 0), np.zeros(day.n, np.int64)


def _sum_check(day: DaysRead, rule: SumCheck) -> tuple[Mask, Int]:
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


def _day_limit(day: DaysRead) -> tuple[Mask, Int]:
    tripped, block = day.energy >= DAY_LIMIT_WH, day.block(0)
    if block is not None and DEMAND in block.apart:
        watts, _ = block.apart[DEMAND]
        tripped[: len(watts)] |= watts >= DAY_LIMIT_W
    return tripped, np.full(day.n, DAY_LIMIT_WH)


_CHECKS: dict[str, Callable[[DaysRead, Any], tuple[Mask, Int]]] = {
    "unit_mismatch": _unit_mismatch, "spike": _spike, "low": _low, "capacity": _capacity, "frozen": _frozen,
    "zero_use": _zero_use, "prolonged_estimation": _prolonged_estimation, "inactive_use": _inactive_use, "sum_check": _sum_check,
}  # fmt: skip
