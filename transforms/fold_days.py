"""The first half of fold 1, by account shard: differences become day blocks, events join those of their account.

Every service day of a shard is one immutable block; a day that gets late or corrected readings gets a new block. What
follows from a block is the business of `fold_features`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.inbound import MEASURES, REGISTERS
from schemas.marts import CONDUCT_EVENTS
from schemas.policy import Policy
from transforms.account_events import CONDUCT, EVENT_SOURCES, LEDGER, NO_CONTENT, EventSource
from transforms.blocks import Grouped, by_kind, concat, one_batch
from transforms.closed_ledger import CLOSED, ClosedLedger, close_ledger
from transforms.fold_reference import load_population, touched
from transforms.fold_registers import DIFFERENCE_SCHEMA, PERIODS_SCHEMA
from transforms.kernels.conduct import withdrawn_first
from transforms.kernels.reference import NEVER, Population, first_difference
from transforms.kernels.windows import DayBlock
from transforms.logs import merge, to_merge
from transforms.meter_assignments import EXPECTED_SCHEMA
from transforms.patches import concerns
from transforms.shards import Place, Slots, State, numpy
from transforms.storage import Commit, Entry

Int = npt.NDArray[np.int64]

LEDGER_SCHEMA = LEDGER.kept
CALENDAR_SCHEMA = pa.schema(
    [("day", pa.int32()), ("received", pa.int64()), ("told", pa.int64()), ("step", pa.int64()), ("events", pa.int64())]
)
"""What a run adds to the service calendar: meter readings received, energies told beside totals, change in meters expected,
ledger events."""

CALENDAR_FILES = 16
"""Calendar files of a shard before they are added up into one."""

EVENT_FILES = 32
"""Files of a source of events of a shard before they are put together into one; the order of rows stays."""


def update_expected(held: pa.Table, changes: pa.Table) -> pa.Table:
    """Add differences of expected stretches to those held; both of `EXPECTED_SCHEMA`, the result ascending by slot."""
    mine = touched(held, changes)
    some = pa.concat_tables([held.filter(pa.array(mine)), changes])
    summed = some.group_by(["slot", "installed", "removed"]).aggregate([("meters", "sum")])
    summed = (
        summed.filter(pc.not_equal(summed["meters_sum"], 0)).rename_columns(EXPECTED_SCHEMA.names).cast(EXPECTED_SCHEMA)
    )
    table = pa.concat_tables([held.filter(pa.array(~mine)), summed]).combine_chunks()
    order = np.lexsort([numpy(table[name]) for name in ("removed", "installed", "slot")])
    return table.take(pa.array(order))


def calendar_rows(
    *, received: pa.Table | None = None, told: Mapping[int, int] | None = None, expected: pa.Table | None = None,
    events: pa.Table | None = None,
) -> pa.Table:  # fmt: skip
    """What differences and new ledger events add to the calendar, row by row, of `CALENDAR_SCHEMA`.

    received: `DIFFERENCE_SCHEMA`; told: by day number, how much more; expected: `EXPECTED_SCHEMA`; events: `LEDGER_SCHEMA`.
    """
    parts = []

    def add(day: npt.NDArray[np.int32], column: str, amount: npt.NDArray[Any]) -> None:
        columns = {name: np.zeros(len(day), np.int64) for name in CALENDAR_SCHEMA.names[1:]}
        columns[column] = amount.astype(np.int64)
        parts.append(pa.table({"day": day, **columns}, schema=CALENDAR_SCHEMA))

    if received is not None:
        add(numpy(received["day"]), "received", numpy(received["received"]))
    if told is not None:
        add(np.array(list(told), np.int32), "told", np.array(list(told.values()), np.int64))
    if expected is not None:
        meters = numpy(expected["meters"])
        add(numpy(expected["installed"]), "step", meters)
        ends = numpy(expected["removed"])
        add(ends[ends < NEVER], "step", -meters[ends < NEVER])
    if events is not None:
        add(numpy(events["event_date"]), "events", np.ones(events.num_rows))
    return pa.concat_tables(parts) if parts else CALENDAR_SCHEMA.empty_table()


def sum_calendar(rows: pa.Table) -> pa.Table:
    """Calendar rows added up: one row a day, ascending, none that is all zero. Both of `CALENDAR_SCHEMA`."""
    day, index = np.unique(numpy(rows["day"]), return_inverse=True)
    sums = np.zeros((len(CALENDAR_SCHEMA) - 1, len(day)), np.int64)
    for into, name in zip(sums, CALENDAR_SCHEMA.names[1:], strict=True):
        np.add.at(into, index, numpy(rows[name]))
    some = sums.any(axis=0)
    return pa.table([day[some], *sums[:, some]], schema=CALENDAR_SCHEMA)


@dataclass(frozen=True)
class EventsUpdate:
    """What new rows of events did: rows accepted and superseded, and the first day whose figures may change.

    slots, dates: (k,) accounts, and dates of the versions of the events that changed.
    """

    accepted: int
    superseded: int
    restate_from: int | None
    slots: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    dates: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))


def settle_versions(held: pa.Table, new: pa.Table) -> EventsUpdate:
    """Sort new rows into accepted and superseded, and find the first day on which another version is in force, or a conflict told.

    held: rows of the same accounts; both as they are kept. On a day the version in force is, of those dated up to it, the
    one with the highest revision: a version that loses in the end may count until the winner's own date.
    """
    same = held.filter(pc.is_in(held["event_id"], value_set=pc.unique(new["event_id"])))
    both = pa.concat_tables([same, new]).combine_chunks()
    fresh = np.arange(both.num_rows) >= same.num_rows
    events = Slots(pc.unique(both["event_id"])).find(both["event_id"].combine_chunks())
    _, key = np.unique(numpy(both["slot"], np.int64) << 32 | events, return_inverse=True)
    date, revision, content = numpy(both["event_date"]), numpy(both["revision"]), _content_rank(both)

    order = np.lexsort((fresh, content, -revision, key))
    accepted = int(fresh[order][_heads(key[order])].sum())
    old = order[~fresh[order]]
    winner = np.full(key.max() + 1, -1, np.int64)
    winner[key[old][_heads(key[old])]] = content[old][_heads(key[old])]
    n, before = len(winner), ~fresh
    disputed = _disputed(key, revision, content, n)
    was = _disputed(key[before], revision[before], content[before], n)
    changed = np.union1d(key[fresh & (content != winner[key])], np.flatnonzero(was != disputed))
    rows = np.flatnonzero(np.isin(key, changed))
    often = np.bincount(key[rows], minlength=key.max() + 1) > 1
    dates = date[rows[~often[key[rows]]]].tolist()
    versions: dict[int, list[tuple[int, int, int, bool]]] = {}
    for row in rows[often[key[rows]]].tolist():
        versions.setdefault(int(key[row]), []).append(
            (int(date[row]), int(revision[row]), int(content[row]), bool(fresh[row]))
        )
    for number, some in versions.items():
        if (first := _first_change(some)) is not None:
            dates.append(first)
        elif was[number] != disputed[number]:  # no figure differs, but what is told of it does
            dates.append(max(day for day, *_ in some))
    slots = numpy(both["slot"], np.int32)[rows]
    return EventsUpdate(accepted, new.num_rows - accepted, min(dates, default=None), slots, date[rows])


def _disputed(key: Int, revision: npt.NDArray[Any], content: Int, n: int) -> npt.NDArray[np.bool_]:
    """Of which of `n` events the versions of the highest revision differ in content. key, revision, content: (k,) of versions."""
    highest = np.full(n, np.iinfo(np.int64).min)
    np.maximum.at(highest, key, revision)
    some = revision == highest[key]
    first, last = np.full(n, np.iinfo(np.int64).max), np.full(n, -1)
    np.minimum.at(first, key[some], content[some])
    np.maximum.at(last, key[some], content[some])
    result: npt.NDArray[np.bool_] = first < last
    return result


def _content_rank(rows: pa.Table) -> npt.NDArray[np.int64]:
    """A number for each row's content, ascending as its columns are written as text, withdrawals first. (n,) int64."""
    content = [name for name in rows.column_names if name not in NO_CONTENT]
    text = [pc.fill_null(pc.cast(rows[name], pa.string()), "") for name in content]
    if "event_type" in content:
        at = content.index("event_type")
        text[at] = withdrawn_first(text[at])
    joined = pc.binary_join_element_wise(*text, "\x01").combine_chunks()
    return Slots(pc.unique(joined)).ranks(joined)


