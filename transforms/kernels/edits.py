"""What counts of a service day in place of what was read, where a rule of VEE says so.

Formulas: docs/explanation/definitions.md, "VEE".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.inbound import DEMAND, PERIODS
from schemas.vee import SEVERITIES
from transforms.kernels.days_read import DaysRead
from transforms.kernels.estimates import EditedOn, like_day
from transforms.kernels.vee import Verdicts
from transforms.kernels.windows import DayBlock

Int = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]

ESTIMATE = SEVERITIES.index("estimate")


@dataclass(frozen=True)
class Edits:
    """A day of the few accounts that are edited. slot: (m,) ascending; block: (m,) what counts.

    Energy fed in stays as read, and the maximum demand of a day that is not rejected.
    """

    slot: Int32
    block: DayBlock

    @classmethod
    def none(cls) -> Edits:
        """Nothing is edited."""
        return cls(np.zeros(0, np.int32), replace(DayBlock.empty(0), apart=_no_periods(0)))

    @classmethod
    def from_batch(cls, batch: pa.RecordBatch) -> Edits:
        """From a stored block."""
        return cls(batch.column(0).to_numpy(), DayBlock.from_batch(batch.select(batch.schema.names[1:])))

    def to_batch(self) -> pa.RecordBatch:
        """As stored: columns are the same on all days."""
        block = self.block.to_batch(PERIODS)
        return pa.record_batch([pa.array(self.slot), *block.columns], names=["slot", *block.schema.names])

    def take(self, some: Int) -> Edits:
        """Those of some accounts, by their positions. some: (k,) slots, ascending."""
        mine = np.flatnonzero(np.isin(self.slot, some))
        return Edits(np.searchsorted(some, self.slot[mine]).astype(np.int32), self.block.take(mine))

    @property
    def rejected(self) -> Int32:
        """Slots of those whose readings do not count."""
        out: Int32 = self.slot[self.block.received == 0]
        return out

    def on(self, block: DayBlock) -> DayBlock:
        """The day as it counts. block: as it was read."""
        names = ("energy", "received", "estimated", "conflict")
        columns = {name: _put(getattr(block, name), self.slot, getattr(self.block, name)) for name in names}
        apart, none = dict(block.apart), (np.zeros(len(block.energy), np.int64), np.zeros(len(block.energy), np.int32))
        for name in PERIODS:
            if name in block.apart or self.block.apart[name][1].any():
                read, instead = block.apart.get(name, none), self.block.apart[name]
                apart[name] = _put(read[0], self.slot, instead[0]), _put(read[1], self.slot, instead[1])
        if DEMAND in apart:
            watts, meters = apart[DEMAND]
            apart[DEMAND] = _put(watts, self.rejected, 0), _put(meters, self.rejected, 0)
        return replace(block, **columns, apart=apart)


def edit(days: DaysRead, found: Verdicts, edited: EditedOn) -> tuple[Edits, Int]:
    """What counts of the day, and which of the verdicts decides it: indices (m,) into them, by account.

    Of several of an account the strongest severity decides, and of these the first rule. edited: of the days before.
    """
    if not found.severity.any():
        return Edits.none(), np.zeros(0, np.int64)
    order = np.lexsort((found.rule, -found.severity, found.slot))
    first = np.r_[True, np.diff(found.slot[order]) != 0]
    deciding = order[first & (found.severity[order] > 0)]
    slot, by_estimate = found.slot[deciding], found.severity[deciding] == ESTIMATE

    back = np.zeros(len(slot), np.int64)
    back[by_estimate] = like_day(days, slot[by_estimate], edited)
    energy = np.where(by_estimate, found.limit[deciding], 0)  # every rule that estimates has a limit
    apart = _no_periods(len(slot))
    for at in np.unique(back[back > 0]):
        some = back == at
        like = days.block(int(at))
        assert like is not None  # or it would not be complete
        energy[some] = like.energy[slot[some]]
        for name in PERIODS:
            if name in like.apart:
                wh, meters = like.apart[name]
                apart[name][0][some], apart[name][1][some] = wh[slot[some]], meters[slot[some]]
    read = days.block(0)
    assert read is not None
    received = np.where(by_estimate, read.received[slot], 0).astype(np.int32)
    conflict = np.where(by_estimate, read.conflict[slot], 0).astype(np.int32)
    return Edits(slot.astype(np.int32), DayBlock(energy, received, received, conflict, apart)), deciding


def _no_periods(m: int) -> dict[str, tuple[Int, Int32]]:
    return {name: (np.zeros(m, np.int64), np.zeros(m, np.int32)) for name in PERIODS}


def _put(column: npt.NDArray[Any], slot: Int32, values: npt.NDArray[Any] | int) -> npt.NDArray[Any]:
    """The column with the values of some slots in place."""
    out = column.copy()
    out[slot] = values
    return out
