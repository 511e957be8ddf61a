"""Accounts and meter assignments, by account shard: which accounts are known, and since when.

Every account that anything names gets its slot here; ledger events pass on with theirs. Meter rows pass on to their
meter's shard with their account's shard and slot and whether the account is known; those whose account is not are kept
and sent again when it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.inbound import ACCOUNTS, CATEGORIES, LEDGER_EVENTS, METERS, STAMP
from schemas.marts import ACCOUNTS as ACCOUNTS_MART
from transforms.blocks import Grouped, Keyed, by_kind, concat, one_batch, split_by_id, tag
from transforms.kernels.reference import NEVER, Population, days, latest, order_by
from transforms.shards import Place, Slots, State, numpy, state_block
from transforms.storage import Commit, Entry

STAMP_FIELDS = [pa.field(column.name, column.type) for column in STAMP]
ACCOUNTS_SCHEMA = pa.schema([pa.field(f.name, f.type) for f in ACCOUNTS.schema] + STAMP_FIELDS)
ACCOUNTS_STATE = pa.schema([*ACCOUNTS_SCHEMA, pa.field("slot", pa.int32())])
METERS_SCHEMA = pa.schema([pa.field(f.name, f.type) for f in METERS.schema] + STAMP_FIELDS)
EVENTS_SCHEMA = pa.schema([pa.field(f.name, f.type) for f in LEDGER_EVENTS.schema] + STAMP_FIELDS)
TO_METER_SHARD = pa.schema([*METERS_SCHEMA, pa.field("known", pa.bool_()), pa.field("account", pa.int64())])
"""A meter row with whether its account is known, and the account's shard and slot as one number (see `pack`)."""

POPULATION_SCHEMA = pa.schema(
    [(name, pa.int32()) for name in ("slot", "valid_from", "opened", "closed")]
    + [("category", pa.int8()), ("capacity", pa.int64())]
)


