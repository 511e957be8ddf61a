"""Fold 0, by meter shard: which reading of a meter-day counts, and for which account.

Of interval energy the fold's arithmetic is the identity; what it settles is revisions and assignments. Cumulative registers
become energy in `transforms.fold_registers`. It emits differences, account by account: `+` what counts now, `-` what
counted before. They add up in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.inbound import APART, METER_READINGS, METERS, QUALITIES, REGISTERS
from transforms.blocks import Grouped, Keyed, by_kind, concat, one_batch, split, tag
from transforms.fold_reference import STAMP_FIELDS, TO_METER_SHARD, marked, touched
from transforms.fold_registers import (
    DIFFERENCE_SCHEMA,
    EXCEPTIONS_SCHEMA,
    PERIODS_SCHEMA,
    REGISTERS_SCHEMA,
    RegisterDay,
    RegistersFolded,
    fold_registers,
    load_last,
    register_day_from_batch,
    register_day_to_batch,
)
from transforms.kernels.readings import MeterDay, count_accepted, merge, reduce_rows
from transforms.kernels.reference import NEVER, Assignments, days, first_difference, latest, order_by
from transforms.kernels.terms import COUNT, NO_INDEX, Terms
from transforms.logs import merge as merge_files
from transforms.logs import to_merge
from transforms.shards import Place, Slots, State, numpy
from transforms.storage import Commit, Entry, Store

METER_CONTENT = [f.name for f in METERS.schema if f.name not in ("meter_id", "installed_on", "revision")]
READINGS_SCHEMA = pa.schema([pa.field(f.name, f.type) for f in METER_READINGS.schema] + STAMP_FIELDS)
HELD_SCHEMA = pa.schema([*TO_METER_SHARD, pa.field("slot", pa.int32())])
EXPECTED_SCHEMA = pa.schema(
    [("slot", pa.int32()), ("installed", pa.int32()), ("removed", pa.int32()), ("meters", pa.int32())]
)
APART_COLUMNS = {REGISTERS.index(name): f"{name}_wh" for name in APART}
"""Columns of interval energy beside the total, by the number of their register."""

WAITING = {
    "meter_readings": (READINGS_SCHEMA, "pending_readings"),
    "register_readings": (REGISTERS_SCHEMA, "pending_registers"),
}
"""What waits for its meter or account: source -> the schema of its rows, the kind of state they wait in."""

Mask = npt.NDArray[np.bool_]
Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class AssignmentsUpdate:
    """What new meter rows did.

    held: rows that hold, of `HELD_SCHEMA`. changed: (m,) slots of meters whose assignment differs. reassigned_from: first
    day on which one of those that were assigned before is assigned otherwise. terms: (t,) slots of meters that are read
    otherwise, and (t,) from which day. account, installed, removed, meters: (k,) differences of expected stretches by
    account. accepted, superseded: of the new rows of known accounts.
    """

    held: pa.Table
    changed: Int
    reassigned_from: int | None
    terms: tuple[Int, Int]
    account: Int
    installed: npt.NDArray[np.int32]
    removed: npt.NDArray[np.int32]
    meters: npt.NDArray[np.int32]
    accepted: int
    superseded: int


def update_assignments(held: pa.Table, new: pa.Table) -> AssignmentsUpdate:
    """Merge new meter rows into those held; both of `HELD_SCHEMA`. Only meters among the new rows are touched."""
    if new.num_rows == 0:
        none, no_days = np.zeros(0, np.int64), np.zeros(0, np.int32)
        return AssignmentsUpdate(held, none, None, (none, none), none, no_days, no_days, no_days, 0, 0)
    mine = touched(held, new)
    old, rest = held.filter(pa.array(mine)), held.filter(pa.array(~mine))
    table = marked(old, new).append_column("unknown", pc.invert(pa.concat_tables([old, new])["known"]))
    merged = latest(table, ["meter_id", "installed_on"], [*METER_CONTENT, "unknown", "fresh", "delivery", "row"])
    accepted = int(pc.sum(pc.and_(merged["fresh"], merged["known"])).as_py() or 0)
    merged = merged.drop_columns(["fresh", "unknown"])

    both = pa.concat_tables([old, merged])
    sign = np.repeat(np.array([-1, 1]), [old.num_rows, merged.num_rows])
    slot, account, known = numpy(both["slot"], np.int64), numpy(both["account"]), numpy(both["known"])
    main, installed, removed = is_main(both), days(both["installed_on"]), np.concatenate([ends(old), ends(merged)])
    differs = _unmatched(np.stack([slot, account, known, main, installed, removed]), sign)
    numbers, stated_end = _numbers(both), days(both["removed_on"])
    begin: list[Any]
    end: list[Any]
    begin, end = [slot, account, known, main, installed, *numbers[:-COUNT]], [stated_end, *numbers[-COUNT:]]
    otherwise = _unmatched(np.stack([*begin, *end]), sign)
    # Where a row is given another end alone, all is as it was up to the last day of the earlier one.
    ends_alone = otherwise & ~_unmatched(np.stack(begin), sign)
    since = np.where(ends_alone, np.maximum(stated_end - 1, installed), installed).astype(np.int64)[otherwise]
    meters = np.unique(slot[otherwise])
    first = np.full(len(meters), NEVER, np.int64)
    np.minimum.at(first, np.searchsorted(meters, slot[otherwise]), since)
    counted = differs & known & main
    before = np.isin(slot, slot[counted & (sign < 0)])
    whose = np.unique(account, return_inverse=True)[1] * (int(slot.max()) + 1) + slot
    again = counted & before
    return AssignmentsUpdate(
        pa.concat_tables([rest, merged]).combine_chunks(), np.unique(slot[differs]),
        first_difference(whose[again], installed[again], removed[again], sign[again]),
        (meters, first),
        account[counted], installed[counted], removed[counted], sign[counted].astype(np.int32),
        accepted, int(pc.sum(new["known"]).as_py() or 0) - accepted,
    )  # fmt: skip


def _unmatched(rows: npt.NDArray[np.int64], sign: Int) -> Mask:
    """Which rows do not cancel out. rows: (columns, k); sign: (k,) -1 for those taken away, 1 for those added."""
    _, index = np.unique(rows, axis=1, return_inverse=True)
    net = np.zeros(index.max() + 1, np.int64)
    np.add.at(net, index, sign)
    result: Mask = net[index] != 0
    return result


def is_main(meters: pa.Table) -> Mask:
    """Which meter rows are of meters that count. (k,)."""
    return ~numpy(pc.fill_null(pc.equal(meters["role"], "check"), False))


def _numbers(meters: pa.Table) -> list[Int]:
    """Multiplier, modulus and indexes of meter rows, where none is given as `Terms` has it. (k,) each."""
    given = [(name, NO_INDEX) for prefix in ("installed_", "removed_") for name in (f"{prefix}{r}" for r in REGISTERS)]
    return [numpy(pc.fill_null(meters[name], none)) for name, none in (("multiplier", 1), ("modulus", 0), *given)]


def assignments(held: pa.Table) -> Assignments:
    """Assignment rows by meter slot. held: `HELD_SCHEMA`."""
    order, slot, installed = in_order(held), numpy(held["slot"], np.int32), days(held["installed_on"])
    removed, account, known = days(held["removed_on"]), numpy(held["account"]), numpy(held["known"])
    return Assignments(
        slot[order], installed[order], removed[order], account[order], known[order], is_main(held)[order]
    )


def terms_of(held: pa.Table) -> Terms:
    """How the meters are read. held: `HELD_SCHEMA`."""
    order, known = in_order(held), numpy(held["known"])
    multiplier, modulus, *given = (column[order] for column in _numbers(held))
    opening, closing = (np.stack(some, axis=1) for some in (given[: len(REGISTERS)], given[len(REGISTERS) :]))
    slot, installed, removed = numpy(held["slot"], np.int64), days(held["installed_on"]), days(held["removed_on"])
    return Terms.of(
        slot[order], installed[order].astype(np.int64), removed[order].astype(np.int64), numpy(held["account"])[order],
        known[order], (known & is_main(held))[order], multiplier, modulus, opening, closing,
    )  # fmt: skip


def in_order(held: pa.Table) -> Int:
    """The order of assignment rows by (slot, installed). held: `HELD_SCHEMA`; returns (k,) row positions."""
    return order_by(numpy(held["slot"]), days(held["installed_on"]))


def ends(table: pa.Table) -> npt.NDArray[np.int32]:
    """When each assignment ends: as its row says, or before that where the meter's next one begins.

    table: `HELD_SCHEMA`, one row for each (slot, installed_on). Returns (k,) day numbers, exclusive, NEVER while it goes on;
    a row that would end before it begins ends as it begins.
    """
    order, slot, installed = in_order(table), numpy(table["slot"]), days(table["installed_on"])
    followed = np.flatnonzero(slot[order][1:] == slot[order][:-1])
    begins = np.full(len(slot), NEVER, np.int32)
    begins[order[followed]] = installed[order[followed + 1]]
    return np.maximum(np.minimum(days(table["removed_on"]), begins), installed)


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
        row, known, _ = assigned.on(day, len(state.revision))
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

    apart: the days to write of energy by period and fed in; apart_parts: (sign, day, register, accounts, energy).
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
        """The differences as blocks by account shard."""
        if not self.parts:
            return
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
        if not self.apart_parts:
            return
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
    """What differs of energy by period and fed in, on one day: (-1 or 1, register, accounts, energy). before, after: its state."""
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


@beam.typehints.with_output_types(Keyed)
class FoldMetersShard(beam.DoFn):
    """One meter shard: merges its readings into its days, emits what differs, and what is expected, by account shard."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def process(self, element: Grouped) -> Iterator[Keyed]:
        """element: (shard, blocks of kind state, meters, meter_readings, register_readings)."""
        shard, blocks = element
        yield from _MeterShard(self.place, shard, by_kind(blocks)).fold()


