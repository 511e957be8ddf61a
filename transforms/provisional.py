"""Provisional tiers in a stream: an event is answered when it comes, long before its epoch is cut and its day closes.

A bucket keeps the last state that a tick left, its *base*, as a list of files, and the events that came since. What it has
decoded of them it keeps in the process, under a token that changes with every change of state: where the token is another,
the state is read again. Events come in many small blocks; here they are joined, and a new base leaves them so in the state.

    after    (bucket, block of kind state): the base after an epoch's last tick, with the fact tick
    events   (bucket, block of kind ledger_events or conduct_events), with the facts part, first, next, revision and append_ms
    changes  (bucket, rows of the mart provisional_tiers); they are also written to a file for each block of events
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from apache_beam.coders import StrUtf8Coder
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec

from schemas.policy import Policy
from transforms.blocks import BlockCoder, Keyed, fact, kind_of, one_batch, with_facts
from transforms.epochs import TICKS, entries_of, number, read_entries
from transforms.inbox import Cut
from transforms.kernels.key_groups import shard_of_key
from transforms.kernels.messages import OFFSET
from transforms.metrics import metric
from transforms.parts import FILES
from transforms.provisional_view import KEPT, Made, View, answer, load_view
from transforms.shards import Place, numpy, state_block
from transforms.tick_stages import BASE_STATE, Tick

FOLDER = "provisional"
"""Where the files of changes are, below the stream's folder."""

TOLD_BEFORE = "told_before"
"""Kind of a bucket's provisional changes that stand when a stream begins, of the mart `provisional_tiers`."""

Reach = dict[str, int]
"""How far the inputs are in something: part -> the offset it ends before; for landed files, the number after the last."""


def reach(before: Mapping[str, int], ends: Mapping[str, int]) -> Reach:
    """Reach after more of some parts was taken in.

    >>> reach({"kafka:t/0": 5}, {"kafka:t/0": 9, "file:3": 1})
    {'kafka:t/0': 9, 'file:': 4}
    """
    out = dict(before)
    for part, end in ends.items():
        name, to = (FILES, int(part.removeprefix(FILES)) + 1) if part.startswith(FILES) else (part, end)
        out[name] = max(to, out.get(name, to))
    return out


def reached(part: str, within: Mapping[str, int]) -> int:
    """The offset that a part is taken in up to.

    >>> reached("file:3", {"file:": 4}), reached("kafka:t/1", {"file:": 4})
    (1, 0)
    """
    if part.startswith(FILES):
        return int(int(part.removeprefix(FILES)) < within.get(FILES, 0))
    return within.get(part, 0)


def changes_path(folder: str, part: str, first: int, after: int, bucket: int, row: int) -> str:
    """Where the changes of one block of events are written. row: its first row; a landed file may have several blocks."""
    return f"{folder}/{FOLDER}/{part_folder(part)}/{first:020d}-{after:020d}-{bucket:04d}-{row:020d}.parquet"


def part_folder(part: str) -> str:
    """A part's name as that of a folder."""
    return part.replace(":", "=").replace("/", "=")


@dataclass(frozen=True)
class Head:
    """What a bucket knows beside its base. tick: that of the base; within: how far it reaches."""

    token: str = ""
    tick: int = 0
    within: Reach = field(default_factory=dict)

    def to_json(self) -> str:
        """As text."""
        return json.dumps([self.token, self.tick, self.within])

    def next(self) -> Head:
        """After one more change of state."""
        return replace(self, token=uuid.uuid4().hex)


