"""Fold 2, by account shard: features and cut-offs become tiers, tier history and migrations, and the abuse ladder follows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from schemas.inbound import CATEGORIES
from schemas.marts import CLASSES, CUSTOMER_TIERS, CUSTOMER_TIERS_CURRENT, CUTOFFS, TIER_MIGRATIONS, TIERS
from schemas.policy import Policy
from transforms.abuse_ladder import MART, Ladder
from transforms.account_events import CONDUCT
from transforms.blocks import Grouped, Keyed, by_kind, concat
from transforms.checkpoints import TIER_INPUT
from transforms.fold_features import Plan
from transforms.kernels.conduct import CONDUCT_FEATURES, Conduct
from transforms.kernels.order_statistics import inside
from transforms.kernels.tiers import ABUSE, Closed, Day, Inside, Migrations, TierState, assign_tiers
from transforms.kernels.windows import date_of, day_of
from transforms.patches import plain
from transforms.service_actions import CANDIDATES, ServiceActions
from transforms.service_actions import MART as SERVICE_ACTIONS
from transforms.shards import Place, Slots, State, numpy
from transforms.storage import Commit, Entry

TIER_STATE = pa.schema(
    [(name, pa.int8()) for name in ("tier", "abc", "grade", "candidate")]
    + [(name, pa.int32()) for name in ("valid_from", "since", "rule", "version")]
)
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


def inside_cuts(
    values: Any, ids: pa.Array, category: Any, scope: str, day: int, found: dict[tuple[int, str], Boundaries]
) -> Inside | None:
    """Which accounts are inside each cut of a day; None where the day has no cut-offs at all. values, category: (m,)."""
    masks = {(cls, side): np.zeros(len(values), np.bool_) for cls in ("A", "B") for side in ("cut", "entry", "exit")}
    known = False
    scopes = ["all"] if scope == "all" else [f"category={name}" for name in CATEGORIES]
    for name in scopes:
        cuts = found.get((day, name))
        if cuts is None:
            continue
        known = True
        rows = (
            np.arange(len(values))
            if name == "all"
            else np.flatnonzero(category == CATEGORIES.index(name.split("=")[1]))
        )
        mine, some = values[rows], ids if len(rows) == len(ids) else ids.take(pa.array(rows))
        for key, mask in masks.items():
            mask[rows] = inside(mine, some, *cuts[key])
    return Inside(*(masks[cls, side] for cls in ("A", "B") for side in ("cut", "entry", "exit"))) if known else None


def tier_day(
    number: int, policy: Policy, rows: Any, ids: pa.Array, columns: dict[str, Any],
    found: dict[tuple[int, str], Boundaries], conduct_before: dict[str, Any],
) -> Day:  # fmt: skip
    """What fold 2 knows of a day.

    rows: (m,) places in the tier state; ids, columns, conduct_before: of the accounts there; found: cut-offs.
    """
    today, yesterday = (policy.on(date_of(day)) for day in (number, number - 1))
    values = np.ma.filled(columns[today.abc.metric], 0)

    def by_cuts_of(day: int) -> Inside | None:
        return inside_cuts(values, ids, columns["category"], today.abc.scope, day, found)

    inside = by_cuts_of(number)
    if inside is None:  # nobody in the population: nothing to cut
        inside = Inside(*(np.zeros(len(rows), np.bool_) for _ in range(6)))
    before = by_cuts_of(number - 1) if ranks_alike(policy, number) else None
    return Day(number, today, yesterday, rows, columns, inside, before, conduct_before)


def conduct_on(conduct: Conduct, policy: Policy, number: int, slots: Any) -> dict[str, Any]:
    """The columns of conduct that the rules of the day after read, as of a day. slots: (m,), ascending."""
    read = policy.on(date_of(number + 1)).reads() & set(CONDUCT_FEATURES)
    if not read or not len(conduct.slot):  # then they never change
        return {}
    found = conduct.features(number, slots)
    return {name: found[name] for name in read}


def ranks_alike(policy: Policy, number: int) -> bool:
    """Whether a day's accounts rank by the same metric and within the same scopes as on the day before."""
    abc, before = (policy.on(date_of(day)).abc for day in (number, number - 1))
    return (abc.metric, abc.scope) == (before.metric, before.scope)


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
        found = boundaries(pa.concat_tables([*before, table]), self.policy)
        tiers = _load(state)
        tiers.grow(len(slots))
        ladder, conduct = Ladder.load(state, self.policy), Conduct(state.table(CONDUCT.kind, CONDUCT.kept))
        actions = ServiceActions(self.place, self.policy, shard, slots, self.plan.last)
        closed: list[Closed] = []
        moved: list[tuple[int, Migrations, str]] = []
        features = None
        for number in range(self.plan.first, self.plan.last + 1):
            features = store.read_block(inputs[number])
            rows = numpy(features.column("slot"), np.int64)
            ids = slots.ids.take(pa.array(rows))
            found_before = conduct_on(conduct, self.policy, number - 1, rows)
            columns = tier_columns(features)
            day = tier_day(number, self.policy, rows, ids, columns, found, found_before)
            ended, migrations = assign_tiers(tiers, day)
            ladder.on(number, np.flatnonzero(tiers.tier == ABUSE), features)
            if actions.wanted(number):
                actions.on(number, features, columns, tiers_of(tiers, rows), ladder.in_force(number, rows))
            closed.append(ended)
            moved.append((number, migrations, day.policy.version))
        assert features is not None
        entries = self._write(shard, slots, tiers, features, closed, moved)
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
        moved: list[tuple[int, Migrations, str]],
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
        migrations = migrations_table(moved, slots, names)
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


