"""Service actions of an account shard, day by day: what applies, and who wants a place of what is limited.

Folds call it once a day when tiers and abuse ladder are settled. Actions that take no limited place stand in `service_actions`
as of the last day; the others are handed on to `PlanActions`, as files of candidates.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa

from schemas.actions import ABUSE_STEP, SERVICE_ACTIONS, STANDING
from schemas.policy import Policy, PolicyVersion
from schemas.strategy import Strategy
from transforms.blocks import Keyed, tag
from transforms.kernels.action_plan import applying, hand_on, may_rest, places
from transforms.kernels.windows import date_of
from transforms.shards import Place, Slots, numpy, state_block
from transforms.storage import Entry, entries_to_batch

MART = "mart:service_actions"
CANDIDATES = "candidates"
"""Kind of the files that are handed on, and output that names them."""

TOTALS = "totals"
CANDIDATES_SCHEMA = pa.schema([("account_id", pa.string()), ("rule", pa.int8()), ("value", pa.int64())])
TOTALS_SCHEMA = pa.schema(
    [("day", pa.int32()), ("resource", pa.string()), ("candidates", pa.int64()), ("value", pa.int64())]
)


class ServiceActions:
    """The actions of a shard as it goes from day to day. last: the day whose list is published."""

    def __init__(self, place: Place, policy: Policy, shard: int, slots: Slots, last: int | None) -> None:
        self.place, self.policy, self.shard, self.slots, self.last = place, policy, shard, slots, last
        self.places = functools.cache(functools.partial(places, policy.capacity))
        self.days: list[tuple[int, pa.RecordBatch]] = []
        self.totals: list[tuple[int, str, int, int]] = []
        self.listed: pa.Table = SERVICE_ACTIONS.schema.empty_table()

    def wanted(self, day: int) -> bool:
        """Whether a day's accounts have to be looked at."""
        strategy = self.policy.on(date_of(day)).strategy
        if strategy is None:
            return False
        return day == self.last or any(strategy.of(name) for name in self.places(day))

    def on(
        self, day: int, inputs: pa.RecordBatch, columns: Mapping[str, Any], tiers: Mapping[str, Any], step: Any
    ) -> None:
        """Go on by a day. inputs: what its tiers are made of, columns: the same as arrays; tiers: tier, class and grade;
        step: of the abuse ladder; (m,) each.
        """
        version = self.policy.on(date_of(day))
        strategy = version.strategy
        if strategy is None or not self.wanted(day):
            return
        seen = {**columns, **tiers, ABUSE_STEP: step}
        slot = numpy(inputs.column("slot"), np.int64)
        value = np.ma.filled(columns[version.value_column()], 0).astype(np.int64)
        limited, blocks = self.places(day), []
        for name, there_is in limited.items():
            if not (numbers := strategy.of(name)):
                continue
            rows, rules = applying(strategy, numbers, seen, len(slot))
            accounts = np.unique(rows)
            self.totals.append((day, name, len(accounts), int(value[accounts].sum())))
            most = there_is.free + there_is.usual
            most += 0 if name == STANDING else may_rest(self.places, strategy, name, day)
            mine = hand_on(strategy, self.slots.rank[slot[rows]], rules, value[rows], most, standing=name == STANDING)
            ids = self.slots.ids.take(pa.array(slot[rows[mine]]))
            blocks.append(pa.record_batch([ids, rules[mine], value[rows[mine]]], schema=CANDIDATES_SCHEMA))
        if blocks:
            self.days.append((day, pa.concat_batches(blocks)))
        if day == self.last:
            free = [n for n, rule in enumerate(strategy.actions) if rule.resource not in limited]
            rows, rules = applying(strategy, free, seen, len(slot))
            ids = self.slots.ids.take(pa.array(slot[rows]))
            self.listed = listed(version, strategy, day, ids, rules, value[rows])

    def write(self) -> list[Entry]:
        """Write what applies on the last day. To be told with `replaces` of `MART`."""
        if self.listed.num_rows == 0 or self.last is None:
            return []
        days = (self.last, self.last)
        path = self.place.path(MART, self.shard, "parquet")
        return [self.place.store().write_parquet(path, MART, self.shard, self.listed, days)]

    def handed_on(self) -> Iterator[beam.pvalue.TaggedOutput]:
        """To the plan: how many want a place, and the files of those who can be among the first; also where there are none."""
        path = self.place.path(CANDIDATES, self.shard, "arrow")
        files = self.place.store().write_blocks(path, CANDIDATES, self.shard, self.days) if self.days else []
        totals = pa.RecordBatch.from_pylist(
            [dict(zip(TOTALS_SCHEMA.names, row, strict=True)) for row in self.totals], schema=TOTALS_SCHEMA
        )
        for block in (tag(entries_to_batch(files), CANDIDATES), tag(totals, TOTALS)):
            yield beam.pvalue.TaggedOutput(CANDIDATES, (0, block))


def listed(
    version: PolicyVersion, strategy: Strategy, day: int, ids: pa.Array, rules: Any, value: Any, **more: Any
) -> pa.Table:
    """Rows of `service_actions`. ids, rules, value: (k,); more: columns of the mart, (k,), of those who want a limited place."""
    k, said = len(rules), strategy.actions

    def told(name: str) -> pa.Array:
        return pa.array([getattr(rule, name) for rule in said]).take(pa.array(rules))

    due = np.array([rule.due_days for rule in said], np.int32)
    columns = {
        "account_id": ids, "service_date": dates(np.full(k, day)), "action": told("action"), "action_reason": told("reason"),
        "due_date": dates(day + due[rules]), "priority": told("priority"), "resource": told("resource"), "value": value,
        "planned": np.ones(k, np.bool_), "not_planned_reason": pa.nulls(k, pa.string()), "since": pa.nulls(k, pa.date32()),
        "rank": pa.nulls(k, pa.int32()), "policy_version": pa.repeat(version.version, k), **more,
    }  # fmt: skip
    names = SERVICE_ACTIONS.schema.names
    return pa.table([pa.array(columns[name]) for name in names], names=names).cast(SERVICE_ACTIONS.schema)


def dates(days: Any) -> pa.Array:
    """Day numbers as dates."""
    return pa.array(np.asarray(days, np.int32)).cast(pa.date32())


def planned_before(entries: list[Entry]) -> Keyed:
    """What a plan goes on from, for the group that it is made of."""
    return 0, state_block(entries)
