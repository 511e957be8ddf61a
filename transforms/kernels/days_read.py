"""What is known of a service day of some accounts, and of the days before it, as it was read.

day   D-28   D-21   D-14   D-7 D-6 .. D-1   D
      like   like   like   like
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from schemas.vee import LIKE_DAYS
from transforms.kernels.reference import Expected
from transforms.kernels.windows import DayBlock, Load

Int = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Account:
    """Accounts of a shard on a service day. inside: (n,) in the population; known: (n,) in the reference data; capacity: (n,) VA,
    -1 where unknown; expected: of all days.
    """

    inside: Mask
    known: Mask
    capacity: Int
    expected: Expected


class DaysRead:
    """A service day of some accounts and the days before it, all as read and grown to `n` slots.

    load: gives the block of a day as read, None where nothing was.
    """

    def __init__(self, day: int, n: int, load: Load, accounts: Account) -> None:
        self.day, self.n, self.accounts = day, n, accounts
        self._load = load
        self._held: dict[int, DayBlock | None] = {}
        self._complete: dict[int, Mask] = {}
        self.energy = self.energy_of(0)

    def block(self, back: int) -> DayBlock | None:
        """The block of so many days before."""
        if back not in self._held:
            self._held[back] = self._load(self.day - back)
        return self._held[back]

    def _column(self, back: int, name: str) -> Int:
        block, out = self.block(back), np.zeros(self.n, np.int64)
        if block is not None:
            column = getattr(block, name)
            out[: len(column)] = column
        return out

    def energy_of(self, back: int) -> Int:
        """Energy in Wh of so many days before. (n,)."""
        return self._column(back, "energy")

    def received_of(self, back: int) -> Int:
        """Meters received so many days before. (n,)."""
        return self._column(back, "received")

    def estimated_of(self, back: int) -> Mask:
        """Whether any meter's value of so many days before is not actual. (n,)."""
        result: Mask = self._column(back, "estimated") > 0
        return result

    def due(self, back: int) -> Int:
        """Meters expected so many days before. (n,)."""
        return self.accounts.expected.between(self.day - back, self.day - back, self.n)

    def complete(self, back: int) -> Mask:
        """Whether all meters expected so many days before, at least one, were received. (n,)."""
        if back not in self._complete:
            due = self.due(back)
            self._complete[back] = (due > 0) & (self.received_of(back) >= due)
        return self._complete[back]

    @cached_property
    def like(self) -> tuple[Int, Int, Int]:
        """How many like days were read, and the largest and smallest energy of them. (n,) each; 0 and 2^62 where none."""
        count, high, low = np.zeros(self.n, np.int64), np.zeros(self.n, np.int64), np.full(self.n, 1 << 62, np.int64)
        for back in LIKE_DAYS:
            read, energy = self.received_of(back) > 0, self.energy_of(back)
            count += read
            high = np.where(read, np.maximum(high, energy), high)
            low = np.where(read, np.minimum(low, energy), low)
        return count, high, low
