"""The folds of the bounded run, epoch after epoch, in a pipeline that does not end.

An epoch is a numbered cut through all inputs, written down before anything is made of it (see `pipelines.cut`). What a
stage makes of an epoch depends on that epoch's input and on the state after the one before it alone; so it is the same
however often a runner repeats it, and a file that is written again is the same file.

A GroupByKey would never end here. In its place stands a count: a stage is keyed by bucket, one for each shard, and a
sender tells every bucket it writes to how many parcels it has sent there. A bucket that has heard from all its senders
has the whole epoch, and hands it to the bounded fold.

    parcel        (bucket, block), with the facts epoch, prev, from, nth and sent
    epoch, prev   its number, and the number of the one before it
    from, nth     the sender, and the parcel's place among those it sent to this bucket
    sent          on the last of these: how many they were; a sender with nothing to say sends one that holds nothing
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import apache_beam as beam
import pyarrow as pa
from apache_beam.coders import StrUtf8Coder
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec

from transforms.blocks import BlockCoder, Keyed, fact, kind_of, tag, with_facts
from transforms.kernels.key_groups import shard_of_key, stream_keys
from transforms.metrics import metric
from transforms.shards import STATE_LIST, Place, state_block
from transforms.storage import Commit, Entry, Store, entries_from_batch, entries_to_batch, taken_up

NOTHING = tag(pa.record_batch([], schema=pa.schema([])), "nothing")
"""What a sender sends that has nothing for a bucket."""

Blocks = Sequence[pa.RecordBatch]


@dataclass(frozen=True)
class EpochPlace(Place):
    """The place of one epoch; it remembers what was reported. A stream makes days anew for everybody."""

    names_concerned: ClassVar[bool] = False
    reported: list[Commit] = field(default_factory=list, compare=False)

    def report(self, commit: Commit) -> None:
        """Write what a stage has done, and keep it."""
        self.reported.append(commit)
        super().report(commit)


@dataclass(frozen=True)
class Route:
    """Where one output of a fold goes.

    output: the fold's output, None for the main one. name: the stage's output that carries it on.
    to: `every` bucket, the `own` one, or the `first`.
    """

    output: str | None
    name: str
    to: Literal["every", "own", "first"]

    def buckets(self, own: int, shards: int) -> Iterable[int]:
        """The buckets that are told something."""
        return {"every": range(shards), "own": [own], "first": [0]}[self.to]


def every(name: str, output: str | None = None) -> Route:
    """To all shards, or to names spread over them."""
    return Route(output, name, "every")


def own(output: str | None, name: str) -> Route:
    """From a shard to the same shard."""
    return Route(output, name, "own")


STATE_AFTER = "state_after"
"""The output that stands for the state a stage keeps, as it is after the epoch."""

REPORT = "report"
"""The output of what folds have reported, for the planner."""


@dataclass(frozen=True)
class Stage:
    """A fold as a stage of the stream.

    senders: how many a bucket hears from in an epoch. make: the fold for a place; None where the stage has one of its own.
    keeps: kinds of state that stay with the stage; empty: it keeps none, and takes epochs as they come. by_name: the fold
    is keyed by name; several names share a bucket. reports: whether the planner wants to know.
    ticks: what it writes is numbered by ticks, not by epochs.
    """

    name: str
    senders: int
    make: Callable[..., beam.DoFn] | None
    routes: tuple[Route, ...]
    keeps: tuple[str, ...] = ()
    by_name: bool = False
    reports: bool = False
    ticks: bool = False


@dataclass
class Progress:
    """What a bucket has heard. open: epoch -> [parcels got, parcels announced, senders done, number of the one before].

    >>> heard = Progress()
    >>> heard.note(1, 0, 0); heard.note(1, 0, 2); heard.ready(1, ordered=True)
    1
    """

    done: int = 0
    open: dict[int, list[int]] = field(default_factory=dict)

    def note(self, epoch: int, prev: int, sent: int) -> None:
        """One more parcel. sent: how many its sender sent, 0 where more will come."""
        heard = self.open.setdefault(epoch, [0, 0, 0, prev])
        heard[0] += 1
        heard[1] += sent
        heard[2] += sent > 0

    def ready(self, senders: int, *, ordered: bool) -> int | None:
        """An epoch that is whole; where order matters, the one that follows the last."""
        for epoch in sorted(self.open):
            got, announced, done, prev = self.open[epoch]
            if done == senders and got == announced and (prev == self.done or not ordered):
                return epoch
        return None

    def finish(self, epoch: int) -> None:
        """An epoch was handed on."""
        del self.open[epoch]
        self.done = max(self.done, epoch)

    def to_json(self) -> str:
        """As text."""
        return json.dumps([self.done, self.open])

    @classmethod
    def from_json(cls, text: str | None) -> Progress:
        """From text; nothing heard where there is none."""
        if not text:
            return cls()
        done, held = json.loads(text)
        return cls(done, {int(epoch): heard for epoch, heard in held.items()})


def parcels(
    blocks: dict[int, list[pa.RecordBatch]], buckets: Iterable[int], sender: str, epoch: int, prev: int
) -> Iterator[Keyed]:
    """An epoch's blocks by bucket as parcels, at least one for each of `buckets`."""
    for bucket in buckets:
        mine = blocks.get(bucket) or [NOTHING]
        for nth, block in enumerate(mine, 1):
            sent = len(mine) if nth == len(mine) else 0
            facts = {"epoch": epoch, "prev": prev, "from": sender, "nth": nth, "sent": sent}
            yield bucket, with_facts(block, **{name: str(value) for name, value in facts.items()})


