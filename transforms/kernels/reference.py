"""Effective-dated reference data: which row holds, which account a meter belongs to, who is in the population."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Int = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]

NEVER = np.iinfo(np.int32).max
"""Day number that stands for an empty end date."""


def days(column: pa.Array | pa.ChunkedArray, empty: int = NEVER) -> Int32:
    """Day numbers since 1970-01-01 of a date32 column, nulls as `empty`. (n,) int32."""
    filled = pc.fill_null(pc.cast(column, pa.int32()), pa.scalar(empty, pa.int32()))
    return np.asarray(filled.to_numpy(zero_copy_only=False) if isinstance(filled, pa.Array) else filled.to_numpy())


def latest(table: pa.Table, keys: Sequence[str], content: Sequence[str]) -> pa.Table:
    """One row per key: the highest `revision`; among equals the one whose content comes first as text.

    Returns the table in ascending order of the keys (binary for text).
    """
    if table.num_rows == 0:
        return table
    order = [(key, "ascending") for key in keys] + [("revision", "descending")]
    plain = table.take(pc.sort_indices(table, sort_keys=order))
    if table.num_rows == pc.count_distinct(_row_key(plain, keys)).as_py():
        return plain
    text = {f"text:{name}": pc.fill_null(pc.cast(plain[name], pa.string()), "") for name in content}
    wide = pa.table({**{name: plain[name] for name in plain.column_names}, **text})
    tie = [(name, "ascending") for name in text]
    index = pc.sort_indices(wide, sort_keys=order + tie)
    wide = plain.take(index)
    return wide.filter(pa.array(_first_of_run(wide, keys)))


def _row_key(table: pa.Table, keys: Sequence[str]) -> pa.Array:
    return pc.binary_join_element_wise(*[pc.cast(table[key], pa.string()) for key in keys], "\x1f")


def _first_of_run(table: pa.Table, keys: Sequence[str]) -> Mask:
    key = _row_key(table, keys).combine_chunks()
    first = np.ones(len(key), np.bool_)
    if len(key) > 1:
        first[1:] = pc.not_equal(key.slice(1), key.slice(0, len(key) - 1)).to_numpy(zero_copy_only=False)
    return first


def marked(held: pa.Table, new: pa.Table) -> pa.Table:
    """Both tables as one, with a column `fresh` that tells the new rows."""
    parts = ((held, False), (new, True))
    return pa.concat_tables([t.append_column("fresh", pa.array(np.full(t.num_rows, fresh))) for t, fresh in parts])


def order_by(slot: npt.NDArray[Any], day: Int32) -> Int:
    """Row order by (slot, day), rows that tie staying in place. slot: (k,), day: (k,) day numbers; returns (k,) int64."""
    key = slot.astype(np.int64) << 32 | (day.astype(np.int64) + (1 << 31))
    return np.argsort(key, kind="stable")


def last_per_slot(slot: Int32, eligible: Mask, n: int) -> Int:
    """Index of the last eligible row of each slot, -1 where there is none. `slot` ascending; returns (n,) int64."""
    index = np.full(n, -1, np.int64)
    rows = np.flatnonzero(eligible)
    index[slot[rows]] = rows
    return index


def first_difference(owner: Int, installed: Int32, removed: Int32, sign: Int) -> int | None:
    """First day on which stretches added (sign > 0) and taken away (sign < 0) do not cancel out, over all owners.

    owner, sign: (k,) int64; installed, removed (exclusive, NEVER while it goes on): (k,) day numbers.

    >>> one = np.array([7, 7])
    >>> first_difference(one, np.int32([10, 10]), np.int32([NEVER, 40]), np.array([-1, 1]))
    40
    """
    day = np.r_[installed, removed].astype(np.int64)
    key = np.r_[owner, owner] << 32 | day
    unique, index = np.unique(key, return_inverse=True)
    net = np.zeros(len(unique), np.int64)
    np.add.at(net, index, np.r_[sign, -sign])
    differs = unique[net != 0] & 0xFFFF_FFFF
    differs = differs[differs < NEVER]
    return int(differs.min()) if len(differs) else None


@dataclass(frozen=True)
class Assignments:
    """Meter assignments of one shard, rows ascending by (slot, installed).

    slot: (k,) meter slot; installed, removed: (k,) day numbers, removed exclusive; account: (k,) int64, the account's
    shard and slot as one number; known: (k,) whether the account is in the reference data; main: (k,) whether the meter
    counts, as check meters do not.
    """

    slot: Int32
    installed: Int32
    removed: Int32
    account: Int
    known: Mask
    main: Mask

    def on(self, day: int, n: int) -> tuple[Int, Mask]:
        """Row that began last of each of `n` meter slots on `day` (-1: none), and whether it holds, of a known account. (n,)."""
        row = last_per_slot(self.slot, self.installed <= day, n)
        if len(self.slot) == 0:
            return row, np.zeros(n, np.bool_)
        return row, (row >= 0) & (self.removed[row] > day) & self.known[row]


@dataclass(frozen=True)
class Population:
    """Account reference rows of one shard, ascending by (slot, valid_from); a slot's first row also holds before it.

    slot, valid_from, opened, closed (inclusive; NEVER while open): (k,) int32; category: (k,) int8 code;
    capacity: (k,) contracted, VA, -1 where unknown; tariff: (k,) int32 number of the tariff, -1 where none;
    region: (k,) text, empty where none.
    """

    slot: Int32
    valid_from: Int32
    opened: Int32
    closed: Int32
    category: npt.NDArray[np.int8]
    capacity: Int
    tariff: Int32
    region: npt.NDArray[np.object_]

    def on(self, day: int, n: int) -> tuple[Mask, npt.NDArray[np.int8]]:
        """Who is in the population on `day`, and each account's category code. Both (n,)."""
        if len(self.slot) == 0:
            return np.zeros(n, np.bool_), np.full(n, -1, np.int8)
        row = self._row_on(day, n)
        known = row >= 0
        inside = known & (self.opened[row] <= day) & (day <= self.closed[row])
        return inside, np.where(known, self.category[row], -1).astype(np.int8)

    def opened_on(self, day: int, n: int) -> Int32:
        """The day each account was opened, by its row on `day`; NEVER where it is not known. (n,)."""
        return self._held(self.opened, day, n, NEVER)

    def capacity_on(self, day: int, n: int) -> Int:
        """Contracted capacity of each account on `day`, VA, -1 where unknown. (n,)."""
        return self._held(self.capacity, day, n, -1)

    def closed_on(self, day: int, n: int) -> Int32:
        """The last day of each account by its row for `day`, NEVER while it is open or not known. (n,)."""
        return self._held(self.closed, day, n, NEVER)

    def region_on(self, day: int, n: int) -> npt.NDArray[np.object_]:
        """The region of each account on `day`, empty where none, or where it is not known. (n,)."""
        return self._held(self.region, day, n, "")

    def tariff_on(self, day: int, n: int) -> Int32:
        """The tariff of each account on `day`, -1 where none, or where it is not in the population. (n,)."""
        if len(self.slot) == 0:
            return np.full(n, -1, np.int32)
        inside, _ = self.on(day, n)
        return np.where(inside, self.tariff[self._row_on(day, n)], -1).astype(np.int32)

    def _held(self, column: npt.NDArray[Any], day: int, n: int, none: int | str) -> npt.NDArray[Any]:
        """What the row that holds on `day` says of each account; `none` where there is no row. (n,) of the column's type."""
        out = np.full(n, none, column.dtype)
        if len(self.slot):
            row = self._row_on(day, n)
            known = row >= 0
            out[known] = column[row[known]]
        return out

    def _row_on(self, day: int, n: int) -> Int:
        """The row that holds for each account on `day`, -1 where none. (n,)."""
        first = np.ones(len(self.slot), np.bool_)
        first[1:] = self.slot[1:] != self.slot[:-1]
        return last_per_slot(self.slot, first | (self.valid_from <= day), n)

    def known(self, n: int) -> Mask:
        """Which of `n` account slots are in the reference data at all."""
        out = np.zeros(n, np.bool_)
        out[self.slot] = True
        return out


@dataclass(frozen=True)
class Expected:
    """Stretches of days on which meters are expected to report, rows ascending by slot.

    slot: (k,) account slot; installed, removed (exclusive): (k,) day numbers; meters: (k,) how many.
    """

    slot: Int32
    installed: Int32
    removed: Int32
    meters: Int32

    def between(self, first: int, last: int, n: int) -> Int:
        """Meter-days expected in `first .. last`, per account slot. (n,) int64."""
        from transforms.kernels.exact import segment_sums

        overlap = np.minimum(self.removed, last + 1).astype(np.int64) - np.maximum(self.installed, first)
        return segment_sums((np.maximum(overlap, 0) * self.meters).astype(np.int64), self.slot, n)
