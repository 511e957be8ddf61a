"""Rows found by a day of theirs, without looking at the others."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


class ByDay:
    """Rows by day number. day: (n,) int32.

    order: the first `len(order)` rows in order of their day; the rows after them are looked through, all of them, each time.
    Without one, all rows are put in order when they are first asked for.
    """

    def __init__(self, day: Int32, order: Int32 | None = None) -> None:
        self.day = day
        self._order = order

    def between(self, first: int, last: int) -> Int64:
        """The rows of the days first .. last, in no particular order.

        >>> ByDay(np.array([7, 5, 9, 7], np.int32), np.array([1, 0], np.int32)).between(6, 7).tolist()
        [0, 3]
        """
        begin, end = self._begin(first), self._begin(last + 1)
        order = self._sorted()
        tail = self.day[len(order) :]
        rest = np.flatnonzero((tail >= first) & (tail <= last)) + len(order)
        return np.concatenate([order[begin:end], rest]).astype(np.int64, copy=False)

    def on(self, days: Iterable[int]) -> Int64:
        """The rows of some days, each once."""
        some, order = sorted(set(days)), self._sorted()
        found = [order[self._begin(day) : self._begin(day + 1)] for day in some]
        rest = np.flatnonzero(np.isin(self.day[len(order) :], some)) + len(order)
        return np.concatenate([*found, rest]).astype(np.int64, copy=False)

    def all(self) -> Int32:
        """All rows in order of their day. (n,) int32."""
        order: npt.NDArray[Any] = self._sorted()
        if len(order) < len(self.day):
            order = np.argsort(self.day, kind="stable").astype(np.int32)
        return order

    def _begin(self, day: int) -> int:
        """Where a day begins in the order."""
        return bisect_left(self._sorted(), day, key=self.day.__getitem__)

    def _sorted(self) -> Int32:
        if self._order is None:
            self._order = np.argsort(self.day, kind="stable").astype(np.int32)
        return self._order
