"""Fold 0, by meter shard: which reading of a meter-day counts, and for which account.

Readings are interval energy, so the fold's arithmetic is the identity; what it settles is revisions and assignments. It
emits differences, account by account: `+` what counts now, `-` what counted before. They add up in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.inbound import METER_READINGS, QUALITIES
from transforms.blocks import Grouped, Keyed, by_kind, concat, one_batch, split, tag
from transforms.fold_reference import STAMP_FIELDS, TO_METER_SHARD, marked, touched
from transforms.kernels.readings import MeterDay, count_accepted, merge, reduce_rows
from transforms.kernels.reference import NEVER, Assignments, days, first_difference, latest, order_by
from transforms.logs import merge as merge_files
from transforms.logs import to_merge
from transforms.shards import Place, Slots, State, numpy
from transforms.storage import Commit, Entry

READINGS_SCHEMA = pa.schema([pa.field(f.name, f.type) for f in METER_READINGS.schema] + STAMP_FIELDS)
HELD_SCHEMA = pa.schema([*TO_METER_SHARD, pa.field("slot", pa.int32())])
DIFFERENCE_SCHEMA = pa.schema(
    [
        ("slot", pa.int32()), ("day", pa.int32()), ("energy_wh", pa.int64()), ("received", pa.int8()),
        ("estimated", pa.int8()), ("conflict", pa.int8()),
    ]
)  # fmt: skip
"""What one meter adds to (or takes from) its account's day; `slot` is the account's."""

EXPECTED_SCHEMA = pa.schema(
    [("slot", pa.int32()), ("installed", pa.int32()), ("removed", pa.int32()), ("meters", pa.int32())]
)
Mask = npt.NDArray[np.bool_]
Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class AssignmentsUpdate:
    """What new meter rows did.

    held: rows that hold, of `HELD_SCHEMA`. changed: (m,) slots of meters whose assignment differs. reassigned_from: first
    day on which one of those that were assigned before is assigned otherwise. account, installed, removed, meters: (k,)
    differences of expected stretches by account. accepted, superseded: of the new rows of known accounts.
    """

    held: pa.Table
    changed: Int
    reassigned_from: int | None
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
        return AssignmentsUpdate(held, none, None, none, no_days, no_days, no_days, 0, 0)
    mine = touched(held, new)
    old, rest = held.filter(pa.array(mine)), held.filter(pa.array(~mine))
    table = marked(old, new).append_column("unknown", pc.invert(pa.concat_tables([old, new])["known"]))
    merged = latest(
        table, ["meter_id", "installed_on"], ["account_id", "removed_on", "unknown", "fresh", "delivery", "row"]
    )
    accepted = int(pc.sum(pc.and_(merged["fresh"], merged["known"])).as_py() or 0)
    merged = merged.drop_columns(["fresh", "unknown"])

    both = pa.concat_tables([old, merged])
    sign = np.repeat(np.array([-1, 1]), [old.num_rows, merged.num_rows])
    slot, account, known = numpy(both["slot"], np.int64), numpy(both["account"]), numpy(both["known"])
    installed, removed = days(both["installed_on"]), np.concatenate([ends(old), ends(merged)])
    _, index = np.unique(np.stack([slot, account, known, installed, removed]), axis=1, return_inverse=True)
    net = np.zeros(index.max() + 1, np.int64)
    np.add.at(net, index, sign)
    differs = net[index] != 0
    counted = differs & known
    before = np.isin(slot, slot[differs & known & (sign < 0)])
    whose = np.unique(account, return_inverse=True)[1] * (int(slot.max()) + 1) + slot
    again = counted & before
    return AssignmentsUpdate(
        pa.concat_tables([rest, merged]).combine_chunks(), np.unique(slot[differs]),
        first_difference(whose[again], installed[again], removed[again], sign[again]),
        account[counted], installed[counted], removed[counted], sign[counted].astype(np.int32),
        accepted, int(pc.sum(new["known"]).as_py() or 0) - accepted,
    )  # fmt: skip


def assignments(held: pa.Table) -> Assignments:
    """Assignment rows by meter slot. held: `HELD_SCHEMA`."""
    order, slot, installed = in_order(held), numpy(held["slot"], np.int32), days(held["installed_on"])
    removed, account, known = days(held["removed_on"]), numpy(held["account"]), numpy(held["known"])
    return Assignments(slot[order], installed[order], removed[order], account[order], known[order])


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
    """What each meter of a shard adds on one day. All (n,); account: its shard and slot, -1 where it does not count."""

    counts: Mask
    account: Int
    day: MeterDay

    @classmethod
    def of(cls, assigned: Assignments, day: int, state: MeterDay) -> Contribution:
        """The readings of a day under a set of assignments."""
        row, counts, _ = assigned.on(day, len(state.revision))
        account = assigned.account[row] if len(assigned.account) else row
        return cls(counts & state.read, np.where(counts, account, -1), state)


def differences(before: Contribution, after: Contribution) -> Iterator[tuple[int, Int, Contribution]]:
    """Meters whose contribution changed: (-1, their slots, before), then (+1, their slots, after)."""
    same = before.counts & after.counts & (before.account == after.account)
    same &= (before.day.low == after.day.low) & (before.day.quality == after.day.quality)
    same &= (before.day.spread > 0) == (after.day.spread > 0)
    yield -1, np.flatnonzero(before.counts & ~same), before
    yield 1, np.flatnonzero(after.counts & ~same), after


@dataclass
class MetersFolded:
    """What a fold of one meter shard came to: day blocks to write, differences by account, and where each row went."""

    blocks: list[tuple[int, pa.RecordBatch]]
    parts: list[tuple[int, int, Int, Contribution]]
    pending: list[Int]
    lost: list[tuple[int, Int]]
    accepted: int = 0
    superseded: int = 0

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


def fold_meters(
    load: Callable[[int], MeterDay], old: Assignments, new: Assignments, rows: pa.Table, slot: npt.NDArray[np.int32],
    redriven: Mask, more_days: Iterable[int],
) -> MetersFolded:  # fmt: skip
    """Fold readings into their days, day by day, and find what differs for the accounts.

    load: the stored state of a day by day number. old, new: assignments before and after (the same object: unchanged).
    rows: (k,) of `READINGS_SCHEMA`; slot: (k,) their meters; redriven: (k,) rows that waited and are in the stored state.
    more_days: days to look at although no row is of them.
    """
    day, revision, energy = numpy(rows["service_date"]), numpy(rows["revision"]), numpy(rows["energy_wh"])
    quality = numpy(pc.index_in(rows["quality"], value_set=pa.array(QUALITIES)), np.int8)
    order = np.argsort(day, kind="stable")
    numbers, starts = np.unique(day[order], return_index=True)
    rows_of = dict(zip(numbers.tolist(), np.split(order, starts[1:]), strict=True)) if len(order) else {}
    out, none = MetersFolded([], [], [], []), np.zeros(0, np.int64)
    for number in sorted({*rows_of, *more_days}):
        before, index = load(number), rows_of.get(number, none)
        after, fresh = before, index[~redriven[index]]
        if len(fresh):
            after = merge(before, *reduce_rows(slot[fresh], revision[fresh], energy[fresh], quality[fresh]))
            out.blocks.append((number, after.to_batch()))
        was, now = Contribution.of(old, number, before), Contribution.of(new, number, after)
        if len(index):
            accepted, superseded, waits = count_accepted(
                before, after, now.counts, slot[index], revision[index], energy[index], redriven[index]
            )
            out.accepted += accepted
            out.superseded += superseded
            out.pending.append(index[waits])
        if old is not new and len(gone := np.flatnonzero(was.counts & ~now.counts)):
            out.lost.append((number, gone))
        out.parts += [(sign, number, slots, side) for sign, slots, side in differences(was, now) if len(slots)]
    return out


@beam.typehints.with_output_types(Keyed)
class FoldMetersShard(beam.DoFn):
    """One meter shard: merges its readings into its days, emits `difference` and `expected` blocks by account shard."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def process(self, element: Grouped) -> Iterator[Keyed]:
        """element: (shard, blocks of kind state, meters, meter_readings)."""
        shard, blocks = element
        store, kinds, path = self.place.store(), by_kind(blocks), self.place.path
        state = State.from_blocks(store, kinds["state"])
        arrived, rows = (
            concat(kinds.get("meters", []), TO_METER_SHARD),
            concat(kinds.get("meter_readings", []), READINGS_SCHEMA),
        )
        if arrived.num_rows == 0 and rows.num_rows == 0:
            waiting = sum(entry.rows for entry in state.entries.get("pending_readings", []))
            counts = {"meter_readings": {"redriven": waiting, "pending": waiting}}
            self.place.report(Commit("meters", shard, (), (), counts))
            return
        slots = Slots.load(state, "meter_slots")
        arrived = arrived.append_column("slot", pa.array(slots.add(arrived["meter_id"].combine_chunks())))
        slot = slots.add(rows["meter_id"].combine_chunks())
        held = state.table("assignments", HELD_SCHEMA)
        update = update_assignments(held, arrived)
        old = assignments(held)
        new = assignments(update.held) if len(update.changed) else old

        waiting = state.table("pending_readings", READINGS_SCHEMA).combine_chunks()
        waiting_slot = slots.find(waiting["meter_id"].combine_chunks())
        again = np.isin(waiting_slot, update.changed)
        back = waiting.filter(pa.array(again))
        stored = state.by_day("meter_block")
        more = [day for day in stored if update.reassigned_from is not None and day >= update.reassigned_from]

        def load(day: int) -> MeterDay:
            entry = stored.get(day)
            return MeterDay.from_batch(store.read_block(entry), len(slots)) if entry else MeterDay.empty(len(slots))

        table = pa.concat_tables([rows, back]).combine_chunks()
        redriven = np.arange(table.num_rows) >= rows.num_rows
        done = fold_meters(load, old, new, table, np.r_[slot, waiting_slot[again]], redriven, more)
        taken = self._take_back(state, slots, done.lost)
        kept = table.take(pa.array(np.concatenate(done.pending))) if done.pending else table.slice(0, 0)
        pending = pa.concat_tables([waiting.filter(pa.array(~again)), kept, taken]).combine_chunks()

        entries = store.write_blocks(path("meter_block", shard, "arrow"), "meter_block", shard, done.blocks)
        entries += slots.save(self.place, "meter_slots", shard)
        replaces = ["meter_slots"] if slots.grown else []
        for kind, changed, result in (
            ("assignments", arrived.num_rows, update.held), ("pending_readings", waiting.num_rows or pending.num_rows, pending)
        ):  # fmt: skip
            if changed:
                block = [(-1, one_batch(result))] if result.num_rows else []
                entries += store.write_blocks(path(kind, shard, "arrow"), kind, shard, block)
                replaces.append(kind)
        log, small, merged = self._log(state, shard, rows) if rows.num_rows else ([], [], [])
        counts = {
            "meter_readings": {
                "accepted": done.accepted, "superseded": done.superseded, "pending": pending.num_rows,
                "redriven": waiting.num_rows + taken.num_rows,
            },
            "meters": {"accepted": update.accepted, "superseded": update.superseded},
        }  # fmt: skip
        written, drops = tuple(entries + log), tuple(entry.path for entry in small)
        commit = Commit("meters", shard, written, tuple(replaces), counts, merged=tuple(merged), drops=drops)
        self.place.report(commit)
        yield from done.difference_blocks()
        expected = [
            pa.array(c)
            for c in ((update.account & 0xFFFF_FFFF).astype(np.int32), update.installed, update.removed, update.meters)
        ]
        for key, block in split(
            pa.record_batch(expected, schema=EXPECTED_SCHEMA), (update.account >> 32).astype(np.int32)
        ):
            yield key, tag(block, "expected")

    def _log(self, state: State, shard: int, rows: pa.Table) -> tuple[list[Entry], list[Entry], list[Entry]]:
        """Rows to the accepted log: their file; small files of earlier rows, and the one that takes their place."""
        store, days, kind = state.store, numpy(rows["service_date"]), "log:meter_readings"
        path, span = self.place.path(kind, shard, "parquet"), (int(days.min()), int(days.max()))
        small = to_merge(state.entries.get(kind, []))
        merged = [merge_files(store, self.place.path(f"merged:{kind}", shard, "parquet"), small)] if small else []
        return [store.write_parquet(path, kind, shard, rows, span)], small, merged

    def _take_back(self, state: State, slots: Slots, lost: list[tuple[int, Int]]) -> pa.Table:
        """The logged rows of meter-days that counted before and no longer do: they are pending again."""
        gone = np.concatenate([some << 32 | day for day, some in lost]) if lost else np.zeros(0, np.int64)
        out = [READINGS_SCHEMA.empty_table()]
        for entry in state.entries.get("log:meter_readings", []):
            if any(entry.first <= day <= entry.last for day, _ in lost):
                log = state.store.read_parquet(entry).cast(READINGS_SCHEMA)
                slot = slots.find(log["meter_id"].combine_chunks()).astype(np.int64)
                out.append(log.filter(pa.array(np.isin(slot << 32 | numpy(log["service_date"]), gone))))
        return pa.concat_tables(out)


