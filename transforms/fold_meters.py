"""Fold 0, by meter shard: which reading of a meter-day counts, and for which account.

Revisions of interval energy are settled in `transforms.interval_days`, cumulative registers become energy in
`transforms.fold_registers`, and assignments come from `transforms.meter_assignments`. The fold emits differences, account by
account: `+` what counts now, `-` what counted before. They add up in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.inbound import REGISTERS
from transforms.blocks import Grouped, Keyed, by_kind, concat, one_batch, split, tag
from transforms.fold_reference import TO_METER_SHARD
from transforms.fold_registers import (
    EXCEPTIONS_SCHEMA,
    REGISTERS_SCHEMA,
    RegisterDay,
    RegistersFolded,
    fold_registers,
    load_last,
    register_day_from_batch,
    register_day_to_batch,
)
from transforms.interval_days import READINGS_SCHEMA, MetersFolded, fold_meters
from transforms.kernels.readings import MeterDay
from transforms.kernels.reference import NEVER
from transforms.kernels.terms import Terms
from transforms.logs import merge as merge_files
from transforms.logs import to_merge
from transforms.meter_assignments import (
    EXPECTED_SCHEMA,
    HELD_SCHEMA,
    assignments,
    in_order,
    terms_of,
    update_assignments,
)
from transforms.shards import Place, Slots, State, numpy
from transforms.storage import Commit, Entry, Store

WAITING = {
    "meter_readings": (READINGS_SCHEMA, "pending_readings"),
    "register_readings": (REGISTERS_SCHEMA, "pending_registers"),
}
"""What waits for its meter or account: source -> the schema of its rows, the kind of state they wait in."""

Mask = npt.NDArray[np.bool_]
Int = npt.NDArray[np.int64]


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
        told = "register_last" in state.entries or any(
            self.held[f"removed_{name}"].null_count < len(self.held) for name in REGISTERS
        )
        if rows.num_rows == 0 and not told and len(update.terms[0]) == 0:
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