def bucket_of(name: str, shards: int) -> int:
    """The bucket of a name.

    >>> bucket_of("20000|wh_30d|all", 4) in range(4)
    True
    """
    return zlib.crc32(name.encode()) % shards


def kept(entries: Sequence[Entry], commits: Iterable[Commit], kinds: Sequence[str]) -> list[Entry]:
    """State entries of some kinds after what was reported."""
    out = list(entries)
    for commit in commits:
        out = taken_up(out, commit)
    return [entry for entry in out if entry.kind in kinds]


class EpochFold(beam.DoFn):
    """One stage: gathers the parcels of an epoch by bucket, runs the bounded fold on them, sends on what it makes."""

    WAITING = BagStateSpec("waiting", BlockCoder())
    PROGRESS = ReadModifyWriteStateSpec("progress", StrUtf8Coder())
    STATE = ReadModifyWriteStateSpec("state", BlockCoder())

    def __init__(self, stage: Stage, place: Place, bootstrap: str | None = None) -> None:
        self.stage, self.place, self.bootstrap = stage, place, bootstrap
        self.epochs = metric("epochs_{stage}", stage=stage.name)
        self.state_bytes = metric("state_bytes_{stage}", stage=stage.name)
        self.fold_ms = metric("fold_ms_{stage}", stage=stage.name)

    def process(
        self,
        element: Keyed,
        waiting: Any = beam.DoFn.StateParam(WAITING),  # noqa: B008
        progress: Any = beam.DoFn.StateParam(PROGRESS),  # noqa: B008
        state: Any = beam.DoFn.StateParam(STATE),  # noqa: B008
    ) -> Iterator[beam.pvalue.TaggedOutput]:
        """element: a parcel."""
        bucket, block = shard_of_key(element[0]), element[1]
        heard = Progress.from_json(progress.read())
        heard.note(number(block, "epoch"), number(block, "prev"), number(block, "sent"))
        ordered = bool(self.stage.keeps)
        epoch = heard.ready(self.stage.senders, ordered=ordered)
        if epoch is None:
            waiting.add(block)
            progress.write(heard.to_json())
            return
        held = [*waiting.read(), block]
        waiting.clear()
        while epoch is not None:
            mine = [b for b in held if number(b, "epoch") == epoch]
            held = [b for b in held if number(b, "epoch") != epoch]
            mine.sort(key=lambda b: (fact(b, "from"), number(b, "nth")))
            before = (state.read() or self.initial(bucket)) if ordered else NOTHING
            began = time.monotonic()
            after = yield from self.fold(bucket, epoch, number(mine[0], "prev"), mine, before)
            self.fold_ms.inc(int(1000 * (time.monotonic() - began)))
            if ordered:
                state.write(after)
                self.state_bytes.set(after.nbytes)
            heard.finish(epoch)
            self.epochs.inc()
            epoch = heard.ready(self.stage.senders, ordered=ordered)
        for waits in held:
            waiting.add(waits)
        progress.write(heard.to_json())

    def initial(self, bucket: int) -> pa.RecordBatch:
        """What the stage keeps for a bucket at the very first: what the snapshot that the stream starts from holds."""
        held = read_entries(self.place.store(), self.bootstrap, bucket) if self.bootstrap else []
        return state_block([entry for entry in held if entry.kind in self.stage.keeps])

    def fold(
        self, bucket: int, epoch: int, prev: int, blocks: list[pa.RecordBatch], state: pa.RecordBatch
    ) -> Generator[beam.pvalue.TaggedOutput, None, pa.RecordBatch]:
        """Run the fold on a whole epoch. Returns the state that the stage keeps."""
        place, entries = self.place_of(epoch), entries_of([state])
        out = Outbox(self.stage.routes, bucket, self.place.shards)
        assert self.stage.make is not None
        for key, mine in self._groups(bucket, blocks):
            out.take(self.stage.make(place).process((key, [state_block(entries), *mine] if self.stage.keeps else mine)))
        after = kept(entries, place.reported, self.stage.keeps)
        for route in self.stage.routes:
            if route.output == STATE_AFTER:
                out.blocks[route.name][bucket] = [state_block(after)]
        yield from out.send(f"{self.stage.name}-{bucket:04d}", epoch, prev)
        count_rows(place.reported)
        if self.stage.reports:
            yield from report(place.reported, self.stage.name, bucket, epoch, prev)
        return state_block(after)

    def _groups(self, bucket: int, blocks: list[pa.RecordBatch]) -> Iterator[tuple[Any, list[pa.RecordBatch]]]:
        some = [block for block in blocks if kind_of(block) != "nothing"]
        if not self.stage.by_name:
            yield bucket, some
            return
        names = sorted({fact(block, "to") for block in some})
        for name in names:
            yield name, [block for block in some if fact(block, "to") == name]

    def place_of(self, number: int) -> EpochPlace:
        """Where an epoch is written, or a tick by the stages that go by ticks."""
        folder = (tick_folder if self.stage.ticks else epoch_folder)(self.place.folder, number)
        return EpochPlace(self.place.root, folder, self.place.shards)


