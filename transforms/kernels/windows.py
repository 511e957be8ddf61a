"""Rolling sums per account: what a day adds when it enters a window, and takes away when it leaves.

    day   D-455 ......... D-365 ......... D-90 .. D-30 .. D-7 .. D
           |leaves        |enters, leaves  |leaves |       |      |enters
           +-- a year ago +                +---- 90 days ---------+

A block is one service day of one shard, dense by account slot. A window's sum after day D is its sum after D-1, plus
block D, minus the block that leaves; all in int64, so the rolled sum equals the recomputed one.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.inbound import APART, BESIDE, DEMAND
from schemas.marts import PERIOD_WINDOWS, PROVISIONAL_WINDOWS, VALUED_WINDOWS, WINDOWS
from transforms.kernels.exact import square_parts

Int = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]

EPOCH = datetime.date(1970, 1, 1)
YEAR = 365
BASE = 90
"""The window of variation and growth."""

BLOCK_SCHEMA = pa.schema(
    [("energy_wh", pa.int64()), ("received", pa.int32()), ("estimated", pa.int32()), ("conflict", pa.int32())]
)
SUMS = tuple(
    [f"{kind}_{days}d" for days in WINDOWS for kind in ("wh", "received")]
    + ["wh_mtd", "received_mtd", "days_90d", "hh_90d", "hl_90d", "ll_90d", "wh_90d_year_ago", "received_90d_year_ago"]
    + ["used_365d"]
)
"""The running sums of an account, in the order they are stored."""

Apart = Mapping[str, tuple[Int, Int32]]
"""What is told beside the total: measure -> (energy in Wh, or maximum demand in W; meters that tell it), both (k,); none where no
meter of the shard has it."""


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
    """One service day of one shard's accounts, dense by account slot. All (n,); immutable once handed out.

    Measures beside the total are stored as columns of their own, where there are any: `peak_wh`, `peak_received`.
    provisional: Wh, 0 where there is none; not stored with the block, and part of no other figure.
    """

    energy: Int
    received: Int32
    estimated: Int32
    conflict: Int32
    apart: Apart = field(default_factory=dict)
    provisional: Int | None = None

    @classmethod
    def empty(cls, n: int) -> DayBlock:
        """A day without readings."""
        return cls(np.zeros(n, np.int64), np.zeros(n, np.int32), np.zeros(n, np.int32), np.zeros(n, np.int32))

    @classmethod
    def from_batch(cls, batch: pa.RecordBatch) -> DayBlock:
        """From a stored block, schema `BLOCK_SCHEMA` and more."""
        energy, received, estimated, conflict, *apart = (column.to_numpy() for column in batch.columns)
        names = [name.removesuffix("_received") for name in batch.schema.names[5::2]]
        of = dict(zip(names, zip(apart[::2], apart[1::2], strict=True), strict=True))
        return cls(energy, received, estimated, conflict, of)

    def to_batch(self, apart: Collection[str] = ()) -> pa.RecordBatch:
        """The block as stored. apart: measures that it is to have columns of, also where no meter tells them."""
        columns = dict(
            zip(BLOCK_SCHEMA.names, (self.energy, self.received, self.estimated, self.conflict), strict=True)
        )
        nothing = np.zeros(len(self.energy), np.int64), np.zeros(len(self.energy), np.int32)
        for name, column in BESIDE.items():
            if name in self.apart or name in apart:
                both = self.apart.get(name, nothing)
                columns |= dict(zip((column, f"{name}_received"), both, strict=True))
        return pa.record_batch(columns)

    def grown(self, n: int) -> DayBlock:
        """The block with room for `n` slots; new ones hold zeros."""
        apart = {name: (_padded(wh, n), _padded(meters, n)) for name, (wh, meters) in self.apart.items()}
        columns = (_padded(column, n) for column in (self.energy, self.received, self.estimated, self.conflict))
        energy, received, estimated, conflict = columns
        return DayBlock(energy, received, estimated, conflict, apart)

    def take(self, slots: Int) -> DayBlock:
        """The day of some accounts. slots: (k,) ascending; nothing where they have no place in the block yet."""
        some, k = slots[slots < len(self.energy)], len(slots)
        columns = {
            name: _padded(getattr(self, name)[some], k) for name in ("energy", "received", "estimated", "conflict")
        }
        apart = {name: (_padded(wh[some], k), _padded(meters[some], k)) for name, (wh, meters) in self.apart.items()}
        return DayBlock(**columns, apart=apart)

    def add(self, n: int, slot: Int32, energy: Int, received: Int, estimated: Int, conflict: Int) -> DayBlock:
        """The block with differences added, grown to `n` slots. The differences are (k,), a slot may occur often."""
        apart = {name: (_padded(wh, n), _padded(meters, n)) for name, (wh, meters) in self.apart.items()}
        out = replace(DayBlock.empty(n), apart=apart)
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
        return out

    def add_apart(self, n: int, name: str, slot: Int32, energy: Int, received: Int) -> DayBlock:
        """The block, of `n` slots, with differences of one measure beside the total added. All (k,), a slot may occur often."""
        held = self.apart.get(name, (np.zeros(0, np.int64), np.zeros(0, np.int32)))
        wh, meters = (_padded(column, n).copy() for column in held)
        np.add.at(wh, slot, energy)
        np.add.at(meters, slot, received.astype(np.int32))
        return replace(self, apart={**self.apart, name: (wh, meters)})


def _padded(column: npt.NDArray[Any], n: int) -> npt.NDArray[Any]:
    """A column grown to `n` slots with zeros."""
    return column if len(column) == n else np.r_[column, np.zeros(n - len(column), column.dtype)]


Load = Callable[[int], DayBlock | None]
"""Gives the block of a day number, or None where nothing was read."""

Values = Mapping[str, Int]
"""What a day's energy is worth, by the names of `VALUES`: (k,) each."""

