"""Interval energy by meter and day: which reading counts, for which account, and what differs by it.

The arithmetic of interval energy is the identity; what is settled here is revisions and assignments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.inbound import BESIDE, MEASURES, METER_READINGS, QUALITIES
from transforms.account_events import STAMP_FIELDS
from transforms.blocks import Keyed, split, tag
from transforms.fold_registers import DIFFERENCE_SCHEMA, PERIODS_SCHEMA, RegisterDay
from transforms.kernels.readings import MeterDay, count_accepted, merge, reduce_rows
from transforms.kernels.reference import Assignments
from transforms.shards import numpy

READINGS_SCHEMA = pa.schema([pa.field(f.name, f.type) for f in METER_READINGS.schema] + STAMP_FIELDS)
APART_COLUMNS = {MEASURES.index(name): column for name, column in BESIDE.items()}
"""Columns of interval energy beside the total, by the number of their measure."""

Mask = npt.NDArray[np.bool_]
Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Contribution:
    """What each meter of a shard adds on one day. All (n,).

    here: read, and of a known account; counts: so, and not by a check meter; account: its shard and slot, -1 where it does
    not count.
    """

    here: Mask
    counts: Mask
    account: Int
    day: MeterDay

    @classmethod
    def of(cls, assigned: Assignments, day: int, state: MeterDay) -> Contribution:
        """The readings of a day under a set of assignments."""
        row, known = assigned.on(day, len(state.revision))
        account, main = (assigned.account[row], assigned.main[row]) if len(assigned.account) else (row, known)
        return cls(known & state.read, known & main & state.read, np.where(known & main, account, -1), state)


def differences(before: Contribution, after: Contribution) -> Iterator[tuple[int, Int, Contribution]]:
    """Meters whose contribution changed: (-1, their slots, before), then (+1, their slots, after)."""
    same = before.counts & after.counts & (before.account == after.account)
    same &= (before.day.low == after.day.low) & (before.day.quality == after.day.quality)
    same &= (before.day.spread > 0) == (after.day.spread > 0)
    yield -1, np.flatnonzero(before.counts & ~same), before
    yield 1, np.flatnonzero(after.counts & ~same), after


@dataclass
class MetersFolded:
    """What a fold of one meter shard came to: days to write, differences by account, and where each row went.

    apart: the days to write of what is told beside the total; apart_parts: (sign, day, measure, accounts, amounts).
    """

    after: dict[int, MeterDay]
    parts: list[tuple[int, int, Int, Contribution]]
    pending: list[Int]
    lost: list[tuple[int, Int]]
    accepted: int = 0
    superseded: int = 0
    apart: dict[int, RegisterDay] = field(default_factory=dict)
    apart_parts: list[tuple[int, int, int, Int, Int]] = field(default_factory=list)

    def difference_blocks(self) -> Iterator[Keyed]:
        """The differences as blocks by account shard: of totals, and of what is told apart."""
        if self.parts:
            yield from self._totals()
        if self.apart_parts:
            yield from self._apart()

    def _totals(self) -> Iterator[Keyed]:
        account = np.concatenate([side.account[slots] for _, _, slots, side in self.parts])
        sign = np.concatenate([np.full(len(slots), s, np.int8) for s, _, slots, _ in self.parts])
        columns = [
            (account & 0xFFFF_FFFF).astype(np.int32),
            np.concatenate([np.full(len(slots), day, np.int32) for _, day, slots, _ in self.parts]),
            np.concatenate([side.day.low[slots] for _, _, slots, side in self.parts]) * sign,
            sign,
            np.concatenate([side.day.quality[slots] > 0 for _, _, slots, side in self.parts]).astype(np.int8) * sign,
            np.concatenate([side.day.spread[slots] > 0 for _, _, slots, side in self.parts]).astype(np.int8) * sign,
        ]
        batch = pa.record_batch([pa.array(c) for c in columns], schema=DIFFERENCE_SCHEMA)
        for key, block in split(batch, (account >> 32).astype(np.int32)):
            yield key, tag(block, "difference")

    def _apart(self) -> Iterator[Keyed]:
        each = [len(energy) for *_, energy in self.apart_parts]
        sign, day, register = (
            np.repeat(np.array([part[at] for part in self.apart_parts], kind), each)
            for at, kind in enumerate((np.int8, np.int32, np.int8))
        )
        account, energy = (np.concatenate([part[at] for part in self.apart_parts]) for at in (3, 4))
        columns = [(account & 0xFFFF_FFFF).astype(np.int32), day, register, energy * sign, sign]
        batch = pa.record_batch([pa.array(c) for c in columns], schema=PERIODS_SCHEMA)
        for key, block in split(batch, (account >> 32).astype(np.int32)):
            yield key, tag(block, "period_difference")


def apart_differences(
    was: Contribution, now: Contribution, before: RegisterDay, after: RegisterDay
) -> Iterator[tuple[int, int, Int, Int]]:
    """What differs beside the total, on one day: (-1 or 1, measure, accounts, amounts). before, after: its state."""
    for code in sorted({*before, *after}):
        sides = [
            (of.counts & day[code].read, of.account, day[code].low)
            if code in day
            else (of.counts & False, of.account, of.account)
            for of, day in ((was, before), (now, after))
        ]
        (had, old, low), (has, new, high) = sides
        same = had & has & (old == new) & (low == high)
        for sign, (told, account, energy) in zip((-1, 1), sides, strict=True):
            some = np.flatnonzero(told & ~same)
            if len(some):
                yield sign, code, account[some], energy[some]


def fold_meters(
    load: Callable[[int], MeterDay], load_apart: Callable[[int], RegisterDay], old: Assignments, new: Assignments,
    rows: pa.Table, slot: npt.NDArray[np.int32], redriven: Mask, more_days: Iterable[int],
) -> MetersFolded:  # fmt: skip
    """Fold readings into their days, day by day, and find what differs for the accounts.

    load, load_apart: the stored state of a day by day number, of totals and of what is told apart. old, new: assignments
    before and after (the same object: unchanged).
    rows: (k,) of `READINGS_SCHEMA`; slot: (k,) their meters; redriven: (k,) rows that waited and are in the stored state.
    more_days: days to look at although no row is of them.
    """
    day, revision, energy = numpy(rows["service_date"]), numpy(rows["revision"]), numpy(rows["energy_wh"])
    quality = numpy(pc.index_in(rows["quality"], value_set=pa.array(QUALITIES)), np.int8)
    apart = {
        code: (~numpy(rows[name].is_null()), numpy(rows[name].fill_null(0)))
        for code, name in APART_COLUMNS.items()
        if rows[name].null_count < rows.num_rows
    }
    order = np.argsort(day, kind="stable")
    numbers, starts = np.unique(day[order], return_index=True)
    rows_of = dict(zip(numbers.tolist(), np.split(order, starts[1:]), strict=True)) if len(order) else {}
    out, none = MetersFolded({}, [], [], []), np.zeros(0, np.int64)
    for number in sorted({*rows_of, *more_days}):
        before, index = load(number), rows_of.get(number, none)
        after, fresh = before, index[~redriven[index]]
        if len(fresh):
            after = merge(before, *reduce_rows(slot[fresh], revision[fresh], energy[fresh], quality[fresh]))
            out.after[number] = after
        apart_before = apart_after = load_apart(number)
        for code, (told, amount) in apart.items():
            if len(some := fresh[told[fresh]]):
                day_of = apart_after.get(code) or MeterDay.empty(len(before.revision))
                merged = merge(day_of, *reduce_rows(slot[some], revision[some], amount[some], quality[some]))
                out.apart[number] = apart_after = {**apart_after, code: merged}
        was, now = Contribution.of(old, number, before), Contribution.of(new, number, after)
        if len(index):
            accepted, superseded, waits = count_accepted(
                before, after, now.here, slot[index], revision[index], energy[index], redriven[index]
            )
            out.accepted += accepted
            out.superseded += superseded
            out.pending.append(index[waits])
        if old is not new and len(gone := np.flatnonzero(was.here & ~now.here)):
            out.lost.append((number, gone))
        out.parts += [(sign, number, slots, side) for sign, slots, side in differences(was, now) if len(slots)]
        if apart_before is not apart_after or (old is not new and apart_before):
            parts = apart_differences(was, now, apart_before, apart_after)
            out.apart_parts += [(sign, number, code, account, energy) for sign, code, account, energy in parts]
    return out
