"""Exact cut-offs per service day, over shards none of which sees all accounts.

    ladders, by ranking -> brackets, to every shard -> extracts, by interval -> boundaries, by ranking -> cut-offs
                                                                                       to every shard, and the mart <-'

The arithmetic is in `kernels.order_statistics`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics

from schemas.marts import CUTOFFS
from schemas.policy import Policy, PolicyVersion
from schemas.rankings import Ranking
from transforms.blocks import Grouped, Keyed, Named, NamedGroup, by_kind, concat, fact, group, tag
from transforms.kernels.order_statistics import (
    accounts_handled,
    brackets,
    by_interval,
    cutoff_rows,
    extract,
    locate,
    merge_ladders,
    ranked_by,
    without_rungs,
)
from transforms.kernels.scopes import Scopes, ranked
from transforms.kernels.windows import date_of
from transforms.patches import first_columns, tier_inputs
from transforms.shards import Place, Slots, State, numpy
from transforms.storage import Commit
from transforms.tier_inputs import TierInputs


class _Counting(beam.DoFn):
    """A step that says how many single accounts it was handed, as the metric `cutoffs/accounts_handled`."""

    def __init__(self, place: Place, policy: Policy) -> None:
        self.place, self.policy = place, policy
        self.handled = Metrics.distribution("cutoffs", "accounts_handled")


@beam.typehints.with_output_types(Keyed, locate=Named, resolve=Named)
class FindBracketsOf(_Counting):
    """One ranking: merges its ladders into brackets for every shard; passes its groups on to `locate` and `resolve`."""

    def process(self, element: NamedGroup) -> Iterator[Keyed | beam.pvalue.TaggedOutput]:
        """element: (ranking, ladders of the shards)."""
        key, ladders = element
        merged = merge_ladders(list(ladders))
        self.handled.update(accounts_handled(merged))
        found, groups = (
            brackets(merged, Problem.of(self.policy, key).ranking.cuts),
            tag(without_rungs(merged), "ladder"),
        )
        for shard in range(self.place.shards):
            yield shard, tag(found, "brackets", ranking=key)
        for interval in range(found.num_rows):
            yield beam.pvalue.TaggedOutput("locate", (f"{key}|{interval}", groups))
        yield beam.pvalue.TaggedOutput("resolve", (key, groups))


@dataclass(frozen=True)
class Problem:
    """What a key stands for: a service day, what is ranked on it, and within which scope."""

    day: int
    ranking: Ranking
    scope: str
    version: PolicyVersion

    @classmethod
    def of(cls, policy: Policy, key: str) -> Problem:
        """The inverse of `fold_features.problem`, by the policy in force on the day."""
        day, *of, scope = json.loads(key)
        version = policy.on(date_of(day))
        (ranking,) = (ranking for ranking in version.rankings() if list(ranking.key) == of)
        return cls(day, ranking, scope, version)


class ExtractOf(beam.DoFn):
    """One shard: hands over its accounts inside the brackets of every ranking."""

    def __init__(self, place: Place, policy: Policy) -> None:
        self.place, self.policy = place, policy

    def process(self, element: Grouped) -> Iterator[Named]:
        """element: (shard, blocks of kind state, brackets)."""
        _, blocks = element
        kinds = by_kind(blocks)
        state = State.from_blocks(self.place.store(), kinds["state"])
        ids = Slots.load(state, "account_slots").ids
        keys = [(fact(found, "ranking"), found) for found in kinds.get("brackets", [])]
        asked = [(Problem.of(self.policy, key), key, found) for key, found in keys]
        for day, some in itertools.groupby(sorted(asked, key=lambda ask: ask[0].day), key=lambda ask: ask[0].day):
            yield from self._of_day(state, ids, day, list(some))

    def _of_day(
        self, state: State, ids: pa.StringArray, day: int, asked: list[tuple[Problem, str, pa.RecordBatch]]
    ) -> Iterator[Named]:
        """All rankings of a day, from one look at what its tiers are made of."""
        inputs = tier_inputs(state, day, columns=first_columns(self.policy, asked[0][0].version))
        columns = TierInputs(inputs).columns()
        names, scopes = ids.take(inputs.column("slot")), Scopes.of(columns)
        for problem, key, found in asked:
            values, known = ranked(problem.ranking, columns[problem.ranking.metric])
            rows = scopes.inside(problem.scope)
            mine = names if len(rows) == len(names) else names.take(pa.array(rows))
            ranks = None if known is None else known[rows]
            taken = extract(ranked_by(values[rows], problem.ranking.order), mine, found, ranks)
            for interval, part in by_interval(taken):
                yield f"{key}|{interval}", tag(part, "extract")


class LocateOf(_Counting):
    """One interval of a ranking: the boundaries that lie in it."""

    def process(self, element: NamedGroup) -> Iterator[Named]:
        """element: (ranking and interval, the ranking's groups and the shards' extracts)."""
        key, blocks = element
        ranking, _ = key.rsplit("|", 1)
        kinds = by_kind(blocks)
        self.handled.update(sum(accounts_handled(part) for part in kinds["extract"]))
        found = locate(kinds["ladder"][0], kinds["extract"], Problem.of(self.policy, ranking).ranking.cuts)
        yield ranking, tag(found, "boundaries")


@beam.typehints.with_output_types(Keyed, mart=Keyed)
class ResolveOf(_Counting):
    """One ranking: the exact cut-offs, to every shard, and to `mart`."""

    def process(self, element: NamedGroup) -> Iterator[Keyed | beam.pvalue.TaggedOutput]:
        """element: (ranking, its groups and boundaries)."""
        key, blocks = element
        kinds = by_kind(blocks)
        self.handled.update(sum(accounts_handled(part) for part in kinds.get("boundaries", [])))
        problem = Problem.of(self.policy, key)
        resolved = cutoff_rows(kinds["ladder"][0], kinds.get("boundaries", []), problem.ranking.cuts)
        rows = mart_rows(resolved, problem)
        for shard in range(self.place.shards):
            yield shard, tag(rows, "cutoffs")
        yield beam.pvalue.TaggedOutput("mart", (0, tag(rows, "cutoffs")))


def mart_rows(resolved: pa.RecordBatch, problem: Problem) -> pa.RecordBatch:
    """Rows of the `cutoffs` mart of one ranking."""
    n, ranking = resolved.num_rows, problem.ranking
    same = {
        "service_date": pa.array(np.full(n, problem.day, np.int32)).cast(pa.date32()),
        "metric": pa.array([ranking.metric] * n),
        "scope": pa.array([problem.scope] * n),
        "ranked": pa.array([ranking.order] * n),
        "policy_version": pa.array([problem.version.version] * n),
    }
    if ranking.order == "smallest_first":
        same["amount"] = pc.bit_wise_not(resolved.column("amount"))  # the inverse of `ranked_by`
    columns = [same[f.name] if f.name in same else resolved.column(f.name).cast(f.type) for f in CUTOFFS.schema]
    return pa.record_batch(columns, schema=CUTOFFS.schema)


class WriteCutoffsOf(beam.DoFn):
    """Writes the `cutoffs` mart of a tick as one small file."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def process(self, element: Grouped) -> Iterator[int]:
        """element: (0, cut-off blocks)."""
        table = concat(list(element[1]), CUTOFFS.schema).cast(CUTOFFS.schema)
        if table.num_rows == 0:
            self.place.report(Commit("cutoffs", 0, ()))
            return
        table = table.sort_by([(name, "ascending") for name in CUTOFFS.keys])
        days, store = numpy(table["service_date"]), self.place.store()
        path = self.place.path("mart:cutoffs", 0, "parquet")
        entry = store.write_parquet(path, "mart:cutoffs", -1, table, (int(days.min()), int(days.max())))
        self.place.report(Commit("cutoffs", 0, (entry,)))
        yield 0


