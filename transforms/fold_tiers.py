"""Fold 2, by account shard: features and cut-offs become tiers, tier history and migrations, and the abuse ladder follows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.inbound import CATEGORIES
from schemas.marts import CLASSES, CUSTOMER_TIERS, CUSTOMER_TIERS_CURRENT, CUTOFFS, SCORES, TIER_MIGRATIONS, TIERS
from schemas.policy import Policy, PolicyVersion
from transforms.abuse_ladder import MART, Ladder
from transforms.blocks import Grouped, Keyed, by_kind, concat
from transforms.checkpoints import TIER_INPUT
from transforms.dimension_scores import MART as SCORES_MART
from transforms.dimension_scores import Percentiles, percentiles, scores_table
from transforms.fold_features import MartWriter, Plan
from transforms.kernels.causes import find_causes
from transforms.kernels.dimensions import dimension_scores
from transforms.kernels.order_statistics import inside
from transforms.kernels.scopes import Scopes
from transforms.kernels.tiers import (
    ABUSE,
    CLOSED,
    Closed,
    Columns,
    Day,
    Facts,
    Inside,
    Migrations,
    TierState,
    Yesterday,
    assign_tiers,
)
from transforms.kernels.windows import date_of, day_of
from transforms.patches import tier_inputs
from transforms.service_actions import CANDIDATES, ServiceActions
from transforms.service_actions import MART as SERVICE_ACTIONS
from transforms.shards import Place, Slots, State, numpy
from transforms.storage import Commit, Entry
from transforms.tier_inputs import TierInputs

TIER_STATE = pa.schema(
    [(name, pa.int8()) for name in ("tier", "abc", "grade", "grade_before")]
    + [(name, pa.int32()) for name in ("valid_from", "since", "rule", "version")]
)
Int = npt.NDArray[np.int64]
Boundaries = dict[tuple[str, str], tuple[int | None, str | None]]
"""(class, side) -> amount and account id of the last account inside, for one ranking under the policy's own rule."""


def boundaries(cutoffs: pa.Table, policy: Policy) -> dict[tuple[int, str], Boundaries]:
    """The cut-offs of the rule in force by service day number and scope. cutoffs: rows of the mart."""
    out: dict[tuple[int, str], Boundaries] = {}
    names = ("service_date", "metric", "scope", "rule", "class", "side", "amount", "boundary_account_id")
    for date, metric, scope, rule, cls, side, amount, account in zip(
        *(cutoffs[n].to_pylist() for n in names), strict=True
    ):
        abc = policy.on(date).abc
        if (rule, metric) == (abc.rule, abc.metric):
            out.setdefault((day_of(date), scope), {})[cls, side] = amount, account
    return out


@dataclass(frozen=True)
class DayCuts:
    """The cut-offs of a day as `tiers.Cuts`.

    found: of ABC, by the rule in force on their day; by_rank: percentiles; ids: of the accounts that are asked about.
    """

    day: int
    found: dict[tuple[int, str], Boundaries]
    by_rank: Percentiles
    ids: pa.Array

    def inside(self, version: PolicyVersion, columns: Columns) -> Inside:
        """See `Cuts`; nobody is inside where the day has no cut-offs: then nobody ranks."""
        values, scopes = np.ma.filled(columns[version.abc.metric], 0), Scopes.of(columns)
        sides = [(cls, side) for cls in ("A", "B") for side in ("cut", "entry", "exit")]
        masks = {key: np.zeros(len(values), np.bool_) for key in sides}
        for name, rows in scopes.positions(version.abc.scope).items():
            cuts = self.found.get((self.day, name))
            if cuts is None:
                continue
            mine, some = values[rows], self.ids if len(rows) == len(values) else self.ids.take(pa.array(rows))
            for key, mask in masks.items():
                mask[rows] = inside(mine, some, *cuts[key])
        return Inside(*(masks[key] for key in sides))

    def scores(self, version: PolicyVersion, columns: Columns) -> Columns:
        """See `Cuts`."""
        return dimension_scores(version, columns, self.ids, self.by_rank.get(self.day, {}))

    def take(self, rows: npt.NDArray[Any]) -> DayCuts:
        """See `Cuts`."""
        return replace(self, ids=self.ids.take(pa.array(rows)))


def tier_day(
    number: int, policy: Policy, rows: Int, inputs: TierInputs, before: TierInputs | None, cuts: DayCuts,
    slots: Int | None = None,
) -> Day:  # fmt: skip
    """What fold 2 knows of a day.

    rows: (m,) places in the tier state of those in the population; inputs, before: what tiers are made of on the day and on the day
    before; cuts: the day's, of these accounts; slots: (n,) of the places in the tier state; None: they are the slots.
    """

    def of(places: Int) -> Int:
        return places if slots is None else slots[places]

    today, earlier = (policy.on(date_of(day)) for day in (number, number - 1))
    columns = inputs.columns(of(rows))
    facts = Facts(today, {**columns, **cuts.scores(today, columns)}, cuts)
    yesterday = None
    if before is not None:
        held = before
        yesterday = Yesterday(
            earlier, replace(cuts, day=number - 1), today.ranks_as(earlier),
            lambda places: held.columns(of(places)), lambda places: inputs.columns(of(places), clock=True),
        )  # fmt: skip
    return Day(number, rows, facts, yesterday)


