"""Tiers of past days put right, by account shard: of the accounts concerned, and of those that a moved cut-off passes over.

    W(D)   concerned accounts
           + those that were otherwise the day before
           + those between the old and the new cut-offs of D, or of the day before D (which only the cause asks for)

The abuse ladder is gone through again for every account in the tier `abuse`: they are few.

What W(D) was on D-1 is known: from the day before, or from what is published. Whoever is again as published leaves W.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.inbound import CATEGORIES
from schemas.marts import (
    ABUSE_STEPS,
    CLASSES,
    CUSTOMER_TIERS,
    CUSTOMER_TIERS_CURRENT,
    CUTOFFS,
    SCORE_COLUMNS,
    SCORES,
    TIER_MIGRATIONS,
    TIERS,
)
from schemas.policy import Policy
from transforms.abuse_ladder import MART, Ladder
from transforms.blocks import Grouped, Keyed, by_kind, concat
from transforms.checkpoints import TIER_INPUT
from transforms.dimension_scores import MART as SCORES_MART
from transforms.dimension_scores import percentiles, scores_table
from transforms.fold_tiers import (
    TIER_STATE,
    Boundaries,
    DayCuts,
    boundaries,
    closed_table,
    current_table,
    load_tiers,
    migrations_table,
    tier_day,
    tiers_batch,
    tiers_of,
)
from transforms.kernels.causes import find_causes
from transforms.kernels.reference import NEVER
from transforms.kernels.scopes import Scopes, by_of, ranked
from transforms.kernels.tiers import ABUSE, CLOSED, Closed, Migrations, TierState, assign_tiers
from transforms.kernels.windows import date_of
from transforms.patches import Concerned, patched, rewritten, stretches, tier_inputs
from transforms.restate_features import Correction
from transforms.service_actions import CANDIDATES, ServiceActions
from transforms.service_actions import MART as SERVICE_ACTIONS
from transforms.shards import Place, Slots, State, numpy
from transforms.storage import Commit, Entry
from transforms.tier_inputs import TierInputs

Int = npt.NDArray[np.int64]
Cuts = dict[tuple[int, str], Boundaries]
Ends = Mapping[Any, tuple[int | None, str | None]]
"""A cut of one ranking -> amount and id of the last account inside."""

FIELDS = TIER_STATE.names


class Published:
    """The tiers that are published of a shard, from a day on: by account and day."""

    def __init__(self, state: State, slots: Slots, since: int) -> None:
        closed = [e for e in state.entries.get("mart:customer_tiers", []) if e.last >= since]
        tables = [state.store.read_parquet(e).cast(CUSTOMER_TIERS.schema) for e in closed]
        for entry in state.entries.get("mart:customer_tiers_current", []):
            current = state.store.read_parquet(entry).cast(CUSTOMER_TIERS_CURRENT.schema)
            open_ = pa.nulls(current.num_rows, pa.date32())
            tables.append(pa.table(
                [open_ if name == "valid_to" else current[name] for name in CUSTOMER_TIERS.schema.names],
                schema=CUSTOMER_TIERS.schema,
            ))  # fmt: skip
        rows = pa.concat_tables([CUSTOMER_TIERS.schema.empty_table(), *tables]).combine_chunks()
        slot, begins = (
            slots.find(rows["account_id"].combine_chunks()).astype(np.int64),
            numpy(rows["valid_from"], np.int64),
        )
        order = np.argsort(slot << 32 | begins, kind="stable")
        rows = rows.take(pa.array(order))
        self._key = (slot << 32 | begins)[order]
        texts = pa.chunked_array([*rows["rule"].chunks, *rows["policy_version"].chunks], pa.string())
        self.names: list[str] = pc.unique(texts).to_pylist()

        def named(name: str, of: Any) -> Any:
            return numpy(pc.index_in(rows[name], value_set=pa.array(of, pa.string())), np.int32)

        self._slot = slot[order]
        self._ends = numpy(pc.fill_null(rows["valid_to"].cast(pa.int32()), NEVER), np.int32)
        self._columns = {
            "tier": named("tier", TIERS).astype(np.int8), "abc": named("abc", CLASSES).astype(np.int8),
            "grade": named("credit_grade", CLASSES).astype(np.int8),
            "valid_from": numpy(rows["valid_from"], np.int32), "since": numpy(rows["tier_since"], np.int32),
            "rule": named("rule", self.names), "version": named("policy_version", self.names),
        }  # fmt: skip
        self._abuse = np.flatnonzero(self._columns["tier"] == ABUSE)

    def abusing(self, day: int) -> Int:
        """Those in the tier `abuse` on a day. (k,) slots."""
        rows = self._abuse
        return np.unique(self._slot[rows[(self._columns["valid_from"][rows] <= day) & (day <= self._ends[rows])]])

    def on(self, day: int, slots: Int) -> TierState:
        """The tiers of some accounts on a day. slots: (k,)."""
        at, found = self._rows(day, slots)
        out = TierState.empty()
        out.grow(len(slots))
        for name, column in self._columns.items():
            getattr(out, name)[found] = column[at[found]]
        at, before = self._rows(day - 1, slots)
        before &= self._columns["tier"][at] != CLOSED if len(at) and len(self._key) else False
        graded = before & (out.tier != CLOSED)
        out.grade_before[graded] = self._columns["grade"][at[graded]]
        out.names = self.names
        return out

    def _rows(self, day: int, slots: Int) -> tuple[Int, npt.NDArray[np.bool_]]:
        """The row of each account that holds on a day, and whether there is one."""
        at = np.searchsorted(self._key, slots << 32 | day, side="right") - 1
        found = np.zeros(len(slots), np.bool_)
        if len(self._key):
            found = (at >= 0) & (self._slot[at] == slots) & (self._ends[at] >= day)
        return at, found


def published_moves(state: State, slots: Slots, since: int) -> dict[int, Int]:
    """Day -> slots whose tier is published to change on it, of the days from `since` on."""
    tables = [
        state.store.read_parquet(entry).cast(TIER_MIGRATIONS.schema)
        for entry in state.entries.get("mart:tier_migrations", [])
        if entry.last >= since
    ]
    table = pa.concat_tables([TIER_MIGRATIONS.schema.empty_table(), *tables])
    day, slot = numpy(table["service_date"]), slots.find(table["account_id"].combine_chunks()).astype(np.int64)
    return {of: slot[day == of] for of in np.unique(day).tolist()}


@beam.typehints.with_output_types(int, candidates=Keyed)
class RestateTiersShard(beam.DoFn):
    """One account shard over the days of a correction: puts tiers, history, migrations and checkpoints right."""

    def __init__(self, place: Place, policy: Policy, plan: Correction) -> None:
        self.place, self.policy, self.plan = place, policy, plan

    def process(self, element: Grouped) -> Iterator[int | beam.pvalue.TaggedOutput]:
        """element: (shard, blocks of kind state, cutoffs)."""
        shard, blocks = element
        kinds = by_kind(blocks)
        state = State.from_blocks(self.place.store(), kinds["state"])
        cutoffs = concat(kinds.get("cutoffs", []), CUTOFFS.schema).cast(CUTOFFS.schema)
        work = _Shard(self.place, self.policy, self.plan, shard, state, cutoffs)
        work.restate()
        yield shard
        yield from work.actions.handed_on()


class _Shard:
    """The work on one shard."""

    def __init__(
        self, place: Place, policy: Policy, plan: Correction, shard: int, state: State, cutoffs: pa.Table
    ) -> None:
        self.place, self.policy, self.plan, self.shard, self.state = place, policy, plan, shard, state
        self.slots = Slots.load(state, "account_slots")

        def cuts(kind: str) -> pa.Table:
            tables = [state.store.read_parquet(e).cast(CUTOFFS.schema) for e in state.entries.get(kind, [])]
            return pa.concat_tables([CUTOFFS.schema.empty_table(), *tables])

        new, old = pa.concat_tables([cuts("cutoffs_before"), cutoffs]), cuts("was:cutoffs")
        self.new, self.old = boundaries(new, policy), boundaries(old, policy)
        self.by_rank, self.by_rank_old = percentiles(new), percentiles(old)
        self.scores: list[tuple[int, Int, pa.Table]] = []
        self.concerned = Concerned.load(state, plan.through).slots
        self.published = Published(state, self.slots, plan.first - 1)
        self.moves = published_moves(state, self.slots, plan.first)
        last = plan.last if plan.last == plan.through else None
        self.actions = ServiceActions(place, policy, shard, self.slots, last)
        self.closed: list[Closed] = []
        self.moved: list[tuple[int, Migrations]] = []
        self.seen: list[Int] = []
        self.entries: list[Entry] = []
        self.drops: list[str] = []

    def restate(self) -> None:
        """Day by day; reports what was written."""
        plan = self.plan
        carried, held = self._carried()
        ladder = Ladder.published(
            self.state, self.policy, self.slots, plan.first - 1, self._abusing(plan.first - 1, held, carried)
        )
        there = plan.first - 1 in self.state.by_day(TIER_INPUT)
        inputs = TierInputs(tier_inputs(self.state, plan.first - 1)) if there else None
        for day in range(plan.first, plan.last + 1):
            before, inputs = inputs, TierInputs(tier_inputs(self.state, day))
            who = self._who(day, inputs, held)
            tiers = self._tiers_before(day - 1, who, held, carried)
            self._assign(day, who, tiers, inputs, before)
            ladder.on(day, self._abusing(day, who, tiers), inputs.batch)
            self._act(day, who, tiers, inputs, ladder)
            held, carried = self._otherwise(day, who, tiers)
            if day in plan.ends:
                self._checkpoint(day, held, carried)
                self.entries += ladder.checkpoint(self.state, self.place, self.shard, day)
        assert inputs is not None
        self._carry_on(held, carried)
        self._write(inputs.batch, ladder.table(self.slots))
        self.entries += self.actions.write()
        replaces = ("mart:customer_tiers_current", SERVICE_ACTIONS) if plan.last == plan.through else ()
        self.place.report(Commit("tiers", self.shard, tuple(self.entries), replaces, drops=tuple(self.drops)))

    # --- who ---------------------------------------------------------------------------------------------------------
    def _who(self, day: int, inputs: TierInputs, held: Int) -> Int:
        """The accounts that have to be looked at on a day. (k,) slots, ascending."""
        columns = inputs.columns()
        values, category = columns[self.policy.on(date_of(day)).abc.metric], columns["category"]
        between = self._passed_by_rank(day, day, inputs)
        between |= self._passed_by_rank(day, day - 1, inputs)
        for number in (day, day - 1):
            for scope in {scope for of, scope in (*self.old, *self.new) if of == number}:
                rows = slice(None) if scope == "all" else category == CATEGORIES.index(scope.split("=")[1])
                old, new = self.old.get((number, scope)), self.new.get((number, scope))
                between[rows] |= passed_over(np.ma.filled(values[rows], 0), old, new)
        return np.unique(np.concatenate([self.concerned, held, inputs.slots[between], self._published_moves(day)]))

    def _published_moves(self, day: int) -> Int:
        """Accounts whose tier is published to change on a day, where cut-offs differ: the cause may be another."""
        ranks = any(self.by_rank_old.get(of) != self.by_rank.get(of) for of in (day, day - 1))
        classes = any(self.old.get(of) != self.new.get(of) for of in {*self.old, *self.new} if of[0] in (day, day - 1))
        return self.moves.get(day, np.zeros(0, np.int64)) if ranks or classes else np.zeros(0, np.int64)

    def _passed_by_rank(self, day: int, number: int, inputs: TierInputs) -> npt.NDArray[np.bool_]:
        """Which accounts a percentile of the day `number` may have passed over, by what they are on `day`. (m,)."""
        passed = np.zeros(len(inputs.slots), np.bool_)
        old, new = self.by_rank_old.get(number, {}), self.by_rank.get(number, {})
        if old == new:
            return passed
        columns = inputs.columns()
        scopes = Scopes.of(columns)
        for ranking in self.policy.on(date_of(day)).rankings():
            values, known = ranked(ranking, columns[ranking.metric])
            if known is None:
                continue
            for of in {*old, *new}:
                if of[:2] == (ranking.metric, ranking.order) and by_of(of[2]) == ranking.by:
                    rows = scopes.inside(of[2])
                    passed[rows] |= passed_over(values[rows], old.get(of), new.get(of)) & known[rows]
        return passed

    def _carried(self) -> tuple[TierState, Int]:
        """The accounts that are otherwise than published before the first day, and what they are."""
        entries = self.state.entries.get("carried_tiers", [])
        if not entries:
            return TierState.empty(), np.zeros(0, np.int64)
        batch = self.state.store.read_block(entries[0])
        return load_tiers(batch), numpy(batch.column("slot"), np.int64)

    def _tiers_before(self, day: int, who: Int, held: Int, carried: TierState) -> TierState:
        """What some accounts are on a day. held, carried: those that are otherwise than published."""
        tiers = self.published.on(day, who)
        put(tiers, np.searchsorted(who, held), carried)
        return tiers

    # --- a day -------------------------------------------------------------------------------------------------------
    def _assign(self, day: int, who: Int, tiers: TierState, inputs: TierInputs, before: TierInputs | None) -> None:
        """Move some accounts on by a day. tiers: theirs, changed in place."""
        here = np.flatnonzero(np.isin(who, inputs.slots))
        ids = self._ids(who[here])
        known = tier_day(day, self.policy, here, inputs, before, DayCuts(day, self.new, self.by_rank, ids), who)
        if known.facts.version.dimensions and day >= self.plan.scores_from:
            self.scores.append((day, who, scores_table(day, ids, known.facts.columns)))
        ended, moved = assign_tiers(tiers, known, find_causes)
        self.closed.append(replace(ended, slot=who[ended.slot]))
        self.moved.append((day, replace(moved, slot=who[moved.slot])))
        self.seen.append(who << 32 | day)

    def _ids(self, slots: Int) -> pa.Array:
        return self.slots.ids.take(pa.array(slots))

    def _abusing(self, day: int, who: Int, tiers: TierState) -> Int:
        """All accounts in the tier `abuse` on a day. who, tiers: those that may be otherwise than published."""
        others = np.setdiff1d(self.published.abusing(day), who)
        return np.union1d(others, who[tiers.tier == ABUSE]).astype(np.int64)

    def _act(self, day: int, who: Int, tiers: TierState, inputs: TierInputs, ladder: Ladder) -> None:
        """The service actions of a day, of all accounts. who, tiers: those that may be otherwise than published."""
        if not self.actions.wanted(day):
            return
        slot, version = inputs.slots, self.policy.on(date_of(day))
        everybody, mine = self.published.on(day, slot), np.isin(who, slot)
        for name in ("tier", "abc", "grade"):
            getattr(everybody, name)[np.searchsorted(slot, who[mine])] = getattr(tiers, name)[mine]
        seen = tiers_of(everybody, slice(None))
        columns = inputs.columns()
        if version.strategy and version.strategy.columns() & set(SCORE_COLUMNS.values()):
            columns |= DayCuts(day, self.new, self.by_rank, self._ids(slot)).scores(version, columns)
        self.actions.on(day, inputs.batch, columns, seen, ladder.in_force(day, slot))

    def _otherwise(self, day: int, who: Int, tiers: TierState) -> tuple[Int, TierState]:
        """Of the accounts looked at, those to look at on the next day: concerned, or otherwise than published."""
        published = self.published.on(day, who)
        differs = np.isin(who, self.concerned)
        for name in FIELDS:
            differs |= getattr(tiers, name) != getattr(published, name)
        out = TierState(**{name: getattr(tiers, name)[differs] for name in FIELDS}, names=tiers.names)
        return who[differs], out

    # --- what is written ---------------------------------------------------------------------------------------------
    def _checkpoint(self, day: int, held: Int, carried: TierState) -> None:
        (entry,) = [e for e in self.state.entries["tiers"] if e.first == day]
        tiers = load_tiers(self.state.store.read_block(entry))
        tiers.grow(len(self.slots))
        self.last = tiers
        if len(held) == 0:
            return
        put(tiers, held, carried)
        path, blocks = self.place.path("tiers", self.shard, "arrow", day), [(day, tiers_batch(tiers))]
        self.entries += self.state.store.write_blocks(path, "tiers", self.shard, blocks)

    def _carry_on(self, held: Int, carried: TierState) -> None:
        """For the days after these: who is otherwise than published, and what they are."""
        batch = tiers_batch(carried).append_column("slot", pa.array(held))
        path = self.place.path("carried_tiers", self.shard, "arrow")
        self.entries += self.state.store.write_blocks(path, "carried_tiers", self.shard, [(self.plan.last, batch)])

    def _write(self, inputs: pa.RecordBatch, steps: pa.Table) -> None:
        plan, none = self.plan, np.zeros(0, np.int64)
        seen = np.concatenate([none, *self.seen])

        def gone(column: str, later: int) -> Any:
            def rows(table: pa.Table) -> Any:
                slot = self.slots.find(table["account_id"].combine_chunks()).astype(np.int64)
                return np.isin(slot << 32 | (numpy(table[column], np.int64) + later), seen)

            return rows

        def again(table: pa.Table) -> Any:
            return numpy(table["service_date"]) >= plan.first

        names = pa.array(self.published.names, pa.string())  # those of every day's tiers
        history = closed_table(self.closed, self.slots, names)
        migrations = migrations_table(self.moved, self.slots, names, self.policy)
        for kind, relation, table, column, later, goes in (
            ("mart:customer_tiers", CUSTOMER_TIERS, history, "valid_to", 1, gone("valid_to", 1)),
            ("mart:tier_migrations", TIER_MIGRATIONS, migrations, "service_date", 0, gone("service_date", 0)),
            (MART, ABUSE_STEPS, steps, "service_date", 0, again),
        ):
            days = numpy(table[column], np.int64) + later
            for stretch in stretches(plan.ends, plan.first, plan.last):
                mine = table.filter(pa.array((stretch[0] <= days) & (days <= stretch[1])))
                new, old = rewritten(self.place, self.shard, kind, self.state, stretch, relation.schema, goes, mine)
                self.entries, self.drops = self.entries + new, self.drops + old
        self._write_scores()
        if plan.last == plan.through:
            kind = "mart:customer_tiers_current"
            current = current_table(self.last, inputs, self.slots, pa.array(self.last.names, pa.string()))
            path = self.place.path(kind, self.shard, "parquet")
            self.entries.append(self.state.store.write_parquet(path, kind, self.shard, current, (plan.last, plan.last)))

    def _write_scores(self) -> None:
        """The scores of all accounts looked at, in place of those there were."""
        plan, keys = self.plan, pa.schema([field for field in SCORES.schema if field.name in SCORES.keys])
        for first, last in stretches(plan.ends, plan.first, plan.last):
            some = [(day, who, table) for day, who, table in self.scores if first <= day <= last]
            if not some:
                continue
            dates = [pa.array(np.full(len(who), day, np.int32)).cast(pa.date32()) for day, who, _ in some]
            gone = [
                pa.table([self._ids(who), date], schema=keys) for (_, who, _), date in zip(some, dates, strict=True)
            ]
            rows = pa.concat_tables([table for *_, table in some])
            new, old = patched(
                self.place, self.shard, SCORES_MART, self.state, (first, last), self.slots, pa.concat_tables(gone), rows
            )
            self.entries, self.drops = self.entries + new, self.drops + old


def put(into: TierState, at: Int, tiers: TierState) -> None:
    """Put the tiers of some accounts in their places. at: (k,)."""
    if into.names is not tiers.names:
        renamed = np.array([into.number(name) for name in tiers.names], np.int32)
        tiers = (
            replace(tiers, **{name: renamed[getattr(tiers, name)] for name in ("rule", "version")})
            if len(renamed)
            else tiers
        )
    for name in FIELDS:
        getattr(into, name)[at] = getattr(tiers, name)


def passed_over(values: Int, old: Ends | None, new: Ends | None) -> npt.NDArray[np.bool_]:
    """Which accounts a cut of one ranking may have passed over, one way or the other. values: (n,).

    By amount alone: where the boundary moved among accounts of one amount, all of that amount.
    """
    out = np.zeros(len(values), np.bool_)
    if old is None or new is None:
        return out if old is new else ~out
    for key in {*old, *new}:
        was, now = old.get(key, (None, None)), new.get(key, (None, None))
        if was == now:
            continue
        amounts = [amount for amount, _ in (was, now) if amount is not None]
        lowest, highest = min(amounts), max(amounts) if len(amounts) == 2 else np.iinfo(np.int64).max
        out |= (values >= lowest) & (values <= highest)
    return out


class RestateTiers(beam.PTransform):
    """(account shard, state | cutoffs blocks) -> shard numbers, when their tiers are put right, and candidates of actions."""

    def __init__(self, place: Place, policy: Policy, plan: Correction) -> None:
        super().__init__()
        self.place, self.policy, self.plan = place, policy, plan

    def expand(self, grouped: beam.PCollection[tuple[int, Iterable[pa.RecordBatch]]]) -> Any:
        """Wires one DoFn."""
        fold = beam.ParDo(RestateTiersShard(self.place, self.policy, self.plan))
        return grouped | fold.with_outputs(CANDIDATES, main="shards")
