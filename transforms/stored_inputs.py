"""What tiers of past days were made of, by account shard, as the warehouse holds it: for another policy, without events.

    tier_input     what policies in force have read, also as of the day's clock      kept as long as retention.tier_inputs
    features       the other columns, as at the day's end alone                      as long as retention.features
    conduct        what was found, by which columns of conduct are made again        for good

The credit score is made again by the scorecard of the policy that is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import StateError
from schemas.policy import Policy, PolicyVersion
from schemas.rankings import Ranking
from schemas.scorecard import SCORE
from transforms.abuse_ladder import Ladder
from transforms.account_events import CONDUCT
from transforms.blocks import Grouped, Keyed, Named, by_kind
from transforms.checkpoints import CLOCK, TIER_INPUT, TIER_INPUT_PATCH
from transforms.fold_features import NO_CLOCK, ladders, needed_columns
from transforms.fold_reference import load_population
from transforms.fold_tiers import tiers_batch
from transforms.kernels.conduct import CONDUCT_FEATURES, Conduct
from transforms.kernels.scopes import Scopes
from transforms.kernels.score import credit_score
from transforms.kernels.windows import date_of
from transforms.patches import ranked_columns, tier_inputs
from transforms.restate_tiers import Published
from transforms.shards import Place, Slots, State, state_block
from transforms.storage import Commit, Entry
from transforms.tier_inputs import REGION, TierInputs, arrow, plain, tier_input, write_tier_inputs

FIGURES = ("wh_365d", "billed_365d_minor")
"""What is told of accounts that would move, where it is held: energy and turnover of a year."""

FIGURES_OF = "figures"
"""Kind of the files that hold them."""


@dataclass(frozen=True)
class Trial:
    """Days `first .. last` (day numbers) under another policy. published: the policy that they were published under.

    figures: which of `FIGURES` are told of the accounts on the last day; scores: whether the mart `scores` is made, too.
    """

    first: int
    last: int
    published: Policy
    figures: tuple[str, ...] = ()
    scores: bool = False


def rankings_kept(policy: Policy, published: Policy, day: int) -> tuple[Ranking, ...]:
    """What a policy ranks and cuts on a day as the published one did: its cut-offs are those published. day: its number."""
    now, was = (some.on(date_of(day)) for some in (policy, published))
    rescored = now.credit_score != was.credit_score
    return tuple(r for r in now.rankings() if r in was.rankings() and not (rescored and r.metric == SCORE))


def made_again(names: Iterable[str]) -> set[str]:
    """Columns that need not be held."""
    return {name for name in names if name == SCORE or name in CONDUCT_FEATURES}


def without_clock(names: Iterable[str]) -> set[str]:
    """Of columns that `features` alone holds, those that are another on the day's clock, which is not known."""
    return {name for name in names if name not in NO_CLOCK and name not in CONDUCT_FEATURES}


@beam.typehints.with_output_types(Named, state=Keyed)
class StoredInputsShard(beam.DoFn):
    """One account shard over some days. Emits ladders, and to `state` what the tiers under the policy go on from."""

    def __init__(self, place: Place, policy: Policy, trial: Trial) -> None:
        self.place, self.policy, self.trial = place, policy, trial

    def process(self, element: Grouped) -> Iterator[Named | beam.pvalue.TaggedOutput]:
        """element: (shard, blocks of kind state)."""
        shard, blocks = element
        state = State.from_blocks(self.place.store(), by_kind(blocks)["state"])
        work = _Shard(self.place, self.policy, self.trial, shard, state)
        yield from work.read()
        self.place.report(Commit("figures", shard, tuple(work.figures())))
        yield beam.pvalue.TaggedOutput("state", (shard, state_block(work.handed_on())))