def write_entries(store: Store, path: str, entries: Iterable[Entry]) -> None:
    """A snapshot's entries as a file, a block for each shard."""
    by_shard: dict[int, list[Entry]] = {}
    for entry in entries:
        by_shard.setdefault(entry.shard, []).append(entry)
    store.write_blocks(path, STATE_LIST, -1, [(shard, entries_to_batch(some)) for shard, some in by_shard.items()])


def entries_of(blocks: Iterable[pa.RecordBatch]) -> list[Entry]:
    """The entries of all blocks of kind state."""
    return [e for block in blocks if kind_of(block) == "state" for e in entries_from_batch(block)]


def read_entries(store: Store, path: str, shard: int) -> list[Entry]:
    """The entries of one shard from a snapshot's file."""
    if not store.exists(path):
        return []
    reader = store.open_blocks(path)
    blocks = (reader.get_batch(i) for i in range(reader.num_record_batches))
    return [
        e
        for block in blocks
        if block.num_rows and block["shard"][0].as_py() == shard
        for e in entries_from_batch(block)
    ]


class Outbox:
    """What a fold has put out, by route and bucket."""

    def __init__(self, routes: Sequence[Route], own: int, shards: int) -> None:
        self.routes, self.own, self.shards = routes, own, shards
        self.blocks: dict[str, dict[int, list[pa.RecordBatch]]] = {route.name: {} for route in routes}

    def take(self, outputs: Iterable[Any] | None) -> None:
        """Sort what a fold yields: (shard or name, block), tagged or not; shard numbers alone are of no interest."""
        for output in outputs or ():
            tagged = isinstance(output, beam.pvalue.TaggedOutput)
            label, value = (output.tag, output.value) if tagged else (None, output)
            if not isinstance(value, tuple):
                continue
            key, block = value
            if isinstance(key, str):
                block, bucket = with_facts(block, to=key), bucket_of(key, self.shards)
            else:
                bucket = key
            for route in self.routes:
                if route.output == label:
                    self.blocks[route.name].setdefault(bucket, []).append(block)

    def send(self, sender: str, epoch: int, prev: int) -> Iterator[beam.pvalue.TaggedOutput]:
        """All of it as parcels."""
        for route in self.routes:
            buckets = route.buckets(self.own, self.shards)
            for parcel in parcels(self.blocks[route.name], buckets, sender, epoch, prev):
                yield beam.pvalue.TaggedOutput(route.name, parcel)


