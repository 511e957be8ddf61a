"""`wattier run`: take in what has landed, move the service days on, audit, publish."""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.calendar import Calendar
from pipelines.config import Config
from pipelines.generations import RowCounts, make_generation
from pipelines.landing import Landed, discover
from pipelines.plan import Decision, Standing, decide, months_of
from pipelines.publish import Publisher
from pipelines.restate import Concerns, Restatement, put_right_up_to, spans
from pipelines.warehouse import Draft, Warehouse, commit_point
from schemas.errors import StateError, WattierError
from transforms.checkpoints import DAY_STATE, METER_STATE, PLAN_STATE, REFERENCE_STATE
from transforms.fold_days import CALENDAR_SCHEMA
from transforms.fold_features import Plan
from transforms.kernels.windows import date_of, day_of
from transforms.patches import PATCHED
from transforms.read_files import delivery_to_json, read_faults
from transforms.restate_features import Correction
from transforms.service_actions import CANDIDATES, planned_before
from transforms.shards import STATE_LIST, Place, state_block
from transforms.storage import Commit, Entry, entries_to_batch
from transforms.tick_stages import MADE, TICK_STATE, within_reach

INTAKE_BYTES = 64 << 20
"""Landed files are taken in this many bytes at a time, so that memory stays bounded."""

COMPRESSION = {".gz": 6, ".parquet": 3}
"""How much larger a file is taken to be once it is read, by suffix."""

TICK_STAGES: dict[str, int | None] = {"features": None, "cutoffs": 1, "tiers": None, "actions": 1}
"""Stages that move service days on, and how many parts each reports; None: one for each shard."""

ACCOUNT_STATE = (*REFERENCE_STATE, *DAY_STATE)

Progress = Callable[[str, int, int], None]
"""Told of every step: what is being done, steps done, steps in all."""


@dataclass
class RunReport:
    """What a run did. days_by_account: of the days made, those that were put right for the accounts concerned alone."""

    generation: int
    through: date | None
    published: bool
    files: int = 0
    redelivered: int = 0
    days: int = 0
    days_by_account: int = 0
    restated_from: date | None = None
    restated_tiers: int = 0
    held: str | None = None
    unmatched: int = 0
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return json.loads(json.dumps(vars(self), default=str))  # type: ignore[no-any-return]


def _quiet(what: str, done: int, of: int) -> None:
    """No progress is shown."""


def run(
    config: Config, *, through: date | None = None, beam_options: Sequence[str] = (), audit: bool = True,
    overrides: frozenset[str] = frozenset(), progress: Progress = _quiet,
) -> RunReport:  # fmt: skip
    """Bring the marts up to date. Raises WattierError; the last publication then stands as it was.

    through: last service day to publish; None: the last complete one. beam_options: passed to Beam as they are.
    """
    warehouse = Warehouse(config.warehouse)
    with warehouse.lock():
        publisher = Publisher(warehouse)
        publisher.recover()
        return _Run(config, warehouse, publisher, beam_options, progress).go(through, audit, overrides)