@dataclass
class Since:
    """What came since a base, as a bucket's state holds it, in few blocks. events: by part; told: in order."""

    events: dict[str, list[pa.RecordBatch]] = field(default_factory=dict)
    told: list[pa.RecordBatch] = field(default_factory=list)

    @classmethod
    def of(cls, events: Iterable[pa.RecordBatch], told: Iterable[pa.RecordBatch]) -> Since:
        """From blocks of events, and of changes that were told."""
        since = cls()
        for block in events:
            since.add(block)
        for changes in told:
            since.tell(changes)
        return since

    def add(self, block: pa.RecordBatch) -> None:
        """More events of a part."""
        _pile(self.events.setdefault(fact(block, "part"), []), block)

    def tell(self, changes: pa.RecordBatch) -> None:
        """More changes that were told."""
        _pile(self.told, changes)

    def blocks(self) -> list[pa.RecordBatch]:
        """The events."""
        return [block for blocks in self.events.values() for block in blocks]

    def after(self, within: Reach, day: int) -> Since:
        """What a base does not hold that reaches so far, and is of a service day."""
        events = [unseen(block, within) for block in self.blocks()]
        told = [changes.filter(pa.array(~overtaken(changes, within, day))) for changes in self.told]
        return Since.of([block for block in events if block.num_rows], [some for some in told if some.num_rows])


def _pile(blocks: list[pa.RecordBatch], block: pa.RecordBatch) -> None:
    """Add a block; it is joined with those before it that are not much larger, so that no row is copied often."""
    while blocks and blocks[-1].num_rows <= 2 * block.num_rows:
        block = _joined(blocks.pop(), block)
    blocks.append(block)


def _joined(one: pa.RecordBatch, two: pa.RecordBatch) -> pa.RecordBatch:
    """Two blocks of one kind, and of one part where they say which, as one."""
    both = pa.concat_batches([one.replace_schema_metadata(two.schema.metadata), two])
    if two.schema.metadata is None or b"wattier.first" not in two.schema.metadata:
        return both
    first, after = min(number(one, "first"), number(two, "first")), max(number(one, "next"), number(two, "next"))
    return with_facts(both, first=str(first), next=str(after))


_VIEWS: dict[tuple[str, str, int], tuple[str, View | None, Made, Since | None]] = {}
"""Token, view, what is still of use, and what came since the base, by bucket: a runner gives its bundles to any instance of
the DoFn in a process."""


@beam.typehints.with_output_types(Keyed)
class AnsweredEvents(beam.DoFn):
    """Rows on their way to the inboxes -> those of events that are answered at once: of the ledger, and of conduct."""

    def process(self, element: Keyed) -> Iterator[Keyed]:
        """element: (bucket, block)."""
        if kind_of(element[1]) in KEPT:
            yield element


