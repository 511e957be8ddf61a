"""The second half of fold 1, by account shard: rolling features day by day, and what the cut-offs need of them.

Between two runs a shard's sums and ledger are kept as a *checkpoint*. A run starts from the last one before the first day
it has to restate, rolls forward, and leaves a new one behind.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.inbound import BESIDE, CATEGORIES
from schemas.marts import DAILY_CONSUMPTION, FEATURES, SCORE_COLUMNS, VEE_RESULTS
from schemas.policy import Policy, PolicyVersion
from schemas.rankings import Ranking
from schemas.scorecard import SCORE
from schemas.vee import JUDGED, SEVERITIES
from transforms.account_events import CONDUCT
from transforms.blocks import Grouped, Keyed, Named, by_kind, one_batch, tag
from transforms.checkpoints import CARRIED_LEDGER, TIER_INPUT, TIER_INPUT_PATCH
from transforms.closed_ledger import ledger_rows
from transforms.counted_days import Counted, CountedDays
from transforms.fold_reference import load_population
from transforms.kernels.abuse import LADDER_COLUMNS
from transforms.kernels.causes import FELL_DUE, OVERDUE
from transforms.kernels.conduct import Conduct
from transforms.kernels.consumption import account_features, consumption_features
from transforms.kernels.credit import Credit
from transforms.kernels.days_read import Account
from transforms.kernels.ledger import Carried, Ledger
from transforms.kernels.order_statistics import ladder, ranked_by
from transforms.kernels.reference import Expected, Population
from transforms.kernels.scopes import Scopes, ranked
from transforms.kernels.score import credit_score
from transforms.kernels.tiers import CODES
from transforms.kernels.vee import NO_LIMIT
from transforms.kernels.windows import DayBlock, Windows, date_of
from transforms.ledger_exceptions import MART as LEDGER_EXCEPTIONS
from transforms.ledger_exceptions import renewed
from transforms.meter_assignments import EXPECTED_SCHEMA
from transforms.patches import ranked_columns
from transforms.shards import Place, Slots, State, numpy, state_block
from transforms.storage import Commit, Entry, coded
from transforms.tariffs import valuer
from transforms.tier_inputs import arrow, tier_input, without_repeats, write_tier_inputs

CARRIED_RATIO = 8
"""A ledger's base is rewritten when the rows changed since exceed this part of it."""


@dataclass(frozen=True)
class Plan:
    """What a tick does: service days `first .. last` (day numbers), and from which day on each mart keeps rows.

    anew: the calendar begins with `first`: nothing that was made of days before it counts any more.
    """

    first: int
    last: int
    features_from: int
    consumption_from: int
    anew: bool = False


HANDED_ON = (
    "account_slots", CONDUCT.kind, "tiers", "abuse_ladder", "cutoffs_before", TIER_INPUT, TIER_INPUT_PATCH,
)  # fmt: skip
"""State that fold 2 goes on from, and what the tiers of the day before were made of."""

NO_CLOCK = ("capacity_va", "unused_capacity_ppm", "tenure_days", SCORE)
"""Columns that are not kept as of the day's clock: they are the same, or made of those that are, as the score."""


def problem(day: int, ranking: Ranking, scope: str) -> str:
    """The key under which one ranking is cut in one scope, as text that survives whatever a region is called."""
    return json.dumps([day, *ranking.key, scope])


def needed_columns(policy: Policy, day: Any) -> tuple[str, ...]:
    """The feature columns that fold 2 needs of a day, what is ranked on it first.

    By them grades, scores and tiers can be made again under that policy, and under those of the day before and the day after;
    and migrations tell the score, whether or not a grade goes by it.
    """
    metrics, used = ranked_columns(policy.on(day)), {"tenure_days", OVERDUE, FELL_DUE}
    for other in (-1, 0, 1):
        version = policy.on(day + timedelta(days=other))
        used |= {version.abc.metric, *version.columns()} | set(LADDER_COLUMNS if version.abuse_ladder else ())
        used |= {SCORE, *version.credit_score.columns()} if version.credit_score else set()
        if version.strategy is not None:
            used |= {*version.strategy.columns(), version.value_column()}
    used |= {"capacity_va"} if "unused_capacity_ppm" in used else set()
    return (*metrics, *sorted(used.difference(metrics, CODES, SCORE_COLUMNS.values())))