def report(
    commits: Sequence[Commit], stage: str, bucket: int, epoch: int, prev: int
) -> Iterator[beam.pvalue.TaggedOutput]:
    """What a stage reported, for the planner: its calendar files, and the first day that may change."""
    blocks = []
    for commit in commits:
        entries = [entry for entry in commit.entries if entry.kind == "calendar"]
        first = "" if commit.restate_from is None else str(commit.restate_from)
        replaced = "1" if "calendar" in commit.replaces else ""
        block = tag(entries_to_batch(entries), REPORT, restate_from=first, replaces=replaced, shard=str(bucket))
        blocks.append(block)
    for parcel in parcels({0: blocks}, [0], f"{stage}-{bucket:04d}", epoch, prev):
        yield beam.pvalue.TaggedOutput(REPORT, parcel)


def count_rows(commits: Iterable[Commit]) -> None:
    """Tell what the folds made of their rows."""
    for commit in commits:
        for source, counts in (commit.counts or {}).items():
            for outcome in ("accepted", "superseded", "pending"):
                if rows := counts.get(outcome, 0):
                    metric(f"events_{outcome}_{{source}}", source=source).inc(rows)


def number(block: pa.RecordBatch, name: str) -> int:
    """A fact that is a number."""
    return int(fact(block, name))


TICKS = 1 << 12
"""Numbers set aside for the ticks of one epoch: a tick's number is its epoch's times this, and one more for each."""


def epoch_folder(base: str, epoch: int) -> str:
    """The folder of an epoch."""
    return f"{base}/{epoch:08d}"


def tick_folder(base: str, tick: int) -> str:
    """The folder of a tick.

    >>> tick_folder("data", 2 * TICKS + 1)
    'data/00000002-0001'
    """
    return f"{base}/{tick // TICKS:08d}-{tick % TICKS:04d}"


@beam.typehints.with_input_types(Keyed)
@beam.typehints.with_output_types(Keyed)
class SpreadKeys(beam.DoFn):
    """Blocks by bucket -> the same by keys that a runner spreads evenly."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def process(self, element: Keyed) -> Iterator[Keyed]:
        """element: (bucket, block)."""
        yield stream_keys(self.place.shards)[element[0]], element[1]


class RunEpochs(beam.PTransform):
    """Parcels of several senders -> the outputs of a stage, by name."""

    def __init__(self, fold: EpochFold) -> None:
        super().__init__()
        self.fold = fold

    def expand(self, senders: Sequence[beam.PCollection]) -> beam.pvalue.DoOutputsTuple:
        """Flatten, spread, and one stateful DoFn."""
        outputs = [route.name for route in self.fold.stage.routes] + [REPORT] * self.fold.stage.reports
        fold = beam.ParDo(self.fold.with_output_types(Keyed, **dict.fromkeys(outputs, Keyed)))
        spread = beam.ParDo(SpreadKeys(self.fold.place))
        return (
            senders
            | beam.Flatten()
            | "SpreadKeys" >> spread
            | "Fold" >> (fold.with_outputs(*outputs) if outputs else fold)
        )