class _MeterShard:
    """The work on one shard: what it holds, what came, and what it has written so far."""

    def __init__(self, place: Place, shard: int, kinds: dict[str, list[pa.RecordBatch]]) -> None:
        self.place, self.shard, self.kinds = place, shard, kinds
        self.store, self.state = place.store(), State.from_blocks(place.store(), kinds["state"])
        self.entries: list[Entry] = []
        self.replaces: list[str] = []
        self.merged: list[Entry] = []
        self.drops: list[str] = []
        self.counts: dict[str, dict[str, int]] = {}

    def fold(self) -> Iterator[Keyed]:
        """Fold everything in, report it, and say what differs."""
        arrived = concat(self.kinds.get("meters", []), TO_METER_SHARD)
        rows = {source: concat(self.kinds.get(source, []), schema) for source, (schema, _) in WAITING.items()}
        if arrived.num_rows == 0 and not any(table.num_rows for table in rows.values()):
            for source, (_, kind) in WAITING.items():
                if waiting := sum(entry.rows for entry in self.state.entries.get(kind, [])):
                    self.counts[source] = {"redriven": waiting, "pending": waiting}
            self._report()
            return
        self.slots = Slots.load(self.state, "meter_slots")
        arrived = arrived.append_column("slot", pa.array(self.slots.add(arrived["meter_id"].combine_chunks())))
        slot = {source: self.slots.add(table["meter_id"].combine_chunks()) for source, table in rows.items()}
        self.held = self.state.table("assignments", HELD_SCHEMA)
        self.update = update_assignments(self.held, arrived)
        self.counts["meters"] = {"accepted": self.update.accepted, "superseded": self.update.superseded}

        done = self._intervals(rows["meter_readings"], slot["meter_readings"])
        registers = self._registers(rows["register_readings"], slot["register_readings"], done)
        self._put("meter_slots", self.slots.save(self.place, "meter_slots", self.shard), replace=self.slots.grown)
        if arrived.num_rows:
            self._write("assignments", self.update.held)
        self._report()
        yield from done.difference_blocks()
        yield from registers
        yield from self._expected()

    def _report(self) -> None:
        self.place.report(
            Commit(
                "meters", self.shard, tuple(self.entries), tuple(self.replaces), self.counts, merged=tuple(self.merged),
                drops=tuple(self.drops),
            )
        )  # fmt: skip

    def _put(self, kind: str, entries: list[Entry], *, replace: bool = False) -> None:
        self.entries += entries
        if replace:
            self.replaces.append(kind)

    def _write(self, kind: str, table: pa.Table) -> None:
        """One kind of state anew, as one block; none where it is empty."""
        blocks = [(-1, one_batch(table))] if table.num_rows else []
        path = self.place.path(kind, self.shard, "arrow")
        self._put(kind, self.store.write_blocks(path, kind, self.shard, blocks), replace=True)

    # --- interval energy -----------------------------------------------------------------------------------------------
    def _intervals(self, rows: pa.Table, slot: npt.NDArray[np.int32]) -> MetersFolded:
        update, stored = self.update, self.state.by_day("meter_block")
        old = assignments(self.held)
        new = assignments(update.held) if len(update.changed) else old
        more = [day for day in stored if update.reassigned_from is not None and day >= update.reassigned_from]
        waiting = _Waiting.of(self.state, self.slots, "meter_readings", rows, slot, update.changed)
        self._load = _loader(self.store, stored, len(self.slots))
        load_apart = _apart_loader(self.store, self.state.by_day("period_block"), len(self.slots))
        done = fold_meters(self._load, load_apart, old, new, waiting.table, waiting.slot, waiting.redriven, more)
        gone = np.concatenate([some << 32 | day for day, some in done.lost]) if done.lost else np.zeros(0, np.int64)
        blocks = [(day, state.to_batch()) for day, state in done.after.items()]
        path = self.place.path("meter_block", self.shard, "arrow")
        self._put("meter_block", self.store.write_blocks(path, "meter_block", self.shard, blocks))
        self._write_apart("period_block", done.apart)
        self._settle("meter_readings", rows, waiting, done.pending, gone, done.accepted, done.superseded)
        return done

    def _write_apart(self, kind: str, days: Mapping[int, RegisterDay]) -> None:
        """Days of several registers each, as blocks of one schema."""
        used = sorted({code for day in days.values() for code in day})
        blocks = [(number, register_day_to_batch(day, used, len(self.slots))) for number, day in days.items()]
        path = self.place.path(kind, self.shard, "arrow")
        self._put(kind, self.store.write_blocks(path, kind, self.shard, blocks))

    # --- registers -----------------------------------------------------------------------------------------------------
    def _registers(self, rows: pa.Table, slot: npt.NDArray[np.int32], done: MetersFolded) -> list[Keyed]:
        state, update, n = self.state, self.update, len(self.slots)
        if rows.num_rows == 0 and "register_last" not in state.entries and len(update.terms[0]) == 0:
            return []
        stored = state.by_day("register_block")
        before = terms_of(self.held)
        after = terms_of(update.held) if len(update.terms[0]) else before
        waiting = _Waiting.of(state, self.slots, "register_readings", rows, slot, update.changed)

        load = _apart_loader(self.store, stored, n)
        intervals = state.by_day("meter_block")

        def read_before(day: int) -> Mask | None:
            return self._load(day).read if day in intervals else None

        def read_after(day: int) -> Mask | None:
            return done.after[day].read if day in done.after else read_before(day)

        turned = [(day, np.flatnonzero(self._load(day).read != now.read)) for day, now in done.after.items()]
        none = np.zeros(0, np.int64)
        flipped = (
            np.concatenate([none, *(some for _, some in turned)]),
            np.concatenate([none, *(np.full(len(some), day) for day, some in turned)]),
        )
        folded = fold_registers(
            load, stored, load_last(state, n), (before, after), update.terms, waiting.table, waiting.slot,
            waiting.redriven, (read_before, read_after), flipped,
        )  # fmt: skip
        gone = self._lost(before, after)
        self._settle("register_readings", rows, waiting, folded.pending, gone, folded.accepted, folded.superseded)
        self._write_registers(folded)
        return list(folded.blocks())

    def _write_registers(self, folded: RegistersFolded) -> None:
        path, store, stored = self.place.path, self.store, self.state.entries
        self._write_apart("register_block", folded.days)
        if folded.days or "register_last" in stored:
            file, block = path("register_last", self.shard, "arrow"), (-1, folded.last_block())
            self._put("register_last", store.write_blocks(file, "register_last", self.shard, [block]), replace=True)
        kind = "mart:reading_exceptions"
        before = self.state.by_day(kind)
        for day, rows in folded.exceptions(self.slots.ids).items():
            table = rows
            if day in before:
                kept = store.read_parquet(before[day]).cast(EXCEPTIONS_SCHEMA)
                kept = kept.filter(pa.array(~folded.concerns(self.slots.find(kept["meter_id"].combine_chunks()), kept)))
                table = pa.concat_tables([kept, rows])
            file = path(kind, self.shard, "parquet").replace(".parquet", f"-{day}.parquet")
            self._put(kind, [store.write_parquet(file, kind, self.shard, table, (day, day))])

    def _lost(self, before: Terms, after: Terms) -> Int:
        """Meter-days of logged register readings that a known account held before, and none does now, as in `_take_back`."""
        slots = self.update.changed
        shrunk = [slot for slot in slots.tolist() if not before.known_days(slot) <= after.known_days(slot)]
        if not shrunk:
            return np.zeros(0, np.int64)
        edges = [(slot, first - 1) for slot in shrunk for first, _ in before.known_days(slot)]
        edges += [(slot, end) for slot in shrunk for _, end in after.known_days(slot)]
        of, on = np.array(edges, np.int64).reshape(-1, 2).T
        lost = before.known_at(of, on) & ~after.known_at(of, on)
        earliest = int(on[lost].min(initial=NEVER))
        gone = []
        for log in self._logged("register_readings", lambda entry: entry.last >= earliest):
            slot, day = self.slots.find(log["meter_id"].combine_chunks()).astype(np.int64), numpy(log["service_date"])
            mine = np.isin(slot, shrunk)
            slot, day = slot[mine], day[mine].astype(np.int64)
            lost = before.known_at(slot, day) & ~after.known_at(slot, day)
            gone.append(slot[lost] << 32 | day[lost])
        return np.unique(np.concatenate([np.zeros(0, np.int64), *gone]))

    # --- what waits ----------------------------------------------------------------------------------------------------
    def _settle(
        self, source: str, rows: pa.Table, waiting: _Waiting, left: list[Int], gone: Int, accepted: int, superseded: int
    ) -> None:
        """Write what waits now, and what was accepted to the log; count it all. gone: meter-days whose rows wait again."""
        schema, kind = WAITING[source]
        taken = self._take_back(source, schema, gone)
        kept = waiting.table.take(pa.array(np.concatenate(left))) if left else waiting.table.slice(0, 0)
        pending = pa.concat_tables([waiting.still, kept, taken]).combine_chunks()
        if waiting.rows or pending.num_rows:
            self._write(kind, pending)
        if rows.num_rows:
            self._log(f"log:{source}", rows)
        if rows.num_rows or waiting.rows or pending.num_rows:
            self.counts[source] = {
                "accepted": accepted, "superseded": superseded, "pending": pending.num_rows,
                "redriven": waiting.rows + taken.num_rows,
            }  # fmt: skip

    def _log(self, kind: str, rows: pa.Table) -> None:
        """Rows to the accepted log: their file; and one file in place of small ones of earlier rows."""
        days, path = numpy(rows["service_date"]), self.place.path
        span = (int(days.min()), int(days.max()))
        self._put(kind, [self.store.write_parquet(path(kind, self.shard, "parquet"), kind, self.shard, rows, span)])
        if small := to_merge(self.state.entries.get(kind, [])):
            self.merged.append(merge_files(self.store, path(f"merged:{kind}", self.shard, "parquet"), small))
            self.drops += [entry.path for entry in small]

    def _take_back(self, source: str, schema: pa.Schema, gone: Int) -> pa.Table:
        """The logged rows of meter-days that counted before and no longer do: they are pending again."""
        out = [schema.empty_table()]
        days = np.unique(gone & 0xFFFF_FFFF)
        if len(days):
            for log in self._logged(source, lambda entry: bool(((entry.first <= days) & (days <= entry.last)).any())):
                slot = self.slots.find(log["meter_id"].combine_chunks()).astype(np.int64)
                out.append(log.filter(pa.array(np.isin(slot << 32 | numpy(log["service_date"]), gone))))
        return pa.concat_tables(out)

    def _logged(self, source: str, wanted: Callable[[Entry], bool]) -> Iterator[pa.Table]:
        """The log of a source, file by file."""
        for entry in self.state.entries.get(f"log:{source}", []):
            if wanted(entry):
                yield self.store.read_parquet(entry).cast(WAITING[source][0])

    def _expected(self) -> Iterator[Keyed]:
        update = self.update
        columns = ((update.account & 0xFFFF_FFFF).astype(np.int32), update.installed, update.removed, update.meters)
        batch = pa.record_batch([pa.array(c) for c in columns], schema=EXPECTED_SCHEMA)
        for key, block in split(batch, (update.account >> 32).astype(np.int32)):
            yield key, tag(block, "expected")