def ladders(
    slots: Slots, rows: Any, day: int, rankings: Sequence[Ranking], scopes: Scopes, values: dict[str, Any]
) -> Iterator[Named]:
    """What the cut-offs of one day need of these accounts. rows: (m,) slots; scopes, values: of them.

    Of percentiles, a shard has no ladder where none of its accounts ranks.
    """
    for ranking in rankings:
        metric, known = ranked(ranking, values[ranking.metric])
        metric = ranked_by(metric, ranking.order)
        for scope, mine in scopes.positions(ranking.by).items():
            ranks = None if known is None else known[mine]
            if ranks is not None and not ranks.any():
                continue
            slot = rows[mine]
            rungs = ladder(metric[mine], slots.ids.take(pa.array(slot)), slots.rank[slot], ranks)
            yield problem(day, ranking, scope), tag(rungs, "ladder")


def feature_column(value: Any) -> Any:
    """A kernel's column, (values, known) or masked or plain, as a NumPy array masked where it is null."""
    return np.ma.masked_array(value[0], ~value[1]) if isinstance(value, tuple) else value


@beam.typehints.with_output_types(Named, state=Keyed)
class FoldFeaturesShard(beam.DoFn):
    """One account shard over the days of a tick. Emits ladders, and to `state` the state with what tiers are made of."""

    def __init__(self, place: Place, policy: Policy, plan: Plan) -> None:
        self.place, self.policy, self.plan = place, policy, plan

    def process(self, element: Grouped) -> Iterator[Named | beam.pvalue.TaggedOutput]:
        """element: (shard, blocks of kind state)."""
        shard, blocks = element
        store, plan = self.place.store(), self.plan
        state = State.from_blocks(store, by_kind(blocks)["state"])
        slots = Slots.load(state, "account_slots")
        n, people = len(slots), load_population(state)
        expected, days = load_expected(state), CountedDays(state, n)
        worth = valuer(state, people, n)
        windows = load_windows(state, plan.first)
        windows.grow(n)
        credit, order, anew = _load_credit(state, slots, plan.first - 1, self.policy.ledger.allocation)
        conduct = Conduct(state.table(CONDUCT.kind, CONDUCT.kept))
        features = MartWriter(self.place, "mart:features", FEATURES, shard)
        consumption = MartWriter(self.place, "mart:daily_consumption", DAILY_CONSUMPTION, shard)
        judged = MartWriter(self.place, "mart:vee_results", VEE_RESULTS, shard)
        inputs: list[tuple[int, pa.RecordBatch]] = []
        before = list(self._day_before(shard, state, windows, credit, conduct, expected, people))
        for day in range(plan.first, plan.last + 1):
            (inside, category), version = people.on(day, n), self.policy.on(date_of(day))
            accounts = Account(inside, people.known(n), people.capacity_on(day, n), expected)
            counted = days.count(day, version.vee, accounts)
            rows, names = np.flatnonzero(inside), needed_columns(self.policy, date_of(day))
            windows.turn(days.load, worth)
            credit.turn(day)
            credit.weigh(version.credit_decay.table())
            clock = clock_values(windows, credit, conduct, expected, people, rows, names)
            windows.take_in(days.load, worth)
            credit.take_in()
            values = day_values(windows, credit, conduct, expected, people, rows, category[rows], version)
            if day >= plan.features_from:
                features.write(day, features_table(slots, rows, day, category[rows], values))
            if day >= plan.consumption_from and (block := days.load(day)):
                consumption.write(day, consumption_table(slots, day, block, counted, expected))
            if len(counted.found.slot):
                judged.write(day, vee_table(slots, day, counted, version.version))
            region = people.region_on(day, n)[rows] if self.policy.ranks_by_region() else None
            inputs.append((day, tier_input(rows, category[rows], region, names, values, clock)))
            yield from ladders(slots, rows, day, version.rankings(), Scopes(category[rows], region), values)

        entries = [*features.close(), *consumption.close(), *judged.close(), *days.close(self.place, shard)]
        path = self.place.path
        entries += store.write_blocks(
            path("windows", shard, "arrow"), "windows", shard, [(plan.last, windows.to_batch())]
        )
        entries += _dump_carried(self.place, state, credit.ledger, order, shard, plan.last, anew=anew)
        of_credit = [(plan.last, credit.to_batch())]
        entries += store.write_blocks(path("carried_credit", shard, "arrow"), "carried_credit", shard, of_credit)
        entries += renewed(self.place, state, credit.ledger, people, slots, shard)
        refs = write_tier_inputs(self.place, TIER_INPUT, shard, without_repeats(inputs))
        entries = [_dated(entry, plan.last) for entry in [*entries, *refs]]
        replaces = (LEDGER_EXCEPTIONS, *CARRIED_LEDGER) if anew else (LEDGER_EXCEPTIONS,)
        self.place.report(Commit("features", shard, tuple(entries), replaces))
        kept = [e for kind in HANDED_ON for e in state.entries.get(kind, [])]
        yield beam.pvalue.TaggedOutput("state", (shard, state_block([*kept, *before, *refs])))

    def _day_before(
        self, shard: int, state: State, windows: Windows, credit: Credit, conduct: Conduct, expected: Expected,
        people: Population,
    ) -> Iterator[Entry]:  # fmt: skip
        """What the tiers of the checkpoint's day were made of, where that is not kept any more; handed on, and not kept."""
        day, n = self.plan.first - 1, credit.ledger.n_slots
        if not state.entries.get("windows") or day in state.by_day(TIER_INPUT):
            return
        if credit.day < day:
            credit.advance(day)
        inside, category = people.on(day, n)
        rows, version = np.flatnonzero(inside), self.policy.on(date_of(day))
        credit.weigh(version.credit_decay.table())
        values = day_values(windows, credit, conduct, expected, people, rows, category[rows], version)
        region = people.region_on(day, n)[rows] if self.policy.ranks_by_region() else None
        block = tier_input(rows, category[rows], region, needed_columns(self.policy, date_of(day)), values, {})
        yield from write_tier_inputs(self.place, TIER_INPUT, shard, [(day, block)])


