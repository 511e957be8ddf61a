"""Accounts and meter assignments, by account shard: which accounts are known, and since when.

Meter rows pass on to their meter's shard with a flag that says whether their account is known; those whose account
is not are kept and sent again when it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.inbound import ACCOUNTS, CATEGORIES, METERS, STAMP
from schemas.marts import ACCOUNTS as ACCOUNTS_MART
from transforms.blocks import Grouped, Keyed, by_kind, concat, one_batch, split_by_id, tag
from transforms.kernels.reference import NEVER, Population, days, latest
from transforms.shards import Place, Slots, State, state_block
from transforms.storage import Commit, Entry

STAMP_FIELDS = [pa.field(column.name, column.type) for column in STAMP]
ACCOUNTS_SCHEMA = pa.schema([pa.field(f.name, f.type) for f in ACCOUNTS.schema] + STAMP_FIELDS)
METERS_SCHEMA = pa.schema([pa.field(f.name, f.type) for f in METERS.schema] + STAMP_FIELDS)
TO_METER_SHARD = pa.schema([*METERS_SCHEMA, pa.field("known", pa.bool_())])


@dataclass(frozen=True)
class AccountsUpdate:
    """accounts: the rows that hold; accepted, superseded: of the new rows; restate_from: first day anything differs."""

    accounts: pa.Table
    accepted: int
    superseded: int
    restate_from: int | None


def update_accounts(held: pa.Table, new: pa.Table) -> AccountsUpdate:
    """Merge new account rows into those held; both of `ACCOUNTS_SCHEMA`."""
    if new.num_rows == 0:
        return AccountsUpdate(held, 0, 0, None)
    marked = pa.concat_tables(
        [t.append_column("fresh", pa.array(np.full(t.num_rows, fresh))) for t, fresh in ((held, False), (new, True))]
    )
    content = [f.name for f in ACCOUNTS_SCHEMA if f.name not in ("account_id", "valid_from", "revision", "delivery", "row")]
    merged = latest(marked, ["account_id", "valid_from"], [*content, "fresh", "delivery", "row"])
    accepted = int(pc.sum(merged["fresh"]).as_py() or 0)
    changed = pc.unique(merged.filter(merged["fresh"])["account_id"])
    merged = merged.drop_columns(["fresh"])
    return AccountsUpdate(merged, accepted, new.num_rows - accepted, _first_difference(held, merged, changed))


def _first_difference(held: pa.Table, merged: pa.Table, changed: pa.Array) -> int | None:
    """First day on which a changed account's category or membership in the population differs from before."""
    if len(changed) == 0:
        return None
    old, new = (t.filter(pc.is_in(t["account_id"], value_set=changed)) for t in (held, merged))
    first_seen = pc.invert(pc.is_in(new["account_id"], value_set=old["account_id"].combine_chunks()))
    brand_new = new.filter(first_seen)
    differences = [pc.min(brand_new["opened_on"].cast(pa.int32())).as_py()] if brand_new.num_rows else []
    again = pc.unique(old["account_id"])
    if len(again):
        slots = Slots(again)
        timelines = [population(slots, t.filter(pc.is_in(t["account_id"], value_set=again))) for t in (old, new)]
        edges = np.unique(np.concatenate([np.r_[p.valid_from, p.opened, p.closed + (p.closed < NEVER)] for p in timelines]))
        for day in [int(edges[0]) - 1, *(int(edge) for edge in edges if edge < NEVER)]:
            (inside_a, category_a), (inside_b, category_b) = (p.on(day, len(again)) for p in timelines)
            if ((inside_a != inside_b) | (inside_a & (category_a != category_b))).any():
                differences.append(day)
                break
    return min(differences, default=None)


def population(slots: Slots, accounts: pa.Table) -> Population:
    """The account rows of a shard by slot. accounts: rows that hold, of `ACCOUNTS_SCHEMA`."""
    slot = slots.find(accounts["account_id"].combine_chunks())
    valid_from = days(accounts["valid_from"])
    category = pc.index_in(accounts["category"], value_set=pa.array(CATEGORIES)).combine_chunks()
    order = np.lexsort((valid_from, slot))
    return Population(
        slot[order],
        valid_from[order],
        days(accounts["opened_on"])[order],
        days(accounts["closed_on"])[order],
        category.to_numpy().astype(np.int8)[order],
    )


