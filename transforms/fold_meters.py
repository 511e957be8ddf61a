"""Fold 0, by meter shard: which reading of a meter-day counts, and for which account.

Readings are interval energy, so the fold's arithmetic is the identity; what it settles is revisions and assignments. It
emits differences, account by account: `+` what counts now, `-` what counted before. They add up in any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.inbound import METER_READINGS, QUALITIES
from transforms.blocks import Grouped, Keyed, by_kind, concat, one_batch, split, split_by_id, tag
from transforms.fold_reference import STAMP_FIELDS, TO_METER_SHARD
from transforms.kernels.keys import shard_of
from transforms.kernels.readings import MeterDay, count_accepted, merge, reduce_rows
from transforms.kernels.reference import Assignments, days, latest
from transforms.shards import Place, Slots, State, numpy
from transforms.storage import Commit, Entry

READINGS_SCHEMA = pa.schema([pa.field(f.name, f.type) for f in METER_READINGS.schema] + STAMP_FIELDS)
DIFFERENCE_SCHEMA = pa.schema(
    [
        ("account_id", pa.string()), ("day", pa.int32()), ("energy_wh", pa.int64()), ("received", pa.int32()),
        ("estimated", pa.int32()), ("conflict", pa.int32()),
    ]
)  # fmt: skip
EXPECTED_SCHEMA = pa.schema(
    [("account_id", pa.string()), ("installed", pa.int32()), ("removed", pa.int32()), ("meters", pa.int32())]
)
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class AssignmentsUpdate:
    """held: rows that hold, of `TO_METER_SHARD`; expected: `EXPECTED_SCHEMA` differences; changed: meter ids; counts."""

    held: pa.Table
    expected: pa.Table
    changed: pa.Array
    accepted: int
    superseded: int


def update_assignments(held: pa.Table, new: pa.Table) -> AssignmentsUpdate:
    """Merge new meter rows into those held; both of `TO_METER_SHARD`."""
    if new.num_rows == 0:
        return AssignmentsUpdate(held, EXPECTED_SCHEMA.empty_table(), pa.array([], pa.string()), 0, 0)
    marked = pa.concat_tables(
        [t.append_column("fresh", pa.array(np.full(t.num_rows, fresh))) for t, fresh in ((held, False), (new, True))]
    )
    marked = marked.append_column("unknown", pc.invert(marked["known"]))
    merged = latest(
        marked, ["meter_id", "installed_on"], ["account_id", "removed_on", "unknown", "fresh", "delivery", "row"]
    )
    accepted = int(pc.sum(pc.and_(merged["fresh"], merged["known"])).as_py() or 0)
    merged = merged.drop_columns(["fresh", "unknown"])
    content = ["meter_id", "installed_on", "account_id", "removed_on", "known"]
    both = pa.concat_tables(
        [t.select(content).append_column("sign", pa.array(np.full(t.num_rows, s, np.int32))) for t, s in ((held, -1), (merged, 1))]
    )
    differs = both.group_by(content).aggregate([("sign", "sum")])
    differs = differs.filter(pc.not_equal(differs["sign_sum"], 0))
    counted = differs.filter(differs["known"])
    expected = pa.table(
        [counted["account_id"], days(counted["installed_on"]), days(counted["removed_on"]), numpy(counted["sign_sum"], np.int32)],
        schema=EXPECTED_SCHEMA,
    )  # fmt: skip
    known = int(pc.sum(new["known"]).as_py() or 0)
    return AssignmentsUpdate(merged, expected, pc.unique(differs["meter_id"]), accepted, known - accepted)


def assignments(slots: Slots, held: pa.Table) -> Assignments:
    """Assignment rows by meter slot; `account` is the row's position in `held`."""
    slot = slots.find(held["meter_id"].combine_chunks())
    installed = days(held["installed_on"])
    order = np.lexsort((installed, slot))
    return Assignments(
        slot[order], installed[order], days(held["removed_on"])[order], order.astype(np.int32), numpy(held["known"])[order]
    )


