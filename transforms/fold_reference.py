"""Accounts, meter assignments and tariffs, by account shard: which accounts are known, and since when.

Every account that anything names gets its slot here; events of accounts pass on with theirs. Meter rows pass on to their
meter's shard with their account's shard and slot and whether the account is known; those whose account is not are kept
and sent again when it is. Tariffs go to every shard, and the first of them answers for their rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.inbound import ACCOUNTS, CATEGORIES, METERS
from schemas.marts import ACCOUNTS as ACCOUNTS_MART
from transforms.account_events import EVENT_SOURCES, STAMP_FIELDS
from transforms.blocks import Grouped, Keyed, by_kind, concat, one_batch, split_by_id, tag
from transforms.kernels.keys import answers
from transforms.kernels.reference import NEVER, Population, days, latest, marked, order_by
from transforms.patches import concerns
from transforms.shards import Place, Slots, State, numpy, state_block
from transforms.storage import Commit, Entry
from transforms.tariffs import TARIFFS_SCHEMA, TARIFFS_STATE, numbered, update_tariffs

ACCOUNTS_SCHEMA = pa.schema([pa.field(f.name, f.type) for f in ACCOUNTS.schema] + STAMP_FIELDS)
ACCOUNTS_STATE = pa.schema([*ACCOUNTS_SCHEMA, pa.field("slot", pa.int32()), pa.field("number", pa.int32())])
"""The rows that hold, with the account's slot, and the number that its tariff has in the shard, -1 where it has none."""

METERS_SCHEMA = pa.schema([pa.field(f.name, f.type) for f in METERS.schema] + STAMP_FIELDS)
TO_METER_SHARD = pa.schema([*METERS_SCHEMA, pa.field("known", pa.bool_()), pa.field("account", pa.int64())])
"""A meter row with whether its account is known, and the account's shard and slot as one number (see `pack`)."""

POPULATION_SCHEMA = pa.schema(
    [(name, pa.int32()) for name in ("slot", "valid_from", "opened", "closed")]
    + [("category", pa.int8()), ("capacity", pa.int64()), ("tariff", pa.int32()), ("region", pa.string())]
)