@dataclass(frozen=True)
class _Waiting:
    """New rows of a source, and with them those that waited for a meter that is assigned otherwise now.

    table, slot, redriven: (k,); still: rows that go on waiting; rows: how many waited.
    """

    table: pa.Table
    slot: npt.NDArray[np.int32]
    redriven: Mask
    still: pa.Table
    rows: int

    @classmethod
    def of(
        cls, state: State, slots: Slots, source: str, rows: pa.Table, slot: npt.NDArray[np.int32], changed: Int
    ) -> _Waiting:
        """Sort what waits. changed: slots of meters whose assignment differs."""
        schema, kind = WAITING[source]
        waiting = state.table(kind, schema).combine_chunks()
        waiting_slot = slots.find(waiting["meter_id"].combine_chunks())
        again = np.isin(waiting_slot, changed)
        table = pa.concat_tables([rows, waiting.filter(pa.array(again))]).combine_chunks()
        redriven = np.arange(table.num_rows) >= rows.num_rows
        still = waiting.filter(pa.array(~again))
        return cls(table, np.r_[slot, waiting_slot[again]], redriven, still, waiting.num_rows)


def _loader(store: Store, stored: Mapping[int, Entry], n: int) -> Callable[[int], MeterDay]:
    """Gives the stored state of a day by number."""

    def load(day: int) -> MeterDay:
        entry = stored.get(day)
        return MeterDay.from_batch(store.read_block(entry), n) if entry else MeterDay.empty(n)

    return load