def tier_columns(inputs: pa.RecordBatch, rows: Any = slice(None)) -> dict[str, Any]:
    """What tiers are made of as columns, masked where null. rows: positions of some accounts, (m,)."""
    columns: dict[str, Any] = {"category": inputs.column("category").to_numpy()[rows]}
    for name in inputs.schema.names[2:]:
        values, null = plain(inputs.column(name))
        columns[name] = np.ma.masked_array(values[rows], np.ma.nomask if null is None else null[rows])
    return columns


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


def migrations_table(moved: list[tuple[int, Migrations, str]], slots: Slots, names: pa.Array) -> pa.Table:
    """The days' changes of tier, as `tier_migrations`."""
    parts = []
    for number, m, version in moved:
        k = len(m.slot)
        if k == 0:
            continue
        columns = {
            "account_id": slots.ids.take(pa.array(m.slot)), "service_date": _dates(np.full(k, number)),
            "from_tier": _codes(m.from_tier, TIERS), "to_tier": _codes(m.to_tier, TIERS),
            "from_abc": _codes(m.from_abc, CLASSES), "to_abc": _codes(m.to_abc, CLASSES), "cause": pa.array(m.cause),
            "rule": names.take(pa.array(m.rule)), "policy_version": pa.array([version] * k),
        }  # fmt: skip
        parts.append(pa.table([columns[name] for name in TIER_MIGRATIONS.schema.names], schema=TIER_MIGRATIONS.schema))
    return pa.concat_tables(parts) if parts else TIER_MIGRATIONS.schema.empty_table()


def current_table(tiers: TierState, features: pa.RecordBatch, slots: Slots, names: pa.Array) -> pa.Table:
    """The tiers of the last day, as `customer_tiers_current`. features: what they are made of."""
    rows = numpy(features.column("slot"), np.int64)
    columns = {
        "account_id": slots.ids.take(pa.array(rows)), "valid_from": _dates(tiers.valid_from[rows]),
        "category": _codes(features.column("category"), CATEGORIES), "tier": _codes(tiers.tier[rows], TIERS),
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