class CutOff(beam.PTransform):
    """ladders by ranking, state by shard -> cut-off blocks to every shard; writes the `cutoffs` mart."""

    def __init__(self, place: Place, policy: Policy) -> None:
        super().__init__()
        self.place, self.policy = place, policy

    def expand(self, inputs: dict[str, beam.PCollection]) -> beam.PCollection[Keyed]:
        """inputs: `ladders` and `state`."""
        step = (self.place, self.policy)
        found = (
            inputs["ladders"]
            | "ByRanking" >> beam.GroupByKey()
            | "FindBrackets" >> beam.ParDo(FindBracketsOf(*step)).with_outputs("locate", "resolve", main="brackets")
        )
        extract = beam.ParDo(ExtractOf(*step)).with_output_types(Named)
        extracts = group([inputs["state"], found.brackets], "ByShard") | "Extract" >> extract
        locate = beam.ParDo(LocateOf(*step)).with_output_types(Named)
        located = group([found["locate"], extracts], "ByInterval") | "Locate" >> locate
        resolve = beam.ParDo(ResolveOf(*step)).with_outputs("mart", main="cutoffs")
        resolved = group([found["resolve"], located], "ByRankingAgain") | "Resolve" >> resolve
        write = beam.ParDo(WriteCutoffsOf(self.place)).with_output_types(int)
        resolved.mart | "Collect" >> beam.GroupByKey() | "WriteCutoffs" >> write
        return resolved.cutoffs