def pending_reasons(pending: pa.Table, held: pa.Table) -> tuple[pa.Array, pa.Array]:
    """The meter or account that each pending reading waits for, and why.

    pending: `READINGS_SCHEMA`; held: assignment rows of its shard, `HELD_SCHEMA`.
    """
    slots = Slots(pc.unique(held["meter_id"]))
    held = held.set_column(
        held.schema.get_field_index("slot"), "slot", pa.array(slots.find(held["meter_id"].combine_chunks()))
    )
    table, slot, day = (
        assignments(held),
        slots.find(pending["meter_id"].combine_chunks()),
        numpy(pending["service_date"]),
    )
    reason = np.where(slot < 0, "unknown_meter", "meter_not_assigned").astype(object)
    name, accounts = pending["meter_id"].to_numpy().astype(object), held["account_id"].to_numpy()[in_order(held)]
    for number in np.unique(day):
        mine = np.flatnonzero((day == number) & (slot >= 0))
        row, _, assigned = table.on(int(number), len(slots))
        mine = mine[assigned[slot[mine]]]
        reason[mine], name[mine] = "unknown_account", accounts[row[slot[mine]]]
    return pa.array(name, pa.string()), pa.array(reason, pa.string())


class FoldMeters(beam.PTransform):
    """(meter shard, state | meters | meter_readings blocks) -> (account shard, difference | expected blocks)."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place

    def expand(self, grouped: beam.PCollection[tuple[int, Iterable[pa.RecordBatch]]]) -> beam.PCollection[Keyed]:
        """Wires one DoFn."""
        return grouped | beam.ParDo(FoldMetersShard(self.place)).with_output_types(Keyed)
