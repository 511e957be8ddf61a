"""Fold 0 for cumulative registers, by meter shard: which index counts at each midnight, and what was used between them.

What changes at one midnight changes the days from the index before it to the one after it, and the shape of gaps in the
four weeks that follow. So for each series that anything new concerns, its indexes are gathered that far, its days are
worked out as they were and as they are, and the differences go to the accounts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.inbound import DEMAND, KEPT, KEPT_COLUMNS, MEASURES, MULTIPLIER, QUALITIES, REGISTER_READINGS
from schemas.marts import READING_EXCEPTIONS
from schemas.vee import READING_FAULTS
from transforms.account_events import STAMP_FIELDS
from transforms.blocks import Keyed, split, tag
from transforms.kernels.readings import MeterDay, merge, reduce_rows
from transforms.kernels.reference import NEVER
from transforms.kernels.registers import (
    BEYOND,
    MISMATCH,
    REACH_DAYS,
    ROLLOVER_PPM,
    Broken,
    Energies,
    Points,
    day_key,
    demands,
    energies,
)
from transforms.kernels.terms import COUNT, NO_INDEX, Terms
from transforms.shards import State, numpy

Int = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

REGISTERS_SCHEMA = pa.schema([pa.field(f.name, f.type) for f in REGISTER_READINGS.schema] + STAMP_FIELDS)
DIFFERENCE_SCHEMA = pa.schema(
    [
        ("slot", pa.int32()), ("day", pa.int32()), ("energy_wh", pa.int64()), ("received", pa.int8()),
        ("estimated", pa.int8()), ("conflict", pa.int8()),
    ]
)  # fmt: skip
"""What one meter adds to (or takes from) its account's day; `slot` is the account's."""

PERIODS_SCHEMA = pa.schema(
    [
        ("slot", pa.int32()),
        ("day", pa.int32()),
        ("register", pa.int8()),
        ("energy_wh", pa.int64()),
        ("received", pa.int8()),
    ]
)
"""The same for the measures beside the total, of a maximum demand in W; `register` is its position in `MEASURES`."""

EXCEPTIONS_SCHEMA = READING_EXCEPTIONS.schema
TOTAL = MEASURES.index("total")
PEAK = MEASURES.index(DEMAND)
"""A maximum demand. It, and what is numbered after it, follows from its own day alone."""
TIMES = KEPT.index(MULTIPLIER)
ESTIMATED = QUALITIES.index("estimated")
ACTUAL = QUALITIES.index("actual")

RegisterDay = Mapping[int, MeterDay]
"""What closed one service day: number in `KEPT` -> the state of it, dense by meter slot. Of a multiplier all are `actual`."""


def register_day_from_batch(batch: pa.RecordBatch, n: int) -> RegisterDay:
    """From a stored block; slots that the shard has gained since are empty."""
    out = {}
    for number, name in enumerate(KEPT):
        if f"{name}_revision" in batch.schema.names:
            columns = [batch.column(f"{name}_{part}") for part in ("revision", "energy_wh", "spread_wh", "quality")]
            out[number] = MeterDay.from_batch(
                pa.record_batch(columns, names=["revision", "energy_wh", "spread_wh", "quality"]), n
            )
    return out


def register_day_to_batch(day: RegisterDay, registers: Iterable[int], n: int) -> pa.RecordBatch:
    """The block as stored: revision, index, spread and quality of some registers."""
    columns: dict[str, npt.NDArray[np.generic]] = {}
    for number in registers:
        state, name = day.get(number) or MeterDay.empty(n), KEPT[number]
        columns |= {
            f"{name}_revision": state.revision, f"{name}_energy_wh": state.low, f"{name}_spread_wh": state.spread,
            f"{name}_quality": state.quality,
        }  # fmt: skip
    return pa.record_batch(columns)


def load_last(state: State, n: int) -> npt.NDArray[np.int32]:
    """The latest day on which each of `KEPT` has a value, by meter, -NEVER where none. (`COUNT`, n)."""
    out = np.full((COUNT, n), -NEVER, np.int32)
    for entry in state.entries.get("register_last", []):
        block = state.store.read_block(entry)
        for name, column in zip(block.schema.names, block.columns, strict=True):
            out[KEPT.index(name), : len(column)] = column.to_numpy()
    return out


def is_point(day: MeterDay, slot: npt.NDArray[Any]) -> Mask:
    """Whether the index of each meter is one that energy is counted from: read or put in, not estimated. slot: (m,)."""
    result: Mask = (day.revision[slot] >= 0) & (day.quality[slot] != ESTIMATED)
    return result


@dataclass(frozen=True)
class Cells:
    """Stored indexes of some series that energy is counted from. All (k,)."""

    series: Int
    day: Int
    index: Int
    actual: Mask
    conflict: Mask

    @classmethod
    def of(cls, series: Int, number: int, day: RegisterDay) -> Cells:
        """Those of a day, of the given series. series: (m,)."""
        slot, register = np.divmod(series, COUNT)
        parts = []
        for r, state in day.items():
            mine = register == r
            s, own = slot[mine], series[mine]
            some = is_point(state, s)
            s = s[some]
            parts.append(
                cls(
                    own[some],
                    np.full(len(s), number, np.int64),
                    state.low[s],
                    state.quality[s] == ACTUAL,
                    state.spread[s] > 0,
                )
            )
        return cls.joined(parts)

    @classmethod
    def joined(cls, parts: Sequence[Cells]) -> Cells:
        """All of them."""
        if not parts:
            zero, no = np.zeros(0, np.int64), np.zeros(0, np.bool_)
            return cls(zero, zero, zero, no, no)
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))

    def shown(self, terms: Terms) -> Cells:
        """Those that the meter can show."""
        high = np.flatnonzero(self.index >= terms.least_modulus)
        if len(high) == 0:
            return self
        run = terms.holder(self.series[high] // COUNT, self.day[high])
        kept = np.ones(len(self.index), np.bool_)
        kept[high] = (run < 0) | ~terms.beyond(run, self.index[high])
        return self.where(kept)

    def where(self, kept: Mask) -> Cells:
        """Those of a mask. kept: (k,)."""
        return self if kept.all() else Cells(*(getattr(self, name)[kept] for name in self.__dataclass_fields__))


class History:
    """The days of a shard's registers, as they were and as they are after new rows. Each stored day is read once."""

    def __init__(
        self, load: Callable[[int], RegisterDay], stored: Iterable[int], now: Mapping[int, RegisterDay]
    ) -> None:
        self._load, self._now = load, now
        self._held: dict[int, RegisterDay] = {}
        self.days = np.array(sorted({*stored, *now}), np.int64)

    def before(self, day: int) -> RegisterDay:
        """As it was."""
        if day not in self._held:
            self._held[day] = self._load(day)
        return self._held[day]

    def after(self, day: int) -> RegisterDay:
        """As it is."""
        found = self._now.get(day)
        return self.before(day) if found is None else found

    def previous(self, series: Int, start: Int, floor: Int, terms: Terms) -> Int:
        """The latest day `floor .. start` with an index that counts, for each series; `floor` where none. All (m,)."""
        out, left = floor.copy(), np.flatnonzero(start >= floor)
        for day in self.days[::-1].tolist():
            left = left[floor[left] <= day]
            if len(left) == 0:
                break
            mine = left[start[left] >= day]
            if len(mine):
                hit = np.isin(series[mine], Cells.of(series[mine], day, self.after(day)).shown(terms).series)
                out[mine[hit]] = day
                left = np.setdiff1d(left, mine[hit], assume_unique=True)
        return out

    def next(self, series: Int, start: Int, last: Int, terms: Terms) -> Int:
        """The first day `start .. last` with an index that counts, for each series; NEVER where none. All (m,)."""
        out, left = np.full(len(series), NEVER, np.int64), np.flatnonzero(start <= last)
        for day in self.days[np.searchsorted(self.days, start.min(initial=NEVER)) :].tolist():
            left = left[last[left] >= day]
            if len(left) == 0:
                break
            mine = left[start[left] <= day]
            if len(mine):
                hit = np.isin(series[mine], Cells.of(series[mine], day, self.after(day)).shown(terms).series)
                out[mine[hit]] = day
                left = np.setdiff1d(left, mine[hit], assume_unique=True)
        return out

    def gather(self, series: Int, first: Int, last: Int) -> tuple[Cells, Cells]:
        """Indexes that count on the days `first .. last` of each series, as they were and as they are. All (m,)."""
        old, new = [], []
        low, high = np.searchsorted(self.days, [first.min(initial=NEVER), last.max(initial=-NEVER) + 1])
        for day in self.days[low:high].tolist():
            mine = series[(first <= day) & (day <= last)]
            if len(mine):
                old.append(Cells.of(mine, day, self.before(day)))
                new.append(Cells.of(mine, day, self._now[day]) if day in self._now else old[-1])
        return Cells.joined(old), Cells.joined(new)


