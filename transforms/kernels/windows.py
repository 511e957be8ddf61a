"""Rolling sums per account: what a day adds when it enters a window, and takes away when it leaves.

    day   D-455 ......... D-365 ......... D-90 .. D-30 .. D-7 .. D
           |leaves        |enters, leaves  |leaves |       |      |enters
           +-- a year ago +                +---- 90 days ---------+

A block is one service day of one shard, dense by account slot. A window's sum after day D is its sum after D-1, plus
block D, minus the block that leaves; all in int64, so the rolled sum equals the recomputed one.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.marts import WINDOWS
from transforms.kernels.exact import DAY_LIMIT_WH, ppm, square_parts, variation_ppm
from transforms.kernels.reference import Expected

Int = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]
Nullable = tuple[npt.NDArray[np.int64], Mask]

EPOCH = datetime.date(1970, 1, 1)
YEAR = 365
GROWTH_LIMIT = 10**6
"""Growth beyond a million-fold is given as a million-fold; it would pass int64 in the end."""

BASE = 90
"""The window of variation and growth."""

BLOCK_SCHEMA = pa.schema(
    [("energy_wh", pa.int64()), ("received", pa.int32()), ("estimated", pa.int32()), ("conflict", pa.int32())]
)
SUMS = tuple(
    [f"{kind}_{days}d" for days in WINDOWS for kind in ("wh", "received")]
    + ["wh_mtd", "received_mtd", "days_90d", "hh_90d", "hl_90d", "ll_90d", "wh_90d_year_ago", "received_90d_year_ago"]
)
"""The running sums of an account, in the order they are stored."""

SUMS_SCHEMA = pa.schema([(name, pa.int64()) for name in SUMS])


def date_of(day: int) -> datetime.date:
    """The calendar date of a day number.

    >>> date_of(0)
    datetime.date(1970, 1, 1)
    """
    return EPOCH + datetime.timedelta(days=day)


def day_of(date: datetime.date) -> int:
    """The day number of a calendar date: days since 1970-01-01."""
    return (date - EPOCH).days


@dataclass(frozen=True)
class DayBlock:
    """One service day of one shard's accounts, dense by account slot. All (n,); immutable once handed out."""

    energy: Int
    received: Int32
    estimated: Int32
    conflict: Int32

    @classmethod
    def empty(cls, n: int) -> DayBlock:
        """A day without readings."""
        return cls(np.zeros(n, np.int64), *(np.zeros(n, np.int32) for _ in range(3)))

    @classmethod
    def from_batch(cls, batch: pa.RecordBatch) -> DayBlock:
        """From a stored block, schema `BLOCK_SCHEMA`."""
        return cls(*(batch.column(i).to_numpy() for i in range(4)))

    def to_batch(self) -> pa.RecordBatch:
        """The block as stored."""
        return pa.record_batch([self.energy, self.received, self.estimated, self.conflict], schema=BLOCK_SCHEMA)

    def add(self, n: int, slot: Int32, energy: Int, received: Int, estimated: Int, conflict: Int) -> DayBlock:
        """The block with differences added, grown to `n` slots. The differences are (k,), a slot may occur often."""
        out = DayBlock.empty(n)
        k = len(self.energy)
        once = len(slot) == 0 or int(np.bincount(slot, minlength=1).max()) <= 1
        for target, old, difference in (
            (out.energy, self.energy, energy),
            (out.received, self.received, received),
            (out.estimated, self.estimated, estimated),
            (out.conflict, self.conflict, conflict),
        ):
            target[:k] = old
            if once:
                target[slot] += difference.astype(target.dtype)
            else:
                np.add.at(target, slot, difference.astype(target.dtype))
        if len(out.energy) and int(out.energy.max()) >= DAY_LIMIT_WH:
            raise OverflowError(f"an account used {out.energy.max()} Wh on one day; the limit is {DAY_LIMIT_WH} Wh")
        return out


Load = Callable[[int], DayBlock | None]
"""Gives the block of a day number, or None where nothing was read."""


