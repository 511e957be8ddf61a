"""Where an epoch ends: how far each input goes into it is written down first, once, and then followed.

A runner that fails goes back to its last checkpoint and repeats what came after. The files that say how epochs were cut
are still there then, and cut them the same way again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.coders import StrUtf8Coder
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.userstate import ReadModifyWriteStateSpec, TimerSpec, on_timer
from apache_beam.utils.timestamp import Timestamp

from pipelines.landing import discover, keep_below
from pipelines.stalls import Stall, find_stalls, write_stalls
from pipelines.warehouse import DELIVERIES_SCHEMA
from schemas.mapping import SourceMapping
from transforms.blocks import Keyed, fact, kind_of
from transforms.epochs import parcels
from transforms.inbox import Cut, Stretches, cut_path, landed_folder
from transforms.metrics import metric
from transforms.parts import file_part, is_partition
from transforms.read_files import delivery_to_json, faulty
from transforms.shards import Place

READINGS = ("meter_readings", "register_readings")
"""Sources by which a service day is complete."""

SILENT_SECONDS = 10
"""A partition that was to show a sign of life is waited for so long."""

NO_LIMIT = 1 << 20
"""`through` of a cut where no input says how far days may close."""


def now() -> Timestamp:
    """The moment, by the clock that timers go by."""
    return Timestamp.now()


@dataclass(frozen=True)
class Inputs:
    """What a stream reads.

    topics: part -> source, of every partition; begins: part -> offset the stream starts from. landing: folder, or None.
    seq: number of the last delivery before the stream. register: path of the file register it starts from.
    through: last service day published before it.
    """

    topics: dict[str, str]
    begins: dict[str, int]
    landing: str | None
    seq: int
    register: str
    through: int | None = None


@dataclass(frozen=True)
class Pace:
    """When to cut: every so many seconds where there is something new, or after so many rows.

    idle_seconds: a partition shows a sign of life after so long without messages, unless it is stalled.
    settle_seconds: a landed file that was written to so lately may still be on its way, and is left for the next look.
    """

    seconds: float = 5.0
    rows: int = 1_000_000
    out_of_order_days: int = 1
    idle_seconds: int = 30
    settle_seconds: float = 0.0


@dataclass
class Heard:
    """What the cutter knows. last_day: part -> last service day seen; idle: parts without messages for a while.

    moved: when the last day of a part, or whether it is idle, was another; marked: when a part was last heard of.
    """

    number: int = 0
    seq: int = -1
    rows: int = 0
    through: int | None = None
    parts: dict[str, Stretches] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    last_day: dict[str, int] = field(default_factory=dict)
    idle: dict[str, bool] = field(default_factory=dict)
    moved: dict[str, float] = field(default_factory=dict)
    marked: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        """As text."""
        parts = {name: part.to_list() for name, part in self.parts.items()}
        return json.dumps({**vars(self), "parts": parts})

    @classmethod
    def from_json(cls, text: str) -> Heard:
        """From text."""
        value = json.loads(text)
        parts = {name: Stretches.from_list(part) for name, part in value["parts"].items()}
        return cls(**{**value, "parts": parts})


@beam.typehints.with_output_types(Keyed, plan=Keyed, deliveries=tuple[int, str])
class CutEpochs(beam.DoFn):
    """Marks of all parts -> cuts: to every inbox, and to the planner; landed files to `deliveries`."""

    STATE = ReadModifyWriteStateSpec("state", StrUtf8Coder())
    CUT = TimerSpec("cut", TimeDomain.REAL_TIME)

    def __init__(self, place: Place, inputs: Inputs, mappings: dict[str, SourceMapping], pace: Pace) -> None:
        self.place, self.inputs, self.mappings, self.pace = place, inputs, dict(mappings), pace
        self._known: tuple[int, pa.Table] | None = None
        self.cuts = metric("epochs_cut")
        self.lag, self.held_open = metric("watermark_day"), metric("held_open_seconds")
        self._stalls: list[Stall] | None = None  # what another process wrote is not known

    def process(
        self,
        element: Keyed,
        state: Any = beam.DoFn.StateParam(STATE),  # noqa: B008
        cut: Any = beam.DoFn.TimerParam(CUT),  # noqa: B008
    ) -> Iterator[Any]:
        """element: (0, mark), or (0, block of kind start) once."""
        block, held = element[1], state.read()
        heard = Heard.from_json(held) if held else self._start()
        if kind_of(block) == "start":
            yield from self._cut(heard)
            cut.set(now() + self.pace.seconds)
        else:
            part, first, after = fact(block, "part"), int(fact(block, "first")), int(fact(block, "next"))
            if after > first:
                heard.parts[part].note(first, after, 1)
                heard.rows += int(fact(block, "rows"))
            self._note_life(heard, part, fact(block, "last_day"), idle=fact(block, "idle") == "1")
            if heard.rows >= self.pace.rows:
                yield from self._cut(heard)
        state.write(heard.to_json())

    @on_timer(CUT)
    def on_cut(
        self,
        state: Any = beam.DoFn.StateParam(STATE),  # noqa: B008
        cut: Any = beam.DoFn.TimerParam(CUT),  # noqa: B008
    ) -> Iterator[Any]:
        """Every so often."""
        heard = Heard.from_json(state.read())
        yield from self._cut(heard)
        state.write(heard.to_json())
        cut.set(now() + self.pace.seconds)

    def _start(self) -> Heard:
        begins = self.inputs.begins
        parts, at = {p: Stretches(at) for p, at in begins.items()}, time.time()
        since = dict.fromkeys(parts, at)
        through, seq = self.inputs.through, self.inputs.seq
        return Heard(seq=seq, through=through, parts=parts, ends=dict(begins), moved=since, marked=dict(since))

    def _note_life(self, heard: Heard, part: str, last_day: str, *, idle: bool) -> None:
        """A part was heard of. last_day: latest service day it has brought, or empty."""
        before = heard.last_day.get(part), heard.idle.get(part, False)
        if last_day:
            heard.last_day[part] = max(int(last_day), heard.last_day.get(part, int(last_day)))
        heard.idle[part], heard.marked[part] = idle, time.time()
        if before != (heard.last_day.get(part), idle):
            heard.moved[part] = heard.marked[part]

    def _cut(self, heard: Heard) -> Iterator[Any]:
        """Cut an epoch, if there is something new; first all those that were written down before."""
        store, folder = self.place.store(), self.place.folder
        while store.exists(path := cut_path(folder, heard.number + 1)):
            yield from self._follow(heard, Cut.read(store, folder, heard.number + 1))
        self._tell_stalls(heard)
        cut = self._next(heard)
        if cut is not None:
            store.create_bytes(path, cut.to_json().encode())
            yield from self._follow(heard, Cut.read(store, folder, cut.number))

    def _next(self, heard: Heard) -> Cut | None:
        """What would be cut now; None where nothing is new."""
        known_at, seq = datetime.now(UTC).isoformat(timespec="seconds"), heard.seq
        ends = {part: at.next for part, at in heard.parts.items() if at.next > heard.ends[part]}
        begins = {part: heard.ends[part] for part in ends}
        rows: list[list[Any]] = []
        seqs: dict[str, int] = {}
        deliveries: list[str] = []
        for part in sorted(ends):
            seq += 1
            seqs[part] = seq
            uri = f"{part}:{begins[part]}-{ends[part]}"
            sha = hashlib.sha256(uri.encode()).hexdigest()
            rows.append([seq, self.inputs.topics[part], uri, sha, 0, 0, known_at])
        aside: tuple[str, ...] = ()
        if self.inputs.landing is not None:
            register = self._register(heard)
            keep = keep_below(self.place.store(), landed_folder(self.place.folder))
            landed = discover(self.inputs.landing, self.mappings, register, seq, keep, self.pace.settle_seconds)
            aside = landed.aside
            deliveries = [delivery_to_json(d) for d in landed.deliveries]
            rows += [list(row.values()) for row in landed.register.slice(register.num_rows).to_pylist()]
            for delivery in landed.deliveries:
                part = file_part(delivery.seq)
                begins[part], ends[part], seqs[part] = 0, 1, delivery.seq
        through = self._through(heard)
        if not rows and through == heard.through:
            return None
        register_of = tuple(map(tuple, rows))
        return Cut(heard.number + 1, begins, ends, seqs, known_at, tuple(deliveries), through, register_of, aside)

    def _passed(self, heard: Heard) -> dict[str, int | None]:
        """The last service day that each partition of readings has passed, None where that is not known."""
        yesterday = int(time.time() // 86_400) - 1
        late = self.pace.out_of_order_days
        known: dict[str, int | None] = {part: day - late for part, day in heard.last_day.items()}
        parts = [part for part, source in self.inputs.topics.items() if source in READINGS]
        alive = self._alive_since()  # a partition that died while it was idle has not passed the days since
        idle = {part for part in parts if heard.idle.get(part) and heard.marked.get(part, 0.0) >= alive}
        return {part: yesterday if part in idle else known.get(part) for part in parts}

    def _alive_since(self) -> float:
        """Since when a partition must have shown a sign of life."""
        return time.time() - 2 * self.pace.idle_seconds - SILENT_SECONDS

    def _through(self, heard: Heard) -> int | None:
        """Last service day that may close: what the slowest partition of readings has passed."""
        passed = self._passed(heard).values()
        if not passed:
            return NO_LIMIT
        if any(day is None for day in passed):
            return heard.through
        return max(min(day for day in passed if day is not None), heard.through or 0)

    def _tell_stalls(self, heard: Heard) -> None:
        """Write down who is waited for, where that has changed since this process wrote it last."""
        passed = self._passed(heard)
        days = {part: day if heard.idle.get(part) else heard.last_day.get(part) for part, day in passed.items()}
        stalls = find_stalls(days, heard.idle, heard.moved, heard.marked, self._alive_since())
        held = [stall.since for stall in stalls if stall.others is not None]
        self.held_open.set(int(time.time()) - min(held) if held else 0)
        if stalls != self._stalls:
            write_stalls(self.place.store(), self.place.folder, stalls)
            self._stalls = stalls

    def _follow(self, heard: Heard, cut: Cut) -> Iterator[Any]:
        """Send a cut on, and go on from it."""
        heard.number, heard.through, heard.rows = cut.number, cut.through, 0
        heard.seq = max([heard.seq, *(row[0] for row in cut.register)])
        heard.ends |= {part: end for part, end in cut.ends.items() if part in self.inputs.topics}
        self.cuts.inc()
        if cut.through is not None:
            self.lag.set(cut.through)
        block = cut.to_block()
        for bucket in range(self.place.shards):
            yield bucket, block
        for parcel in parcels({0: [block]}, [0], "cutter", cut.number, cut.number - 1):
            yield beam.pvalue.TaggedOutput("plan", parcel)
        for text in cut.deliveries:
            yield beam.pvalue.TaggedOutput("deliveries", (cut.number, text))

    def _register(self, heard: Heard) -> pa.Table:
        """The file register: as the stream found it, and what was cut since. Each cut is read once in a process.

        Files that turned out to have a fault were not delivered: the same content counts when it lands as another file.
        Stretches of topics are of no interest here.
        """
        store = self.place.store()
        if self._known is None:
            self._known = 0, store.open_blocks(self.inputs.register).read_all()
        number, register = self._known
        cuts = (Cut.read(store, self.place.folder, n) for n in range(number + 1, heard.number + 1))
        rows = [row for cut in cuts for row in cut.register if not is_partition(row[2])]
        self._known = max(number, heard.number), pa.concat_tables([register, register_rows(rows)])
        return without_content(self._known[1], faulty(store, self.place.folder))


def register_rows(rows: Any) -> pa.Table:
    """Rows of a cut as the file register has them."""
    columns = [pa.array([row[i] for row in rows], f.type) for i, f in enumerate(DELIVERIES_SCHEMA)]
    return pa.table(columns, schema=DELIVERIES_SCHEMA)


def without_content(register: pa.Table, seqs: Iterable[int]) -> pa.Table:
    """The register with nothing known of what some deliveries held."""
    gone = pc.is_in(register["seq"], value_set=pa.array(seqs, pa.int32()))
    return register.set_column(3, DELIVERIES_SCHEMA.field("sha256"), pc.if_else(gone, "", register["sha256"]))
