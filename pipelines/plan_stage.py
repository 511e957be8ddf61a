"""The stage of a stream that decides which service days an epoch makes. One bucket hears from all shards."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import apache_beam as beam
import pyarrow as pa

from pipelines.calendar import Calendar
from pipelines.config import Retention
from pipelines.cut import NO_LIMIT
from pipelines.plan import Decision, Standing, decide, policy_state
from schemas.policy import Policy
from transforms.blocks import fact, kind_of, tag, with_facts
from transforms.checkpoints import kept_checkpoints
from transforms.epochs import REPORT, TICKS, EpochFold, Outbox, Stage
from transforms.fold_days import CALENDAR_SCHEMA
from transforms.fold_features import Plan
from transforms.inbox import Cut
from transforms.metrics import metric
from transforms.shards import Place
from transforms.storage import Entry, entries_from_batch, entries_to_batch
from transforms.tick_stages import Tick, ticks_block


@dataclass
class PlanState:
    """What the planner goes on from. restate: first day of changes not made yet; tick: number of the last tick."""

    through: int | None = None
    first: int | None = None
    checkpoints: tuple[int, ...] = ()
    policy: list[list[Any]] | None = None
    restate: int | None = None
    tick: int = 0

    @property
    def standing(self) -> Standing:
        """As the decision wants it."""
        return Standing(self.through, self.first, tuple(self.checkpoints), self.policy)


class PlanStage(EpochFold):
    """Reports of the folds and the cut of an epoch -> the ticks to make, to every shard; the decision goes to plan.json."""

    def __init__(self, stage: Stage, place: Place, bootstrap: str | None, policy: Policy, retention: Retention) -> None:
        super().__init__(stage, place, bootstrap)
        self.policy, self.retention = policy, retention
        self.made, self.anew = metric("days_made"), metric("days_restated")
        self.restatements = metric("restatements")

    def initial(self, bucket: int) -> pa.RecordBatch:
        """From the snapshot: the calendar of all shards, and what stands."""
        store = self.place.store()
        if self.bootstrap is None or not store.exists(f"{self.bootstrap}.json"):
            return _block([], PlanState())
        found = store.read_json(f"{self.bootstrap}.json")
        return _block([Entry(*fields) for fields in found["calendar"]], PlanState(**found["standing"]))

    def fold(
        self, bucket: int, epoch: int, prev: int, blocks: list[pa.RecordBatch], state: pa.RecordBatch
    ) -> Generator[beam.pvalue.TaggedOutput, None, pa.RecordBatch]:
        """Decide on an epoch. Returns the planner's state."""
        held, entries = PlanState(**json.loads(fact(state, "plan"))), list(entries_from_batch(state))
        (cut,) = (Cut.from_block(block) for block in blocks if kind_of(block) == "epoch")
        restate = [] if held.restate is None else [held.restate]
        for block in (block for block in blocks if kind_of(block) == REPORT):
            if first := fact(block, "restate_from"):
                restate.append(int(first))
            if fact(block, "replaces"):
                entries = [entry for entry in entries if entry.shard != int(fact(block, "shard"))]
            entries += entries_from_batch(block)
        held.restate = min(restate, default=None)
        ticks = self._decide(cut, entries, held)
        out = Outbox(self.stage.routes, bucket, self.place.shards)
        out.take((shard, ticks_block(ticks)) for shard in range(self.place.shards))
        yield from out.send(f"{self.stage.name}-{bucket:04d}", epoch, prev)
        return _block(entries, held)

    def _decide(self, cut: Cut, entries: Sequence[Entry], held: PlanState) -> list[Tick]:
        """Which ticks to make, written down for the publisher; `held` goes on."""
        store = self.place.store()
        tables = [store.read_table(entry) for entry in entries]
        calendar = Calendar.of(pa.concat_tables([CALENDAR_SCHEMA.empty_table(), *tables]))
        ticks: list[Tick] = []
        decision = None
        restate = held.restate
        if cut.through is not None:
            asked = None if cut.through >= NO_LIMIT else cut.through
            decision = decide(calendar, self.policy, held.standing, [] if restate is None else [restate], asked)
            for nth, (first, last) in enumerate(decision.spans):
                assert decision.end is not None
                assert calendar is not None
                keep = self.retention
                since = (decision.end - keep.features + 1, decision.end - keep.daily_consumption + 1)
                ticks.append(
                    Tick(cut.number * TICKS + nth, held.tick, Plan(first, last, *since, anew=first == calendar.first))
                )
                held.tick = ticks[-1].number
                kept = [day for day in held.checkpoints if day < decision.drop_from or nth]
                held.checkpoints = tuple(sorted(kept_checkpoints([*kept, last])))
            if decision.spans:
                assert calendar is not None
                self._count(decision, held.through)
                held.restate, held.through, held.first = None, decision.end, calendar.first
                held.policy = policy_state(self.policy)
        plan = {
            "decision": asdict(decision) if decision else None, "ticks": [tick.to_json() for tick in ticks],
            "restate": restate,
        }  # fmt: skip
        store.write_json(f"{self.place_of(cut.number).folder}/plan.json", plan)
        return ticks

    def _count(self, decision: Decision, before: int | None) -> None:
        """Tell of the days that are made, and of those made anew. before: last day made so far."""
        days = [day for first, last in decision.spans for day in range(max(first, decision.first), last + 1)]
        anew = sum(before is not None and day <= before for day in days)
        self.made.inc(len(days))
        self.anew.inc(anew)
        self.restatements.inc(anew > 0)


def _block(entries: Sequence[Entry], held: PlanState) -> pa.RecordBatch:
    return with_facts(tag(entries_to_batch(entries), "state"), plan=json.dumps(asdict(held)))