@dataclass(frozen=True)
class Span:
    """Days of series that something new concerns. All (m,), series ascending, unique; days first .. last."""

    series: Int
    first: Int
    last: Int

    @classmethod
    def over(cls, series: Int, first: Int, last: Int) -> Span:
        """One span for each series, over all of its own. All (k,)."""
        unique, index = np.unique(series, return_inverse=True)
        low, high = np.full(len(unique), NEVER, np.int64), np.full(len(unique), -NEVER, np.int64)
        np.minimum.at(low, index, first)
        np.maximum.at(high, index, last)
        return cls(unique, low, high)


def points_of(cells: Cells, terms: Terms, span: Span) -> tuple[Points, Broken]:
    """The points of some series on the days of a span: indexes of the day's run, and those that the reference gives; and the
    indexes that would be points, could their meters show them.
    """
    slot, register = np.divmod(cells.series, COUNT)
    if (register >= PEAK).any():
        return points_of(cells.where(register < PEAK), terms, span)
    run = terms.run_on(slot, cells.day)
    if (run < 0).any():  # before a run, an index opens it, unless the reference gives another
        ahead = np.where(run < 0, terms.run_on(slot, cells.day + 1), -1)
        opens = ahead >= 0
        opens[opens] = terms.heads[ahead[opens]] & (terms.opening[ahead[opens], register[opens]] == NO_INDEX)
    else:
        ahead, opens = run, np.zeros(len(run), np.bool_)
    inside = run >= 0
    at = run[inside]
    inside[inside] = (terms.closing[at, register[inside]] == NO_INDEX) | (cells.day[inside] != terms.end[at] - 1)
    keep = np.flatnonzero(inside | opens)
    of = np.where(inside, run, ahead)[keep]
    far = terms.beyond(of, cells.index[keep])
    over = cells.index[keep[far]] - terms.modulus[of[far]]
    beyond = Broken.alone(cells.series[keep[far]], cells.day[keep[far]], over, BEYOND)
    keep, of = keep[~far], of[~far]
    given = [
        _given(terms, terms.opening, terms.first - 1, span), _given(terms, terms.closing, terms.end - 1, span)
    ]  # fmt: skip
    series = np.r_[cells.series[keep], *(part[0] for part in given)]
    run = np.r_[of, *(part[1] for part in given)]
    day = np.r_[cells.day[keep], *(part[2] for part in given)]
    index = np.r_[cells.index[keep], *(part[3] for part in given)]
    actual = np.r_[cells.actual[keep], np.ones(sum(len(part[0]) for part in given), np.bool_)]
    order = (
        np.lexsort((terms.segment[run], day, series))
        if len(given[0][0]) + len(given[1][0])
        else np.argsort(day_key(series, day), kind="stable")
    )
    series, run = series[order], run[order]
    return Points(series, terms.segment[run], day[order], index[order], actual[order], terms.modulus[run]), beyond


