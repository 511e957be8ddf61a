"""Cumulative registers to energy by service day, exactly.

A *point* is an index that counts, at the midnight which closes its service day. Between two points of one stretch of
register the index difference is exact; days between them share it, and what they share adds up to it:

    day        4      5      6      7      8
    index    100      .      .    160    180      two points three days apart: 60 over the days 5, 6, 7
    weight           10     20     10             what the same weekdays used before the gap
    index    100    115    145    160    180      at every midnight, rounded down
    energy           15     30     15     20      differences, times the multiplier of the day

A series is one register of one meter. A *segment* is as far as its index runs on without a break: an exchange, with or
without known indexes, begins another. Formulas: docs/explanation/definitions.md, "Registers".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.inbound import DEMAND_LIMIT_W, ENERGY_LIMIT_WH
from schemas.vee import READING_FAULTS

Int = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]

MILLI = 1000
"""Indexes are in thousandths of a Wh."""

LIKE_WEEKS = 4
"""A day of a gap is weighed like the same weekday of one of so many weeks before the gap."""

REACH_DAYS = 7 * LIKE_WEEKS
"""So many days before a gap may give it its shape."""

ROLLOVER_PPM = 250_000
"""A step back is a register that turned over where, with the modulus added, it is at most this part of the modulus."""

DECREASE, IMPLAUSIBLE, BEYOND, DEMAND_FAULT, TOO_LONG, MISMATCH = map(
    READING_FAULTS.index,
    (
        "register_decrease", "implausible_step", "index_beyond_modulus", "implausible_demand", "gap_too_long",
        "multiplier_mismatch",
    ),
)  # fmt: skip

LONGEST_GAP_DAYS = 800
"""Points further apart give their days no energy. Two yearly reads lie within; an installation of ten years ago does not."""

DAYS_AT_LIMIT = 32
"""A step makes at most so many days of the limit: however it is shared, no day of a meter is too much for its account."""

_FITS = 1 << 62


@dataclass(frozen=True)
class Points:
    """Indexes that count, ascending by (series, segment, day), unique. All (k,).

    series, segment: numbers; day: service day number that the index closes; index: thousandths of a Wh;
    actual: whether it was read, and not put in by somebody; modulus: where the register turns over, 0 where unknown.
    """

    series: Int
    segment: Int
    day: Int
    index: Int
    actual: Mask
    modulus: Int

    def with_gaps(self) -> Int:
        """The series that have two points, one after the other in a segment, with days between them. (g,), ascending."""
        joined = (self.series[1:] == self.series[:-1]) & (self.segment[1:] == self.segment[:-1])
        return np.unique(self.series[1:][joined & (self.day[1:] > self.day[:-1] + 1)])


@dataclass(frozen=True)
class Energies:
    """Energy by (series, day), ascending, unique; of a maximum demand W. All (m,); actual: from two reads of neighbouring
    midnights.
    """

    series: Int
    day: Int
    energy: Int
    actual: Mask

    def joined(self, other: Energies) -> Energies:
        """Both, of other series or days, in order."""
        if len(other.series) == 0:
            return self
        order = np.argsort(day_key(np.r_[self.series, other.series], np.r_[self.day, other.day]), kind="stable")
        return Energies(
            *(np.r_[getattr(self, name), getattr(other, name)][order] for name in self.__dataclass_fields__)
        )


@dataclass(frozen=True)
class Broken:
    """Indexes that no energy follows from, in pairs or alone, and multipliers that are not the reference's. All (b,).

    opened, closed: days of the two, the same where one is at fault; step: closed less opened, or less the modulus, in index, or the
    demand, or the multiplier less the reference's; fault: its number in `READING_FAULTS`.
    """

    series: Int
    opened: Int
    closed: Int
    step: Int
    fault: Int

    @classmethod
    def alone(cls, series: Int, day: Int, step: Int, fault: int) -> Broken:
        """Values at fault by themselves, all of one fault. All (b,)."""
        return cls(series, day, day, step, np.full(len(series), fault, np.int64))

    def joined(self, other: Broken) -> Broken:
        """Both."""
        return Broken(*(np.r_[getattr(self, name), getattr(other, name)] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Multipliers:
    """What index differences are multiplied by, ascending by (series, first). All (r,); first: first service day."""

    series: Int
    first: Int
    multiplier: Int

    def at(self, series: Int, day: Int) -> Int:
        """The multiplier of each (series, day); 1 where none is known. Both (m,)."""
        if len(self.series) == 0:
            return np.ones(len(series), np.int64)
        row = np.searchsorted(day_key(self.series, self.first), day_key(series, day), "right") - 1
        found = (row >= 0) & (self.series[row] == series)
        return np.where(found, self.multiplier[row], 1)

    def largest(self, series: Int, first: Int, last: Int) -> Int:
        """The largest multiplier that holds on any of the days first .. last, all of one segment. All (m,)."""
        out = self.at(series, last)
        begin, end = (
            np.searchsorted(day_key(self.series, self.first), day_key(series, day), "right") - 1
            for day in (first, last)
        )
        for row in range(int(np.max(end - begin, initial=0))):
            some = np.flatnonzero(begin + row < end)
            out[some] = np.maximum(out[some], self.multiplier[begin[some] + row])
        return out


def day_key(series: npt.NDArray[Any], day: npt.NDArray[Any]) -> Int:
    """One number for each (series or meter slot, day), ascending like the pair. Both (m,)."""
    result: Int = series.astype(np.int64) << 32 | (day.astype(np.int64) + (1 << 31))
    return result


def watt_hours(index: Int, multiplier: Int) -> Int:
    """`index * multiplier // 1000`, modulo 2^64: differences are exact. For indexes below 2^50 and multipliers below 2^26.

    >>> watt_hours(np.array([1_999, 2**50 - 1]), np.array([1, 2**18 - 1])).tolist()
    [1, 295146880252103065]
    """
    whole, rest = np.divmod(index, MILLI)
    result: Int = whole * multiplier + rest * multiplier // MILLI
    return result


def within(index: Int, multiplier: Int, limit: Int | int) -> Mask:
    """Whether an index, from 0 up, comes to at most so many Wh. (m,).

    >>> within(np.array([2**50 - 1, 1_999]), np.array([2**26 - 1, 2]), 3).tolist()
    [False, True]
    """
    small = index // MILLI <= limit // multiplier
    return small & (watt_hours(np.where(small, index, 0), multiplier) <= limit)


def energies(points: Points, multipliers: Multipliers, guard_ppm: int) -> tuple[Energies, Broken]:
    """What was used on each day between points.

    guard_ppm: a step back is a register that turned over where, with the modulus added, it stays at or below this part of
    the modulus; else it is broken, like a step that no meter can make (`ENERGY_LIMIT_WH` a day, of at most `DAYS_AT_LIMIT`), or one
    over too many days.
    """
    joined = (points.series[1:] == points.series[:-1]) & (points.segment[1:] == points.segment[:-1])
    end = np.flatnonzero(joined) + 1
    begin = end - 1
    series, first, last = points.series[end], points.day[begin] + 1, points.day[end]
    step = points.index[end] - points.index[begin]
    modulus = points.modulus[end]
    guard = scaled(modulus, np.full(len(modulus), guard_ppm), np.full(len(modulus), 1_000_000))
    over = (step < 0) & (modulus > 0) & (step + modulus <= guard)
    rise = np.where(over, step + modulus, step)
    days = last - first + 1
    top = ENERGY_LIMIT_WH * np.minimum(days, DAYS_AT_LIMIT)
    plausible = within(np.maximum(rise, 0), multipliers.largest(series, first, last), top)
    good = (rise >= 0) & plausible & (days <= LONGEST_GAP_DAYS)
    fault = np.where(rise < 0, DECREASE, np.where(plausible, TOO_LONG, IMPLAUSIBLE))
    broken = Broken(series[~good], first[~good] - 1, last[~good], step[~good], fault[~good])

    opened, actual = points.index[begin], points.actual[begin] & points.actual[end]
    alone = good & (first == last)
    by = multipliers.at(series[alone], last[alone])
    used = watt_hours(opened[alone] + rise[alone], by) - watt_hours(opened[alone], by)
    singles = Energies(series[alone], last[alone], used, actual[alone])
    gap = good & (first < last)
    shared = _share(series[gap], first[gap], last[gap], opened[gap], rise[gap], singles, multipliers)
    return singles.joined(shared), broken


def demands(series: Int, day: Int, shown: Int, multiplier: Int) -> tuple[Energies, Broken]:
    """Maximum demands of days in W: what the meter shows, in thousandths of a W, times its multiplier. All (k,), ascending by
    (series, day); those above `DEMAND_LIMIT_W` are broken.
    """
    watts, good = watt_hours(shown, multiplier), within(shown, multiplier, DEMAND_LIMIT_W)
    broken = Broken.alone(series[~good], day[~good], shown[~good], DEMAND_FAULT)
    return Energies(series[good], day[good], watts[good], np.ones(int(good.sum()), np.bool_)), broken


def _share(
    series: Int, first: Int, last: Int, opened: Int, rise: Int, singles: Energies, multipliers: Multipliers
) -> Energies:
    """The days of gaps. All (g,): a gap is `first .. last`, opened at an index, and rises in all by so much."""
    length = last - first + 1
    gap = np.repeat(np.arange(len(series)), length)
    starts = np.cumsum(length) - length
    day = first[gap] + np.arange(len(gap)) - starts[gap]
    weight = like_days(series[gap], day, first[gap] - 1, singles)
    whole = np.add.reduceat(np.maximum(weight, 0), starts) if len(starts) else weight
    flat = (np.minimum.reduceat(weight, starts) < 0) | (whole == 0) if len(starts) else np.zeros(0, np.bool_)
    weight = np.where(flat[gap], 1, weight)
    whole = np.where(flat, length, whole)
    running = np.cumsum(weight)
    before = np.r_[0, running][starts]
    at = opened[gap] + scaled(rise[gap], running - before[gap], whole[gap])
    since = np.r_[0, at[:-1]] if len(at) else at
    since[starts] = opened
    by = multipliers.at(series[gap], day)
    return Energies(series[gap], day, watt_hours(at, by) - watt_hours(since, by), np.zeros(len(gap), np.bool_))


def like_days(series: Int, day: Int, before: Int, singles: Energies) -> Int:
    """What each day of a gap is weighed by: the energy of the latest same weekday up to the day `before` the gap.

    All (m,). Only days between reads of neighbouring midnights count, of at most `LIKE_WEEKS` weeks before the day;
    -1 where there is none.
    """
    out = np.full(len(day), -1, np.int64)
    if len(singles.series) == 0:
        return out
    keys = day_key(singles.series, singles.day)
    for weeks in range(1, LIKE_WEEKS + 1):
        wanted = np.flatnonzero((out < 0) & (day - 7 * weeks <= before))
        key = day_key(series[wanted], day[wanted] - 7 * weeks)
        at = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
        hit = keys[at] == key
        out[wanted[hit]] = singles.energy[at[hit]]
    return out


def scaled(amount: Int, part: Int, whole: Int) -> Int:
    """`amount * part // whole`, exact also where the product passes int64. All (m,), not negative; whole > 0.

    >>> scaled(np.array([10, 2**50]), np.array([2, 2**40]), np.array([3, 2**41])).tolist()
    [6, 562949953421312]
    """
    fits = (part == 0) | (amount <= _FITS // np.maximum(part, 1))
    out = np.zeros(len(amount), np.int64)
    out[fits] = amount[fits] * part[fits] // whole[fits]
    large = np.flatnonzero(~fits)
    if len(large):  # Python's own integers: seldom, a gap at a large customer
        out[large] = amount[large].astype(object) * part[large].astype(object) // whole[large].astype(object)
    return out