class _Run:
    """One run, under the lock."""

    def __init__(
        self,
        config: Config,
        warehouse: Warehouse,
        publisher: Publisher,
        beam_options: Sequence[str],
        progress: Progress,
    ) -> None:
        self.config, self.warehouse, self.publisher = config, warehouse, publisher
        self.beam_options, self.progress = beam_options, progress
        self.standing = warehouse.load()
        self.started = datetime.now(UTC)
        self.draft = Draft(list(self.standing.entries))
        self.number = self.standing.number + 1
        self.attempt = f"data/{self.number:06d}-{uuid.uuid4().hex[:8]}"
        self.steps = 0
        self.counts = RowCounts()
        self.restate: list[int] = []
        self.concerns = Concerns()
        warehouse.check_shards(self.standing, config.settings.shards)
        warehouse.check_currency(self.standing, config.currency)

    def go(self, through: date | None, audit: bool, overrides: frozenset[str]) -> RunReport:
        last = self.standing.last_delivery
        landed = discover(self.config.landing, self.config.sources, self.standing.deliveries, last)
        with _Clock() as clock:
            self._take_in(landed)
        seconds = {"take_in": clock.seconds}
        commit_point("after_intake")
        counts = self.counts.balance(Counter(d.source for d in landed.deliveries), landed.redelivered)

        rows = pa.concat_tables([self._table(e) for e in self._of("calendar")] or [CALENDAR_SCHEMA.empty_table()])
        calendar = Calendar.of(rows)
        before = self.standing.through
        standing = Standing(
            before,
            self.standing.header.get("first"),
            tuple(self.draft.checkpoints()),
            self.standing.header.get("policy"),
        )
        asked = day_of(through) if through else None
        decision = decide(calendar, self.config.policy, standing, self.restate, asked)
        end, first, days = decision.end, decision.first, decision.days
        with _Clock() as clock:
            up_to = put_right_up_to(
                self.draft, self.warehouse.store, calendar, self.config.policy, standing, decision, self.concerns,
                self.config.settings.shards,
            )  # fmt: skip
            by_account = 0 if up_to is None else up_to - first + 1
            if up_to is not None:
                decision = self._restate(decision, standing, up_to)
                days = by_account + decision.days
            if decision.spans:
                self._tick(decision)
            elif end is None:
                self.draft.unpublish()
        seconds["tick"] = clock.seconds
        commit_point("after_tick")
        report = RunReport(
            self.standing.number, date_of(end) if end is not None else None, False, len(landed.deliveries),
            sum(landed.redelivered.values()), days, by_account, counts=counts, seconds=seconds,
        )  # fmt: skip
        if before is not None and first <= before and (days or end is None):
            report.restated_from = date_of(first)
        report.held = calendar.held(self.config.policy, end) if calendar else None
        report.unmatched = landed.unmatched
        landed_any = landed.register.num_rows > self.standing.deliveries.num_rows
        if not (days or landed_any or end != before or self._day_close_changed()):
            return report
        generation = make_generation(
            self.standing,
            self.draft.entries,
            self.config,
            self.started,
            landed.register,
            calendar,
            end,
            counts,
            report.held,
            max([last, *(delivery.seq for delivery in landed.deliveries)]),
        )
        with _Clock() as clock:
            facts = {source: (c["read"], c["rejected"]) for source, c in counts.items()}
            self.publisher.publish(
                self.standing, generation, self.config, self.started, restated_from=report.restated_from,
                corrected_from=date_of(min(self.restate)) if self.restate else None, facts=facts, audit=audit,
                overrides=overrides, progress=self.progress, fresh=self.draft.fresh,
            )  # fmt: skip
        seconds["publish"] = clock.seconds
        report.restated_tiers = self._restated_tiers(generation.number)
        self._clean_up()
        report.generation, report.published = generation.number, True
        return report

    # --- taking in -----------------------------------------------------------------------------------------------------
    def _take_in(self, landed: Landed) -> None:
        from pipelines.graph import take_in

        batches = list(_in_portions(landed))
        for number, deliveries in enumerate(batches, 1):
            self.progress("taking in", number - 1, len(batches))
            place = self._place()
            with self._pipeline() as p:
                accounts = self._hand_out(place, "accounts", self._by_shard(ACCOUNT_STATE))
                meters = self._hand_out(place, "meters", self._by_shard(METER_STATE))
                take_in(p, place, self.config.sources, deliveries, self.config.policy, accounts, meters)
            commits = self._commits(place, {"reference": None, "meters": None, "days": None, "read": len(deliveries)})
            self.draft.apply(commits)
            self.counts.take(commits)
            self.concerns.take(commits)
            self.restate += [c.restate_from for c in commits if c.restate_from is not None]
            self.progress("taking in", number, len(batches))

    # --- moving on -----------------------------------------------------------------------------------------------------
    def _day_close_changed(self) -> bool:
        held = self.standing.header.get("day_close")
        return held is not None and held != self.config.policy.day_close.model_dump()

    def _tick(self, decision: Decision) -> None:
        """Roll from the last checkpoint on, a month at a time."""
        from pipelines.graph import tick

        assert decision.end is not None
        self.draft.drop_from(decision.drop_from)
        end = decision.end
        keep = self.config.settings.retention
        features_from, consumption_from = end - keep.features + 1, end - keep.daily_consumption + 1
        spans = decision.spans
        for number, (a, b) in enumerate(spans):
            self.progress(f"service days to {date_of(b)}", number, len(spans))
            plan, place = Plan(a, b, features_from, consumption_from), self._place()
            with self._pipeline() as p:
                states = self._hand_out(place, "accounts", self._tick_states(plan))
                held = [e for e in self._of(PLAN_STATE) if e.first == a - 1]
                tick(p, place, self.config.policy, plan, states, [planned_before(held)])
            self.draft.apply(self._commits(place, TICK_STAGES))
            self.draft.prune(keep, end)
            self.progress(f"service days to {date_of(b)}", number + 1, len(spans))

    def _restate(self, decision: Decision, standing: Standing, last: int) -> Decision:
        """Put past days up to `last` right for the accounts concerned. Returns what is left to make."""
        from pipelines.graph import restate

        assert decision.end is not None
        held = {kind: min((e.first for e in self._of(kind)), default=last + 1) for kind in PATCHED}
        work = Restatement(self.draft, self.warehouse.store, self.concerns, self.config.settings.shards)
        assert standing.first is not None
        ends = (standing.first - 1, *standing.checkpoints)  # before the first day there is nothing to take up
        stretches = list(spans(ends, decision.first, last))
        for number, (a, b) in enumerate(stretches):
            self.progress(f"service days to {date_of(b)}, again", number, len(stretches))
            plan = Correction(a, b, ends, last, *held.values())
            place = self._place()
            with self._pipeline() as p:
                states = self._hand_out(place, "accounts", work.states(plan))
                restate(p, place, self.config.policy, plan, states, [planned_before(work.plans())])
            work.take(place, plan, self._commits(place, TICK_STAGES))
            self.progress(f"service days to {date_of(b)}, again", number + 1, len(stretches))
        return replace(decision, start=last + 1, drop_from=last + 1, spans=tuple(months_of(last + 1, decision.end)))

    def _tick_states(self, plan: Plan) -> Iterator[tuple[int, list[Entry]]]:
        for shard, entries in self._by_shard((*TICK_STATE, *MADE)):
            yield shard, within_reach(entries, plan) + self._cutoffs_before(plan.first)

    def _cutoffs_before(self, day: int) -> list[Entry]:
        return [replace(e, kind="cutoffs_before") for e in self._of("mart:cutoffs") if e.first <= day - 1 <= e.last]

    # --- the runner ----------------------------------------------------------------------------------------------------
    def _pipeline(self) -> Any:
        from pipelines.runner import new_pipeline

        return new_pipeline(self.beam_options)

    def _place(self) -> Place:
        self.steps += 1
        return Place(self.warehouse.root, f"{self.attempt}/{self.steps:04d}", self.config.settings.shards)

    def _commits(self, place: Place, stages: dict[str, int | None]) -> list[Commit]:
        """What the stages report. Every shard must have, empty ones included; a file-level fault stops the run."""
        store = self.warehouse.store
        if faults := read_faults(store, place.folder):
            error = WattierError("\n".join(fault["message"] for fault in faults))
            error.exit_code = faults[0]["exit_code"]
            raise error
        commits = list(Commit.read_all(store, place.folder))
        for stage, wanted in stages.items():
            got = sum(commit.stage == stage for commit in commits)
            if got != (wanted if wanted is not None else place.shards):
                raise StateError(
                    f"{place.folder}: stage {stage} reported {got} of {wanted or place.shards} parts; run again"
                )
        return sorted(commits, key=lambda commit: list(stages).index(commit.stage))

    def _hand_out(
        self, place: Place, name: str, states: Iterable[tuple[int, list[Entry]]]
    ) -> list[tuple[int, pa.RecordBatch]]:
        """Each shard's entries, in a file of the run: what goes through the graph is where they stand."""
        blocks = [(shard, entries_to_batch(entries)) for shard, entries in states]
        lists = self.warehouse.store.write_blocks(f"{place.folder}/states/{name}.arrow", STATE_LIST, -1, blocks)
        return [(entry.first, state_block([entry])) for entry in lists]

    def _by_shard(self, kinds: Sequence[str]) -> Iterator[tuple[int, list[Entry]]]:
        found: dict[int, list[Entry]] = {shard: [] for shard in range(self.config.settings.shards)}
        for entry in self._of(*kinds):
            found[entry.shard].append(entry)
        yield from found.items()

    def _of(self, *kinds: str) -> list[Entry]:
        return [entry for entry in self.draft.entries if entry.kind in kinds]

    def _table(self, entry: Entry) -> pa.Table:
        return self.warehouse.store.read_table(entry)

    # --- the publication -----------------------------------------------------------------------------------------------
    def _restated_tiers(self, number: int) -> int:
        """How many stretches of tiers this publication gave otherwise than an earlier one."""
        table = self.warehouse.load().tables.get("tier_restatements")
        return 0 if table is None else int(pc.sum(pc.equal(table["generation"], number)).as_py() or 0)

    def _clean_up(self) -> None:
        """Commit records, lists of state and candidates are of no use once the run is published."""
        for part in ("commits", "states", CANDIDATES):
            for folder in (Path(self.warehouse.root) / self.attempt).glob(f"*/{part}"):
                shutil.rmtree(folder, ignore_errors=True)


def _in_portions(landed: Landed) -> Iterator[list[str]]:
    """Deliveries as JSON, some at a time. Reference data that came with or before a portion's events goes with it."""
    portion: list[str] = []
    size = 0
    for delivery, size_bytes in zip(landed.deliveries, landed.sizes, strict=True):
        weight = size_bytes * max(
            (ratio for end, ratio in COMPRESSION.items() if delivery.uri.endswith(end)), default=1
        )
        if portion and size + weight > INTAKE_BYTES:
            yield portion
            portion, size = [], 0
        portion.append(delivery_to_json(delivery))
        size += weight
    if portion:
        yield portion


class _Clock:
    """Wall seconds of a block."""

    def __enter__(self) -> _Clock:
        self._start = time.perf_counter()
        self.seconds = 0.0
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = round(time.perf_counter() - self._start, 3)
