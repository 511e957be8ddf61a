"""The two stages of a stream that move service days on: they take the planner's word for which, and keep checkpoints."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import asdict, dataclass

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc

from schemas.marts import CUTOFFS
from schemas.policy import Policy
from transforms.blocks import by_kind, concat, fact, kind_of, tag, with_facts
from transforms.checkpoints import (
    CHECKPOINT,
    LEDGER_STATE,
    PLAN_STATE,
    TICK_DAYS,
    TIER_INPUT,
    TIER_INPUT_PATCH,
    kept_checkpoints,
)
from transforms.epochs import NOTHING, Blocks, EpochFold, Outbox, Stage, entries_of, read_entries
from transforms.fold_features import FoldFeaturesShard, Plan
from transforms.fold_tiers import FoldTiersShard
from transforms.kernels.windows import BASE, YEAR
from transforms.plan_actions import PlanActionsOf
from transforms.service_actions import CANDIDATES
from transforms.shards import Place, state_block
from transforms.storage import WHOLE, Entry, entries_from_batch, entries_to_batch

TICK_STATE = ("account_slots", "population", "tariffs", "expected", *LEDGER_STATE, "conduct", "day_block")
"""What features are made of, beside the checkpoint."""

MADE = (*CHECKPOINT, *TICK_DAYS, TIER_INPUT, TIER_INPUT_PATCH)
"""What a tick leaves for the days after it; what tiers were made of, of the days of checkpoints alone."""

BASE_STATE = (
    "account_slots", "population", "expected", *LEDGER_STATE, "conduct", "windows", "windows_patch", "tiers", "cutoffs_before",
)  # fmt: skip
"""What provisional tiers are made of: the state after a tick."""

CUTOFFS_BEFORE = "cutoffs_before"
"""The cut-offs of a checkpoint's day, which the day after it is compared with."""


@dataclass(frozen=True)
class Tick:
    """One stretch of days to make. number, prev: of this tick and the one before it. plan: its days."""

    number: int
    prev: int
    plan: Plan

    def to_json(self) -> str:
        """As text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Tick:
        """From text."""
        value = json.loads(text)
        return cls(value["number"], value["prev"], Plan(**value["plan"]))


def ticks_block(ticks: Sequence[Tick]) -> pa.RecordBatch:
    """Ticks as a block of kind plan."""
    return with_facts(tag(NOTHING, "plan"), ticks=json.dumps([tick.to_json() for tick in ticks]))


def ticks_of(blocks: Blocks) -> list[Tick]:
    """The ticks of the one plan among the blocks."""
    (plan,) = by_kind(blocks)["plan"]
    return [Tick.from_json(text) for text in json.loads(fact(plan, "ticks"))]


def prune(entries: Sequence[Entry], kinds: Sequence[str], of: str) -> list[Entry]:
    """Let go of checkpoints that are not kept any more. of: the kind that says which there are."""
    days = kept_checkpoints(entry.first for entry in entries if entry.kind == of)
    return [entry for entry in entries if entry.kind not in kinds or entry.first in days]


def within_reach(entries: Sequence[Entry], plan: Plan) -> list[Entry]:
    """What a tick reads of a shard's state: the checkpoint before it, what its tiers were made of, and days in reach of windows."""
    oldest = plan.first - YEAR - BASE

    def wanted(entry: Entry) -> bool:
        if entry.kind in (*CHECKPOINT, TIER_INPUT, TIER_INPUT_PATCH):
            return entry.first == plan.first - 1
        if entry.kind in TICK_DAYS:
            return oldest <= entry.first < plan.first
        return entry.kind != "day_block" or oldest <= entry.first <= plan.last

    return [entry for entry in entries if wanted(entry)]


class TickStage(EpochFold):
    """A stage that goes by the policy."""

    def __init__(self, stage: Stage, place: Place, bootstrap: str | None, policy: Policy) -> None:
        super().__init__(stage, place, bootstrap)
        self.policy = policy