class Windows:
    """The running sums of one shard as of a service day.

    sums: name -> (n,) int64 for every name in `SUMS`. `roll` moves them on by one day, in place.
    """

    def __init__(self, sums: dict[str, Int], as_of: int) -> None:
        self.sums = sums
        self.as_of = as_of

    @classmethod
    def start(cls, first: int) -> Windows:
        """Empty sums, as of the day before the first service day."""
        return cls({name: np.zeros(0, np.int64) for name in SUMS}, first - 1)

    @classmethod
    def from_batch(cls, batch: pa.RecordBatch, as_of: int) -> Windows:
        """From a stored checkpoint, schema `SUMS_SCHEMA`."""
        return cls({name: batch.column(name).to_numpy().copy() for name in SUMS}, as_of)

    def to_batch(self) -> pa.RecordBatch:
        """The sums as stored."""
        return pa.record_batch([self.sums[name] for name in SUMS], schema=SUMS_SCHEMA)

    def grow(self, n: int) -> None:
        """Make room for `n` slots; new slots hold zeros."""
        if n > len(self.sums[SUMS[0]]):
            self.sums = {name: np.r_[s, np.zeros(n - len(s), np.int64)] for name, s in self.sums.items()}

    def roll(self, load: Load) -> None:
        """Move on to the next day: it enters every window, and the day that falls out leaves."""
        day = self.as_of = self.as_of + 1
        if date_of(day).day == 1:
            self.sums["wh_mtd"][:] = 0
            self.sums["received_mtd"][:] = 0
        today = load(day)
        for days in WINDOWS:
            leaving = load(day - days)
            for block, sign in ((today, 1), (leaving, -1)):
                self._add(f"wh_{days}d", f"received_{days}d", block, sign)
                if days == BASE:
                    self._add_squares(block, sign)
        self._add("wh_mtd", "received_mtd", today, 1)
        for offset, sign in ((YEAR, 1), (YEAR + BASE, -1)):
            self._add("wh_90d_year_ago", "received_90d_year_ago", load(day - offset), sign)

    def _add(self, energy: str, received: str, block: DayBlock | None, sign: int) -> None:
        if block is None:
            return
        k = len(block.energy)
        operation = np.add if sign > 0 else np.subtract
        for name, column in ((energy, block.energy), (received, block.received)):
            into = self.sums[name][:k]
            operation(into, column, out=into)

    def _add_squares(self, block: DayBlock | None, sign: int) -> None:
        if block is None:
            return
        k = len(block.energy)
        parts = (*square_parts(block.energy), (block.received > 0).astype(np.int64))
        for name, part in zip(("hh_90d", "hl_90d", "ll_90d", "days_90d"), parts, strict=True):
            self.sums[name][:k] += sign * part


def _ratio(numerator: Int, denominator: Int) -> Nullable:
    known = denominator > 0
    return ppm(numerator, np.where(known, denominator, 1)), known


def consumption_features(windows: Windows, expected: Expected, rows: Int) -> dict[str, Int | Nullable]:
    """The rolling consumption columns of `features` for the account slots `rows`, as of the windows' day.

    rows: (m,) slots. Returns column name -> (m,) int64, or a pair (values, known) where the column has nulls.
    Formulas: docs/explanation/definitions.md, "Rolling consumption".
    """
    day, n = windows.as_of, len(windows.sums[SUMS[0]])
    out: dict[str, Int | Nullable] = {}
    month = day_of(date_of(day).replace(day=1))
    for name, first in [(f"{days}d", day - days + 1) for days in WINDOWS] + [("mtd", month)]:
        received, due = windows.sums[f"received_{name}"][rows], expected.between(first, day, n)[rows]
        out[f"wh_{name}"], out[f"received_{name}"], out[f"expected_{name}"] = (
            windows.sums[f"wh_{name}"][rows],
            received,
            due,
        )
        out[f"coverage_{name}_ppm"] = _ratio(received, due)
    sums = {name: windows.sums[name][rows] for name in SUMS[len(WINDOWS) * 2 :]}
    total, before = out["wh_90d"], sums["wh_90d_year_ago"]
    assert isinstance(total, np.ndarray)
    out["days_90d"] = sums["days_90d"]
    some = total > 0
    variation = np.zeros(len(rows), np.int64)
    variation[some] = variation_ppm(
        *(a[some] for a in (sums["days_90d"], total, sums["hh_90d"], sums["hl_90d"], sums["ll_90d"]))
    )
    out["cv_90d_ppm"] = variation, some
    out["wh_90d_year_ago"], out["received_90d_year_ago"] = before, sums["received_90d_year_ago"]
    out["expected_90d_year_ago"] = expected.between(day - YEAR - BASE + 1, day - YEAR, n)[rows]
    most = np.minimum(before, total // GROWTH_LIMIT + 1) * GROWTH_LIMIT
    out["growth_90d_ppm"] = _ratio(np.minimum(total - before, most), before)
    return out