def _apart_loader(store: Store, stored: Mapping[int, Entry], n: int) -> Callable[[int], RegisterDay]:
    """The same of days of several registers each."""

    def load(day: int) -> RegisterDay:
        entry = stored.get(day)
        return register_day_from_batch(store.read_block(entry), n) if entry else {}

    return load


def pending_reasons(source: str, pending: pa.Table, held: pa.Table) -> tuple[pa.Array, pa.Array]:
    """The meter or account that each pending row of a source waits for, and why.

    pending: the rows; held: assignment rows of their shard, `HELD_SCHEMA`.
    """
    slots = Slots(pc.unique(held["meter_id"]))
    at = held.schema.get_field_index("slot")
    held = held.set_column(at, "slot", pa.array(slots.find(held["meter_id"].combine_chunks())))
    meters = terms_of(held)
    slot, day = slots.find(pending["meter_id"].combine_chunks()), numpy(pending["service_date"])
    run = (meters.run_on if source == "meter_readings" else meters.holder)(slot, day)
    reason = np.where(slot < 0, "unknown_meter", np.where(run < 0, "meter_not_assigned", "unknown_account"))
    name, accounts = pending["meter_id"].to_numpy().astype(object), held["account_id"].to_numpy()[in_order(held)]
    name[run >= 0] = accounts[meters.row[run[run >= 0]]]
    return pa.array(name, pa.string()), pa.array(reason.astype(object), pa.string())


class FoldMeters(beam.PTransform):
    """(meter shard, state | meters | meter_readings blocks) -> (account shard, difference | expected blocks)."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place

    def expand(self, grouped: beam.PCollection[tuple[int, Iterable[pa.RecordBatch]]]) -> beam.PCollection[Keyed]:
        """Wires one DoFn."""
        return grouped | beam.ParDo(FoldMetersShard(self.place)).with_output_types(Keyed)