class FeaturesStage(TickStage):
    """Epochs in, ticks out: for each tick of the plan, features from the epoch's state and the last checkpoint."""

    def fold(
        self, bucket: int, epoch: int, prev: int, blocks: list[pa.RecordBatch], state: pa.RecordBatch
    ) -> Generator[beam.pvalue.TaggedOutput, None, pa.RecordBatch]:
        """Run the bounded fold tick by tick. Returns the checkpoints."""
        standing, entries = [entry for entry in entries_of(blocks) if entry.kind in TICK_STATE], entries_of([state])
        ticks = ticks_of(blocks)
        for tick in ticks:
            place, plan = self.place_of(tick.number), tick.plan
            entries = [e for e in entries if e.first < plan.first and not plan.anew]
            some, held = within_reach(standing, plan), within_reach(entries, plan)
            out = Outbox(self.stage.routes, bucket, self.place.shards)
            fold = FoldFeaturesShard(place, self.policy, plan)
            out.take(fold.process((bucket, [state_block([*some, *held])])))
            for name in ("to_extract", "to_tiers"):
                own = out.blocks[name][bucket]
                out.blocks[name][bucket] = [with_facts(block, tick=tick.to_json()) for block in own]
            made = [e for commit in place.reported for e in commit.entries if e.kind in MADE]
            replaced = {kind for commit in place.reported for kind in commit.replaces}
            entries = [e for e in entries if e.kind not in replaced]
            if tick is ticks[-1]:
                base = [e for e in (*some, *made) if e.kind in BASE_STATE]
                out.blocks["to_tiers"][bucket].append(tag(entries_to_batch(base), "base"))
            yield from out.send(f"{self.stage.name}-{bucket:04d}", tick.number, tick.prev)
            entries = prune([*entries, *made], (*CHECKPOINT, TIER_INPUT, TIER_INPUT_PATCH), "windows")
        return state_block(entries)


class TiersStage(TickStage):
    """Ticks: tiers from the features of a tick, its cut-offs, and the tiers of the checkpoint before it."""

    def fold(
        self, bucket: int, epoch: int, prev: int, blocks: list[pa.RecordBatch], state: pa.RecordBatch
    ) -> Generator[beam.pvalue.TaggedOutput, None, pa.RecordBatch]:
        """Run the bounded fold on a tick; sends on what the epoch ends with. Returns the tiers and cut-offs to go on from."""
        kinds, entries = by_kind(blocks), entries_of([state])
        tick = Tick.from_json(fact(kinds["state"][0], "tick"))
        place, plan = self.place_of(tick.number), tick.plan
        before = [e for e in entries if e.first < plan.first and not plan.anew]
        checkpoint = [e for e in before if e.first <= plan.first - 1 <= e.last]
        held = state_block([*entries_of(blocks), *checkpoint])
        fold = FoldTiersShard(place, self.policy, plan)
        out = Outbox(self.stage.routes, bucket, self.place.shards)
        out.take(fold.process((bucket, [held, *kinds.get("cutoffs", [])])))
        told = out.blocks["to_plan_actions"]
        told[0] = [with_facts(block, tick=tick.to_json()) for block in told[0]]
        last = self._cutoffs_of(place, bucket, kinds.get("cutoffs", []), plan.last)
        made = [e for commit in place.reported for e in commit.entries if e.kind in ("tiers", "abuse_ladder")]
        for base in kinds.get("base", []):
            after = state_block([*entries_from_batch(base), *made, *last])
            out.take([(bucket, with_facts(after, tick=tick.to_json()))])
        yield from out.send(f"{self.stage.name}-{bucket:04d}", tick.number, tick.prev)
        return state_block(prune([*before, *made, *last], ("tiers", "abuse_ladder", CUTOFFS_BEFORE), "tiers"))

    def _cutoffs_of(self, place: Place, bucket: int, blocks: Sequence[pa.RecordBatch], day: int) -> list[Entry]:
        """The last day's cut-offs, kept for the day after it."""
        table = concat(blocks, CUTOFFS.schema).cast(CUTOFFS.schema)
        dates = table["service_date"].cast(pa.int32())
        mine = table.filter(pc.equal(dates, day))
        if mine.num_rows == 0:
            return []
        path = place.path(CUTOFFS_BEFORE, bucket, "parquet")
        return [place.store().write_parquet(path, CUTOFFS_BEFORE, bucket, mine, (day, day))]


class ActionsStage(TickStage):
    """Ticks: the plan of service actions, in the first bucket, which hears of all shards. It keeps what plans go on from."""

    def initial(self, bucket: int) -> pa.RecordBatch:
        """What the snapshot holds; the files are of no shard."""
        held = read_entries(self.place.store(), self.bootstrap, WHOLE) if self.bootstrap else []
        return state_block([entry for entry in held if entry.kind in self.stage.keeps])

    def fold(
        self, bucket: int, epoch: int, prev: int, blocks: list[pa.RecordBatch], state: pa.RecordBatch
    ) -> Generator[beam.pvalue.TaggedOutput, None, pa.RecordBatch]:
        """Run the bounded step on a tick. Returns what plans go on from."""
        tick = Tick.from_json(fact(next(block for block in blocks if kind_of(block) == CANDIDATES), "tick"))
        place, plan = self.place_of(tick.number), tick.plan
        before = [e for e in entries_of([state]) if e.first < plan.first and not plan.anew]
        list(PlanActionsOf(place, self.policy, plan).process((bucket, [state_block(before), *blocks])))
        made = [e for commit in place.reported for e in commit.entries if e.kind == PLAN_STATE]
        yield from ()
        return state_block(prune([*before, *made], (PLAN_STATE,), PLAN_STATE))
