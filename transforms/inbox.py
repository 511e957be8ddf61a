"""Where the inputs of a stream wait for their epoch: rows by shard, until a cut says how far it goes.

A part is an input with an order of its own: a partition of a topic, by offsets, or one landed file. Whoever reads a part
tells every bucket about each stretch of it, also where the stretch holds nothing for the bucket, so that a bucket knows
when it has all of an epoch.

    stretch   (bucket, block), with the facts part, first, next and sent
    epoch     (bucket, empty block of kind epoch), with the fact record: the cut, as JSON
"""

from __future__ import annotations

import contextlib
import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
from apache_beam.coders import StrUtf8Coder
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec

from schemas.errors import FileFault, StateError
from schemas.mapping import SourceMapping
from schemas.marts import REJECTS
from transforms.blocks import BlockCoder, Keyed, fact, kind_of, spread, tag, with_facts
from transforms.epochs import NOTHING, EpochPlace, epoch_folder, number, parcels
from transforms.kernels.key_groups import shard_of_key
from transforms.kernels.keys import answers
from transforms.kernels.messages import OFFSET
from transforms.kernels.parse import Delivery
from transforms.metrics import metric
from transforms.parts import file_part, is_file
from transforms.read_files import ReadDelivery, delivery_from_json, fault_path, write_fault
from transforms.shards import Place, numpy
from transforms.storage import Commit, Store, commit_path, digest

PORTS = {
    "accounts": "reference", "meters": "reference", "ledger_events": "reference",
    "conduct_events": "reference", "tariffs": "reference",
    "meter_readings": "meters", "register_readings": "meters",
}  # fmt: skip
"""Source -> the stage that takes its rows first."""


def cut_path(folder: str, number: int) -> str:
    """Where an epoch's cut is written down."""
    return f"{folder}/epochs/{number:08d}.json"


def landed_folder(folder: str) -> str:
    """Where landed files are kept as they were when they were cut, by the SHA-256 of their content."""
    return f"{folder}/landed"


