"""The service days of an account shard: as they were read, and as they count."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from schemas.vee import Vee
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