def load_expected(state: State) -> Expected:
    """The stored stretches of days on which meters are expected."""
    held = state.table("expected", EXPECTED_SCHEMA)
    return Expected(*(numpy(held[name]) for name in EXPECTED_SCHEMA.names))


def _dated(entry: Entry, day: int) -> Entry:
    return replace(entry, first=day, last=day) if entry.first < 0 else entry


def day_values(
    windows: Windows, credit: Credit, conduct: Conduct, expected: Expected, people: Population, rows: Any, category: Any,
    version: PolicyVersion,
) -> dict[str, Any]:  # fmt: skip
    """The columns of `features` of the accounts in `rows`, (m,) slots, as of the day that windows and credit stand at.

    category: (m,) codes; version: of the policy, in force on that day.
    """
    day, n = credit.ledger.day, credit.ledger.n_slots
    values = {name: feature_column(v) for name, v in consumption_features(windows, expected, rows).items()}
    values |= {name: feature_column(v)[rows] for name, v in credit.columns().items()}
    values |= {name: feature_column(v) for name, v in by_account(windows, people, rows, n).items()}
    values |= {"tenure_days": tenure_days(people, day, n)[rows], **conduct.features(day, rows)}
    return values | {SCORE: credit_score(version.credit_score, values | {"category": category}, len(rows))}


def by_account(windows: Windows, people: Population, rows: Any, n: int) -> dict[str, Any]:
    """What follows from reference data and use together. rows: (m,) of n slots."""
    day = windows.as_of
    return account_features(windows, people.capacity_on(day, n)[rows], people.opened_on(day, n)[rows], rows)


def clock_values(
    windows: Windows, credit: Credit, conduct: Conduct, expected: Expected, people: Population, rows: Any,
    names: Collection[str],
) -> dict[str, Any]:  # fmt: skip
    """Columns as of the day's clock: the day has begun, and nothing that happens on it counts yet.

    windows, credit: turned to the day, which is not taken in. rows: (m,) slots; names: the columns that are wanted.
    Returns those of them that follow from use, credit and conduct; of conduct only where it changes on the day.
    Definition: docs/explanation/definitions.md, "As of the day's clock".
    """
    wanted = set(names)
    values = {name: feature_column(v) for name, v in consumption_features(windows, expected, rows, wanted).items()}
    values |= {name: feature_column(v) for name, v in by_account(windows, people, rows, credit.ledger.n_slots).items()}
    values |= {name: v[rows] for name, v in credit.columns(wanted).items()}
    if conduct.turns_on(credit.day):
        values |= conduct.features(credit.day, rows, known=credit.day - 1)
    return {name: values[name] for name in names if name in values and name not in NO_CLOCK}