@dataclass(frozen=True)
class Cut:
    """An epoch, as it was written down.

    number: from 1 on. ends: part -> the offset it ends before. begins: part -> where the epoch before ended.
    seqs: part -> number of the delivery that the stretch is. known_at: when it was cut, UTC ISO 8601. deliveries: landed
    files, as JSON. through: last service day that may close by the inputs' watermarks, None where nothing is known.
    register: rows of the file register, for all of it. aside: what is wrong with landed files that were left out.
    """

    number: int
    begins: dict[str, int]
    ends: dict[str, int]
    seqs: dict[str, int]
    known_at: str
    deliveries: tuple[str, ...] = ()
    through: int | None = None
    register: tuple[tuple[Any, ...], ...] = ()
    aside: tuple[str, ...] = ()

    def to_json(self) -> str:
        """As text."""
        return json.dumps(vars(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Cut:
        """From text."""
        value = json.loads(text)
        rows = tuple(tuple(row) for row in value["register"])
        lists = {"register": rows, "deliveries": tuple(value["deliveries"]), "aside": tuple(value.get("aside", ()))}
        return cls(**{**value, **lists})

    @classmethod
    def read(cls, store: Store, folder: str, number: int) -> Cut:
        """As it was written down below a stream's folder."""
        return cls.from_json(store.read_bytes(cut_path(folder, number)).decode())

    def to_block(self) -> pa.RecordBatch:
        """As a block that holds nothing but the fact."""
        return with_facts(tag(NOTHING, "epoch"), record=self.to_json())

    @classmethod
    def from_block(cls, block: pa.RecordBatch) -> Cut:
        """The inverse of `to_block`."""
        return cls.from_json(fact(block, "record"))


@dataclass
class Stretches:
    """How far a bucket has a part without a gap. open: start -> [next, parcels got, parcels announced].

    >>> part = Stretches(next=5)
    >>> part.note(7, 9, 1); part.next
    5
    >>> part.note(5, 7, 0); part.note(5, 7, 2); part.next
    9
    """

    next: int = -1
    open: dict[int, list[int]] = field(default_factory=dict)

    def to_list(self) -> list[Any]:
        """As JSON has it."""
        return [self.next, self.open]

    @classmethod
    def from_list(cls, value: list[Any]) -> Stretches:
        """The inverse of `to_list`, after JSON has made text of the keys."""
        return cls(value[0], {int(start): heard for start, heard in value[1].items()})

    def begin(self, at: int) -> None:
        """Where the part begins; until then nothing follows on anything."""
        self.next = at
        self._advance()

    def note(self, first: int, after: int, sent: int) -> None:
        """One more parcel of a stretch. sent: how many there are of it, 0 where more will come."""
        if after <= self.next:
            return
        heard = self.open.setdefault(first, [after, 0, 0])
        heard[1] += 1
        heard[2] += sent
        self._advance()

    def _advance(self) -> None:
        while (head := self.open.get(self.next)) and head[1] == head[2]:
            del self.open[self.next]
            self.next = head[0]


@beam.typehints.with_output_types(Keyed, marks=Keyed)
class RouteRows(beam.DoFn):
    """Decoded rows of a stretch, and its rejects, to their buckets; each bucket hears of it, and the cutter by a mark."""

    def __init__(self, place: Place) -> None:
        self.place = place

    def process(self, element: Keyed) -> Iterator[Keyed | beam.pvalue.TaggedOutput]:
        """element: (number of the part, block of a source or of kind rejects, with the part's facts)."""
        index, block = element
        rejects_to = index % self.place.shards
        facts = {name: fact(block, name) for name in ("part", "first", "next", "source", "revision", "append_ms")}
        if kind_of(block) == "rejects":
            yield rejects_to, with_facts(tag(block, "rejects"), **facts, sent="0")
            return
        if facts["first"] != facts["next"]:
            rows = dict(spread(block, facts["source"], self.place.shards))
            for bucket in range(self.place.shards):
                before = int(fact(block, "reject_blocks")) if bucket == rejects_to else 0
                mine = tag(rows[bucket], facts["source"]) if bucket in rows else NOTHING
                yield bucket, with_facts(mine, **facts, sent=str(1 + before))
        more = {name: fact(block, name) for name in ("last_day", "idle")}
        mark = with_facts(tag(NOTHING, "mark"), **facts, **more, rows=str(block.num_rows))
        yield beam.pvalue.TaggedOutput("marks", (0, mark))


@beam.typehints.with_output_types(Keyed)
class RouteDelivery(beam.DoFn):
    """Reads a landed file of an epoch; its rows go to their buckets as the one stretch of the file.

    It is read as it was when it was cut, whatever has become of it, and what came of it the first time stays so: a file that
    had a fault gives no rows when it is read again, and one that gave rows has no fault.
    """

    def __init__(self, place: Place, mappings: Mapping[str, SourceMapping]) -> None:
        self.place, self.mappings = place, dict(mappings)

    def process(self, element: tuple[int, str]) -> Iterator[Keyed]:
        """element: (epoch, the delivery as JSON)."""
        epoch, text = element
        delivery = delivery_from_json(text)
        blocks = self._read(epoch, delivery)
        facts = {"part": file_part(delivery.seq), "first": "0", "next": "1", "source": delivery.source}
        for bucket in range(self.place.shards):
            mine = blocks.get(bucket) or [NOTHING]
            for nth, block in enumerate(mine, 1):
                sent = len(mine) if nth == len(mine) else 0
                yield bucket, with_facts(block, **facts, revision="column", sent=str(sent))

    def _read(self, epoch: int, delivery: Delivery) -> dict[int, list[pa.RecordBatch]]:
        """The rows by bucket; none where the file has a fault, which is then reported."""
        store, stream = self.place.store(), self.place.folder
        if store.exists(fault_path(stream, delivery.seq)):
            return {}
        place = EpochPlace(self.place.root, epoch_folder(stream, epoch), self.place.shards)
        content = self._content(store, delivery)
        blocks: dict[int, list[pa.RecordBatch]] = {}
        try:
            for bucket, block in ReadDelivery(place, self.mappings).read(delivery, content):
                blocks.setdefault(bucket, []).append(block)
        except FileFault as fault:
            if store.exists(commit_path(place.folder, "read", delivery.seq)):
                raise  # it could be read before: the disk is at fault, not the file
            write_fault(store, stream, delivery.seq, fault)
            return {}
        return blocks

    def _content(self, store: Store, delivery: Delivery) -> str:
        """Where the bytes of a delivery are. Raises StateError."""
        kept = f"{landed_folder(self.place.folder)}/{delivery.sha256}"
        if store.exists(kept):
            return posixpath.join(self.place.root, kept)
        with contextlib.suppress(OSError):
            if digest(*pafs.FileSystem.from_uri(delivery.uri)) == delivery.sha256:
                return delivery.uri
        raise StateError(
            f"{delivery.uri}: is not any more what delivery {delivery.seq} was, and its copy {kept} is gone. Stop the job, and "
            "start the stream anew; it goes on from what is published."
        )


@beam.typehints.with_output_types(Keyed, reference=Keyed, meters=Keyed)
class Inbox(beam.DoFn):
    """One bucket: rows wait here until their epoch is cut and all of it is in; then they go to the folds as parcels."""

    WAITING = BagStateSpec("waiting", BlockCoder())
    PROGRESS = ReadModifyWriteStateSpec("progress", StrUtf8Coder())

    def __init__(self, place: Place) -> None:
        self.place = place
        self.rows = metric("rows_taken")

    def process(
        self,
        element: Keyed,
        waiting: Any = beam.DoFn.StateParam(WAITING),  # noqa: B008
        progress: Any = beam.DoFn.StateParam(PROGRESS),  # noqa: B008
    ) -> Iterator[beam.pvalue.TaggedOutput]:
        """element: a stretch, or an epoch."""
        bucket, block = shard_of_key(element[0]), element[1]
        state = _InboxState.from_json(progress.read())
        if kind_of(block) == "epoch":
            cut = Cut.from_block(block)
            if cut.number > state.done:
                state.cuts[cut.number] = cut
        else:
            state.note(fact(block, "part"), number(block, "first"), number(block, "next"), number(block, "sent"))
            if block.num_rows:
                waiting.add(block)
        ready = state.ready()
        if ready:
            held = list(waiting.read())
            waiting.clear()
            for cut in ready:
                mine, held = take(held, cut)
                yield from self._release(bucket, cut, mine)
            for block in held:
                waiting.add(block)
        progress.write(state.to_json())

    def _release(self, bucket: int, cut: Cut, blocks: Sequence[pa.RecordBatch]) -> Iterator[beam.pvalue.TaggedOutput]:
        """An epoch's rows to their folds; its rejects to disk."""
        ports: dict[str, list[pa.RecordBatch]] = {"reference": [], "meters": []}
        counts: dict[str, dict[str, int]] = {}
        rejects = []
        for block in blocks:
            stamped = stamp(block, cut.seqs[fact(block, "part")])
            source = fact(block, "source") if kind_of(block) == "rejects" else kind_of(block)
            counted = kind_of(block) == "rejects" or answers(source, bucket)
            if OFFSET in block.schema.names and counted:  # what files held is counted where they are read
                of = counts.setdefault(source, {"read": 0, "rejected": 0})
                of["read"] += block.num_rows
                of["rejected"] += block.num_rows * (kind_of(block) == "rejects")
            if kind_of(block) == "rejects":
                rejects.append(stamped.replace_schema_metadata(REJECTS.schema.metadata))
            else:
                ports[PORTS[source]].append(stamped)
                self.rows.inc(block.num_rows * counted)
        place = EpochPlace(self.place.root, epoch_folder(self.place.folder, cut.number), self.place.shards)
        entries = []
        if rejects:
            table = pa.Table.from_batches(rejects).combine_chunks().cast(REJECTS.schema)
            path = place.path("mart:rejects", bucket, "parquet")
            entries.append(place.store().write_parquet(path, "mart:rejects", -1, table))
        place.report(Commit("inbox", bucket, tuple(entries), (), counts))
        for port, mine in ports.items():
            sender = f"inbox-{bucket:04d}"
            for parcel in parcels({bucket: mine}, [bucket], sender, cut.number, cut.number - 1):
                yield beam.pvalue.TaggedOutput(port, parcel)


@dataclass
class _InboxState:
    """How far each part has come, and the cuts that wait."""

    done: int = 0
    parts: dict[str, Stretches] = field(default_factory=dict)
    cuts: dict[int, Cut] = field(default_factory=dict)

    def note(self, part: str, first: int, after: int, sent: int) -> None:
        self.parts.setdefault(part, Stretches()).note(first, after, sent)

    def ready(self) -> list[Cut]:
        """The cuts that follow the last one and are all in; they count as done."""
        out = []
        while (cut := self.cuts.get(self.done + 1)) and all(self._has(cut, part) for part in cut.ends):
            del self.cuts[cut.number]
            self.done = cut.number
            out.append(cut)
            for part in filter(is_file, cut.ends):
                del self.parts[part]
        return out

    def _has(self, cut: Cut, part: str) -> bool:
        begun = self.parts.setdefault(part, Stretches())
        if begun.next < 0:  # the first cut of a part says where it began
            begun.begin(cut.begins[part])
        return begun.next >= cut.ends[part]

    def to_json(self) -> str:
        parts = {name: part.to_list() for name, part in self.parts.items()}
        return json.dumps([self.done, parts, [cut.to_json() for cut in self.cuts.values()]])

    @classmethod
    def from_json(cls, text: str | None) -> _InboxState:
        if not text:
            return cls()
        done, parts, cuts = json.loads(text)
        return cls(
            done,
            {name: Stretches.from_list(part) for name, part in parts.items()},
            {cut.number: cut for cut in map(Cut.from_json, cuts)},
        )


def take(held: Sequence[pa.RecordBatch], cut: Cut) -> tuple[list[pa.RecordBatch], list[pa.RecordBatch]]:
    """Split what waits into the rows of an epoch, in the order of their parts and offsets, and the rest."""
    mine, rest = [], []
    for block in held:
        end = cut.ends.get(fact(block, "part"))
        if end is None or number(block, "first") >= end:
            rest.append(block)
        elif number(block, "next") <= end:
            mine.append(block)
        else:
            inside = numpy(block.column(OFFSET)) < end
            mine.append(block.filter(pa.array(inside)))
            rest.append(block.filter(pa.array(~inside)))
    mine = [block for block in mine if block.num_rows]  # a bag has no order: that of the rows does not depend on it
    mine.sort(key=lambda block: (fact(block, "part"), number(block, "first"), kind_of(block), block["row"][0].as_py()))
    return _joined(mine), [block for block in rest if block.num_rows]


def _joined(blocks: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """Neighbours of one part and kind as one block: what is made of them does not show how they were read."""
    out: list[list[pa.RecordBatch]] = []
    for block in blocks:
        same = out and (fact(out[-1][0], "part"), kind_of(out[-1][0])) == (fact(block, "part"), kind_of(block))
        if same:
            out[-1].append(block.replace_schema_metadata(out[-1][0].schema.metadata))
        else:
            out.append([block])
    return [pa.concat_batches(some) for some in out]


def stamp(block: pa.RecordBatch, seq: int) -> pa.RecordBatch:
    """Rows with the number of their delivery, also as revision where none came with them; without their offsets."""
    n = block.num_rows
    columns = {name: block.column(name) for name in block.schema.names if name != OFFSET}
    columns["delivery"] = pa.array(np.full(n, seq), block.schema.field("delivery").type)
    if "revision" in columns and fact(block, "revision") == "delivery":
        columns["revision"] = pa.array(np.full(n, seq), block.schema.field("revision").type)
    schema = pa.schema([block.schema.field(name) for name in columns], metadata=block.schema.metadata)
    return pa.record_batch(list(columns.values()), schema=schema)