def pack(shard: int, slot: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """An account's shard and slot as one number. slot: (n,)."""
    return (np.int64(shard) << 32) | slot.astype(np.int64)


@dataclass(frozen=True)
class AccountsUpdate:
    """accounts: the rows that hold; accepted, superseded: of the new rows; restate_from: first day anything differs."""

    accounts: pa.Table
    accepted: int
    superseded: int
    restate_from: int | None


def update_accounts(held: pa.Table, new: pa.Table) -> AccountsUpdate:
    """Merge new account rows into those held; both of `ACCOUNTS_STATE`. Only accounts among the new rows are touched."""
    if new.num_rows == 0:
        return AccountsUpdate(held, 0, 0, None)
    mine = touched(held, new)
    old, rest = held.filter(pa.array(mine)), held.filter(pa.array(~mine))
    content = [f.name for f in ACCOUNTS.schema if f.name not in ("account_id", "valid_from", "revision")]
    merged = latest(marked(old, new), ["account_id", "valid_from"], [*content, "fresh", "delivery", "row"])
    accepted = int(pc.sum(merged["fresh"]).as_py() or 0)
    merged = merged.drop_columns(["fresh"])
    first = _first_difference(old, merged) if accepted else None
    return AccountsUpdate(pa.concat_tables([rest, merged]).combine_chunks(), accepted, new.num_rows - accepted, first)


def touched(held: pa.Table, new: pa.Table) -> npt.NDArray[np.bool_]:
    """Which of the held rows share a slot with a new row. (held rows,)."""
    slot, fresh = numpy(held["slot"]), numpy(new["slot"])
    mine = np.zeros(max(slot.max(initial=-1), fresh.max(initial=-1)) + 1, np.bool_)
    mine[fresh] = True
    result: npt.NDArray[np.bool_] = mine[slot]
    return result


def marked(held: pa.Table, new: pa.Table) -> pa.Table:
    """Both tables as one, with a column `fresh` that tells the new rows."""
    parts = ((held, False), (new, True))
    return pa.concat_tables([t.append_column("fresh", pa.array(np.full(t.num_rows, fresh))) for t, fresh in parts])


def _first_difference(old: pa.Table, new: pa.Table) -> int | None:
    """First day on which an account's category or capacity, or whether it is in the population, differs. Same accounts in both."""
    touched_slots = np.unique(numpy(new["slot"]))
    before, after = (
        replace(p, slot=np.searchsorted(touched_slots, p.slot).astype(np.int32))
        for p in (population(old), population(new))
    )
    n = len(touched_slots)
    brand_new = ~before.known(n)[after.slot]
    differences = [int(after.opened[brand_new].min())] if brand_new.any() else []
    if len(before.slot):
        again = before.known(n)
        edges = [
            np.r_[p.valid_from, p.opened, p.closed + (p.closed < NEVER)][np.tile(again[p.slot], 3)]
            for p in (before, after)
        ]
        days_ = np.unique(np.concatenate(edges))
        for day in [int(days_[0]) - 1, *days_[days_ < NEVER].tolist()]:
            (inside_a, category_a), (inside_b, category_b) = (p.on(day, n) for p in (before, after))
            otherwise = (category_a != category_b) | (before.capacity_on(day, n) != after.capacity_on(day, n))
            if (again & ((inside_a != inside_b) | (inside_a & otherwise))).any():
                differences.append(day)
                break
    return min(differences, default=None)


def population(accounts: pa.Table) -> Population:
    """The account rows of a shard by slot. accounts: rows that hold, of `ACCOUNTS_STATE`."""
    slot, valid_from = numpy(accounts["slot"], np.int32), days(accounts["valid_from"])
    category = numpy(pc.index_in(accounts["category"], value_set=pa.array(CATEGORIES)), np.int8)
    order = order_by(slot, valid_from)
    opened, closed = days(accounts["opened_on"]), days(accounts["closed_on"])
    capacity = numpy(pc.fill_null(accounts["capacity_va"], -1))
    return Population(slot[order], valid_from[order], opened[order], closed[order], category[order], capacity[order])


def load_population(state: State) -> Population:
    """The stored population of a shard."""
    table = state.table("population", POPULATION_SCHEMA)
    return Population(*(numpy(table[name]) for name in POPULATION_SCHEMA.names))


def accounts_mart(accounts: pa.Table) -> pa.Table:
    """The accounts dimension: the rows that hold, each up to the day before the account's next one."""
    slot, start = numpy(accounts["slot"]), days(accounts["valid_from"])
    order = order_by(slot, start)
    ordered, slot, start = accounts.take(pa.array(order)), slot[order], start[order]
    last = np.r_[slot[1:] != slot[:-1], True][: len(slot)]
    valid_to = pa.array(np.r_[start[1:] - 1, 0][: len(slot)].astype(np.int32), mask=last).cast(pa.date32())
    columns = [valid_to if f.name == "valid_to" else ordered[f.name] for f in ACCOUNTS_MART.schema]
    return pa.table(columns, names=ACCOUNTS_MART.schema.names).cast(ACCOUNTS_MART.schema)


@beam.typehints.with_output_types(Keyed, state=Keyed)
class FoldReferenceShard(beam.DoFn):
    """One account shard's reference data. Emits meter rows by meter shard; to `state`, the state and ledger events."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def process(self, element: Grouped) -> Iterator[Keyed | beam.pvalue.TaggedOutput]:
        """element: (shard, blocks of kind state, accounts, meters, ledger_events)."""
        shard, blocks = element
        store, kinds, path = self.place.store(), by_kind(blocks), self.place.path
        state = State.from_blocks(store, kinds["state"])
        entries: list[Entry] = []
        replaces: list[str] = []

        def put(kind: str, table: pa.Table, *, keep_empty: bool = True) -> None:
            block = [(-1, one_batch(table))] if keep_empty or table.num_rows else []
            entries.extend(store.write_blocks(path(kind, shard, "arrow"), kind, shard, block))
            replaces.append(kind)

        new, arrived = (
            concat(kinds.get("accounts", []), ACCOUNTS_SCHEMA),
            concat(kinds.get("meters", []), METERS_SCHEMA),
        )
        for kind, table in (("log:accounts", new), ("log:meters", arrived)):
            if table.num_rows:
                entries.append(store.write_parquet(path(kind, shard, "parquet"), kind, shard, table))
        waited = state.table("waiting_meters", METERS_SCHEMA)
        ledger = concat(kinds.get("ledger_events", []), EVENTS_SCHEMA)
        if not any(table.num_rows for table in (new, arrived, waited, ledger)):
            self.place.report(Commit("reference", shard, ()))
            yield beam.pvalue.TaggedOutput("state", (shard, state_block(state.all())))
            return

        slots, people = Slots.load(state, "account_slots"), load_population(state)
        update = AccountsUpdate(ACCOUNTS_STATE.empty_table(), 0, 0, None)
        if new.num_rows:
            new = new.append_column("slot", pa.array(slots.add(new["account_id"].combine_chunks())))
            update = update_accounts(state.table("accounts", ACCOUNTS_STATE), new)
        if update.accepted:
            people = population(update.accounts)
            put("accounts", update.accounts)
            put(
                "population",
                pa.table([getattr(people, name) for name in POPULATION_SCHEMA.names], schema=POPULATION_SCHEMA),
            )
            kind = "mart:accounts"
            entries.append(
                store.write_parquet(path(kind, shard, "parquet"), kind, shard, accounts_mart(update.accounts))
            )
            replaces.append(kind)
        if ledger.num_rows:
            slot = pa.array(slots.add(ledger["account_id"].combine_chunks()))
            yield beam.pvalue.TaggedOutput(
                "state", (shard, tag(one_batch(ledger.add_column(0, "slot", slot)), "ledger_events"))
            )
        entries += slots.save(self.place, "account_slots", shard)
        replaces += ["account_slots"] if slots.grown else []

        meters = pa.concat_tables([waited, arrived]).combine_chunks()
        known = np.zeros(0, np.bool_)
        if meters.num_rows:
            slot = slots.find(meters["account_id"].combine_chunks())
            known = np.r_[people.known(len(slots)), False][slot]
            put("waiting_meters", meters.filter(pa.array(~known)), keep_empty=False)
            flagged = meters.append_column("known", pa.array(known)).append_column(
                "account", pa.array(pack(shard, slot))
            )
            send = known | (np.arange(len(known)) >= waited.num_rows)
            for key, block in split_by_id(one_batch(flagged.filter(pa.array(send))), "meter_id", self.place.shards):
                yield key, tag(block, "meters")
        counts = {
            "accounts": {"accepted": update.accepted, "superseded": update.superseded},
            "meters": {"redriven": waited.num_rows, "pending": int((~known).sum())},
        }
        self.place.report(Commit("reference", shard, tuple(entries), tuple(replaces), counts, update.restate_from))
        kept = [entry for entry in state.all() if entry.kind not in replaces]
        yield beam.pvalue.TaggedOutput("state", (shard, state_block(kept + entries)))


class FoldReference(beam.PTransform):
    """(account shard, state | accounts | meters | ledger_events blocks) -> meter rows by meter shard, state by account shard."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place

    def expand(self, grouped: beam.PCollection[tuple[int, Iterable[pa.RecordBatch]]]) -> beam.pvalue.DoOutputsTuple:
        """Wires one DoFn."""
        return grouped | beam.ParDo(FoldReferenceShard(self.place)).with_outputs("state", main="meters")