DEMAND_SUMS = ("demand_w", "demand_wh", "demand_days")
"""What is kept of the days of a month that have a maximum demand: the highest, their energy, their number."""

VALUES = ("valued_major", "valued_parts", "valued_wh")
"""Whole major units, the rest in 10^-12 of one, and the Wh that they are of."""

MARGIN = ("margin_major", "margin_parts", "margin_wh")
"""The same of energy that a cost is known for, less the cost; over a year alone."""

ValueOf = Callable[[int, DayBlock], Values]
"""Values the block of a day number."""


class Windows:
    """The running sums of one shard as of a service day.

    sums: name -> (n,) int64 for every name in `SUMS`; of registers beside the total those that some meter tells, as
    `peak_wh_30d`; where there are prices `VALUES`, as `valued_wh_30d`; where a maximum demand is told what `_add_demand` keeps
    of two months; provisional energy, as `provisional_wh_30d`. `roll` moves them on by one day, in place.
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
        """From a stored checkpoint."""
        return cls({name: batch.column(name).to_numpy().copy() for name in batch.schema.names}, as_of)

    def to_batch(self) -> pa.RecordBatch:
        """The sums as stored."""
        return pa.record_batch({name: self.sums[name] for name in (*SUMS, *sorted(self.sums.keys() - set(SUMS)))})

    def put(self, rows: pa.RecordBatch) -> None:
        """Put the sums of some slots in place. rows: slot, and sums by name; one that is not told is 0."""
        slot = rows.column("slot").to_numpy()
        self.grow(int(slot.max(initial=-1)) + 1)
        n = len(self.sums[SUMS[0]])
        for name in {*self.sums, *rows.schema.names} - {"slot"}:
            into = self.sums.setdefault(name, np.zeros(n, np.int64))
            into[slot] = rows.column(name).fill_null(0).to_numpy() if name in rows.schema.names else 0

    def take(self, slots: Int) -> Windows:
        """The sums of some slots, (k,), as of the same day; zeros where there are none yet."""
        n = len(self.sums[SUMS[0]])
        some = slots[slots < n]
        return Windows({name: _padded(s[some], len(slots)) for name, s in self.sums.items()}, self.as_of)

    def grow(self, n: int) -> None:
        """Make room for `n` slots; new slots hold zeros."""
        if n > len(self.sums[SUMS[0]]):
            self.sums = {name: np.r_[s, np.zeros(n - len(s), np.int64)] for name, s in self.sums.items()}

    def roll(self, load: Load, worth: ValueOf | None = None) -> None:
        """Move on to the next day: it enters every window, and the day that falls out leaves.

        worth: values a day, where there are prices.
        """
        self.turn(load, worth)
        self.take_in(load, worth)

    def turn(self, load: Load, worth: ValueOf | None = None) -> None:
        """The clock's part of `roll`: months turn, the days that fall out leave, and a day of a year ago enters."""
        day = self.as_of = self.as_of + 1
        if date_of(day).day == 1:
            self.sums["wh_mtd"][:] = 0
            self.sums["received_mtd"][:] = 0
            self._turn_demand()
        for days in WINDOWS:
            self._add_day(days, day - days, load(day - days), worth, -1)
        for offset, sign in ((YEAR, 1), (YEAR + BASE, -1)):
            self._add("wh_90d_year_ago", "received_90d_year_ago", load(day - offset), sign)

    def take_in(self, load: Load, worth: ValueOf | None = None) -> None:
        """The day's part of `roll`, after `turn`: what was read of it enters every window."""
        today = load(self.as_of)
        for days in WINDOWS:
            self._add_day(days, self.as_of, today, worth, 1)
        self._add("wh_mtd", "received_mtd", today, 1)
        self._add_demand(today)

    def _add_day(self, days: int, day: int, block: DayBlock | None, worth: ValueOf | None, sign: int) -> None:
        """A day enters a window, or leaves it."""
        self._add(f"wh_{days}d", f"received_{days}d", block, sign)
        if days == BASE:
            self._add_squares(block, sign)
        if days == YEAR and block:
            self.sums["used_365d"][: len(block.energy)] += sign * (block.energy > 0)
        if days in PERIOD_WINDOWS:
            self._add_apart(days, block, sign)
        if days in VALUED_WINDOWS and worth and block:
            values = worth(day, block)
            names = [name for name in values if days == YEAR or name in VALUES]
            self._add_values(days, {name: values[name] for name in names}, sign)
        if days in PROVISIONAL_WINDOWS and block and block.provisional is not None:
            self._add_values(days, {"provisional_wh": block.provisional}, sign)

    def _add(self, energy: str, received: str, block: DayBlock | None, sign: int) -> None:
        if block is None:
            return
        k = len(block.energy)
        operation = np.add if sign > 0 else np.subtract
        for name, column in ((energy, block.energy), (received, block.received)):
            into = self.sums[name][:k]
            operation(into, column, out=into)

    def _add_apart(self, days: int, block: DayBlock | None, sign: int) -> None:
        held = block.apart if block else {}
        for name in APART:
            if name in held:
                energy = held[name][0]
                self._sum(f"{name}_wh_{days}d")[: len(energy)] += sign * energy

    def _add_values(self, days: int, values: Values, sign: int) -> None:
        for name, value in values.items():
            self._sum(f"{name}_{days}d")[: len(value)] += sign * value

    def _add_demand(self, block: DayBlock | None) -> None:
        """A day that has one adds to its month's: the highest day, the energy of such days, and their number."""
        if block is None or DEMAND not in block.apart:
            return
        watts, meters = block.apart[DEMAND]
        told = (block.received > 0) & (meters >= block.received)
        highest, energy, days = (self._sum(f"{name}_mtd")[: len(watts)] for name in DEMAND_SUMS)
        np.maximum(highest, watts, out=highest, where=told)
        np.add(energy, block.energy, out=energy, where=told)
        days += told

    def _turn_demand(self) -> None:
        """A month begins: what was this one's is the last one's."""
        for name in DEMAND_SUMS:
            if f"{name}_mtd" in self.sums:
                self.sums[f"{name}_last_month"] = self.sums[f"{name}_mtd"]
                self.sums[f"{name}_mtd"] = np.zeros_like(self.sums[f"{name}_mtd"])

    def _sum(self, key: str) -> Int:
        """A sum that only some shards have, from its first day on."""
        if key not in self.sums:
            self.sums[key] = np.zeros(len(self.sums[SUMS[0]]), np.int64)
        return self.sums[key]

    def _add_squares(self, block: DayBlock | None, sign: int) -> None:
        if block is None:
            return
        k = len(block.energy)
        parts = (*square_parts(block.energy), (block.received > 0).astype(np.int64))
        for name, part in zip(("hh_90d", "hl_90d", "ll_90d", "days_90d"), parts, strict=True):
            self.sums[name][:k] += sign * part
