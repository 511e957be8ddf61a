"""The plan of limited service actions, global per day: who gets a place.

It writes `planned_actions`, `plan_capacity` and its part of `service_actions`. What was given out before is the
state; a correction finds it in `planned_actions`. Rules: `kernels.action_plan`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.actions import (
    ACTIONS,
    LONGEST_REST,
    NOT_PLANNED,
    PLAN_CAPACITY,
    PLANNED_ACTIONS,
    RESOURCES,
    SERVICE_ACTIONS,
    STANDING,
)
from schemas.policy import Policy, PolicyVersion
from schemas.strategy import Strategy
from transforms.blocks import Grouped, by_kind, concat
from transforms.checkpoints import PLAN_STATE
from transforms.fold_features import Plan
from transforms.kernels.action_plan import Candidates, Given, Places, Planned, give_out, go_on, places
from transforms.kernels.keys import shard_of
from transforms.kernels.windows import date_of
from transforms.patches import rewritten, stretches
from transforms.restate_features import Correction
from transforms.service_actions import (
    CANDIDATES,
    MART,
    TOTALS,
    TOTALS_SCHEMA,
    dates,
    listed,
)
from transforms.shards import Place, State, numpy
from transforms.storage import WHOLE, Commit, Entry, entries_from_batch

PLANNED = "mart:planned_actions"
CAPACITY = "mart:plan_capacity"
NO_PLACE, DAY_OFF = NOT_PLANNED
STATE_SCHEMA = pa.schema(
    [("account_id", pa.string()), ("resource", pa.string()), ("action", pa.string()), ("since", pa.int32())]
)


def given_at(state: State, day: int) -> dict[str, Given]:
    """What was given out as of a checkpoint, by resource; nothing where there is none."""
    entry = state.by_day(PLAN_STATE).get(day)
    table = pa.Table.from_batches([state.store.read_block(entry)]) if entry else STATE_SCHEMA.empty_table()
    return {resource: _given(table.filter(pc.equal(table["resource"], resource))) for resource in RESOURCES}


def given_before(state: State, day: int) -> dict[str, Given]:
    """What was given out before any day, by resource, as `planned_actions` has it."""
    files = [entry for entry in state.entries.get(PLANNED, []) if entry.last >= day - LONGEST_REST]
    tables = [state.store.read_parquet(entry).cast(PLANNED_ACTIONS.schema) for entry in files]
    table = pa.concat_tables([PLANNED_ACTIONS.schema.empty_table(), *tables])
    days = table["service_date"].cast(pa.int32())
    table = table.set_column(table.schema.get_field_index("service_date"), "day", days)
    out = {}
    for resource in RESOURCES:
        mine = table.filter(pc.and_(pc.equal(table["resource"], resource), pc.less(table["day"], day)))
        if resource == STANDING:
            mine = mine.filter(pc.equal(mine["day"], day - 1))
        else:
            mine = mine.group_by(["account_id", "action"], use_threads=False).aggregate([("day", "max")])
            mine = mine.rename_columns(["account_id", "action", "since"])
        out[resource] = _given(mine)
    return out


def _given(table: pa.Table) -> Given:
    """From columns account_id, action and since."""
    table = table.combine_chunks()
    action = numpy(pc.index_in(table["action"], value_set=pa.array(ACTIONS)), np.int8)
    ids = pa.concat_arrays([pa.array([], pa.string()), *table["account_id"].chunks])
    return Given(ids, action, numpy(table["since"], np.int32))


def state_batch(given: dict[str, Given], day: int) -> pa.RecordBatch:
    """The inverse of `given_at`, as of a day; what was planned so long ago that it rests no more is left out."""
    blocks = [pa.RecordBatch.from_pylist([], schema=STATE_SCHEMA)]
    for resource, held in given.items():
        kept = np.arange(len(held.since)) if resource == STANDING else np.flatnonzero(day - held.since < LONGEST_REST)
        columns = [
            held.account.take(pa.array(kept)), pa.array([resource] * len(kept), pa.string()),
            pa.array(ACTIONS).take(pa.array(held.action[kept])), held.since[kept],
        ]  # fmt: skip
        blocks.append(pa.record_batch(columns, schema=STATE_SCHEMA))
    return pa.concat_batches(blocks)


class PlanActionsOf(beam.DoFn):
    """The plans of a tick's days, or of a correction's."""

    def __init__(self, place: Place, policy: Policy, plan: Plan | Correction) -> None:
        self.place, self.policy, self.plan = place, policy, plan

    def process(self, element: Grouped) -> Iterator[int]:
        """element: (0, blocks of kind state, candidates, totals of all shards)."""
        kinds, plan = by_kind(element[1]), self.plan
        state = State.from_blocks(self.place.store(), kinds.get("state", []))
        files: dict[int, list[Entry]] = {}
        for block in kinds.get(CANDIDATES, []):
            for entry in entries_from_batch(block):
                files.setdefault(entry.first, []).append(entry)
        totals = _totals(concat(kinds.get(TOTALS, []), TOTALS_SCHEMA))
        tick = isinstance(plan, Plan)
        work = _Days(
            self.policy, self.place.shards, given_at(state, plan.first - 1) if tick else given_before(state, plan.first)
        )
        ends = (plan.last,) if isinstance(plan, Plan) else plan.ends
        checkpoints = []
        for day in range(plan.first, plan.last + 1):
            blocks = ((entry.shard, state.store.read_block(entry)) for entry in files.get(day, []))
            work.on(day, blocks, totals)
            if day in ends and (held := state_batch(work.given, day)).num_rows:
                path = self.place.path(PLAN_STATE, 0, "arrow", day)
                checkpoints += state.store.write_blocks(path, PLAN_STATE, WHOLE, [(day, held)])
        self._write(state, work, checkpoints)
        yield 0

    def _write(self, state: State, work: _Days, checkpoints: list[Entry]) -> None:
        plan, entries = self.plan, checkpoints
        drops = [e.path for e in state.entries.get(PLAN_STATE, []) if plan.first <= e.first <= plan.last]
        spans = [(plan.first, plan.last)]
        published = isinstance(plan, Plan)
        if isinstance(plan, Correction):
            spans, published = list(stretches(plan.ends, plan.first, plan.last)), plan.last == plan.through
        for kind, relation, parts in (
            (PLANNED, PLANNED_ACTIONS, work.planned),
            (CAPACITY, PLAN_CAPACITY, work.capacity),
        ):
            table = pa.concat_tables([relation.schema.empty_table(), *parts])
            days = numpy(table["service_date"])
            for span in spans:
                mine = table.filter(pa.array((span[0] <= days) & (days <= span[1])))
                new, old = rewritten(
                    self.place, WHOLE, kind, state, span, relation.schema,
                    lambda rows: numpy(rows["service_date"]) >= plan.first, mine,
                )  # fmt: skip
                entries, drops = entries + new, drops + old
        last = work.listed.get(plan.last, SERVICE_ACTIONS.schema.empty_table())
        if published and last.num_rows:
            path = self.place.path(f"{MART}-limited", 0, "parquet")
            entries.append(state.store.write_parquet(path, MART, WHOLE, last, (plan.last, plan.last)))
        replaces = (MART,) if published else ()
        self.place.report(Commit("actions", WHOLE, tuple(entries), replaces, drops=tuple(drops)))


class _Days:
    """Plans one day after the other. given: what was given out before, by resource."""

    def __init__(self, policy: Policy, shards: int, given: dict[str, Given]) -> None:
        self.policy, self.shards, self.given = policy, shards, given
        self.planned: list[pa.Table] = []
        self.capacity: list[pa.Table] = []
        self.listed: dict[int, pa.Table] = {}

    def on(
        self, day: int, blocks: Iterable[tuple[int, pa.RecordBatch]], totals: dict[tuple[int, str], tuple[int, int]]
    ) -> None:
        """Go on by a day. blocks: shard and its candidates; totals: (day, resource) -> accounts that want a place, and their value.

        Of each shard those stay who do not rest and come first among its own; so no more are held than places, for each shard.
        """
        version = self.policy.on(date_of(day))
        strategy = version.strategy
        there_are = places(self.policy.capacity, day) if strategy else {}
        there_are = {name: some for name, some in there_are.items() if strategy and strategy.of(name)}
        if STANDING not in there_are:
            self.given.pop(STANDING, None)
        given_by = {name: self.given.get(name, Given.none()) for name in there_are}
        owners = {name: shard_of(given.account, self.shards) for name, given in given_by.items()}
        first: dict[str, list[Candidates]] = {name: [] for name in there_are}
        for shard, block in blocks:
            every = Candidates(block.column("account_id"), numpy(block.column("rule")), numpy(block.column("value")))
            for resource, there_is in there_are.items():
                assert strategy is not None
                found = every.take(np.flatnonzero(np.isin(every.rule, strategy.of(resource))))
                given = given_by[resource].take(np.flatnonzero(owners[resource] == shard))
                first[resource].append(found.take(give_out(strategy, resource, day, there_is, found, given).at))
        rows = []
        for resource, there_is in there_are.items():
            assert strategy is not None
            found, given = Candidates.concat(first[resource]), given_by[resource]
            done = give_out(strategy, resource, day, there_is, found, given)
            self.given[resource] = go_on(strategy, resource, day, found, given, done)
            rows.append(rows_of(version, strategy, day, there_is, found, done, standing=resource == STANDING))
            self.capacity.append(
                _capacity_row(version, day, resource, there_is, found, done, totals.get((day, resource), (0, 0)))
            )
        if rows:
            table = self.listed[day] = pa.concat_tables(rows)
            placed = table.filter(table["planned"])
            since = pc.coalesce(placed["since"], placed["service_date"])
            columns = [since if name == "since" else placed[name] for name in PLANNED_ACTIONS.schema.names]
            self.planned.append(pa.table(columns, names=PLANNED_ACTIONS.schema.names).cast(PLANNED_ACTIONS.schema))


def rows_of(
    version: PolicyVersion, strategy: Strategy, day: int, there_is: Places, found: Candidates, done: Planned, *, standing: bool
) -> pa.Table:  # fmt: skip
    """A resource's part of a day's `service_actions`: those planned, and those next in order."""
    k, at = len(done.at), pa.array(done.at)
    placed = np.arange(k) < done.placed
    why = NO_PLACE if there_is.free or not there_is.usual else DAY_OFF
    due = np.array([rule.due_days for rule in strategy.actions], np.int32)[found.rule[done.at]]
    due += np.where(placed, done.since, day) if standing else day
    return listed(
        version, strategy, day, found.account.take(at), found.rule[done.at], found.value[done.at],
        due_date=dates(due), planned=placed, rank=np.arange(1, k + 1, dtype=np.int32),
        not_planned_reason=pa.array([None if is_placed else why for is_placed in placed], pa.string()),
        since=pa.array(done.since, mask=~placed).cast(pa.date32()) if standing else pa.nulls(k, pa.date32()),
    )  # fmt: skip


def _totals(table: pa.Table) -> dict[tuple[int, str], tuple[int, int]]:
    """Sums over the shards by day and resource."""
    out: dict[tuple[int, str], tuple[int, int]] = {}
    for day, resource, accounts, value in zip(*(table[name].to_pylist() for name in TOTALS_SCHEMA.names), strict=True):
        before = out.get((day, resource), (0, 0))
        out[day, resource] = before[0] + accounts, before[1] + value
    return out


def _capacity_row(
    version: PolicyVersion, day: int, resource: str, there_is: Places, found: Candidates, done: Planned, total: tuple[int, int]
) -> pa.Table:  # fmt: skip
    value = found.value[done.at[: done.placed]]
    row = {
        "service_date": date_of(day), "resource": resource, "capacity": there_is.free, "candidates": total[0],
        "resting": done.resting, "planned": done.placed, "value_candidates": total[1], "value_planned": int(value.sum()),
        "cut_value": int(value[-1]) if len(value) else None, "policy_version": version.version,
    }  # fmt: skip
    return pa.Table.from_pylist([row], schema=PLAN_CAPACITY.schema)


class PlanActions(beam.PTransform):
    """(0, state | candidates | totals blocks) -> 0, when the plan is written."""

    def __init__(self, place: Place, policy: Policy, plan: Plan | Correction) -> None:
        super().__init__()
        self.place, self.policy, self.plan = place, policy, plan

    def expand(self, grouped: beam.PCollection[tuple[int, Iterable[pa.RecordBatch]]]) -> beam.PCollection[int]:
        """Wires one DoFn."""
        return grouped | beam.ParDo(PlanActionsOf(self.place, self.policy, self.plan)).with_output_types(int)