def accounts_mart(accounts: pa.Table) -> pa.Table:
    """The accounts dimension: the rows that hold, each up to the day before the account's next one."""
    ordered = accounts.sort_by([("account_id", "ascending"), ("valid_from", "ascending")]).combine_chunks()
    n = ordered.num_rows
    start = days(ordered["valid_from"])
    same = np.zeros(n, np.bool_)
    if n > 1:
        ids = ordered["account_id"].combine_chunks()
        same[:-1] = pc.equal(ids.slice(1), ids.slice(0, n - 1)).to_numpy(zero_copy_only=False)
    until = np.r_[start[1:] - 1, 0][:n].astype(np.int32)
    valid_to = pa.array(until, pa.int32(), mask=~same).cast(pa.date32())
    columns = {name: ordered[name] for name in ACCOUNTS_MART.schema.names if name != "valid_to"}
    return pa.table({**columns, "valid_to": valid_to}).cast(ACCOUNTS_MART.schema)


class FoldReferenceShard(beam.DoFn):  # type: ignore[misc]
    """One account shard's reference data. Emits meter rows by meter shard, and the shard's state to `state`."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def process(self, element: Grouped) -> Iterator[Keyed | beam.pvalue.TaggedOutput]:
        """element: (shard, blocks of kind state, accounts, meters)."""
        shard, blocks = element
        store, kinds = self.place.store(), by_kind(blocks)
        state = State.from_blocks(store, kinds["state"])
        slots = Slots.load(state, "account_slots")
        update = update_accounts(state.table("accounts", ACCOUNTS_SCHEMA), concat(kinds.get("accounts", []), ACCOUNTS_SCHEMA))
        entries: list[Entry] = []
        replaces: list[str] = []
        if update.accepted:
            slots.add(update.accounts["account_id"].combine_chunks())
            path = self.place.path("accounts", shard, "arrow")
            entries += store.write_blocks(path, "accounts", shard, [(-1, one_batch(update.accounts))])
            entries.append(store.write_parquet(
                self.place.path("mart:accounts", shard, "parquet"), "mart:accounts", shard, accounts_mart(update.accounts)))
            entries += slots.save(self.place, "account_slots", shard)
            replaces += ["accounts", "mart:accounts"] + (["account_slots"] if slots.grown else [])

        waited = state.table("waiting_meters", METERS_SCHEMA)
        arrived = concat(kinds.get("meters", []), METERS_SCHEMA)
        for kind, table in (("log:accounts", concat(kinds.get("accounts", []), ACCOUNTS_SCHEMA)), ("log:meters", arrived)):
            if table.num_rows:
                entries.append(store.write_parquet(self.place.path(kind, shard, "parquet"), kind, shard, table))
        meters = pa.concat_tables([waited, arrived]).combine_chunks()
        known = np.zeros(0, np.bool_)
        if meters.num_rows:
            known = pc.is_in(meters["account_id"], value_set=pc.unique(update.accounts["account_id"])).to_numpy()
            waiting = meters.filter(pa.array(~known))
            path = self.place.path("waiting_meters", shard, "arrow")
            entries += store.write_blocks(path, "waiting_meters", shard, [(-1, one_batch(waiting))] if waiting.num_rows else [])
            replaces.append("waiting_meters")
            send = known | (np.arange(len(known)) >= waited.num_rows)
            flagged = meters.append_column("known", pa.array(known)).filter(pa.array(send))
            for key, block in split_by_id(one_batch(flagged), "meter_id", self.place.shards):
                yield key, tag(block, "meters")
        Commit(
            "reference", shard, tuple(entries), tuple(replaces),
            {"accounts": {"accepted": update.accepted, "superseded": update.superseded},
             "meters": {"redriven": waited.num_rows, "pending": int((~known).sum())}},
            update.restate_from,
        ).write(store, self.place.folder)
        kept = [entry for entry in state.all() if entry.kind not in replaces]
        yield beam.pvalue.TaggedOutput("state", (shard, state_block(kept + entries)))


class FoldReference(beam.PTransform):  # type: ignore[misc]
    """(account shard, state | accounts | meters blocks) -> meter rows by meter shard, and state by account shard."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place

    def expand(self, grouped: beam.PCollection[tuple[int, Iterable[pa.RecordBatch]]]) -> beam.pvalue.DoOutputsTuple:
        """Wires one DoFn."""
        return grouped | beam.ParDo(FoldReferenceShard(self.place)).with_outputs("state", main="meters")