def tenure_days(people: Population, day: int, n: int) -> Any:
    """Days since each account was opened. (n,) int32, of no meaning where it is not in the population."""
    return np.int32(day) - people.opened_on(day, n)


def load_windows(state: State, first: int) -> Windows:
    """The sums of the checkpoint before `first`, with those that were put right."""
    entries = state.entries.get("windows", [])
    if not entries:
        return Windows.start(first)
    windows = Windows.from_batch(state.store.read_block(entries[0]), entries[0].first)
    for entry in state.entries.get("windows_patch", []):
        if entry.first == entries[0].first:
            windows.put(state.store.read_block(entry))
    return windows


def _load_carried(state: State, order: str) -> Carried | None:
    """The ledger of the checkpoint; None where there is none, or its rows were in another order."""
    head = state.entries.get("carried_accounts", [])
    if not head:
        return None
    accounts = state.store.read_block(head[0])
    if accounts.schema.metadata.get(b"order", b"").decode() != order:
        return None
    base, index = (state.store.read_block(state.entries[kind][0]) for kind in ("carried_base", "carried_index"))
    changes = tuple(state.store.read_block(entry) for entry in state.entries.get("carried_changes", []))
    rows = int(accounts.schema.metadata[b"rows"])
    return Carried(head[0].first, rows, base, index, changes, accounts.replace_schema_metadata(None))


def _load_credit(state: State, slots: Slots, since: int, allocation: str) -> tuple[Credit, str, bool]:
    """Credit as of the checkpoint of the day `since`, the order of its ledger's rows, and whether it begins anew."""
    events, order = ledger_rows(state, slots, since, allocation)
    carried = _load_carried(state, order)
    held = state.entries.get("carried_credit", []) if carried else []
    sums = state.store.read_block(held[0]) if held else None
    return Credit(Ledger(events, len(slots), carried, allocation), carried=sums), order, carried is None