@beam.typehints.with_output_types(Keyed)
class ProvisionalTiers(beam.DoFn):
    """One bucket: events of accounts -> what their tiers would be, where that is not what was told of them last."""

    BASE = ReadModifyWriteStateSpec("base", BlockCoder())
    HEAD = ReadModifyWriteStateSpec("head", StrUtf8Coder())
    LATER = BagStateSpec("later", BlockCoder())
    TOLD = BagStateSpec("told", BlockCoder())

    def __init__(self, place: Place, policy: Policy, bootstrap: str) -> None:
        self.place, self.policy, self.bootstrap = place, policy, bootstrap
        self.changes = metric("provisional_changes")
        self.lag = metric("provisional_lag_ms")

    def process(
        self,
        element: Keyed,
        base: Any = beam.DoFn.StateParam(BASE),  # noqa: B008
        head: Any = beam.DoFn.StateParam(HEAD),  # noqa: B008
        later: Any = beam.DoFn.StateParam(LATER),  # noqa: B008
        told: Any = beam.DoFn.StateParam(TOLD),  # noqa: B008
    ) -> Iterator[Keyed]:
        """element: (bucket, a base or events)."""
        bucket, block = shard_of_key(element[0]), element[1]
        if kind_of(block) not in ("state", *KEPT):
            return
        held = head.read()
        now = Head(*json.loads(held)) if held else Head(within=self._reached_before())
        key = self.place.root, self.place.folder, bucket
        token, view, made, since = _VIEWS.pop(key, ("", None, {}, None))
        if token != now.token:
            view, since = None, None
        changes = None
        if kind_of(block) == "state":
            tick = Tick.from_json(fact(block, "tick")).number
            if tick <= now.tick:
                return
            if not held:
                since = self._told_before(bucket)
            now, view = Head("", tick, self._reach(now, tick)), None
            base.write(block)
            since = (since or Since.of(later.read(), told.read())).after(now.within, base_day(block))
            _rewrite(later, since.blocks())
            _rewrite(told, since.told)
        else:
            block = unseen(block, now.within)
            if block.num_rows == 0:
                return
            if not held:
                base.write(self.initial(bucket))
                since = self._told_before(bucket)
                _rewrite(told, since.told)
            since = since or Since.of(later.read(), told.read())
            if view is None:
                view = load_view(self.place, self.policy, base.read(), since.blocks(), since.told, made)
            later.add(block)
            since.add(block)
            if view is not None:
                made, changes = view.made, answer(view, self.policy, block)
        now = now.next()
        head.write(now.to_json())
        if changes is not None and changes.num_rows:
            told.add(changes)
            since.tell(changes)
            self._write(bucket, block, changes)
            yield bucket, changes
        _VIEWS[key] = now.token, view, made, since

    def initial(self, bucket: int) -> pa.RecordBatch:
        """The base at the very first: what the snapshot that the stream starts from holds."""
        entries = [e for e in read_entries(self.place.store(), self.bootstrap, bucket) if e.kind in BASE_STATE]
        last = max((e.first for e in entries if e.kind == "windows"), default=-1)
        return state_block(
            [
                e
                for e in entries
                if e.kind not in ("windows", "windows_patch", "tiers", "cutoffs_before") or e.first == last
            ]
        )

    def _reached_before(self) -> Reach:
        """How far the snapshot that the stream starts from reaches."""
        path, store = f"{self.bootstrap}.json", self.place.store()
        found: Reach = store.read_json(path)["within"] if store.exists(path) else {}
        return found

    def _told_before(self, bucket: int) -> Since:
        """What was told before the stream began, and stands."""
        entries = [e for e in read_entries(self.place.store(), self.bootstrap, bucket) if e.kind == TOLD_BEFORE]
        changes = [one_batch(self.place.store().read_parquet(entry)) for entry in entries]
        return Since.of([], changes)

    def _reach(self, head: Head, tick: int) -> Reach:
        """How far the epoch of a tick reaches, from the cuts since the one before."""
        within, store = head.within, self.place.store()
        for epoch in range(head.tick // TICKS + 1, tick // TICKS + 1):
            within = reach(within, Cut.read(store, self.place.folder, epoch).ends)
        return within

    def _write(self, bucket: int, events: pa.RecordBatch, changes: pa.RecordBatch) -> None:
        first, after, row = number(events, "first"), number(events, "next"), int(events.column("row")[0].as_py())
        path = changes_path(self.place.folder, fact(events, "part"), first, after, bucket, row)
        self.place.store().write_parquet(path, "mart:provisional_tiers", bucket, pa.Table.from_batches([changes]))
        self.changes.inc(changes.num_rows)
        if append_ms := changes.column("append_ms")[0].as_py():
            self.lag.update(max(0, int(time.time() * 1000) - append_ms))


def base_day(base: pa.RecordBatch) -> int:
    """The service day of a base; 0 before the first."""
    return max((e.first for e in entries_of([base]) if e.kind == "windows"), default=0)


def _rewrite(bag: Any, blocks: Iterable[pa.RecordBatch]) -> None:
    bag.clear()
    for block in blocks:
        bag.add(block)


def unseen(block: pa.RecordBatch, within: Reach) -> pa.RecordBatch:
    """The rows of a stretch that are not in the base."""
    end = reached(fact(block, "part"), within)
    if number(block, "first") >= end:
        return block
    if number(block, "next") <= end:
        return block.slice(0, 0)
    return block.filter(pa.array(numpy(block.column(OFFSET)) >= end))


def overtaken(changes: pa.RecordBatch | pa.Table, within: Mapping[str, int], day: int) -> npt.NDArray[np.bool_]:
    """Which provisional changes a service day holds, made of inputs that reach so far: (n,) of n rows.

    An event may be taken in long before its own day is made: what was told because of it stands until then.
    """
    parts = changes.column("source_part").to_pylist()
    ends = np.array([reached(part, within) for part in parts], np.int64)
    as_of = numpy(changes.column("as_of").cast(pa.int32()))
    return (numpy(changes.column("source_offset")) < ends) & (as_of <= day)