def demands_of(cells: Cells, terms: Terms) -> tuple[Energies, Broken]:
    """The maximum demands of some series, of days that a run holds."""
    cells, run = _in_runs(cells, PEAK, terms)
    order = np.argsort(day_key(cells.series, cells.day), kind="stable")
    return demands(cells.series[order], cells.day[order], cells.index[order], terms.multiplier[run[order]])


def mismatches_of(cells: Cells, terms: Terms) -> Broken:
    """Multipliers told of some meters that are not those of the run, of days that a run holds."""
    cells, run = _in_runs(cells, TIMES, terms)
    off = cells.index - terms.multiplier[run]
    some = np.flatnonzero(off)
    return Broken.alone(cells.series[some], cells.day[some], off[some], MISMATCH)


def _in_runs(cells: Cells, number: int, terms: Terms) -> tuple[Cells, Int]:
    """Those of one number in `KEPT` whose day a run holds, and the run. (m,)."""
    cells = cells.where(cells.series % COUNT == number)
    run = terms.run_on(cells.series // COUNT, cells.day)
    return cells.where(run >= 0), run[run >= 0]


def _given(terms: Terms, index: Int, day: Int, span: Span) -> tuple[Int, Int, Int, Int]:
    """Series, run, day and index of what the reference gives on the days of a span."""
    run, register = np.nonzero(index >= 0)
    series = terms.slot[run] * COUNT + register
    at = np.minimum(np.searchsorted(span.series, series), max(len(span.series) - 1, 0))
    if len(span.series) == 0:
        run = run[:0]
        return run, run, run, run
    mine = (span.series[at] == series) & (span.first[at] <= day[run]) & (day[run] <= span.last[at])
    return series[mine], run[mine], day[run][mine], index[run, register][mine]


@dataclass(frozen=True)
class Used:
    """What the days of some series add to accounts. All (k,), ascending by (series, day), unique.

    account: shard and slot as one number; estimated: not between two reads of neighbouring midnights; conflict: two indexes
    of one revision.
    """

    series: Int
    day: Int
    account: Int
    energy: Int
    estimated: Mask
    conflict: Mask

    @classmethod
    def of(cls, found: Energies, cells: Cells, terms: Terms, interval: Callable[[int], Mask | None]) -> Used:
        """Those that count. interval: which meters have a reading of interval energy on a day, which counts instead."""
        slot = found.series // COUNT
        run = terms.run_on(slot, found.day)
        counts = terms.counts[run] & (run >= 0) if len(terms.slot) else np.zeros(len(run), np.bool_)
        for day in np.unique(found.day).tolist():
            if (read := interval(day)) is not None:
                mine = np.flatnonzero(found.day == day)
                counts[mine] &= ~read[slot[mine]]
        some = np.flatnonzero(counts)
        series, day = found.series[some], found.day[some]
        doubtful = np.unique(day_key(cells.series[cells.conflict], cells.day[cells.conflict]))
        conflict = np.isin(day_key(series, day), doubtful) if len(doubtful) else np.zeros(len(some), np.bool_)
        return cls(series, day, terms.account[run[some]], found.energy[some], ~found.actual[some], conflict)

    def other_than(self, other: Used) -> Int:
        """Positions of what the other does not hold alike. (d,)."""
        key, there = day_key(self.series, self.day), day_key(other.series, other.day)
        if len(there) == 0:
            return np.arange(len(key))
        at = np.minimum(np.searchsorted(there, key), len(there) - 1)
        same = there[at] == key
        for name in ("account", "energy", "estimated", "conflict"):
            same &= getattr(self, name) == getattr(other, name)[at]
        return np.flatnonzero(~same)


@dataclass
class RegistersFolded:
    """What a fold of one shard's registers came to: days to write, differences, and where each row went.

    parts: (sign, positions, side). broken: what was an exception, and what is one now. last: (`COUNT`, n) latest day with a value.
    """

    last: npt.NDArray[np.int32]
    days: dict[int, RegisterDay] = field(default_factory=dict)
    parts: list[tuple[int, Int, Used]] = field(default_factory=list)
    broken: tuple[Broken, Broken] | None = None
    span: Span | None = None
    pending: list[Int] = field(default_factory=list)
    accepted: int = 0
    superseded: int = 0

    def last_block(self) -> pa.RecordBatch:
        """`last` as stored: of what any meter has."""
        some = np.flatnonzero((self.last > -NEVER).any(axis=1))
        return pa.record_batch(list(self.last[some]), names=[KEPT[number] for number in some])

    def blocks(self) -> Iterator[Keyed]:
        """The differences as blocks by account shard: of the totals, and of the other registers."""
        if not self.parts:
            return
        series, day, account, energy, estimated, conflict = (
            np.concatenate([getattr(side, name)[some] for _, some, side in self.parts])
            for name in ("series", "day", "account", "energy", "estimated", "conflict")
        )
        sign = np.concatenate([np.full(len(some), sign, np.int8) for sign, some, _ in self.parts])
        register, slot, shard = (
            series % COUNT,
            (account & 0xFFFF_FFFF).astype(np.int32),
            (account >> 32).astype(np.int32),
        )
        total, other = np.flatnonzero(register == TOTAL), np.flatnonzero(register != TOTAL)
        signed = [energy * sign, sign, estimated * sign, conflict * sign]
        whole = [
            slot,
            day.astype(np.int32),
            *(column if column.dtype == np.int64 else column.astype(np.int8) for column in signed),
        ]
        apart = [slot, day.astype(np.int32), register.astype(np.int8), energy * sign, sign]
        for kind, columns, schema, rows in (
            ("difference", whole, DIFFERENCE_SCHEMA, total), ("period_difference", apart, PERIODS_SCHEMA, other)
        ):  # fmt: skip
            batch = pa.record_batch([pa.array(column[rows]) for column in columns], schema=schema)
            for key, block in split(batch, shard[rows]):
                yield key, tag(block, kind)

    def exceptions(self, meters: pa.Array) -> dict[int, pa.Table]:
        """Exceptions by the day that the index, of two the later one, closes; of days where they differ."""
        if self.broken is None:
            return {}
        before, after = (self._pairs(side) for side in self.broken)
        found: dict[int, list[tuple[int, ...]]] = {closed: [] for _, _, closed, *_ in before ^ after}
        for pair in sorted(after):
            if pair[2] in found:
                found[pair[2]].append(pair)
        out = {}
        for closed, pairs in found.items():
            series, opened, _, step, fault = np.array(pairs, np.int64).reshape(-1, 5).T
            columns = {
                "meter_id": meters.take(pa.array(series // COUNT)),
                "service_date": pa.array(np.full(len(pairs), closed, np.int32)).cast(pa.date32()),
                "register": pa.array(KEPT).take(pa.array(series % COUNT)),
                "reason": pa.array(READING_FAULTS).take(pa.array(fault)),
                "opened_on": pa.array(opened.astype(np.int32), mask=opened == closed).cast(pa.date32()),
                "step": pa.array(step),
            }
            out[closed] = pa.table([columns[name] for name in EXCEPTIONS_SCHEMA.names], schema=EXCEPTIONS_SCHEMA)
        return out

    def concerns(self, slot: npt.NDArray[np.int32], rows: pa.Table) -> Mask:
        """Which stored exceptions are of series and days worked out anew. slot: (k,) their meters."""
        register = numpy(pc.index_in(rows["register"], value_set=pa.array(KEPT)), np.int64)
        alone = numpy(rows["opened_on"].is_null())
        return self._inside(slot.astype(np.int64) * COUNT + register, numpy(rows["service_date"]), alone)

    def _pairs(self, broken: Broken) -> set[tuple[int, int, int, int, int]]:
        """(series, opened, closed, step, fault) of what was worked out in full."""
        mine = self._inside(broken.series, broken.closed, broken.opened == broken.closed)
        columns = (broken.series, broken.opened, broken.closed, broken.step, broken.fault)
        return set(zip(*(column[mine].tolist() for column in columns), strict=True))

    def _inside(self, series: Int, day: npt.NDArray[Any], alone: Mask) -> Mask:
        """Which days of series the fold has worked out: those after the index that all else follows, and of indexes that are
        looked at alone also its own.
        """
        assert self.span is not None
        at = np.minimum(np.searchsorted(self.span.series, series), len(self.span.series) - 1)
        same: Mask = self.span.series[at] == series
        begun: Mask = np.where(alone, self.span.first[at] <= day, self.span.first[at] < day)
        return same & begun & (day <= self.span.last[at])


def fold_registers(
    load: Callable[[int], RegisterDay], stored: Iterable[int], last: npt.NDArray[np.int32], terms: tuple[Terms, Terms],
    other_terms: tuple[Int, Int], rows: pa.Table, slot: npt.NDArray[np.int32], redriven: Mask,
    intervals: tuple[Callable[[int], Mask | None], Callable[[int], Mask | None]], flipped: tuple[Int, Int],
) -> RegistersFolded:  # fmt: skip
    """Fold register readings into their days, and find what differs for the accounts.

    load: the stored day by number; stored: which days are. last: (`COUNT`, n) latest day with a value, `-NEVER` where
    none. terms: before and after. other_terms: meters (t,) whose terms differ, and the first day (t,) from which. rows: (k,)
    of `REGISTERS_SCHEMA`; slot: (k,) their meters; redriven: (k,) rows that waited and are stored already. intervals: meters
    with interval energy on a day, before and after; flipped: meters and days where that differs.
    """
    stored = list(stored)
    n = last.shape[1]
    out = RegistersFolded(last.copy())
    series, days = _merge_rows(out, load, rows, slot, redriven, terms[1], n)
    every = np.arange(COUNT)
    wide, begin = (other_terms[0][:, None] * COUNT + every).ravel(), np.repeat(other_terms[1] - 1, COUNT)
    turned, when = (flipped[0][:, None] * COUNT + every).ravel(), np.repeat(flipped[1], COUNT)
    changed = Span.over(
        np.r_[series, wide, turned], np.r_[days, begin, when], np.r_[days, np.full(len(wide), NEVER, np.int64), when]
    )
    has = out.last[changed.series % COUNT, changed.series // COUNT] > -NEVER
    has |= _closed(terms, changed.series)
    changed = Span(changed.series[has], changed.first[has], changed.last[has])
    if len(changed.series) == 0:
        return out
    history = History(load, stored, out.days)
    span = _reach(history, changed, out.last, terms)
    sides, broken = [], []
    for (points, beyond), cells, of, interval in zip(*_points(history, span, terms), terms, intervals, strict=True):
        found, gone = energies(points, of.multipliers(), ROLLOVER_PPM)
        highest, too_high = demands_of(cells, of)
        sides.append(Used.of(found.joined(highest), cells, of, interval))
        broken.append(gone.joined(beyond).joined(too_high).joined(mismatches_of(cells, of)))
    before, after = sides
    out.parts = [
        (sign, some, side)
        for sign, side, other in ((-1, before, after), (1, after, before))
        if len(some := side.other_than(other))
    ]
    out.broken, out.span = (broken[0], broken[1]), span
    return out


def _points(
    history: History, span: Span, terms: tuple[Terms, Terms]
) -> tuple[list[tuple[Points, Broken]], list[Cells]]:
    """The points of the days of a span, as they were and as they are, and the indexes among them. The days that give gaps their
    shape are read only for series that have a gap.
    """
    sides = list(history.gather(span.series, span.first, span.last))
    points = [points_of(cells, of, span) for cells, of in zip(sides, terms, strict=True)]
    gaps = np.isin(span.series, np.concatenate([of.with_gaps() for of, _ in points]))
    if not gaps.any():
        return points, sides
    context = np.where(gaps, span.first - REACH_DAYS, span.first)
    before = history.gather(span.series[gaps], context[gaps], span.first[gaps] - 1)
    sides = [Cells.joined([*both]) for both in zip(before, sides, strict=True)]
    window = Span(span.series, context, span.last)
    return [points_of(cells, of, window) for cells, of in zip(sides, terms, strict=True)], sides


def _reach(history: History, changed: Span, last: npt.NDArray[np.int32], terms: tuple[Terms, Terms]) -> Span:
    """How far what changed reaches: from the index before to the one after the last gap it may shape."""
    some = np.flatnonzero(changed.series % COUNT < PEAK)
    series, begin, end = changed.series[some], changed.first[some], changed.last[some]
    slot, register = np.divmod(series, COUNT)
    floor = np.minimum(*(_begin(of, slot, begin) for of in terms))
    latest = last[register, slot].astype(np.int64)
    before = history.previous(series, np.minimum(begin - 1, np.maximum(latest, floor)), floor, terms[1])
    before = np.where(latest < floor, floor, before)
    after = history.next(series, np.minimum(end, NEVER - REACH_DAYS - 1) + REACH_DAYS + 1, latest, terms[1])
    first, stop = changed.first.copy(), changed.last.copy()
    first[some], stop[some] = np.minimum(before, begin), after
    return Span(changed.series, first, stop)


def _closed(terms: tuple[Terms, Terms], series: Int) -> Mask:
    """Series of which the reference gives an index at a removal. series: (m,)."""
    given = [(of.slot[run] * COUNT + register) for of in terms for run, register in [np.nonzero(of.closing >= 0)]]
    return np.isin(series, np.concatenate(given))


def _begin(terms: Terms, slot: Int, day: Int) -> Int:
    """The day before the segment that holds on a day, or the day itself where none does. All (m,)."""
    run = terms.run_on(slot, day)
    out = day.copy()
    some = run >= 0
    out[some] = terms.begins(run[some]) - 1
    return out


def _merge_rows(
    out: RegistersFolded, load: Callable[[int], RegisterDay], rows: pa.Table, slot: npt.NDArray[np.int32], redriven: Mask,
    terms: Terms, n: int,
) -> tuple[Int, Int]:  # fmt: skip
    """Merge rows into their days; count them. Returns the series and days whose value is another than before. (c,) each."""
    day, revision = numpy(rows["service_date"]).astype(np.int64), numpy(rows["revision"])
    quality = numpy(pc.index_in(rows["quality"], value_set=pa.array(QUALITIES)), np.int8)
    given = {KEPT.index(name): rows[column].combine_chunks() for name, column in KEPT_COLUMNS.items()}
    given = {r: column for r, column in given.items() if column.null_count < len(column)}
    has = {r: ~np.asarray(column.is_null().to_numpy(zero_copy_only=False)) for r, column in given.items()}
    index = {r: numpy(column.fill_null(0)) for r, column in given.items()}
    graded = {r: quality if r != TIMES else np.full(len(quality), ACTUAL, np.int8) for r in given}
    order = np.argsort(day, kind="stable")
    numbers, starts = np.unique(day[order], return_index=True)
    changed: list[tuple[Int, int]] = []
    for number, mine in zip(numbers.tolist(), np.split(order, starts)[1:], strict=True):
        before, after = load(number), dict(load(number))
        fresh = mine[~redriven[mine]]
        for r in given:
            some = fresh[has[r][fresh]]
            if len(some) == 0:
                continue
            state = after.get(r) or MeterDay.empty(n)
            at, new = reduce_rows(slot[some], revision[some], index[r][some], graded[r][some])
            after[r] = merge(state, at, new)
            differs = (
                (is_point(state, at) != is_point(after[r], at)) | (state.low[at] != after[r].low[at])
                | (state.quality[at] != after[r].quality[at]) | ((state.spread[at] > 0) != (after[r].spread[at] > 0))
            )  # fmt: skip
            changed.append((at[differs].astype(np.int64) * COUNT + r, number))
            out.last[r, at] = np.maximum(out.last[r, at], number)
        if len(fresh):
            out.days[number] = after
        _count(out, before, after, mine, slot, revision, index, has, redriven, terms, number)
    series = np.concatenate([some for some, _ in changed]) if changed else np.zeros(0, np.int64)
    return series, np.concatenate(
        [np.full(len(some), number, np.int64) for some, number in changed]
    ) if changed else series


def _count(
    out: RegistersFolded, before: RegisterDay, after: RegisterDay, mine: Int, slot: npt.NDArray[np.int32], revision: Int,
    index: Mapping[int, Int], has: Mapping[int, Mask], redriven: Mask, terms: Terms, number: int,
) -> None:  # fmt: skip
    """Sort the rows of a day into accepted, superseded and pending.

    A row is accepted where one of its indexes is the one that counts, and the first such row for it, and was not before; or
    where it has none, as that of a register that is not wanted. Its multiplier does not matter.
    """
    s = slot[mine]
    here = terms.known_at(s, np.full(len(s), number))
    told = [has[r][mine] for r in has.keys() - {TIMES}]
    accepted = here & ~np.logical_or.reduce(told) if told else here.copy()
    for r in index.keys() & after.keys() - {TIMES}:
        now, was = after[r], before.get(r)
        wins = here & has[r][mine] & (revision[mine] == now.revision[s]) & (index[r][mine] == now.low[s])
        if was is not None:
            wins &= redriven[mine] | (was.revision[s] != now.revision[s]) | (was.low[s] != now.low[s])
        at = np.flatnonzero(wins)
        accepted[at[np.unique(s[at], return_index=True)[1]]] = True
    out.accepted += int(accepted.sum())
    out.superseded += int(here.sum()) - int(accepted.sum())
    out.pending.append(mine[~here])
