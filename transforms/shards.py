"""What every fold shares: where it writes, the ids of its shard, and the state it was handed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms.blocks import concat, tag
from transforms.storage import ENTRY_SCHEMA, Commit, Entry, Store, entries_from_batch, entries_to_batch


@dataclass(frozen=True)
class Place:
    """Where a run writes: the warehouse, the run's own folder in it, and how many shards there are."""

    root: str
    folder: str
    shards: int
    names_concerned: ClassVar[bool] = True
    """Whether it is of use to name the accounts that changes concern."""

    def store(self) -> Store:
        """The warehouse's files."""
        return Store(self.root)

    def path(self, kind: str, shard: int, suffix: str, day: int | None = None) -> str:
        """The relative path of a file of this run. day: where a shard has several of the kind, the day that it begins with."""
        part = "" if day is None else f"-{day}"
        return f"{self.folder}/{kind.replace(':', '-')}/{shard:04d}{part}.{suffix}"

    def report(self, commit: Commit) -> None:
        """Write what a stage has done."""
        commit.write(self.store(), self.folder)


STATE_LIST = "state_list"


class State:
    """The entries of one shard by kind."""

    def __init__(self, store: Store, entries: Sequence[Entry]) -> None:
        self.store = store
        self.entries: dict[str, list[Entry]] = {}
        self._by_day: dict[str, dict[int, Entry]] = {}
        for entry in entries:
            self.entries.setdefault(entry.kind, []).append(entry)

    @classmethod
    def from_blocks(cls, store: Store, blocks: Sequence[pa.RecordBatch]) -> State:
        """From the `state` blocks of a group; an entry of kind `state_list` stands for the entries in its file."""
        entries: list[Entry] = []
        for entry in entries_from_batch(concat(blocks, ENTRY_SCHEMA)):
            entries += entries_from_batch(store.read_block(entry)) if entry.kind == STATE_LIST else [entry]
        return cls(store, entries)

    def all(self) -> list[Entry]:
        """Every entry."""
        return [entry for entries in self.entries.values() for entry in entries]

    def by_day(self, kind: str) -> dict[int, Entry]:
        """Entries of one kind by service day number."""
        if kind not in self._by_day:
            self._by_day[kind] = {entry.first: entry for entry in self.entries.get(kind, [])}
        return self._by_day[kind]

    def table(self, kind: str, schema: pa.Schema) -> pa.Table:
        """The rows of a kind over all of its files, an empty table where there are none."""
        tables = [self.store.read_table(entry) for entry in self.entries.get(kind, [])]
        return pa.concat_tables(tables) if tables else schema.empty_table()


def state_block(entries: Sequence[Entry]) -> pa.RecordBatch:
    """Entries as a block of kind `state`."""
    return tag(entries_to_batch(entries), "state")


SLOTS_SCHEMA = pa.schema([("id", pa.string()), ("rank", pa.int64())])


class Slots:
    """The ids of a shard by slot number: an id keeps its slot for good, new ones are added at the end."""

    def __init__(self, ids: pa.Array, rank: npt.NDArray[np.int64] | None = None) -> None:
        self.ids = ids
        self.stored = len(ids) if rank is not None else 0
        self._rank = rank

    @classmethod
    def load(cls, state: State, kind: str) -> Slots:
        """From the stored list."""
        table = state.table(kind, SLOTS_SCHEMA)
        return cls(table["id"].combine_chunks(), table["rank"].to_numpy())

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def grown(self) -> bool:
        """Whether ids came in since it was loaded."""
        return len(self.ids) > self.stored

    @property
    def rank(self) -> npt.NDArray[np.int64]:
        """Position of each slot's id among all ids of the shard in binary order. (n,) int64."""
        if self._rank is None or len(self._rank) != len(self.ids):
            self._rank = np.empty(len(self.ids), np.int64)
            self._rank[pc.sort_indices(self.ids).to_numpy()] = np.arange(len(self.ids))
        return self._rank

    def find(self, ids: pa.Array) -> npt.NDArray[np.int32]:
        """Slot of each id, -1 where it has none. (n,) int32."""
        found = pc.fill_null(pc.index_in(ids, value_set=self.ids), -1)
        return np.array(found.to_numpy(zero_copy_only=False), np.int32)

    def add(self, ids: pa.Array) -> npt.NDArray[np.int32]:
        """Slot of each id; ids not seen before get the next ones, in binary order. (n,) int32."""
        slot = self.find(ids)
        missing = slot < 0
        if missing.any():
            unknown = ids.filter(pa.array(missing))
            new = pc.unique(unknown)
            new = new.take(pc.sort_indices(new))
            slot[missing] = len(self.ids) + Slots(new).find(unknown)
            self.ids = pa.concat_arrays([self.ids, new])
        return slot

    def ranks(self, ids: pa.Array) -> npt.NDArray[np.int64]:
        """Position of each id among all ids of the list in binary order. (n,) int64."""
        ranks: npt.NDArray[np.int64] = self.rank[self.find(ids)]
        return ranks

    def save(self, place: Place, kind: str, shard: int) -> list[Entry]:
        """Write the list if it has grown."""
        if not self.grown:
            return []
        batch = pa.record_batch([self.ids, self.rank], schema=SLOTS_SCHEMA)
        return place.store().write_blocks(place.path(kind, shard, "arrow"), kind, shard, [(-1, batch)])


def numpy(column: pa.ChunkedArray | pa.Array, dtype: Any = None) -> npt.NDArray[Any]:
    """A column without nulls as NumPy; dates as day numbers."""
    if pa.types.is_date32(column.type):
        column = column.cast(pa.int32())
    array = column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(zero_copy_only=False)
    return np.asarray(array, dtype) if dtype is not None else np.asarray(array)