@beam.typehints.with_output_types(int, candidates=Keyed)
class FoldTiersShard(beam.DoFn):
    """One account shard over the days of a tick: writes tiers, history, migrations, and the state they go on from."""

    def __init__(self, place: Place, policy: Policy, plan: Plan) -> None:
        self.place, self.policy, self.plan = place, policy, plan

    def process(self, element: Grouped) -> Iterator[int | beam.pvalue.TaggedOutput]:
        """element: (shard, blocks of kind state, cutoffs)."""
        shard, blocks = element
        store, kinds = self.place.store(), by_kind(blocks)
        state = State.from_blocks(store, kinds["state"])
        slots, inputs = Slots.load(state, "account_slots"), state.by_day(TIER_INPUT)
        before = [store.read_parquet(entry).cast(CUTOFFS.schema) for entry in state.entries.get("cutoffs_before", [])]
        table = concat(kinds.get("cutoffs", []), CUTOFFS.schema).cast(CUTOFFS.schema)
        cuts = pa.concat_tables([*before, table])
        found, by_rank = boundaries(cuts, self.policy), percentiles(cuts)
        tiers = _load(state)
        tiers.grow(len(slots))
        ladder = Ladder.load(state, self.policy)
        actions = ServiceActions(self.place, self.policy, shard, slots, self.plan.last)
        closed: list[Closed] = []
        moved: list[tuple[int, Migrations]] = []
        scores = MartWriter(self.place, SCORES_MART, SCORES, shard)
        first = self.plan.first
        known = TierInputs(tier_inputs(state, first - 1)) if first - 1 in inputs else None
        for number in range(first, self.plan.last + 1):
            earlier, known = known, TierInputs(store.read_block(inputs[number]))
            ids = slots.ids.take(pa.array(known.slots))
            day = tier_day(number, self.policy, known.slots, known, earlier, DayCuts(number, found, by_rank, ids))
            if day.facts.version.dimensions and number >= self.plan.features_from:
                scores.write(number, scores_table(number, ids, day.facts.columns))
            ended, migrations = assign_tiers(tiers, day, find_causes)
            ladder.on(number, np.flatnonzero(tiers.tier == ABUSE), known.batch)
            if actions.wanted(number):
                told = tiers_of(tiers, known.slots)
                actions.on(number, known.batch, day.facts.columns, told, ladder.in_force(number, known.slots))
            closed.append(ended)
            moved.append((number, migrations))
        assert known is not None
        entries = [*self._write(shard, slots, tiers, known.batch, closed, moved), *scores.close()]
        entries += ladder.checkpoint(state, self.place, shard, self.plan.last)
        if (steps := ladder.table(slots)).num_rows:
            days = (self.plan.first, self.plan.last)
            entries.append(store.write_parquet(self.place.path(MART, shard, "parquet"), MART, shard, steps, days))
        entries += actions.write()
        replaces = ("mart:customer_tiers_current", SERVICE_ACTIONS)
        self.place.report(Commit("tiers", shard, tuple(entries), replaces))
        yield shard
        yield from actions.handed_on()

    def _write(
        self, shard: int, slots: Slots, tiers: TierState, features: pa.RecordBatch, closed: list[Closed],
        moved: list[tuple[int, Migrations]],
    ) -> list[Entry]:  # fmt: skip
        store, path, days = self.place.store(), self.place.path, (self.plan.first, self.plan.last)
        names = pa.array(tiers.names, pa.string())
        entries = store.write_blocks(
            path("tiers", shard, "arrow"), "tiers", shard, [(self.plan.last, tiers_batch(tiers))]
        )

        history = closed_table(closed, slots, names)
        if history.num_rows:
            kind = "mart:customer_tiers"
            entries.append(store.write_parquet(path(kind, shard, "parquet"), kind, shard, history, days))
        migrations = migrations_table(moved, slots, names, self.policy)
        if migrations.num_rows:
            kind = "mart:tier_migrations"
            entries.append(store.write_parquet(path(kind, shard, "parquet"), kind, shard, migrations, days))
        current, kind = current_table(tiers, features, slots, names), "mart:customer_tiers_current"
        entries.append(store.write_parquet(path(kind, shard, "parquet"), kind, shard, current, (days[1], days[1])))
        return entries


def _load(state: State) -> TierState:
    entries = state.entries.get("tiers", [])
    if not entries:
        return TierState.empty()
    return load_tiers(state.store.read_block(entries[0]))


def load_tiers(batch: pa.RecordBatch) -> TierState:
    """Tiers as stored."""
    arrays = {name: batch.column(name).to_numpy().copy() for name in TIER_STATE.names}
    return TierState(**arrays, names=json.loads(batch.schema.metadata[b"names"]))


def tiers_batch(tiers: TierState) -> pa.RecordBatch:
    """The inverse of `load_tiers`."""
    batch = pa.record_batch([getattr(tiers, name) for name in TIER_STATE.names], schema=TIER_STATE)
    return batch.replace_schema_metadata({"names": json.dumps(tiers.names)})