class _Shard:
    """The work on one shard."""

    def __init__(self, place: Place, policy: Policy, trial: Trial, shard: int, state: State) -> None:
        self.place, self.policy, self.trial, self.shard, self.state = place, policy, trial, shard, state
        self.slots = Slots.load(state, "account_slots")
        self.conduct = Conduct(state.table(CONDUCT.kind, CONDUCT.kept))
        self.as_held: list[Entry] = []
        self.made: list[tuple[int, pa.RecordBatch]] = []
        self.names: dict[str, list[str]] = {}

    def read(self) -> Iterator[Named]:
        """Day by day, from the one before the first, which causes ask for."""
        trial = self.trial
        if trial.first - 1 in self.state.by_day(TIER_INPUT):
            self._day(trial.first - 1)
        for day in range(trial.first, trial.last + 1):
            block, kept = self._day(day), rankings_kept(self.policy, trial.published, day)
            rankings = [r for r in self.policy.on(date_of(day)).rankings() if r not in kept]
            if rankings:
                known = TierInputs(block())
                columns = known.columns()
                yield from ladders(self.slots, known.slots, day, rankings, Scopes.of(columns), columns)

    def _day(self, day: int) -> Callable[[], pa.RecordBatch]:
        """What rankings of a day, and with more columns its tiers, are made of: as held, where that will do, else made here."""
        names, version = needed_columns(self.policy, date_of(day)), self.policy.on(date_of(day))
        entry = self.state.by_day(TIER_INPUT)[day]
        held, by_region = self._names_in(entry.path), (REGION,) * self.policy.ranks_by_region()
        first = ["slot", "category", *by_region, *ranked_columns(version)]  # where rankings look for them
        scored = SCORE not in names or self._card(day) == version.credit_score
        patched = day in self.state.by_day(TIER_INPUT_PATCH)
        if scored and not patched and held[: len(first)] == first and set(names) <= set(held):
            self.as_held.append(entry)
            return lambda: self.state.store.read_block(entry, len(first))
        block = self._made(day, names, version)
        self.made.append((day, block))
        return lambda: block

    def _names_in(self, path: str) -> list[str]:
        if path not in self.names:
            self.names[path] = self.state.store.open_blocks(path).schema.names
        return self.names[path]

    def _card(self, day: int) -> Any:
        return self.trial.published.on(date_of(day)).credit_score

    def _made(self, day: int, names: tuple[str, ...], version: PolicyVersion) -> pa.RecordBatch:
        known = TierInputs(tier_inputs(self.state, day))
        rows, held, of_clock = known.slots, known.columns(), known.columns(clock=True)
        category, region = held["category"], None
        if self.policy.ranks_by_region():
            region = load_population(self.state).region_on(day, len(self.slots))[rows]
        scored = version.credit_score.columns() if version.credit_score and SCORE in names else ()
        wanted = dict.fromkeys((*names, *scored))
        values = {name: held[name] for name in wanted if name in held}
        told = known.batch.schema.names
        clock = {name: of_clock[name] for name in names if name + CLOCK in told}
        conduct = [name for name in wanted if name in CONDUCT_FEATURES and name not in values]
        if conduct:
            found = self.conduct.features(day, rows)
            values |= {name: found[name] for name in conduct}
            if self.conduct.turns_on(day):
                found = self.conduct.features(day, rows, known=day - 1)
                clock |= {name: found[name] for name in conduct if name in names}
        missing = [name for name in wanted if name not in values and name not in (SCORE, "category")]
        values |= stored_features(self.state, self.slots, day, missing, rows)
        if SCORE in names:
            values[SCORE] = credit_score(version.credit_score, values | {"category": category}, len(rows))
        return tier_input(rows, category, region, names, values, clock)

    def figures(self) -> list[Entry]:
        """Energy and turnover of the accounts on the last day, as a file; none where nothing is asked."""
        day, names = self.trial.last, self.trial.figures
        if not names:
            return []
        known = TierInputs(tier_inputs(self.state, day))
        rows, held = known.slots, known.columns()
        values = {name: held[name] for name in names if name in held}
        values |= stored_features(self.state, self.slots, day, [n for n in names if n not in values], rows)
        columns = {"account_id": self.slots.ids.take(pa.array(rows))}
        table = pa.table(columns | {name: arrow(values[name], pa.int64()) for name in names})
        path = self.place.path(FIGURES_OF, self.shard, "parquet")
        return [self.place.store().write_parquet(path, FIGURES_OF, self.shard, table, (day, day))]

    def _before(self) -> list[Entry]:
        """Tiers and ladder as published of the day before the first."""
        day, state = self.trial.first - 1, self.state
        published = Published(state, self.slots, day)
        tiers = published.on(day, np.arange(len(self.slots)))
        path = self.place.path("tiers", self.shard, "arrow", day)
        entries = self.place.store().write_blocks(path, "tiers", self.shard, [(day, tiers_batch(tiers))])
        ladder = Ladder.published(state, self.policy, self.slots, day, published.abusing(day))
        return entries + ladder.checkpoint(State(state.store, []), self.place, self.shard, day)

    def handed_on(self) -> list[Entry]:
        """What cut-offs and tiers go on from."""
        state = self.state
        kinds = ("account_slots", "cutoffs_before", "tiers", "abuse_ladder")
        kept = [entry for kind in kinds for entry in state.entries.get(kind, [])]
        if not state.entries.get("tiers"):
            kept += self._before()
        made = write_tier_inputs(self.place, TIER_INPUT, self.shard, self.made)
        return [*kept, *self.as_held, *made]


def stored_features(state: State, slots: Slots, day: int, names: list[str], rows: Any) -> dict[str, Any]:
    """Columns of the mart `features` of one day, with what was put right in it. rows: (m,) slots of all its accounts, ascending.

    (m,) each, masked where null. Raises StateError where the mart has other accounts.
    """
    if not names:
        return {}
    store = state.store

    def of(kind: str, columns: list[str]) -> pa.Table:
        found = [e for e in state.entries.get(kind, []) if e.first <= day <= e.last]
        return pa.concat_tables([store.read_day(e, day, columns) for e in found]) if found else None

    keys = ["account_id"]
    table, gone, patch = (
        of("mart:features", keys + names),
        of("gone:features", keys),
        of("patch:features", keys + names),
    )
    if table is not None and gone is not None:
        table = table.filter(pc.invert(pc.is_in(table["account_id"], value_set=gone["account_id"].combine_chunks())))
    parts = [part for part in (table, patch) if part is not None]
    table = pa.concat_tables(parts).combine_chunks() if parts else None
    if table is not None:
        slot = slots.find(table["account_id"].combine_chunks())
        order = np.argsort(slot, kind="stable")
        if np.array_equal(slot[order], rows):
            table = table.take(pa.array(order)).combine_chunks()
            return {name: _masked(table[name].combine_chunks()) for name in names}
    raise StateError(
        f"features of {date_of(day)} are not of the accounts that tiers were made of. Run `wattier verify`."
    )


def _masked(column: Any) -> Any:
    values, null = plain(column)
    return values if null is None else np.ma.masked_array(values, null)


class StoredInputs(beam.PTransform):
    """(account shard, state blocks) -> ladders by ranking, and state with what tiers are made of by account shard."""

    def __init__(self, place: Place, policy: Policy, trial: Trial) -> None:
        super().__init__()
        self.place, self.policy, self.trial = place, policy, trial

    def expand(self, grouped: beam.PCollection[tuple[int, Iterable[pa.RecordBatch]]]) -> Any:
        """Wires one DoFn."""
        fold = beam.ParDo(StoredInputsShard(self.place, self.policy, self.trial))
        return grouped | fold.with_outputs("state", main="ladders")
