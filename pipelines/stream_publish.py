"""The publisher of a stream: what its epochs have written becomes publications, in order, as in a bounded run.

It shares nothing with the job but files. It can be stopped and started at any moment, on its own; the warehouse's pointer
says how far it came.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from pipelines.calendar import Calendar
from pipelines.config import Config
from pipelines.cut import register_rows
from pipelines.generations import RowCounts, make_generation
from pipelines.plan import Decision, made_under
from pipelines.publish import Publisher
from pipelines.stalls import read_stalls
from pipelines.tier_changes import TABLE, Early, EarlyFiles, tell
from pipelines.waiting import waits_for
from pipelines.warehouse import DELIVERIES_SCHEMA, TAKEN_IN, Draft, Generation, Warehouse, commit_point
from schemas.errors import AuditFailed, StateError
from transforms.checkpoints import DAY_STATE, METER_STATE
from transforms.epochs import epoch_folder, tick_folder
from transforms.fold_days import CALENDAR_SCHEMA
from transforms.inbox import Cut, cut_path
from transforms.kernels.windows import date_of
from transforms.logs import merge, to_merge
from transforms.parts import is_file, is_partition
from transforms.provisional import reach
from transforms.read_files import fault_path
from transforms.shards import Place
from transforms.storage import Commit, Entry
from transforms.tick_stages import Tick

REGISTERED_CONTENT = DELIVERIES_SCHEMA.get_field_index("sha256")
EPOCH_STAGES = ("reference", "meters", "days", "inbox", "read")


@dataclass
class Since:
    """What came since the last publication. stretches: of topics, as the register has deliveries. first: first day made
    anew; restate: first day that deliveries changed.
    """

    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    counts: RowCounts = field(default_factory=RowCounts)
    files: Counter[str] = field(default_factory=Counter)
    redelivered: Counter[str] = field(default_factory=Counter)
    stretches: list[tuple[Any, ...]] = field(default_factory=list)
    first: int | None = None
    restate: int | None = None
    days: int = 0
    epochs: int = 0


@dataclass(frozen=True)
class Published:
    """One publication, or one that the audit held back."""

    generation: int
    epoch: int
    through: int | None
    days: int
    restated_from: int | None
    rows: int
    held: str | None = None

    def __str__(self) -> str:
        reach = f"through {date_of(self.through)}" if self.through is not None else "no service day yet"
        again = f", made anew from {date_of(self.restated_from)}" if self.restated_from is not None else ""
        if self.held:
            return f"Held by the audit, {reach}: {self.held}"
        return f"Published generation {self.generation}, {reach}{again}; {self.rows:,} rows, epoch {self.epoch}."


class StreamPublisher:
    """Publishes what one stream writes. The caller holds the warehouse's lock.

    within: how far the epochs taken up reach; made: how far those whose service days were made. undecided: whether days
    that are published may have changed and were not made anew, because it is not known yet how far days may close, or no
    day is complete any more. That is not published: the marts would not be those of the accepted rows, and who goes on
    from them would not know. Changes of later days alone are: these are made in any case. through: last service day that may
    close, by the epoch taken up last. untold: whether the changes of
    the standing publication are still to be told; untold_since: when that failed last, by the monotonic clock.
    """

    def __init__(
        self, config: Config, folder: str, *, audit: bool = True, overrides: frozenset[str] = frozenset()
    ) -> None:
        self.config, self.folder, self.audit, self.overrides = config, folder, audit, overrides
        self.warehouse = Warehouse(config.warehouse)
        self.publisher = Publisher(self.warehouse)
        self.publisher.recover()
        self.standing = self.warehouse.load()
        stream = self.standing.header.get("stream", {})
        mine = stream.get("folder") == folder
        began = self.warehouse.store.read_json(f"{folder}/stream.json")
        if not mine and began["generation"] != self.standing.number:
            raise StateError(
                f"the stream in {folder} began with generation {began['generation']}, but {self.standing.number} stands: another "
                "run has published since. Stop the job, and start the stream anew; it goes on from what is published."
            )
        now = {"shards": config.settings.shards, **made_under(config.policy)}
        if changed := [name for name, value in now.items() if began.get(name, value) != value]:
            raise StateError(
                f"the stream in {folder} makes its days by another {' and '.join(changed)} than the configuration says now. Stop "
                "the job, and start the stream anew; it goes on from what is published."
            )
        self.epoch: int = stream["epoch"] if mine else 0
        # Also of partitions that had no message yet: by the next start the earliest may be a later one.
        self.offsets: dict[str, int] = dict(stream["offsets"] if mine else began.get("offsets", {}))
        self.within = dict(stream.get("within", self.offsets))
        self.made: dict[str, int] = dict(stream.get("made", {}))
        self.early = EarlyFiles(
            self.warehouse.store, folder, self.standing.tables.get("provisional_tiers"), stream.get("collected", ())
        )
        self.draft = Draft(list(self.standing.entries))
        self.register, self.last_delivery = self.standing.deliveries, self.standing.last_delivery
        self.end = self.standing.through
        self.since = Since()
        self.undecided = False
        self.through: int | None = None
        self.untold = True
        self.untold_since: float | None = None
        self._faults: list[str] = []

    # --- epochs --------------------------------------------------------------------------------------------------------
    def take(self) -> bool:
        """Take up the next epoch, if all of it is written. Returns whether it was."""
        found = self._read(self.epoch + 1)
        if found is None:
            return False
        cut, commits, plan, ticks = found
        store, faults = self.warehouse.store, self._faulty(cut)
        told = [store.read_json(fault_path(self.folder, seq))["message"] for seq in faults]
        self._faults = [*cut.aside, *told]
        since = self.since
        self.draft.apply(commits)
        since.counts.take(commits)
        since.epochs += 1
        # What was left aside is not registered: it is looked at again by the next run or stream, mended or not.
        rows = [row for row in cut.register if row[REGISTERED_CONTENT] and row[0] not in faults]
        self.register = pa.concat_tables(
            [self.register, register_rows([row for row in rows if not is_partition(row[2])])]
        )
        since.stretches += [row for row in rows if is_partition(row[2])]
        self.last_delivery = max([self.last_delivery, *(row[0] for row in cut.register)])
        self.offsets |= {part: end for part, end in cut.ends.items() if not is_file(part)}
        self.within, self.through = reach(self.within, cut.ends), cut.through
        since.files.update(row[1] for row in rows if row[0])
        since.redelivered.update(row[1] for row in rows if not row[0])
        restate = [c.restate_from for c in commits if c.restate_from is not None]
        since.restate = min([*restate, *([since.restate] if since.restate is not None else [])], default=None)
        decision = plan["decision"]
        self.undecided = self.end is not None and (decision is None or decision["end"] is None)
        if decision:
            self._decided(Decision(**{**decision, "spans": tuple(map(tuple, decision["spans"]))}), ticks)
        self.epoch += 1
        return True

    def _decided(self, decision: Decision, ticks: list[tuple[Tick, list[Commit]]]) -> None:
        if not decision.spans:
            return
        self.draft.drop_from(decision.drop_from)
        for _, commits in ticks:
            self.draft.apply(commits)
        assert decision.end is not None
        self.draft.prune(self.config.settings.retention, decision.end)
        self.end, self.made = decision.end, self.within
        self.since.days += decision.days
        self.since.first = min(decision.first, decision.first if self.since.first is None else self.since.first)

    def _read(self, epoch: int) -> tuple[Cut, list[Commit], dict[str, Any], list[tuple[Tick, list[Commit]]]] | None:
        """An epoch's cut, commits, plan and ticks; None while anything is missing."""
        store, folder = self.warehouse.store, epoch_folder(self.folder, epoch)
        if not store.exists(cut_path(self.folder, epoch)) or not store.exists(f"{folder}/plan.json"):
            return None
        cut = Cut.read(store, self.folder, epoch)
        plan = store.read_json(f"{folder}/plan.json")
        shards = self.config.settings.shards
        wanted = dict.fromkeys(EPOCH_STAGES, shards) | {"read": len(cut.deliveries) - len(self._faulty(cut))}
        commits = self._commits(folder, wanted)
        ticks: list[tuple[Tick, list[Commit]]] = []
        for text in plan["ticks"] if commits is not None else ():
            tick = Tick.from_json(text)
            made = self._commits(
                tick_folder(self.folder, tick.number),
                {"features": shards, "cutoffs": 1, "tiers": shards, "actions": 1},
            )
            if made is None:
                return None
            ticks.append((tick, made))
        return None if commits is None else (cut, commits, plan, ticks)

    def _faulty(self, cut: Cut) -> list[int]:
        """Numbers of an epoch's landed files that could not be read."""
        seqs = [seq for part, seq in cut.seqs.items() if is_file(part)]
        return [seq for seq in seqs if self.warehouse.store.exists(fault_path(self.folder, seq))]

    def _commits(self, folder: str, wanted: dict[str, int]) -> list[Commit] | None:
        commits = list(Commit.read_all(self.warehouse.store, folder))
        got = Counter(commit.stage for commit in commits)
        if any(got[stage] != number for stage, number in wanted.items()):
            return None
        return sorted(commits, key=lambda commit: list(wanted).index(commit.stage))

    # --- publications --------------------------------------------------------------------------------------------------
    def publish(self) -> Published:
        """Audit and publish what was taken up. Where the audit says no, the last publication stands, and more is waited for."""
        since, before = self.since, self.standing
        counts = since.counts.balance(since.files, since.redelivered)
        early = self.early.collect(self.made, self.end)
        calendar = self._calendar()
        held = calendar.held(self.config.policy, self.end) if calendar else None
        stream = {
            "folder": self.folder, "epoch": self.epoch, "offsets": self.offsets, "within": self.within, "made": self.made,
            "collected": sorted(self.early.seen),
        }  # fmt: skip
        stretches = self._stretches(before.number + 1)
        generation = make_generation(
            before,
            [*self.draft.entries, *stretches],
            self.config,
            since.started,
            self.register,
            calendar,
            self.end,
            counts,
            held,
            self.last_delivery,
            stream,
        )
        again = before.through is not None and since.first is not None and since.first <= before.through
        restated = since.first if again else None
        rows = sum(c["read"] for c in counts.values())
        out = Published(generation.number, self.epoch, self.end, since.days, restated, rows)
        try:
            self._publish(before, generation, counts, restated, early)
        except AuditFailed as error:
            return Published(**{**vars(out), "generation": before.number, "held": str(error)})
        self.standing, self.since = self.warehouse.load(), Since()
        self.draft.entries += stretches
        self.draft.fresh.clear()
        self.untold = True
        self._merge()
        return out

    def waiting(self) -> str:
        """What is waited for, in words, while nothing is published."""
        store, folder = self.warehouse.store, self.folder
        if self.since.epochs:
            counts, stalls = self.since.counts.totals, read_stalls(store, folder)
            return waits_for(counts, self._calendar(), self.config.policy, self.through, stalls)
        if store.exists(cut_path(folder, self.epoch + 1)):
            return "The job has rows and is at work on them."
        return "Nothing has come yet: the job is starting, or topics and landing folder hold nothing new."

    def _calendar(self) -> Calendar | None:
        """The calendar of all that was taken up."""
        tables = [self.warehouse.store.read_table(e) for e in self.draft.entries if e.kind == "calendar"]
        return Calendar.of(pa.concat_tables([CALENDAR_SCHEMA.empty_table(), *tables]))

    def _place(self) -> Place:
        """Where the publisher writes."""
        return Place(self.warehouse.root, epoch_folder(self.folder, self.epoch), self.config.settings.shards)

    def _stretches(self, generation: int) -> list[Entry]:
        """A file of the stretches of topics that were taken in."""
        rows, kind = self.since.stretches, "log:deliveries"
        if not rows:
            return []
        path = self._place().path(kind, generation, "parquet")
        return [self.warehouse.store.write_parquet(path, kind, -1, register_rows(rows))]

    def _merge(self) -> None:
        """Make larger files of small ones, of what no stage of the stream keeps; the next publication has them."""
        store, number = self.warehouse.store, self.standing.number
        files: dict[tuple[str, int], list[Entry]] = {}
        for entry in self.draft.entries:
            if entry.kind.startswith(TAKEN_IN) and entry.kind not in (*DAY_STATE, *METER_STATE):
                files.setdefault((entry.kind, entry.shard), []).append(entry)
        for (kind, shard), some in files.items():
            if small := to_merge(some):
                path = self._place().path(f"merged:{kind}-{number:06d}", shard, "parquet")
                gone = {entry.path for entry in small}
                kept = [entry for entry in self.draft.entries if entry.path not in gone]
                self.draft.entries = [*kept, merge(store, path, small)]

    def _publish(
        self, before: Generation, generation: Generation, counts: Any, restated: int | None, early: Early
    ) -> None:
        commit_point("after_tick")
        self.publisher.publish(
            before, generation, self.config, self.since.started,
            restated_from=date_of(restated) if restated is not None else None,
            corrected_from=date_of(self.since.restate) if self.since.restate is not None else None,
            facts={source: (c["read"], c["rejected"]) for source, c in counts.items()}, audit=self.audit,
            overrides=self.overrides, progress=lambda what, done, of: None, fresh=self.draft.fresh, early=early,
        )  # fmt: skip
        self.early.settle(early)

    def tell(self) -> bool:
        """Write what the standing publication changed to its topic, if that is still to be done; returns whether it was.

        A publisher that starts writes it again. Until it is written nothing more is to be published: a publication
        holds only its own changes. Raises WattierError where the broker does not take it.
        """
        kafka, changes = self.config.settings.kafka, self.standing.tables.get(TABLE)
        if not self.untold:
            return False
        if kafka and kafka.tier_changes_topic and changes is not None and changes.num_rows:
            tell(kafka, kafka.tier_changes_topic, changes)
        self.untold = False
        return True

    def faults(self) -> list[str]:
        """What is wrong with the landed files that were left aside in the epoch taken up last."""
        return self._faults
