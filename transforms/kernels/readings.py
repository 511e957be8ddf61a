"""Which of several readings of one meter and day counts, as a merge that no order can change.

A meter-day is kept as `(revision, low, spread, quality)`: the highest revision, the smallest energy under it, how
far the largest lies above that, and the quality of the smallest. Merging two such states takes the higher
revision, or for equal revisions the smaller low and the larger high: associative, commutative and idempotent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Int = npt.NDArray[np.int64]
Int8 = npt.NDArray[np.int8]
Int32 = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]

NONE = -1
"""Revision of a meter-day without a reading."""

SCHEMA = pa.schema(
    [("revision", pa.int64()), ("energy_wh", pa.int64()), ("spread_wh", pa.int64()), ("quality", pa.int8())]
)


@dataclass(frozen=True)
class MeterDay:
    """One service day of one shard's meters, dense by meter slot. All (n,)."""

    revision: Int
    low: Int
    spread: Int
    quality: Int8

    @classmethod
    def empty(cls, n: int) -> MeterDay:
        """A day on which nothing has been read."""
        zero = np.zeros(n, np.int64)
        return cls(np.full(n, NONE, np.int64), zero, zero.copy(), np.zeros(n, np.int8))

    @classmethod
    def from_batch(cls, batch: pa.RecordBatch, n: int) -> MeterDay:
        """From a stored block; slots that the shard has gained since are empty."""
        grown = cls.empty(n)
        k = batch.num_rows
        for target, name in (
            (grown.revision, "revision"),
            (grown.low, "energy_wh"),
            (grown.spread, "spread_wh"),
            (grown.quality, "quality"),
        ):
            target[:k] = batch.column(name).to_numpy()
        return grown

    def to_batch(self) -> pa.RecordBatch:
        """The block as stored, schema `SCHEMA`."""
        return pa.record_batch([self.revision, self.low, self.spread, self.quality], schema=SCHEMA)

    @property
    def read(self) -> Mask:
        """Which meters have a reading."""
        return np.not_equal(self.revision, NONE)


def reduce_rows(slot: Int32, revision: Int, energy: Int, quality: Int8) -> tuple[Int32, MeterDay]:
    """Merge the rows of one day into one state per slot that occurs. All (k,); returns ((m,) slots, states (m,))."""
    if len(slot) and np.bincount(slot).max() == 1:
        return slot, MeterDay(revision, energy, np.zeros(len(slot), np.int64), quality)
    order = np.lexsort((quality, energy, -revision, slot))
    slot, revision, energy, quality = slot[order], revision[order], energy[order], quality[order]
    starts = np.flatnonzero(np.r_[True, slot[1:] != slot[:-1]]) if len(slot) else np.zeros(0, np.int64)
    group = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(slot)]))
    top = np.where(revision == revision[starts][group], energy, np.int64(NONE))
    high = np.maximum.reduceat(top, starts) if len(starts) else top
    return slot[starts], MeterDay(revision[starts], energy[starts], high - energy[starts], quality[starts])


def merge(day: MeterDay, slot: Int32, new: MeterDay) -> MeterDay:
    """Merge states of some slots into a dense day. day: (n,); slot: (m,) unique; new: (m,). Returns a new (n,) day."""
    r0, l0, s0, q0 = day.revision[slot], day.low[slot], day.spread[slot], day.quality[slot]
    newer, equal = new.revision > r0, new.revision == r0
    low = np.minimum(l0, new.low)
    spread = np.maximum(l0 + s0, new.low + new.spread) - low
    smaller = np.where(new.low < l0, new.quality, np.where(new.low > l0, q0, np.minimum(q0, new.quality)))
    out = MeterDay(day.revision.copy(), day.low.copy(), day.spread.copy(), day.quality.copy())
    out.revision[slot] = np.maximum(r0, new.revision)
    out.low[slot] = np.where(newer, new.low, np.where(equal, low, l0))
    out.spread[slot] = np.where(newer, new.spread, np.where(equal, spread, s0))
    out.quality[slot] = np.where(newer, new.quality, np.where(equal, smaller, q0))
    return out


def count_accepted(
    before: MeterDay, after: MeterDay, counted: Mask, slot: Int32, revision: Int, energy: Int, redriven: Mask
) -> tuple[int, int, Mask]:
    """Sort the rows of one day into accepted, superseded and pending.

    A row of a meter that does not count (`counted` (n,) false) is pending. Of the others one row per meter is
    accepted where the winner is new, or where it was waiting; the rest are superseded.
    Returns (accepted, superseded, pending rows (k,)).
    """
    here = counted[slot]
    wins = here & (revision == after.revision[slot]) & (energy == after.low[slot])
    fresh = redriven | (before.revision[slot] != after.revision[slot]) | (before.low[slot] != after.low[slot])
    accepted = len(np.unique(slot[wins & fresh]))
    return accepted, int(here.sum()) - accepted, ~here
