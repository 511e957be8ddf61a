"""The service days of an account shard: as they were read, and as they count."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.vee import Vee
from transforms.blocks import one_batch
from transforms.kernels.days_read import Account, DaysRead
from transforms.kernels.edits import Edits, edit
from transforms.kernels.estimates import Provisional, provisional
from transforms.kernels.vee import Verdicts, judge
from transforms.kernels.windows import DayBlock
from transforms.shards import Place, State
from transforms.storage import Entry

EDITED, PROVISIONAL = "edited_block", "provisional_block"


@dataclass(frozen=True)
class Counted:
    """What VEE makes of a day.

    deciding: (m,) which of the verdicts found the edits are by; as_read: (m,) Wh, of the accounts that are edited.
    """

    found: Verdicts
    edits: Edits
    deciding: npt.NDArray[np.int64]
    as_read: npt.NDArray[np.int64]
    estimates: Provisional


class CountedDays:
    """Loads days, and keeps what a tick makes of them beside what was read. A day is counted before it is loaded."""

    def __init__(self, state: State, n: int) -> None:
        self.n, self._store = n, state.store
        self._blocks = state.by_day("day_block")
        self._edited, self._provisional = state.by_day(EDITED), state.by_day(PROVISIONAL)
        self._edits: dict[int, Edits] = {}
        self._estimates: dict[int, Provisional] = {}

    def read(self, day: int) -> DayBlock | None:
        """The block of a day as it was read, None where nothing was."""
        entry = self._blocks.get(day)
        return DayBlock.from_batch(self._store.read_block(entry)) if entry else None

    def count(self, day: int, vee: Vee | None, accounts: Account) -> Counted:
        """Work out, and keep, what a day has in place of readings. vee: the rules in force."""
        read = DaysRead(day, self.n, self.read, accounts)
        found = judge(vee or Vee(), read)
        edits, deciding = edit(read, found, self.edited)
        estimates = provisional(read, edits.rejected, self.edited)
        if len(edits.slot):
            self._edits[day] = edits
        if len(estimates.slot):
            self._estimates[day] = estimates
        return Counted(found, edits, deciding, read.energy[edits.slot], estimates)

    def edits(self, day: int) -> Edits | None:
        """What counts in place of what was read on a day, None where that counts."""
        if day in self._edits or day not in self._edited:
            return self._edits.get(day)
        return Edits.from_batch(self._store.read_block(self._edited[day]))

    def edited(self, day: int) -> npt.NDArray[np.int32]:
        """Slots of the accounts that are edited on a day, ascending."""
        edits = self.edits(day)
        return np.zeros(0, np.int32) if edits is None else edits.slot

    def provisional(self, day: int) -> Provisional | None:
        """Provisional energy of a day, None where no account has any."""
        if day in self._estimates or day not in self._provisional:
            return self._estimates.get(day)
        return Provisional.from_batch(self._store.read_block(self._provisional[day]))

    def load(self, day: int) -> DayBlock | None:
        """The block of a day as it counts, None where nothing does."""
        block, edits, estimates = self.read(day), self.edits(day), self.provisional(day)
        if block and edits:
            block = edits.on(block)
        if estimates:
            block = replace((block or DayBlock.empty(0)).grown(self.n), provisional=estimates.dense(self.n))
        return block

    def close(self, place: Place, shard: int) -> list[Entry]:
        """Write what was put. Its entries."""
        entries: list[Entry] = []
        for kind, made in ((EDITED, self._edits), (PROVISIONAL, self._estimates)):
            blocks = [(day, some.to_batch()) for day, some in made.items()]
            entries += place.store().write_blocks(place.path(kind, shard, "arrow"), kind, shard, blocks)
        return entries


class CountedOfSome(CountedDays):
    """The days of some accounts, which take the places 0, 1, 2 ...: those from `first` on are counted anew.

    some: (k,) slots of the shard, ascending.
    """

    def __init__(self, state: State, some: npt.NDArray[np.int64], first: int) -> None:
        super().__init__(state, len(some))
        self.some, self.first = some, first
        self._read: dict[int, DayBlock | None] = {}

    def read(self, day: int) -> DayBlock | None:
        """The accounts' block of a day as it was read; each is read once."""
        if day not in self._read:
            block = super().read(day)
            self._read[day] = block.take(self.some) if block else None
        return self._read[day]

    def edits(self, day: int) -> Edits | None:
        """What counts in place of what was read."""
        if day >= self.first:
            return self._edits.get(day)
        edits = super().edits(day)
        return edits.take(self.some) if edits else None

    def provisional(self, day: int) -> Provisional | None:
        """Provisional energy of a day."""
        if day >= self.first:
            return self._estimates.get(day)
        estimates = super().provisional(day)
        return estimates.take(self.some) if estimates else None

    def was(self, day: int) -> npt.NDArray[np.int64]:
        """Positions of those of whom a day counted otherwise than it was read, before it was counted anew."""
        places = [np.zeros(0, np.int64)]
        for held in (self._edited, self._provisional):
            if entry := held.get(day):
                slot = self._store.read_block(entry).column("slot").to_numpy()
                places.append(np.searchsorted(self.some, slot[np.isin(slot, self.some)]))
        return np.unique(np.concatenate(places))

    def close(self, place: Place, shard: int) -> list[Entry]:
        """Write the days counted anew, with what is held of the other accounts."""
        entries: list[Entry] = []
        for kind, held, made in (
            (EDITED, self._edited, self._edits), (PROVISIONAL, self._provisional, self._estimates),
        ):  # fmt: skip
            days = sorted({*made, *(day for day in held if day >= self.first and len(self.was(day)))})
            blocks = [(day, self._merged(held.get(day), made.get(day))) for day in days]
            entries += place.store().write_blocks(place.path(kind, shard, "arrow"), kind, shard, blocks)
        return entries

    def _merged(self, held: Entry | None, made: Edits | Provisional | None) -> pa.RecordBatch:
        parts = []
        if held:
            table = pa.Table.from_batches([self._store.read_block(held)])
            parts.append(table.filter(pa.array(~np.isin(table["slot"].to_numpy(), self.some))))
        if made:
            batch = made.to_batch()
            slot = pa.array(self.some[made.slot].astype(np.int32))
            parts.append(pa.Table.from_batches([batch]).set_column(0, batch.schema.field(0), slot))
        return one_batch(pa.concat_tables(parts).sort_by("slot"))