@dataclass(frozen=True)
class Contribution:
    """What each meter of a shard adds on one day. All (n,); `row` is the assignment's position in its table."""

    counts: Mask
    row: npt.NDArray[np.int64]
    day: MeterDay

    @classmethod
    def of(cls, assigned: Assignments, day: int, state: MeterDay) -> Contribution:
        """The readings of a day under a set of assignments."""
        n = len(state.revision)
        row, counts, _ = assigned.on(day, n)
        account = assigned.account[row] if len(assigned.account) else row
        return cls(counts & state.read, np.where(counts, account, -1).astype(np.int64), state)


def differences(
    before: Contribution, after: Contribution, old: pa.Array, new: pa.Array
) -> Iterator[tuple[npt.NDArray[np.int64], int, Contribution]]:
    """Meters whose contribution changed: (their slots, -1, before), then (their slots, +1, after).

    old, new: account id of each assignment row before and after.
    """
    same = before.counts & after.counts
    same &= (before.day.low == after.day.low) & (before.day.quality == after.day.quality)
    same &= (before.day.spread > 0) == (after.day.spread > 0)
    check = np.flatnonzero(same)
    if len(check) and old is not new:
        equal = pc.equal(old.take(pa.array(before.row[check])), new.take(pa.array(after.row[check])))
        same[check] = equal.to_numpy(zero_copy_only=False)
    yield np.flatnonzero(before.counts & ~same), -1, before
    yield np.flatnonzero(after.counts & ~same), 1, after


