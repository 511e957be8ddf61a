"""Provisional tiers in a stream: an event is answered when it comes, long before its epoch is cut and its day closes.

A bucket keeps the last state that a tick left, its *base*, as a list of files, and the events that came since. What it has
decoded of them it keeps in the process, under a token that changes with every change of state: where the token is another,
the state is read again.

    after    (bucket, block of kind state): the base after an epoch's last tick, with the fact tick
    events   (bucket, block of kind ledger_events), with the facts part, first, next, revision and append_ms
    changes  (bucket, rows of the mart provisional_tiers); they are also written to a file for each block of events
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.coders import StrUtf8Coder
from apache_beam.metrics import Metrics
from apache_beam.transforms.userstate import BagStateSpec, ReadModifyWriteStateSpec

from schemas.policy import Policy
from transforms.blocks import BlockCoder, Keyed, fact, kind_of
from transforms.epochs import TICKS, number, read_entries
from transforms.inbox import Cut
from transforms.kernels.key_groups import shard_of_key
from transforms.kernels.messages import OFFSET
from transforms.provisional_view import Made, View, answer, load_view
from transforms.shards import Place, numpy, state_block
from transforms.tick_stages import BASE_STATE, Tick

FOLDER = "provisional"
"""Where the files of changes are, below the stream's folder."""

FILES = "file:"
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


def changes_path(folder: str, part: str, first: int, after: int, bucket: int) -> str:
    """Where the changes of one block of events are written."""
    return f"{folder}/{FOLDER}/{part_folder(part)}/{first:020d}-{after:020d}-{bucket:04d}.parquet"


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


_VIEWS: dict[tuple[str, str, int], tuple[str, View | None, Made]] = {}
"""Token, view and what is still of use, by bucket: a runner gives its bundles to any instance of the DoFn in a process."""


@beam.typehints.with_output_types(Keyed)
class LedgerEvents(beam.DoFn):
    """Rows on their way to the inboxes -> those of ledger events."""

    def process(self, element: Keyed) -> Iterator[Keyed]:
        """element: (bucket, block)."""
        if kind_of(element[1]) == "ledger_events":
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
        self.changes = Metrics.counter("stream", "provisional_changes")
        self.lag = Metrics.distribution("stream", "provisional_lag_ms")

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
        if kind_of(block) not in ("state", "ledger_events"):
            return
        held = head.read()
        now, key = Head(*json.loads(held)) if held else Head(), (self.place.root, self.place.folder, bucket)
        token, view, made = _VIEWS.pop(key, ("", None, {}))
        changes = None
        if kind_of(block) == "state":
            tick = Tick.from_json(fact(block, "tick")).number
            if tick <= now.tick:
                return
            now, view = Head("", tick, self._reach(now, tick)), None
            base.write(block)
            _keep(later, unseen, now.within)
            _keep(told, untold, now.within)
        else:
            block = unseen(block, now.within)
            if block.num_rows == 0:
                return
            if not held:
                base.write(self.initial(bucket))
            if view is None or token != now.token:
                view = load_view(self.place, self.policy, base.read(), later, told, made)
            later.add(block)
            if view is not None:
                made, changes = view.made, answer(view, self.policy, block)
        now = now.next()
        head.write(now.to_json())
        if changes is not None and changes.num_rows:
            told.add(changes)
            self._write(bucket, block, changes)
            yield bucket, changes
        _VIEWS[key] = now.token, view, made

    def initial(self, bucket: int) -> pa.RecordBatch:
        """The base at the very first: what the snapshot that the stream starts from holds."""
        entries = [e for e in read_entries(self.place.store(), self.bootstrap, bucket) if e.kind in BASE_STATE]
        last = max((e.first for e in entries if e.kind == "windows"), default=-1)
        return state_block([e for e in entries if e.kind not in ("windows", "tiers") or e.first == last])

    def _reach(self, head: Head, tick: int) -> Reach:
        """How far the epoch of a tick reaches, from the cuts since the one before."""
        within, store = head.within, self.place.store()
        for epoch in range(head.tick // TICKS + 1, tick // TICKS + 1):
            within = reach(within, Cut.read(store, self.place.folder, epoch).ends)
        return within

    def _write(self, bucket: int, events: pa.RecordBatch, changes: pa.RecordBatch) -> None:
        path = changes_path(
            self.place.folder, fact(events, "part"), number(events, "first"), number(events, "next"), bucket
        )
        self.place.store().write_parquet(path, "mart:provisional_tiers", bucket, pa.Table.from_batches([changes]))
        self.changes.inc(changes.num_rows)
        if append_ms := changes.column("append_ms")[0].as_py():
            self.lag.update(max(0, int(time.time() * 1000) - append_ms))


def _keep(bag: Any, part_of: Callable[[pa.RecordBatch, Reach], pa.RecordBatch], within: Reach) -> None:
    """Keep of the blocks in a bag what a base does not reach."""
    kept = [some for block in bag.read() if (some := part_of(block, within)).num_rows]
    bag.clear()
    for some in kept:
        bag.add(some)


def unseen(block: pa.RecordBatch, within: Reach) -> pa.RecordBatch:
    """The rows of a stretch that are not in the base."""
    end = reached(fact(block, "part"), within)
    if number(block, "first") >= end:
        return block
    if number(block, "next") <= end:
        return block.slice(0, 0)
    return block.filter(pa.array(numpy(block.column(OFFSET)) >= end))


def untold(changes: pa.RecordBatch, within: Reach) -> pa.RecordBatch:
    """The changes that events caused which are not in the base. All are of one part."""
    end = reached(changes.column("source_part")[0].as_py(), within)
    return changes.filter(pa.array(numpy(changes.column("source_offset")) >= end))