def _dump_carried(
    place: Place, state: State, ledger: Ledger, order: str, shard: int, day: int, *, anew: bool
) -> list[Entry]:  # fmt: skip
    """The ledger's carry-over as entries of this checkpoint: a base that is seldom rewritten, and what changed since.

    order: the name of the order of its rows; anew: whether nothing was carried over.
    """
    store = place.store()
    carried = ledger.dump()
    rebase = anew or carried.changed_rows > max(len(carried.base) // CARRIED_RATIO, 1024)
    if rebase:
        carried = ledger.dump(rebase=True)
        entries = []
        for kind, batch in (("carried_base", carried.base), ("carried_index", carried.index)):
            path = place.path(kind, shard, "arrow")
            entries += store.write_blocks(path, kind, shard, [(day, batch)], compress=kind == "carried_base")
    else:
        entries = [replace(state.entries[kind][0], first=day, last=day) for kind in ("carried_base", "carried_index")]
        if carried.changes:
            merged = pa.Table.from_batches(carried.changes).combine_chunks()
            path = place.path("carried_changes", shard, "arrow")
            entries += store.write_blocks(path, "carried_changes", shard, [(day, one_batch(merged))])
    accounts = carried.accounts.replace_schema_metadata({"rows": str(carried.rows), "order": order})
    return entries + store.write_blocks(
        place.path("carried_accounts", shard, "arrow"), "carried_accounts", shard, [(day, accounts)]
    )


def features_table(slots: Slots, rows: Any, day: int, category: Any, values: dict[str, Any]) -> pa.Table:
    """The rows of `features` of one day. rows: (m,) slots; category, values: (m,)."""
    columns: list[pa.Array] = []
    for field in FEATURES.schema:
        if field.name == "account_id":
            columns.append(slots.ids.take(pa.array(rows)))
        elif field.name == "service_date":
            columns.append(pa.array(np.full(len(rows), day, np.int32)).cast(pa.date32()))
        elif field.name == "category":
            columns.append(pa.array(CATEGORIES).take(pa.array(category)))
        else:
            columns.append(arrow(values[field.name], field.type))
    return pa.table(columns, schema=FEATURES.schema)


def consumption_table(slots: Slots, day: int, block: DayBlock, counted: Counted, expected: Expected) -> pa.Table:
    """The rows of `daily_consumption` of one day: of accounts with a counted reading, an edit or provisional energy."""
    few = (counted.edits.slot, counted.as_read), (counted.estimates.slot, counted.estimates.energy)
    some = block.received > 0
    for _, meters in block.apart.values():
        some |= meters > 0
    for slot, _ in few:
        some[slot] = True
    rows = np.flatnonzero(some)
    due = expected.between(day, day, len(slots))[rows]
    columns = [
        slots.ids.take(pa.array(rows)),
        pa.array(np.full(len(rows), day, np.int32)).cast(pa.date32()),
        block.energy[rows],
    ]
    columns += [
        pa.array(a).cast(pa.int32()) for a in (block.received[rows], due, block.estimated[rows], block.conflict[rows])
    ]
    for name in BESIDE:
        if name in block.apart:
            energy, meters = block.apart[name]
            columns.append(pa.array(energy[rows], mask=meters[rows] == 0))
        else:
            columns.append(pa.nulls(len(rows), pa.int64()))
    columns += [_scattered(len(rows), np.searchsorted(rows, slot), values) for slot, values in few]
    return pa.table(columns, schema=DAILY_CONSUMPTION.schema)


def vee_table(slots: Slots, day: int, counted: Counted, version: str) -> pa.Table:
    """The rows of `vee_results` of one day."""
    found = counted.found
    m = len(found.slot)
    rule = pa.array(found.rule)
    columns = {
        "account_id": slots.ids.take(pa.array(found.slot)),
        "service_date": pa.array(np.full(m, day, np.int32)).cast(pa.date32()),
        "vee_rule": pa.array(JUDGED).take(rule),
        "severity": pa.array(SEVERITIES).take(pa.array(found.severity)),
        "as_read_wh": pa.array(found.as_read),
        "limit_wh": pa.array(found.limit, mask=found.limit == NO_LIMIT),
        "after_wh": _scattered(m, counted.deciding, counted.edits.block.energy),
        "policy_version": pa.repeat(version, m),
    }
    return pa.table([columns[name] for name in VEE_RESULTS.schema.names], schema=VEE_RESULTS.schema)


def _scattered(m: int, at: Any, values: Any) -> pa.Array:
    """Values at some of m places, null at the others."""
    out, told = np.zeros(m, np.int64), np.zeros(m, np.bool_)
    out[at], told[at] = values, True
    return pa.array(out, mask=~told)


class MartWriter:
    """Writes a mart of one shard day by day, a row group a day, as one Parquet file."""

    def __init__(self, place: Place, kind: str, relation: Any, shard: int) -> None:
        self.place, self.kind, self.schema, self.shard = place, kind, relation.schema, shard
        self.sink = pa.BufferOutputStream()
        self.writer: pq.ParquetWriter | None = None
        self.days: list[int] = []
        self.rows = 0

    def write(self, day: int, table: pa.Table) -> None:
        """Add one day."""
        if self.writer is None:
            self.writer = pq.ParquetWriter(
                self.sink, self.schema, compression="zstd", compression_level=1, use_dictionary=coded(self.schema),
                store_schema=True,
            )  # fmt: skip
        self.writer.write_table(table)
        self.days.append(day)
        self.rows += table.num_rows

    def close(self) -> list[Entry]:
        """Finish the file; its entry, or none where nothing was written."""
        if self.writer is None:
            return []
        self.writer.close()
        path = self.place.path(self.kind, self.shard, "parquet")
        return [
            self.place.store().finish(path, self.kind, self.shard, self.sink, (self.days[0], self.days[-1]), self.rows)
        ]


class FoldFeatures(beam.PTransform):
    """(account shard, state blocks) -> ladders by ranking, and state with what tiers are made of by account shard."""

    def __init__(self, place: Place, policy: Policy, plan: Plan) -> None:
        super().__init__()
        self.place, self.policy, self.plan = place, policy, plan

    def expand(self, grouped: beam.PCollection[tuple[int, Iterable[pa.RecordBatch]]]) -> beam.pvalue.DoOutputsTuple:
        """Wires one DoFn."""
        fold = beam.ParDo(FoldFeaturesShard(self.place, self.policy, self.plan))
        return grouped | fold.with_outputs("state", main="ladders")