class FoldMetersShard(beam.DoFn):  # type: ignore[misc]
    """One meter shard: merges its readings into its days, emits `difference` and `expected` blocks by account shard."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def process(self, element: Grouped) -> Iterator[Keyed]:
        """element: (shard, blocks of kind state, meters, meter_readings)."""
        shard, blocks = element
        store, kinds = self.place.store(), by_kind(blocks)
        state = State.from_blocks(store, kinds["state"])
        slots = Slots.load(state, "meter_slots")
        held = state.table("assignments", TO_METER_SHARD).combine_chunks()
        update = update_assignments(held, concat(kinds.get("meters", []), TO_METER_SHARD))
        rows = concat(kinds.get("meter_readings", []), READINGS_SCHEMA)
        waiting = state.table("pending_readings", READINGS_SCHEMA).combine_chunks()
        slots.add(pa.concat_arrays([update.held["meter_id"].combine_chunks(), rows["meter_id"].combine_chunks()]))

        fold = _Fold(state, slots, held, update, rows, waiting)
        emitted, written = fold.run()
        entries: list[Entry] = []
        replaces: list[str] = []
        path = self.place.path
        entries += store.write_blocks(path("meter_block", shard, "arrow"), "meter_block", shard, written)
        entries += slots.save(self.place, "meter_slots", shard)
        replaces += ["meter_slots"] if slots.grown else []
        if update.held is not held:
            block = [(-1, one_batch(update.held))]
            entries += store.write_blocks(path("assignments", shard, "arrow"), "assignments", shard, block)
            replaces.append("assignments")
        if rows.num_rows:
            days_seen = numpy(rows["service_date"])
            entries.append(store.write_parquet(
                path("log:meter_readings", shard, "parquet"), "log:meter_readings", shard, rows,
                (int(days_seen.min()), int(days_seen.max()))))
        if update.held is not held or fold.pending.num_rows or waiting.num_rows:
            block = [(-1, one_batch(fold.pending))] if fold.pending.num_rows else []
            entries += store.write_blocks(path("pending_readings", shard, "arrow"), "pending_readings", shard, block)
            replaces.append("pending_readings")
        Commit(
            "meters", shard, tuple(entries), tuple(replaces),
            {"meter_readings": {"accepted": fold.accepted, "superseded": fold.superseded, "pending": fold.pending.num_rows,
                                "redriven": waiting.num_rows + fold.taken_back},
             "meters": {"accepted": update.accepted, "superseded": update.superseded}},
        ).write(store, self.place.folder)  # fmt: skip
        yield from emitted(self.place.shards)
        for key, block in split_by_id(one_batch(update.expected), "account_id", self.place.shards):
            yield key, tag(block, "expected")


class _Fold:
    """The work of one shard: day by day, the state before and after, and what differs."""

    def __init__(
        self, state: State, slots: Slots, held: pa.Table, update: AssignmentsUpdate, rows: pa.Table, waiting: pa.Table
    ) -> None:
        self.state, self.slots, self.rows, self.waiting = state, slots, rows, waiting
        self.blocks = state.by_day("meter_block")
        self.old_table, self.new_table = held, update.held
        self.reassigned = update.held is not held
        self.old = assignments(slots, held)
        self.new = assignments(slots, update.held) if self.reassigned else self.old
        self.changed = slots.find(update.changed)
        self.accepted = self.superseded = self.taken_back = 0
        self.pending = READINGS_SCHEMA.empty_table()

    def run(self):  # type: ignore[no-untyped-def]
        """Work through every day touched. Returns (emitter of difference blocks, day blocks to write)."""
        n = len(self.slots)
        back = self._redriven()
        table = pa.concat_tables([self.rows, back]).combine_chunks()
        redriven = np.arange(table.num_rows) >= self.rows.num_rows
        day = numpy(table["service_date"])
        slot = self.slots.find(table["meter_id"].combine_chunks())
        revision, energy = numpy(table["revision"]), numpy(table["energy_wh"])
        quality = pc.index_in(table["quality"], value_set=pa.array(QUALITIES)).combine_chunks().to_numpy().astype(np.int8)
        order = np.argsort(day, kind="stable")
        touched, starts = np.unique(day[order], return_index=True)
        rows_of = dict(zip(touched.tolist(), np.split(order, starts[1:]), strict=True)) if len(order) else {}
        written: list[tuple[int, pa.RecordBatch]] = []
        parts: list[tuple[npt.NDArray[np.int64], int, int, Contribution]] = []
        keep_pending: list[npt.NDArray[np.int64]] = []
        lost: list[tuple[int, npt.NDArray[np.int64]]] = []
        old_ids = self.old_table["account_id"].combine_chunks()
        new_ids = self.new_table["account_id"].combine_chunks() if self.reassigned else old_ids
        for number in sorted(set(rows_of) | self._days_reassigned()):
            entry = self.blocks.get(number)
            before = MeterDay.from_batch(self.state.store.read_block(entry), n) if entry else MeterDay.empty(n)
            after, index = before, rows_of.get(number, np.zeros(0, np.int64))
            fresh = index[~redriven[index]]
            if len(fresh):
                some, reduced = reduce_rows(slot[fresh], revision[fresh], energy[fresh], quality[fresh])
                after = merge(before, some, reduced)
                written.append((number, after.to_batch()))
            was, now = Contribution.of(self.old, number, before), Contribution.of(self.new, number, after)
            if len(index):
                accepted, superseded, wait = count_accepted(
                    before, after, now.counts, slot[index], revision[index], energy[index], redriven[index]
                )
                self.accepted += accepted
                self.superseded += superseded
                keep_pending.append(index[wait])
            if self.reassigned:
                gone = np.flatnonzero(was.counts & ~now.counts)
                if len(gone):
                    lost.append((number, gone))
            for some_slots, sign, side in differences(was, now, old_ids, new_ids):
                if len(some_slots):
                    parts.append((some_slots, sign, number, side))
        kept = table.take(pa.array(np.concatenate(keep_pending))) if keep_pending else READINGS_SCHEMA.empty_table()
        self.pending = pa.concat_tables([self._still_waiting, kept, self._take_back(lost)]).combine_chunks()

        def emit(shards: int) -> Iterator[Keyed]:
            for ids, sign in ((old_ids, -1), (new_ids, 1)):
                mine = [part for part in parts if part[1] == sign]
                if not mine:
                    continue
                where = shard_of(ids, shards)
                rows = np.concatenate([side.row[s] for s, _, _, side in mine])
                one = np.full(len(rows), sign, np.int32)
                batch = pa.record_batch(
                    [
                        ids.take(pa.array(rows)),
                        np.concatenate([np.full(len(s), number, np.int32) for s, _, number, _ in mine]),
                        np.concatenate([side.day.low[s] for s, _, _, side in mine]) * sign,
                        one,
                        np.concatenate([side.day.quality[s] > 0 for s, _, _, side in mine]).astype(np.int32) * one,
                        np.concatenate([side.day.spread[s] > 0 for s, _, _, side in mine]).astype(np.int32) * one,
                    ],
                    schema=DIFFERENCE_SCHEMA,
                )
                for key, block in split(batch, where[rows]):
                    yield key, tag(block, "difference")

        return emit, written

    def _redriven(self) -> pa.Table:
        """Waiting rows of meters whose assignment changed; the others go on waiting."""
        mine = np.isin(self.slots.find(self.waiting["meter_id"].combine_chunks()), self.changed)
        self._still_waiting = self.waiting.filter(pa.array(~mine))
        return self.waiting.filter(pa.array(mine))

    def _days_reassigned(self) -> set[int]:
        """Stored days that must be looked at because a meter that counted before was assigned anew."""
        counted = np.unique(self.old.slot[self.old.known])
        return set(self.blocks) if self.reassigned and np.isin(self.changed, counted).any() else set()

    def _take_back(self, lost: list[tuple[int, npt.NDArray[np.int64]]]) -> pa.Table:
        """The logged rows of meter-days that counted before and no longer do: they are pending again."""
        if not lost:
            return READINGS_SCHEMA.empty_table()
        gone = {(int(slot), day) for day, slots in lost for slot in slots}
        out = []
        for entry in self.state.entries.get("log:meter_readings", []):
            log = self.state.store.read_parquet(entry).cast(READINGS_SCHEMA)
            slot, day = self.slots.find(log["meter_id"].combine_chunks()), numpy(log["service_date"])
            mine = np.isin(slot, [s for s, _ in gone])
            mine[mine] = [(int(s), int(d)) in gone for s, d in zip(slot[mine], day[mine], strict=True)]
            out.append(log.filter(pa.array(mine)))
        taken = pa.concat_tables(out) if out else READINGS_SCHEMA.empty_table()
        self.taken_back = taken.num_rows
        return taken


def pending_reasons(pending: pa.Table, held: pa.Table) -> pa.Array:
    """Why each pending reading waits. pending: `READINGS_SCHEMA`; held: assignment rows."""
    slots = Slots(pc.unique(pa.concat_arrays([pending["meter_id"].combine_chunks(), held["meter_id"].combine_chunks()])))
    table, slot, day = assignments(slots, held), slots.find(pending["meter_id"].combine_chunks()), numpy(pending["service_date"])
    has_rows = np.isin(slot, table.slot)
    reason = np.where(has_rows, "meter_not_assigned", "unknown_meter").astype(object)
    for number in np.unique(day):
        mine = np.flatnonzero(day == number)
        _, _, assigned = table.on(int(number), len(slots))
        reason[mine[assigned[slot[mine]]]] = "unknown_account"
    return pa.array(reason, pa.string())


class FoldMeters(beam.PTransform):  # type: ignore[misc]
    """(meter shard, state | meters | meter_readings blocks) -> (account shard, difference | expected blocks)."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place

    def expand(self, grouped: beam.PCollection[tuple[int, Iterable[pa.RecordBatch]]]) -> beam.PCollection[Keyed]:
        """Wires one DoFn."""
        return grouped | beam.ParDo(FoldMetersShard(self.place)).with_output_types(Keyed)
