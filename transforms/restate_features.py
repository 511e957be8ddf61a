"""Past days put right for the accounts concerned, by account shard: their features, and what the cut-offs need of all.

The kernels are those of `fold_features`. They are handed blocks of the concerned accounts alone; of all the others a day
keeps what it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from schemas.marts import DAILY_CONSUMPTION, FEATURES, VEE_RESULTS
from schemas.policy import Policy
from transforms.account_events import CONDUCT
from transforms.blocks import Grouped, Keyed, Named, by_kind, one_batch
from transforms.checkpoints import TIER_INPUT, TIER_INPUT_PATCH
from transforms.closed_ledger import ledger_rows
from transforms.counted_days import Counted, CountedOfSome
from transforms.fold_features import (
    NO_CLOCK,
    clock_values,
    consumption_table,
    day_values,
    feature_column,
    features_table,
    ladders,
    load_expected,
    load_windows,
    needed_columns,
    vee_table,
)
from transforms.fold_reference import load_population
from transforms.kernels.conduct import Conduct
from transforms.kernels.credit import Credit
from transforms.kernels.days_read import Account
from transforms.kernels.ledger import Ledger
from transforms.kernels.reference import Expected, Population
from transforms.kernels.scopes import Scopes
from transforms.kernels.windows import DayBlock, Windows, date_of
from transforms.ledger_exceptions import MART as LEDGER_EXCEPTIONS
from transforms.ledger_exceptions import put_right
from transforms.patches import (
    OUT,
    Concerned,
    first_columns,
    merged,
    patched,
    rewritten,
    stretches,
    tier_inputs,
)
from transforms.shards import Place, Slots, State, numpy, state_block
from transforms.storage import Commit, Entry
from transforms.tariffs import valuer
from transforms.tier_inputs import TierInputs, tier_input, write_tier_inputs

KEYS = pa.schema([field for field in FEATURES.schema if field.name in ("account_id", "service_date")])


@dataclass(frozen=True)
class Correction:
    """Past days that are put right for some accounts. All are day numbers.

    first .. last: the days, `last` one of a checkpoint; ends: the checkpoints, ascending, one before `first` among them;
    through: last day put right, by this correction or those that follow it; features_from, consumption_from, scores_from: from
    which day on the files of each mart have rows, in the order of `PATCHED`.
    """

    first: int
    last: int
    ends: tuple[int, ...]
    through: int
    features_from: int
    consumption_from: int
    scores_from: int

    @property
    def checkpoint(self) -> int:
        """The checkpoint that is taken up."""
        return max(day for day in self.ends if day < self.first)


class _Some:
    """What a shard holds of some accounts, which take the places 0, 1, 2 ... in it."""

    def __init__(self, state: State, slots: Slots, some: Any, since: int, policy: Policy) -> None:
        self.slots = some
        self.n = len(some)
        ids = slots.ids.take(pa.array(some))
        self.ids = Slots(ids, slots.rank[some])
        place = np.full(len(slots), -1, np.int64)
        place[some] = np.arange(self.n)
        self.people = _of(load_population(state), place, Population)
        self.expected = _of(load_expected(state), place, Expected)
        ledger, _ = ledger_rows(state, slots, since, policy.ledger.allocation, place >= 0)
        self.ledger_events, self.conduct_events = (
            _by_place(events, place) for events in (ledger, state.table(CONDUCT.kind, CONDUCT.kept))
        )


def _by_place(table: pa.Table, place: Any) -> pa.Table:
    """Events of some accounts, by their places."""
    at = place[numpy(table["slot"])]
    mine = np.flatnonzero(at >= 0)
    events = table.take(pa.array(mine)).drop_columns(["slot"])
    return events.add_column(0, "slot", pa.array(at[mine].astype(np.int32))).combine_chunks()


def _of(rows: Any, place: Any, kind: type[Any]) -> Any:
    """Rows by slot of some accounts, in their places."""
    mine = np.flatnonzero(place[rows.slot] >= 0) if len(rows.slot) else np.zeros(0, np.int64)
    columns = {name: getattr(rows, name)[mine] for name in kind.__dataclass_fields__}
    return kind(**columns | {"slot": place[columns["slot"]].astype(np.int32)})


@beam.typehints.with_output_types(Named, state=Keyed)
class RestateFeaturesShard(beam.DoFn):
    """One account shard over the days of a correction. Emits ladders, and to `state` what the tiers are put right from."""

    def __init__(self, place: Place, policy: Policy, plan: Correction) -> None:
        self.place, self.policy, self.plan = place, policy, plan

    def process(self, element: Grouped) -> Iterator[Named | beam.pvalue.TaggedOutput]:
        """element: (shard, blocks of kind state)."""
        shard, blocks = element
        state = State.from_blocks(self.place.store(), by_kind(blocks)["state"])
        work = _Shard(self.place, self.policy, self.plan, shard, state)
        yield from work.restate()
        yield beam.pvalue.TaggedOutput("state", (shard, state_block(work.handed_on())))


class _Shard:
    """The work on one shard."""

    def __init__(self, place: Place, policy: Policy, plan: Correction, shard: int, state: State) -> None:
        self.place, self.policy, self.plan, self.shard, self.state = place, policy, plan, shard, state
        self.slots = Slots.load(state, "account_slots")
        self.who = Concerned.load(state, plan.through)
        self.some = _Some(state, self.slots, self.who.slots, plan.checkpoint, policy)
        self.days = CountedOfSome(state, self.who.slots, plan.first)
        self.inputs: list[tuple[int, pa.RecordBatch]] = []
        self.sums: list[tuple[int, pa.RecordBatch]] = []
        self.features: dict[int, pa.Table] = {}
        self.consumption: dict[int, tuple[pa.Table, pa.Table]] = {}
        self.judged: dict[int, pa.Table] = {}
        self.patches: list[Entry] = []
        self.exceptions: list[Entry] = []

    def restate(self) -> Iterator[Named]:
        """Roll the concerned accounts forward, and rank everybody anew."""
        plan, some = self.plan, self.some
        worth = valuer(self.state, some.people, some.n)
        windows = load_windows(self.state, plan.checkpoint + 1).take(some.slots) if some.n else None
        ledger = Ledger(some.ledger_events, some.n, allocation=self.policy.ledger.allocation)
        credit, conduct = Credit(ledger), Conduct(some.conduct_events)
        credit.advance(plan.checkpoint)
        for day in range(plan.checkpoint + 1, plan.last + 1):
            counted = self._count(day) if windows and day >= plan.first else None
            if windows:
                windows.turn(self.days.load, worth)
                credit.turn(day)
                credit.weigh(self.policy.on(date_of(day)).credit_decay.table())
                clock = self._clock(day, windows, credit, conduct) if day >= plan.first else {}
                windows.take_in(self.days.load, worth)
                credit.take_in()
            if day >= plan.first:
                patch = self._day(day, windows, credit, conduct, counted, clock) if windows and counted else None
                yield from self._ladders(day, patch)
                if windows and day in plan.ends:
                    self.sums.append((day, self._sums(day, windows)))
        if some.n:
            self.exceptions = put_right(self.place, self.state, ledger, some.people, some.ids, self.shard)
        self._report()

    def _count(self, day: int) -> Counted:
        people, n = self.some.people, self.some.n
        accounts = Account(people.on(day, n)[0], people.known(n), people.capacity_on(day, n), self.some.expected)
        return self.days.count(day, self.policy.on(date_of(day)).vee, accounts)

    def _clock(self, day: int, windows: Windows, credit: Credit, conduct: Conduct) -> dict[str, Any]:
        """The concerned accounts as of the day's clock."""
        some, names = self.some, needed_columns(self.policy, date_of(day))
        rows = np.flatnonzero(some.people.on(day, some.n)[0])
        return clock_values(windows, credit, conduct, some.expected, some.people, rows, names)

    def _day(
        self, day: int, windows: Windows, credit: Credit, conduct: Conduct, counted: Counted, clock: dict[str, Any]
    ) -> pa.RecordBatch:
        """One day of the concerned accounts. Returns what their tiers are made of, by slot of the shard."""
        some, plan, version = self.some, self.plan, self.policy.on(date_of(day))
        inside, category = some.people.on(day, some.n)
        rows = np.flatnonzero(inside)
        values = day_values(windows, credit, conduct, some.expected, some.people, rows, category[rows], version)
        if day >= plan.features_from:
            self.features[day] = features_table(some.ids, rows, day, category[rows], values)
        differ: list[Any] = [self.who.read_on(day), self.days.was(day), counted.edits.slot, counted.estimates.slot]
        if day >= plan.consumption_from and len(mine := self._union(differ)):
            block = self.days.load(day) or DayBlock.empty(some.n)
            table = consumption_table(some.ids, day, block, counted, some.expected)
            own = np.isin(some.ids.find(table["account_id"].combine_chunks()), mine)
            self.consumption[day] = self._keys(day, mine), table.filter(pa.array(own))
        self.judged[day] = vee_table(some.ids, day, counted, version.version)
        names = needed_columns(self.policy, date_of(day))
        of_clock = {name: clock.get(name, values[name]) for name in names if name not in NO_CLOCK}

        def dense(columns: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
            full = {name: np.ma.zeros(some.n, np.int64) for name in names}
            for name, column in full.items():
                column[rows] = feature_column(columns[name])
            return full

        category = np.where(inside, category, OUT).astype(np.int8)
        region = some.people.region_on(day, some.n) if self.policy.ranks_by_region() else None
        block = tier_input(some.slots, category, region, names, dense(values, names), dense(of_clock, of_clock))
        entry = self.state.by_day(TIER_INPUT_PATCH).get(day)
        if entry is not None:
            block = one_batch(merged(self.state.store.read_block(entry), pa.Table.from_batches([block])))
        self.inputs.append((day, block))
        return block

    @staticmethod
    def _union(parts: list[Any]) -> Any:
        return np.unique(np.concatenate(parts)).astype(np.int64)

    def _keys(self, day: int, some: Any) -> pa.Table:
        ids = self.some.ids.ids.take(pa.array(some))
        date = pa.array(np.full(len(some), day, np.int32)).cast(pa.date32())
        return pa.table([ids, date], schema=KEYS)

    def _ladders(self, day: int, patch: pa.RecordBatch | None) -> Iterator[Named]:
        """What the shard's accounts, the concerned ones put right, tell of a day's rankings."""
        version = self.policy.on(date_of(day))
        inputs = tier_inputs(self.state, day, patch, first_columns(self.policy, version))
        known = TierInputs(inputs)
        columns = known.columns()
        yield from ladders(self.slots, known.slots, day, version.rankings(), Scopes.of(columns), columns)

    def _sums(self, day: int, windows: Windows) -> pa.RecordBatch:
        """The sums of the concerned accounts as of a checkpoint, merged with those put right before."""
        sums = {name: column.copy() for name, column in windows.sums.items()}  # they roll on in place
        new = pa.table({"slot": self.some.slots.astype(np.int32), **sums})
        held = [self.state.store.read_block(e) for e in self.state.entries.get("windows_patch", []) if e.first == day]
        return one_batch(merged(held[0] if held else None, new))

    def _report(self) -> None:
        place, shard, plan = self.place, self.shard, self.plan
        entries, drops = self.days.close(place, shard), list[str]()
        self.patches = write_tier_inputs(place, TIER_INPUT_PATCH, shard, self.inputs)
        for day, sums in self.sums:
            path = place.path("windows_patch", shard, "arrow", day)
            entries += place.store().write_blocks(path, "windows_patch", shard, [(day, sums)])
        none = self._keys(plan.first, np.zeros(0, np.int64))
        for stretch in stretches(plan.ends, plan.first, plan.last):
            days = list(range(max(stretch[0], plan.first), stretch[1] + 1))
            everybody = np.arange(self.some.n)
            for kind, relation, found in (
                ("mart:features", FEATURES, {d: (self._keys(d, everybody), t) for d, t in self.features.items()}),
                ("mart:daily_consumption", DAILY_CONSUMPTION, self.consumption),
            ):
                made = [found[day] for day in days if day in found]
                gone = pa.concat_tables([none, *(gone for gone, _ in made)])
                rows = pa.concat_tables([relation.schema.empty_table(), *(rows for _, rows in made)])
                if gone.num_rows:
                    new, old = patched(place, shard, kind, self.state, stretch, self.slots, gone, rows)
                    entries, drops = entries + new, drops + old
            rows = pa.concat_tables(
                [VEE_RESULTS.schema.empty_table(), *(self.judged[d] for d in days if d in self.judged)]
            )
            new, old = rewritten(
                place, shard, "mart:vee_results", self.state, stretch, VEE_RESULTS.schema, self._mine(days), rows
            )
            entries, drops = entries + new, drops + old
        entries += [*self.patches, *self.exceptions]
        replaces = (LEDGER_EXCEPTIONS,) if self.some.n else ()
        self.place.report(Commit("features", shard, tuple(entries), replaces, drops=tuple(drops)))

    def _mine(self, days: list[int]) -> Any:
        """Which rows of a mart are of concerned accounts on some days."""

        def gone(table: pa.Table) -> Any:
            own = self.some.ids.find(table["account_id"].combine_chunks()) >= 0
            return own & np.isin(numpy(table["service_date"]), days)

        return gone

    def handed_on(self) -> list[Entry]:
        """What cut-offs and tiers go on from: the state, with the tier inputs put right."""
        kinds = (
            "account_slots",
            CONDUCT.kind,
            "concerns",
            "tiers",
            "abuse_ladder",
            TIER_INPUT,
            "was:cutoffs",
            "cutoffs_before",
            "carried_tiers",
            "gone:scores",
            "patch:scores",
        )
        marts = ("mart:customer_tiers", "mart:tier_migrations", "mart:abuse_steps", "mart:customer_tiers_current")
        new = {entry.first for entry in self.patches}
        held = [e for e in self.state.entries.get(TIER_INPUT_PATCH, []) if e.first not in new]
        return [e for kind in (*kinds, *marts) for e in self.state.entries.get(kind, [])] + held + self.patches


class RestateFeatures(beam.PTransform):
    """(account shard, state blocks) -> ladders by ranking, and state with what tiers are made of by account shard."""

    def __init__(self, place: Place, policy: Policy, plan: Correction) -> None:
        super().__init__()
        self.place, self.policy, self.plan = place, policy, plan

    def expand(self, grouped: beam.PCollection[tuple[int, Iterable[pa.RecordBatch]]]) -> Any:
        """Wires one DoFn."""
        fold = beam.ParDo(RestateFeaturesShard(self.place, self.policy, self.plan))
        return grouped | fold.with_outputs("state", main="ladders")
