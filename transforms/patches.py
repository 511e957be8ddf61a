"""State and marts that few accounts are put right in: a base that stays as it is, and a patch of the rows that differ.

    base      one block of all accounts      slot 0 | 1 | 2 | 3 | ...
    patch     the accounts put right              1 |     3             by slot; merged with the patch there was
    read      the base, with the patch's rows in place of its own

A mart is patched by a file of the keys that are gone and a file of the rows in their place, for a *stretch* of days between
two checkpoints; such files never have to be cut, since what is made anew begins at a checkpoint.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.policy import Policy, PolicyVersion
from transforms.blocks import one_batch
from transforms.checkpoints import CLOCK, TIER_INPUT, TIER_INPUT_PATCH
from transforms.shards import Place, Slots, State, numpy
from transforms.storage import Entry
from transforms.tier_inputs import plain

Int = npt.NDArray[np.int64]

CONCERNS_SCHEMA = pa.schema([("slot", pa.int32()), ("first", pa.int32()), ("last", pa.int32())])
"""Accounts whose figures may differ from `first` on, and the days `first .. last` whose own readings do."""

OUT = -1
"""Category of an account in a patch of tier inputs that is not in the population."""

PATCHED = ("mart:features", "mart:daily_consumption", "mart:scores")
"""Marts that are patched by keys gone and rows in their place. Smaller ones are written again."""


def concerns(place: Place, stage: str, shard: int, rows: Sequence[tuple[Any, Any, Any]]) -> tuple[Entry, ...]:
    """Write whom changes concern, repetitions and all: most runs never look. Where nobody does, nothing is written.

    rows: arrays (slot, first, last), (k,) each, or a single day for all.
    """
    if not place.names_concerned:
        return ()
    parts = [np.broadcast_arrays(*(np.asarray(column, np.int32) for column in columns)) for columns in rows]
    table = pa.concat_tables(
        [CONCERNS_SCHEMA.empty_table(), *(pa.table(list(part), schema=CONCERNS_SCHEMA) for part in parts)]
    )
    if table.num_rows == 0:
        return ()
    path = place.path(f"concerns:{stage}", shard, "arrow")
    return tuple(place.store().write_blocks(path, "concerns", shard, [(-1, one_batch(table))]))


@dataclass(frozen=True)
class Concerned:
    """Some accounts of a shard. slots: (k,) ascending; rows: (k', 3) slot, first and last day whose readings differ."""

    slots: Int
    rows: Int

    @classmethod
    def load(cls, state: State, through: int) -> Concerned:
        """Those whose figures may differ up to a day."""
        table = state.table("concerns", CONCERNS_SCHEMA)
        rows = np.stack([numpy(table[name], np.int64) for name in CONCERNS_SCHEMA.names], axis=1)
        rows = rows[rows[:, 1] <= through]
        return cls(np.unique(rows[:, 0]), rows)

    def read_on(self, day: int) -> Int:
        """Positions in `slots` of those whose own readings of a day differ."""
        mine = (self.rows[:, 1] <= day) & (day <= self.rows[:, 2])
        return np.searchsorted(self.slots, np.unique(self.rows[mine, 0]))


def merged(old: pa.RecordBatch | None, new: pa.Table) -> pa.Table:
    """A patch with another one laid over it, by slot. Columns that one of them lacks are null there."""
    if old is None or old.num_rows == 0:
        return new
    table = pa.Table.from_batches([old])
    kept = table.filter(pa.array(~np.isin(numpy(table["slot"]), numpy(new["slot"]))))
    both = pa.concat_tables([kept, new], promote_options="default").combine_chunks()
    return both.take(pa.array(np.argsort(numpy(both["slot"]), kind="stable")))


# --- tier inputs -----------------------------------------------------------------------------------------------------
def ranked_columns(version: PolicyVersion) -> tuple[str, ...]:
    """What is ranked under a version, each column once."""
    return tuple(dict.fromkeys(ranking.metric for ranking in version.rankings()))


def first_columns(policy: Policy, version: PolicyVersion) -> int:
    """How many columns of tier inputs rankings take: slot, category, the region where it counts, and what is ranked."""
    return 2 + policy.ranks_by_region() + len(ranked_columns(version))


def tier_inputs(
    state: State, day: int, patch: pa.RecordBatch | None = None, columns: int | None = None
) -> pa.RecordBatch:
    """What the tiers of a day are made of, by slot. patch: laid over it in place of the stored one; columns: the first so many."""
    base = state.store.read_block(state.by_day(TIER_INPUT)[day], columns)
    if patch is None:
        entry = state.by_day(TIER_INPUT_PATCH).get(day)
        patch = state.store.read_block(entry) if entry else None
    if patch is None:
        return base
    told = base.schema.names if columns is not None else _names(base, patch)
    return laid_over(_clocked(base, told), _clocked(patch, told))


def _names(base: pa.RecordBatch, patch: pa.RecordBatch) -> list[str]:
    """The columns of tier inputs that are put right: of the clock also those that only the patch tells."""
    held: list[str] = base.schema.names
    more = [name for name in patch.schema.names if name.endswith(CLOCK) and name not in held]
    return held + [name for name in more if name.removesuffix(CLOCK) in held]


def _clocked(inputs: pa.RecordBatch, names: list[str]) -> pa.RecordBatch:
    """Some columns of tier inputs; one as of the clock that is left out is as at the day's end."""
    held = set(inputs.schema.names)
    return pa.record_batch({name: inputs[name if name in held else name.removesuffix(CLOCK)] for name in names})


def laid_over(base: pa.RecordBatch, patch: pa.RecordBatch) -> pa.RecordBatch:
    """Tier inputs put right. patch: the same columns; category `OUT` where the account is not in the population."""
    slots, mine = numpy(base.column("slot")), numpy(patch.column("slot"))
    inside = numpy(patch.column("category")) != OUT
    at = np.minimum(np.searchsorted(slots, mine), max(len(slots) - 1, 0))
    held = slots[at] == mine if len(slots) else np.zeros(len(mine), np.bool_)
    if (held == inside).all():
        return _replaced(base, at[inside], patch.filter(pa.array(inside)))
    kept = pa.Table.from_batches([base]).filter(pa.array(~np.isin(slots, mine)))
    rows = pa.Table.from_batches([patch]).filter(pa.array(inside)).cast(kept.schema)
    both = pa.concat_tables([kept, rows]).combine_chunks()
    return one_batch(both.take(pa.array(np.argsort(numpy(both["slot"]), kind="stable"))))


def _replaced(base: pa.RecordBatch, at: Int, rows: pa.RecordBatch) -> pa.RecordBatch:
    columns = []
    for name, old, new in zip(base.schema.names, base.columns, rows.columns, strict=True):
        if name == "slot":
            columns.append(old)
            continue
        if pa.types.is_string(old.type):  # never null
            texts = numpy(old).copy()
            texts[at] = numpy(new)
            columns.append(pa.array(texts, pa.string()))
            continue
        values, null = plain(old)
        values, null = values.copy(), null if null is None else null.copy()
        more, none = plain(new)
        if none is not None and null is None:
            null = np.zeros(len(values), np.bool_)
        values[at] = more
        if null is not None:
            null[at] = False if none is None else none
        columns.append(pa.array(values, mask=null))
    return pa.record_batch(columns, schema=base.schema)


# --- marts -----------------------------------------------------------------------------------------------------------
def stretches(ends: Sequence[int], first: int, last: int) -> Iterator[tuple[int, int]]:
    """The stretches between checkpoints that hold the days `first .. last`. ends: days of checkpoints, ascending, `last` among
    them, and one before `first`.

    >>> list(stretches([10, 20, 30], 15, 30))
    [(11, 20), (21, 30)]
    """
    for before, end in itertools.pairwise(ends):
        if end >= first and before < last:
            yield before + 1, end


def within(entries: Sequence[Entry], stretch: tuple[int, int]) -> list[Entry]:
    """The files of a stretch."""
    return [entry for entry in entries if stretch[0] <= entry.first and entry.last <= stretch[1]]


def keyed(table: pa.Table, slots: Slots) -> Int:
    """Account and service day of each row, as one number."""
    slot = slots.find(table["account_id"].combine_chunks()).astype(np.int64)
    key: Int = slot << 32 | numpy(table["service_date"], np.int64)
    return key


def rewritten(
    place: Place, shard: int, kind: str, state: State, stretch: tuple[int, int], schema: pa.Schema,
    gone: Any, rows: pa.Table,
) -> tuple[list[Entry], list[str]]:  # fmt: skip
    """A mart's rows of a stretch of days in one file, some of them put right. gone: table -> (n,) bool, the rows that go.

    Returns the files, and the paths of those they stand for; none where nothing goes and nothing comes.
    """
    store, old = place.store(), within(state.entries.get(kind, []), stretch)
    tables = [store.read_parquet(entry).cast(schema) for entry in old]
    table = pa.concat_tables([schema.empty_table(), *tables]).combine_chunks()
    drop = gone(table)
    if rows.num_rows == 0 and not drop.any():
        return [], []
    table = pa.concat_tables([table.filter(pa.array(~drop)), rows]).combine_chunks()
    path = place.path(kind, shard, "parquet", stretch[0])
    new = [store.write_parquet(path, kind, shard, table, stretch)] if table.num_rows else []
    return new, [entry.path for entry in old]


def patched(
    place: Place, shard: int, mart: str, state: State, stretch: tuple[int, int], slots: Slots, gone: pa.Table,
    rows: pa.Table,
) -> tuple[list[Entry], list[str]]:  # fmt: skip
    """A patch laid over that of a mart and a stretch of days. Returns the files, and the paths of those they stand for.

    mart: one of `PATCHED`; gone: keys, account_id and service_date; rows: of the mart, all of keys that are gone.
    """
    taken = keyed(gone, slots)
    entries, paths = list[Entry](), list[str]()
    for part, new in (("gone", gone), ("patch", rows)):
        written, old = rewritten(
            place, shard, mart.replace("mart", part), state, stretch, new.schema,
            lambda table: np.isin(keyed(table, slots), taken), new,
        )  # fmt: skip
        entries, paths = entries + written, paths + old
    return entries, paths