def standing(conduct: pa.Table) -> pa.Table:
    """Of the conduct events of some accounts the version that stands: the highest revision, unless it withdraws the event.

    conduct: rows as they are kept; the result is in order of account and event.
    """
    slot, event = (
        numpy(conduct["slot"], np.int64),
        Slots(pc.unique(conduct["event_id"])).ranks(conduct["event_id"].combine_chunks()),
    )
    order = np.lexsort((_content_rank(conduct), -numpy(conduct["revision"]), event, slot))
    rows = conduct.take(pa.array(order[_heads((slot << 32 | event)[order])]))
    return rows.filter(pc.not_equal(rows["event_type"], "withdrawn"))


def _heads(key: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where each run of equal keys begins."""
    return np.flatnonzero(np.r_[True, key[1:] != key[:-1]]) if len(key) else np.zeros(0, np.int64)


def _first_change(versions: list[tuple[int, int, int, bool]]) -> int | None:
    """First day on which the fresh versions of one event put another content in force. (date, revision, content, fresh)."""
    for day in sorted({date for date, *_ in versions}):
        known = [v for v in versions if v[0] <= day]
        now = max(known, key=lambda v: (v[1], -v[2]))[2]
        before = max((v for v in known if not v[3]), key=lambda v: (v[1], -v[2]), default=None)
        if before is None or before[2] != now:
            return day
    return None


def _rows_by_day(rows: pa.Table) -> dict[int, npt.NDArray[np.int64]]:
    """Day -> the positions of its rows. rows: with a column day."""
    day = numpy(rows["day"])
    order = np.argsort(day, kind="stable")
    numbers, starts = np.unique(day[order], return_index=True)
    return dict(zip(numbers.tolist(), np.split(order, starts[1:]), strict=True)) if len(order) else {}


class FoldDaysShard(beam.DoFn):
    """One account shard: writes its changed day blocks, its expected stretches, its events and its calendar."""

    def __init__(self, place: Place, policy: Policy) -> None:
        self.place, self.policy = place, policy

    def process(self, element: Grouped) -> Iterator[int]:
        """element: (shard, blocks of kind state, difference, period_difference, expected, and of events).

        Emits the shard when done.
        """
        shard, blocks = element
        _DaysOfShard(self.place, self.policy, shard, by_kind(blocks)).fold()
        yield shard


class _DaysOfShard:
    """The work on one shard: what it holds, and what it has written so far."""

    def __init__(self, place: Place, policy: Policy, shard: int, kinds: dict[str, list[pa.RecordBatch]]) -> None:
        self.place, self.rules, self.shard, self.kinds = place, policy.ledger, shard, kinds
        self.state = State.from_blocks(place.store(), kinds["state"])
        self.accounts = sum(entry.rows for entry in self.state.entries.get("account_slots", []))
        self.entries: list[Entry] = []
        self.replaces: list[str] = []
        self.merged: list[Entry] = []
        self.drops: list[str] = []
        self.calendar: list[pa.Table] = []
        self.concerned: list[tuple[Any, Any, Any]] = []

    @cached_property
    def people(self) -> Population:
        """The accounts' reference rows."""
        return load_population(self.state)

    @cached_property
    def slots(self) -> Slots:
        """The shard's accounts."""
        return Slots.load(self.state, "account_slots")

    def fold(self) -> None:
        """Fold everything in, and report it."""
        kinds = self.kinds
        restate: list[int | None] = []
        restate.append(
            self._days(
                concat(kinds.get("difference", []), DIFFERENCE_SCHEMA),
                concat(kinds.get("period_difference", []), PERIODS_SCHEMA),
            )
        )
        restate.append(self._expected(concat(kinds.get("expected", []), EXPECTED_SCHEMA)))
        counts: dict[str, dict[str, int]] = {}
        for source in EVENT_SOURCES:
            counts[source.source], first = self._events(source, concat(kinds.get(source.source, []), source.arrived))
            restate.append(first)
        self._calendar()
        known = [day for day in restate if day is not None]
        self.place.report(
            Commit(
                "days", self.shard, tuple(self.entries), tuple(self.replaces), counts, min(known, default=None),
                tuple(self.merged), concerns(self.place, "days", self.shard, self.concerned), drops=tuple(self.drops),
            )
        )  # fmt: skip

    def _put(self, kind: str, entries: list[Entry], *, replace: bool = False) -> None:
        self.entries += entries
        if replace:
            self.replaces.append(kind)

    def _calendar(self) -> None:
        """Write what the run adds to the calendar; once in a while, all of it in one file."""
        rows = sum_calendar(pa.concat_tables([CALENDAR_SCHEMA.empty_table(), *self.calendar]))
        if rows.num_rows == 0:
            return
        replace = len(self.state.entries.get("calendar", [])) >= CALENDAR_FILES
        if replace:
            rows = sum_calendar(pa.concat_tables([self.state.table("calendar", CALENDAR_SCHEMA), rows]))
        path, block = self.place.path("calendar", self.shard, "arrow"), [(-1, one_batch(rows))]
        self._put("calendar", self.state.store.write_blocks(path, "calendar", self.shard, block), replace=replace)

    def _days(self, differences: pa.Table, apart: pa.Table) -> int | None:
        """Add differences of totals, and of the measures beside them. Returns the first day that differs."""
        if differences.num_rows == 0 and apart.num_rows == 0:
            return None
        slot, of = numpy(differences["slot"]), _rows_by_day(differences)
        columns = [numpy(differences[name]) for name in ("energy_wh", "received", "estimated", "conflict")]
        own_slot, register, apart_of = numpy(apart["slot"]), numpy(apart["register"]), _rows_by_day(apart)
        own = [numpy(apart[name]) for name in ("energy_wh", "received")]
        stored, n = self.state.by_day("day_block"), self.accounts
        made: dict[int, DayBlock] = {}
        nothing = np.zeros(0, np.int64)
        for number in sorted({*of, *apart_of}):
            entry, index, some = stored.get(number), of.get(number, nothing), apart_of.get(number, nothing)
            block = DayBlock.from_batch(self.state.store.read_block(entry)) if entry else DayBlock.empty(n)
            block = block.add(n, slot[index], *(column[index] for column in columns))
            for code in np.unique(register[some]).tolist():
                mine = some[register[some] == code]
                block = block.add_apart(n, MEASURES[code], own_slot[mine], *(column[mine] for column in own))
            made[number] = block
        names = {name for block in made.values() for name in block.apart}  # the blocks of a file have one schema
        written = [(number, block.to_batch(names)) for number, block in made.items()]
        energy = register < len(REGISTERS)  # a maximum demand alone makes no day
        told = {number: int(own[1][some[energy[some]]].sum()) for number, some in apart_of.items()}
        self.calendar.append(calendar_rows(received=differences, told=told))
        self.concerned += [(numpy(t["slot"]), numpy(t["day"]), numpy(t["day"])) for t in (differences, apart)]
        path = self.place.path("day_block", self.shard, "arrow")
        self._put("day_block", self.state.store.write_blocks(path, "day_block", self.shard, written))
        return written[0][0]

    def _expected(self, changes: pa.Table) -> int | None:
        if changes.num_rows == 0:
            return None
        expected = update_expected(self.state.table("expected", EXPECTED_SCHEMA), changes)
        path = self.place.path("expected", self.shard, "arrow")
        blocks = [(-1, one_batch(expected))]
        self._put("expected", self.state.store.write_blocks(path, "expected", self.shard, blocks), replace=True)
        self.calendar.append(calendar_rows(expected=changes))
        slot, installed, removed, meters = (numpy(changes[name]) for name in EXPECTED_SCHEMA.names)
        self.concerned.append((slot, installed, removed - 1))
        return first_difference(slot.astype(np.int64), installed, removed, meters.astype(np.int64))

    def _events(self, source: EventSource, arrived: pa.Table) -> tuple[dict[str, int], int | None]:
        """Take up events. Returns the counts of their rows, and the first day that differs."""
        store, path = self.state.store, self.place.path
        waited = self.state.table(source.pending, source.landed).combine_chunks()
        nothing = arrived.num_rows == 0 and waited.num_rows == 0
        if nothing and source is not LEDGER:
            return {}, None
        if waited.num_rows:
            waited = waited.add_column(0, "slot", pa.array(self.slots.find(waited["account_id"].combine_chunks())))
        rows = pa.concat_tables([waited, arrived]).combine_chunks() if waited.num_rows else arrived
        back = self._recalled(rows) if source is LEDGER else source.kept.empty_table()
        if nothing and back.num_rows == 0:
            return {}, None
        slot = numpy(rows["slot"])
        known = self.people.known(self.accounts)[slot]
        files = self.state.entries.get(source.kind, [])
        held = pa.concat_tables([self._events_of(source, files, np.unique(slot[known])), back])
        now = rows.filter(pa.array(known)).select(source.kept.names)
        if waited.num_rows:  # accounts that were unknown: what is held of them are the waiting rows themselves
            held = held.filter(
                pc.invert(pc.is_in(held["slot"], value_set=pa.array(np.unique(slot[: waited.num_rows]))))
            )
        update = settle_versions(held, now) if now.num_rows else EventsUpdate(0, 0, None)
        if source.opens:
            self.calendar.append(calendar_rows(events=now))
        self.concerned.append((update.slots, update.dates, update.dates))

        fresh = rows.slice(waited.num_rows).combine_chunks()
        if fresh.num_rows or back.num_rows:
            self._keep(source, files, pa.concat_tables([back, fresh.select(source.kept.names)]))
        if fresh.num_rows:
            log, dates = fresh.drop_columns(["slot"]), numpy(fresh["event_date"])
            kind = f"log:{source.source}"
            entry = store.write_parquet(path(kind, self.shard, "parquet"), kind, self.shard, log,
                                        (int(dates.min()), int(dates.max())))  # fmt: skip
            self._put(kind, [entry])
            if source is LEDGER and (small := to_merge(self.state.entries.get(kind, []))):
                self.merged.append(merge(store, path(f"merged:{kind}", self.shard, "parquet"), small))
                self.drops += [entry.path for entry in small]
        pending = rows.filter(pa.array(~known)).drop_columns(["slot"])
        blocks = [(-1, one_batch(pending))] if pending.num_rows else []
        new = store.write_blocks(path(source.pending, self.shard, "arrow"), source.pending, self.shard, blocks)
        self._put(source.pending, new, replace=True)
        if source is CONDUCT and now.num_rows:
            self._conduct_mart(now)
        counts = {"accepted": update.accepted, "superseded": update.superseded, "pending": pending.num_rows,
                  "redriven": waited.num_rows}  # fmt: skip
        return counts, update.restate_from

    def _recalled(self, rows: pa.Table) -> pa.Table:
        """Ledger rows that were let go and are wanted back, and rows that supersede what stood for them. rows: new ones."""
        closed = ClosedLedger.load(self.state)
        if closed is None:
            return LEDGER_SCHEMA.empty_table()
        kept = self.state.table(LEDGER.kind, LEDGER_SCHEMA)
        asking = closed.asking(kept, rows, self.people, self.rules.allocation, self.accounts)
        return closed.recalled(self.state, self.slots, kept, asking) if len(asking) else LEDGER_SCHEMA.empty_table()

    def _keep(self, source: EventSource, files: list[Entry], table: pa.Table) -> None:
        """Add rows to those kept, in one file with them once in a while; ledger rows that need not be kept go."""
        store, replace = self.state.store, len(files) >= EVENT_FILES
        if replace or source is LEDGER:
            whole = pa.concat_tables([*(store.read_table(entry) for entry in files), table])
        if source is LEDGER:
            calendar = pa.concat_tables([self.state.table("calendar", CALENDAR_SCHEMA), *self.calendar])
            closing = close_ledger(
                self.place, self.state, self.shard, whole, calendar, self.rules, self.people, self.accounts
            )
            if closing is not None:
                (whole, names), replace = closing, True
                self._put(CLOSED, names, replace=True)
        blocks = [(-1, one_batch(whole if replace else table))]
        path = self.place.path(source.kind, self.shard, "arrow")
        self._put(
            source.kind, store.write_blocks(path, source.kind, self.shard, blocks, compress=False), replace=replace
        )

    def _conduct_mart(self, now: pa.Table) -> None:
        """Write the events that stand, of all known accounts. now: rows of such accounts that came, or waited."""
        known = np.flatnonzero(self.people.known(self.accounts)).astype(np.int32)
        held = self._events_of(CONDUCT, self.state.entries.get(CONDUCT.kind, []), known)
        stands = standing(pa.concat_tables([held, now]).combine_chunks())
        kind = "mart:conduct_events"
        rows = stands.select(CONDUCT_EVENTS.schema.names).cast(CONDUCT_EVENTS.schema)
        entry = self.state.store.write_parquet(self.place.path(kind, self.shard, "parquet"), kind, self.shard, rows)
        self._put(kind, [entry], replace=True)

    def _events_of(self, source: EventSource, files: list[Entry], slots: npt.NDArray[np.int32]) -> pa.Table:
        """All stored events of some accounts; only their rows are read from the mapped files."""
        mine = np.zeros(self.accounts, np.bool_)
        mine[slots] = True
        parts = []
        for entry in files:
            table = self.state.store.read_table(entry)
            parts.append(table.take(pa.array(np.flatnonzero(mine[numpy(table["slot"])]))))
        return pa.concat_tables(parts).combine_chunks() if parts else source.kept.empty_table()


class FoldDays(beam.PTransform):
    """(account shard, state | difference | expected | events blocks) -> shard numbers, when their state is written."""

    def __init__(self, place: Place, policy: Policy) -> None:
        super().__init__()
        self.place, self.policy = place, policy

    def expand(self, grouped: beam.PCollection[tuple[int, Iterable[pa.RecordBatch]]]) -> beam.PCollection[int]:
        """Wires one DoFn."""
        return grouped | beam.ParDo(FoldDaysShard(self.place, self.policy)).with_output_types(int)