def pack(shard: int, slot: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """An account's shard and slot as one number. slot: (n,)."""
    return (np.int64(shard) << 32) | slot.astype(np.int64)


@dataclass(frozen=True)
class AccountsUpdate:
    """accounts: the rows that hold; accepted, superseded: of the new rows; restate_from: first day anything differs.

    slots: of the accounts of which a row is otherwise than before.
    """

    accounts: pa.Table
    accepted: int
    superseded: int
    restate_from: int | None
    slots: npt.NDArray[np.int32]


def update_accounts(held: pa.Table, new: pa.Table, priced: npt.NDArray[np.int32]) -> AccountsUpdate:
    """Merge new account rows into those held; both of `ACCOUNTS_STATE`. Only accounts among the new rows are touched.

    priced: numbers of the tariffs that have a price. A change between others is none.
    """
    if new.num_rows == 0:
        return AccountsUpdate(held, 0, 0, None, np.zeros(0, np.int32))
    mine = touched(held, new)
    old, rest = held.filter(pa.array(mine)), held.filter(pa.array(~mine))
    content = [f.name for f in ACCOUNTS.schema if f.name not in ("account_id", "valid_from", "revision")]
    merged = latest(marked(old, new), ["account_id", "valid_from"], [*content, "fresh", "delivery", "row"])
    accepted = int(pc.sum(merged["fresh"]).as_py() or 0)
    merged = merged.drop_columns(["fresh"])
    first = _first_difference(old, merged, priced) if accepted else None
    table = pa.concat_tables([rest, merged]).combine_chunks()
    return AccountsUpdate(table, accepted, new.num_rows - accepted, first, _otherwise(old, merged))


COUNTS = ("slot", "valid_from", "category", "opened_on", "closed_on", "capacity_va", "number", "region")
"""Columns of an account's row that figures depend on."""


def _otherwise(old: pa.Table, new: pa.Table) -> npt.NDArray[np.int32]:
    """Accounts of which a row that counts is in one of two tables alone. (k,) slots."""

    def text(table: pa.Table) -> pa.Array:
        columns = [pc.fill_null(pc.cast(table[name], pa.string()), "") for name in COUNTS]
        return pc.binary_join_element_wise(*columns, "\x1f").combine_chunks()

    was, now = text(old), text(new)
    alone = [
        table.filter(pc.invert(pc.is_in(mine, value_set=other)))["slot"]
        for table, mine, other in ((old, was, now), (new, now, was))
    ]
    return np.unique(np.concatenate([numpy(slots, np.int32) for slots in alone]))


def touched(held: pa.Table, new: pa.Table) -> npt.NDArray[np.bool_]:
    """Which of the held rows share a slot with a new row. (held rows,)."""
    slot, fresh = numpy(held["slot"]), numpy(new["slot"])
    mine = np.zeros(max(slot.max(initial=-1), fresh.max(initial=-1)) + 1, np.bool_)
    mine[fresh] = True
    result: npt.NDArray[np.bool_] = mine[slot]
    return result


def _first_difference(old: pa.Table, new: pa.Table, priced: npt.NDArray[np.int32]) -> int | None:
    """First day on which an account's category, region, capacity or priced tariff, or whether it is in the population, differs.

    Same accounts in both.
    """
    touched_slots = np.unique(numpy(new["slot"]))
    before, after = (
        replace(
            p,
            slot=np.searchsorted(touched_slots, p.slot).astype(np.int32),
            tariff=np.where(np.isin(p.tariff, priced), p.tariff, -1).astype(np.int32),
        )
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
            otherwise |= before.tariff_on(day, n) != after.tariff_on(day, n)
            otherwise |= before.region_on(day, n) != after.region_on(day, n)
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
    tariff, region = numpy(accounts["number"], np.int32), numpy(pc.fill_null(accounts["region"], ""), np.object_)
    columns: tuple[Any, ...] = slot, valid_from, opened, closed, category, capacity, tariff, region
    return Population(*(column[order] for column in columns))


def population_table(people: Population) -> pa.Table:
    """The population of a shard as stored."""
    return pa.table([getattr(people, name) for name in POPULATION_SCHEMA.names], schema=POPULATION_SCHEMA)


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


def with_accounts(meters: pa.Table, shard: int, slots: Slots, people: Population) -> pa.Table:
    """Meter rows as they go to their meter's shard, of `TO_METER_SHARD`."""
    slot = slots.find(meters["account_id"].combine_chunks())
    known = np.r_[people.known(len(slots)), False][slot]
    return meters.append_column("known", pa.array(known)).append_column("account", pa.array(pack(shard, slot)))


@beam.typehints.with_output_types(Keyed, state=Keyed)
class FoldReferenceShard(beam.DoFn):
    """One account shard's reference data. Emits meter rows by meter shard; to `state`, the state and events of accounts."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def process(self, element: Grouped) -> Iterator[Keyed | beam.pvalue.TaggedOutput]:
        """element: (shard, blocks of kind state, accounts, meters, tariffs, and events of accounts)."""
        shard, blocks = element
        kinds = by_kind(blocks)
        came = {
            kind: concat(kinds.get(kind, []), schema)
            for kind, schema in (
                ("accounts", ACCOUNTS_SCHEMA), ("meters", METERS_SCHEMA), ("tariffs", TARIFFS_SCHEMA),
                *((events.source, events.landed) for events in EVENT_SOURCES),
            )
        }  # fmt: skip
        state = State.from_blocks(self.place.store(), kinds["state"])
        waited = state.table("waiting_meters", METERS_SCHEMA)
        if waited.num_rows or any(table.num_rows for table in came.values()):
            yield from _ReferenceOfShard(self.place, shard, state).fold(came, waited)
        else:
            self.place.report(Commit("reference", shard, ()))
            yield beam.pvalue.TaggedOutput("state", (shard, state_block(state.all())))


class _ReferenceOfShard:
    """The work on one shard: what it holds, and what it has written so far."""

    def __init__(self, place: Place, shard: int, state: State) -> None:
        self.place, self.shard, self.state = place, shard, state
        self.accounts, self.tariffs = Slots.load(state, "account_slots"), Slots.load(state, "tariff_slots")
        self.people = load_population(state)
        self.entries: list[Entry] = []
        self.replaces: list[str] = []

    def fold(self, came: dict[str, pa.Table], waited: pa.Table) -> Iterator[Keyed | beam.pvalue.TaggedOutput]:
        """Fold everything in, and report it. came: new rows by source; waited: meter rows whose account was not known."""
        state, shard = self.state, self.shard
        self._log(came)
        priced = update_tariffs(state.table("tariffs", TARIFFS_STATE), came["tariffs"], self.tariffs)
        if priced.accepted:
            self._put("tariffs", priced.tariffs)
        update = self._accounts(came["accounts"], numpy(priced.tariffs["number"], np.int32))
        for source in (events.source for events in EVENT_SOURCES if came[events.source].num_rows):
            slot = pa.array(self.accounts.add(came[source]["account_id"].combine_chunks()))
            rows = one_batch(came[source].add_column(0, "slot", slot))
            yield beam.pvalue.TaggedOutput("state", (shard, tag(rows, source)))
        for kind, ids in (("account_slots", self.accounts), ("tariff_slots", self.tariffs)):
            self.entries += ids.save(self.place, kind, shard)
            self.replaces += [kind] if ids.grown else []

        meters = pa.concat_tables([waited, came["meters"]]).combine_chunks()
        known = np.zeros(0, np.bool_)
        if meters.num_rows:
            flagged = with_accounts(meters, shard, self.accounts, self.people)
            known = numpy(flagged["known"])
            self._put("waiting_meters", meters.filter(pa.array(~known)), keep_empty=False)
            send = known | (np.arange(len(known)) >= waited.num_rows)
            for key, block in split_by_id(one_batch(flagged.filter(pa.array(send))), "meter_id", self.place.shards):
                yield key, tag(block, "meters")
        counts = {
            "accounts": {"accepted": update.accepted, "superseded": update.superseded},
            "tariffs": {"accepted": priced.accepted, "superseded": priced.superseded}
            if came["tariffs"].num_rows and answers("tariffs", shard)
            else {},
            "meters": {"redriven": waited.num_rows, "pending": int((~known).sum())},
        }
        restate = min((day for day in (update.restate_from, priced.restate_from) if day is not None), default=None)
        own = [] if update.restate_from is None else [(update.slots, update.restate_from, update.restate_from)]
        self.place.report(
            Commit(
                "reference", shard, tuple(self.entries), tuple(self.replaces), counts, restate,
                concerns=concerns(self.place, "reference", shard, own), others_from=priced.restate_from,
            )
        )  # fmt: skip
        kept = [entry for entry in state.all() if entry.kind not in self.replaces]
        yield beam.pvalue.TaggedOutput("state", (shard, state_block(kept + self.entries)))

    def _log(self, came: dict[str, pa.Table]) -> None:
        for source in ("accounts", "meters", "tariffs"):
            if came[source].num_rows and answers(source, self.shard):
                self._parquet(f"log:{source}", came[source])

    def _accounts(self, new: pa.Table, priced: npt.NDArray[np.int32]) -> AccountsUpdate:
        """Take up account rows. priced: numbers of the tariffs that have a price."""
        if new.num_rows == 0:
            return AccountsUpdate(ACCOUNTS_STATE.empty_table(), 0, 0, None, np.zeros(0, np.int32))
        new = new.append_column("slot", pa.array(self.accounts.add(new["account_id"].combine_chunks())))
        new = new.append_column("number", numbered(self.tariffs, new["tariff"].combine_chunks()))
        update = update_accounts(self.state.table("accounts", ACCOUNTS_STATE), new, priced)
        if update.accepted:
            self.people = population(update.accounts)
            self._put("accounts", update.accounts)
            self._put("population", population_table(self.people))
            self._parquet("mart:accounts", accounts_mart(update.accounts))
            self.replaces.append("mart:accounts")
        return update

    def _put(self, kind: str, table: pa.Table, *, keep_empty: bool = True) -> None:
        block = [(-1, one_batch(table))] if keep_empty or table.num_rows else []
        path = self.place.path(kind, self.shard, "arrow")
        self.entries += self.state.store.write_blocks(path, kind, self.shard, block)
        self.replaces.append(kind)

    def _parquet(self, kind: str, table: pa.Table) -> None:
        path = self.place.path(kind, self.shard, "parquet")
        self.entries.append(self.state.store.write_parquet(path, kind, self.shard, table))


class FoldReference(beam.PTransform):
    """(account shard, state | accounts | meters | tariffs | events of accounts) -> meter rows by meter shard, state by account
    shard.
    """

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place

    def expand(self, grouped: beam.PCollection[tuple[int, Iterable[pa.RecordBatch]]]) -> beam.pvalue.DoOutputsTuple:
        """Wires one DoFn."""
        return grouped | beam.ParDo(FoldReferenceShard(self.place)).with_outputs("state", main="meters")
