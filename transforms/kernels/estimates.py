"""Energy of a like day for a day of an account that was not read.

Formulas: docs/explanation/definitions.md, "Where nothing was read".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.vee import LIKE_DAYS
from transforms.kernels.days_read import DaysRead

Int = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]


EditedOn = Callable[[int], Int32]
"""Gives the slots of the accounts that VEE edited on a day number, ascending."""


@dataclass(frozen=True)
class Provisional:
    """Provisional energy of a day, of the few accounts that have one. slot: (m,) ascending; energy: (m,) Wh."""

    slot: Int32
    energy: Int

    @classmethod
    def from_batch(cls, batch: pa.RecordBatch) -> Provisional:
        """From a stored block."""
        return cls(*(column.to_numpy() for column in batch.columns))

    def to_batch(self) -> pa.RecordBatch:
        """As stored."""
        return pa.record_batch({"slot": self.slot, "energy_wh": self.energy})

    def take(self, some: Int) -> Provisional:
        """Those of some accounts, by their positions. some: (k,) slots, ascending."""
        mine = np.isin(self.slot, some)
        return Provisional(np.searchsorted(some, self.slot[mine]).astype(np.int32), self.energy[mine])

    def dense(self, n: int) -> Int:
        """Energy by account slot, 0 where there is none. (n,)."""
        out = np.zeros(n, np.int64)
        out[self.slot] = self.energy
        return out


def like_day(days: DaysRead, slot: Int, edited: EditedOn) -> Int:
    """How many days back each account's latest like day is that is complete and was not edited, 0 where there is none. (m,)."""
    back = np.zeros(len(slot), np.int64)
    for at in LIKE_DAYS:
        if back.all():  # then no day further back needs to be read
            break
        fits = days.complete(at)[slot] & ~np.isin(slot, edited(days.day - at))
        back[(back == 0) & fits] = at
    return back


def provisional(days: DaysRead, rejected: Int32, edited: EditedOn) -> Provisional:
    """What accounts of the population are taken to have used where meters are expected and none was received, or all rejected.

    rejected: slots of the day's accounts whose readings do not count.
    """
    received = days.received_of(0)
    received[rejected] = 0
    silent = np.flatnonzero(days.accounts.inside & (received == 0))
    if len(silent):
        silent = silent[days.due(0)[silent] > 0]
    back = like_day(days, silent, edited)
    slot, back = silent[back > 0], back[back > 0]
    energy = np.zeros(len(slot), np.int64)
    for at in np.unique(back):
        energy[back == at] = days.energy_of(int(at))[slot[back == at]]
    return Provisional(slot.astype(np.int32), energy)