def tiers_of(tiers: TierState, rows: Any) -> dict[str, Any]:
    """Tier, class and grade of some accounts as columns that conditions can name. rows: (m,)."""
    return {"tier": tiers.tier[rows], "abc": tiers.abc[rows], "credit_grade": tiers.grade[rows]}


def _codes(values: Any, names: tuple[str, ...]) -> pa.Array:
    return pa.array(names).take(pa.array(values))


def _dates(values: Any) -> pa.Array:
    return pa.array(np.asarray(values, np.int32)).cast(pa.date32())


def closed_table(closed: list[Closed], slots: Slots, names: pa.Array) -> pa.Table:
    """Ended rows of the tier history, as `customer_tiers`."""
    fields = Closed.__dataclass_fields__
    c = Closed(**{f: np.concatenate([getattr(part, f) for part in closed]) for f in fields})
    columns = {
        "account_id": slots.ids.take(pa.array(c.slot)), "valid_from": _dates(c.valid_from), "valid_to": _dates(c.valid_to),
        "tier": _codes(c.tier, TIERS), "abc": _codes(c.abc, CLASSES), "credit_grade": _codes(c.grade, CLASSES),
        "tier_since": _dates(c.since), "rule": names.take(pa.array(c.rule)), "policy_version": names.take(pa.array(c.version)),
    }  # fmt: skip
    return pa.table([columns[name] for name in CUSTOMER_TIERS.schema.names], schema=CUSTOMER_TIERS.schema)


def migrations_table(moved: list[tuple[int, Migrations]], slots: Slots, names: pa.Array, policy: Policy) -> pa.Table:
    """The days' changes of tier, as `tier_migrations`."""
    parts = []
    for number, m in moved:
        k = len(m.slot)
        if k == 0:
            continue
        version, earlier = (policy.on(date_of(day)).version for day in (number, number - 1))
        columns = {
            "account_id": slots.ids.take(pa.array(m.slot)), "service_date": _dates(np.full(k, number)),
            "from_tier": _codes(m.from_tier, TIERS), "to_tier": _codes(m.to_tier, TIERS),
            "from_abc": _codes(m.from_abc, CLASSES), "to_abc": _codes(m.to_abc, CLASSES),
            "cause": pa.array(m.cause.tolist(), pa.string()), "rule": names.take(pa.array(m.rule)),
            "policy_version": pa.array([version] * k), "from_grade": _codes(m.from_grade, CLASSES),
            "to_grade": _codes(m.to_grade, CLASSES), "from_policy_version": pa.array([earlier] * k),
            "metric_before": _figures(m.metric_before), "metric_after": _figures(m.metric_after),
            "score_before": _figures(m.score_before), "score_after": _figures(m.score_after),
        }  # fmt: skip
        schema = TIER_MIGRATIONS.schema
        parts.append(pa.table([columns[field.name].cast(field.type) for field in schema], schema=schema))
    return pa.concat_tables(parts) if parts else TIER_MIGRATIONS.schema.empty_table()


def _figures(column: Any) -> pa.Array:
    return pa.array(np.ma.getdata(column).astype(np.int64), mask=np.ma.getmaskarray(column))


def current_table(tiers: TierState, features: pa.RecordBatch, slots: Slots, names: pa.Array) -> pa.Table:
    """The tiers of the last day, as `customer_tiers_current`. features: what they are made of."""
    here, closed = numpy(features.column("slot"), np.int64), np.flatnonzero(tiers.tier == CLOSED)
    rows = np.r_[here, closed]
    category = np.r_[features.column("category").to_numpy(), np.zeros(len(closed), np.int8)]
    none = np.arange(len(rows)) >= len(here)
    columns = {
        "account_id": slots.ids.take(pa.array(rows)), "valid_from": _dates(tiers.valid_from[rows]),
        "category": pa.array(CATEGORIES).take(pa.array(category, mask=none)), "tier": _codes(tiers.tier[rows], TIERS),
        "abc": _codes(tiers.abc[rows], CLASSES), "tier_since": _dates(tiers.since[rows]),
        "rule": names.take(pa.array(tiers.rule[rows])), "policy_version": names.take(pa.array(tiers.version[rows])),
        "credit_grade": _codes(tiers.grade[rows], CLASSES),
    }  # fmt: skip
    return pa.table([columns[n] for n in CUSTOMER_TIERS_CURRENT.schema.names], schema=CUSTOMER_TIERS_CURRENT.schema)


class FoldTiers(beam.PTransform):
    """(account shard, state | cutoffs blocks) -> shard numbers, when their tiers are written, and candidates of actions."""

    def __init__(self, place: Place, policy: Policy, plan: Plan) -> None:
        super().__init__()
        self.place, self.policy, self.plan = place, policy, plan

    def expand(self, grouped: beam.PCollection[tuple[int, Iterable[pa.RecordBatch]]]) -> Any:
        """Wires one DoFn."""
        return grouped | beam.ParDo(FoldTiersShard(self.place, self.policy, self.plan)).with_outputs(
            CANDIDATES, main="shards"
        )
