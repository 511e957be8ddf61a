"""How a meter is read: its runs of reference data, and how far its registers run on without a break.

    run        first ..... end | first ..... end      one reference row, while it holds; end is exclusive
    segment    0 ............... 0                    the same registers run on
    segment    0 .............  |  1                  an exchange: with indexes, or after a gap

Formulas: docs/explanation/definitions.md, "Registers".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.inbound import INDEX_LIMIT, KEPT, REGISTERS
from transforms.kernels.reference import NEVER
from transforms.kernels.registers import Multipliers, day_key

Int = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

NO_INDEX = -1
COUNT = len(KEPT)
"""Series of a meter."""


@dataclass(frozen=True)
class Terms:
    """Runs that hold for at least one day, ascending by (slot, first). All (k,), opening and closing (k, registers).

    row: position among the reference rows; slot: meter; first, end: service day numbers, end exclusive; account: shard and
    slot as one number; known: whether it is in the reference data; counts: known, and not of a check meter; multiplier;
    modulus, 0 where unknown; segment: numbered in order over all meters; opening, closing: indexes that the reference gives,
    `NO_INDEX` where none.
    """

    row: Int
    slot: Int
    first: Int
    end: Int
    account: Int
    known: Mask
    counts: Mask
    multiplier: Int
    modulus: Int
    segment: Int
    opening: Int
    closing: Int

    @classmethod
    def of(
        cls, slot: Int, first: Int, removed: Int, account: Int, known: Mask, counts: Mask, multiplier: Int, modulus: Int,
        opening: Int, closing: Int,
    ) -> Terms:  # fmt: skip
        """From reference rows, ascending by (slot, first); removed: as the rows say, exclusive, NEVER where empty."""
        following = np.full(len(slot), NEVER, np.int64)
        same = np.flatnonzero(slot[1:] == slot[:-1])
        following[same] = first[same + 1]
        end = np.minimum(removed, following)
        row = np.flatnonzero(end > first)
        slot, first, end = slot[row], first[row], end[row]
        up_to_its_removal = (end == removed[row]) & (end < NEVER)
        opening, closing = opening[row], np.where(up_to_its_removal[:, None], closing[row], NO_INDEX)
        new = np.ones(len(row), np.bool_)
        new[1:] = (slot[1:] != slot[:-1]) | (first[1:] != end[:-1])
        new[1:] |= (opening[1:] >= 0).any(axis=1) | (closing[:-1] >= 0).any(axis=1)
        segment = np.cumsum(new) - 1
        return cls(
            row, slot, first, end, account[row], known[row], counts[row], multiplier[row], modulus[row], segment, opening,
            closing,
        )  # fmt: skip

    def run_on(self, slot: npt.NDArray[Any], day: npt.NDArray[Any]) -> Int:
        """The run that holds for each (meter slot, day), -1 where none. Both (m,)."""
        if len(self.slot) == 0:
            return np.full(len(slot), -1, np.int64)
        run = np.searchsorted(day_key(self.slot, self.first), day_key(slot, day), "right") - 1
        at = np.maximum(run, 0)
        holds = (run >= 0) & (self.slot[at] == slot) & (day < self.end[at])
        return np.where(holds, at, -1)

    def holder(self, slot: npt.NDArray[Any], day: npt.NDArray[Any]) -> Int:
        """The run that a reading at the end of each day concerns: the day's, else one that begins the day after."""
        run = self.run_on(slot, day)
        return np.where(run >= 0, run, self.run_on(slot, np.asarray(day) + 1))

    def known_at(self, slot: npt.NDArray[Any], day: npt.NDArray[Any]) -> Mask:
        """Whether a reading at the end of each day concerns a known account. Both (m,)."""
        run = self.holder(slot, day)
        return self.known[run] & (run >= 0) if len(self.slot) else np.zeros(len(slot), np.bool_)

    def known_days(self, slot: int) -> frozenset[tuple[int, int]]:
        """The runs of a meter that are of a known account: first day, and end."""
        mine = np.flatnonzero((self.slot == slot) & self.known)
        return frozenset(zip(self.first[mine].tolist(), self.end[mine].tolist(), strict=True))

    @cached_property
    def least_modulus(self) -> int:
        """No index below this is beyond a modulus."""
        return int(self.modulus[self.modulus > 0].min(initial=INDEX_LIMIT))

    def beyond(self, run: Int, index: Int) -> Mask:
        """Which indexes the registers of a run cannot show, as they turn over before. run: (m,), not negative; index: (m,)."""
        modulus = self.modulus[run]
        result: Mask = (modulus > 0) & (index >= modulus)
        return result

    @property
    def heads(self) -> Mask:
        """Which runs begin a segment. (k,)."""
        out = np.ones(len(self.slot), np.bool_)
        out[1:] = self.segment[1:] != self.segment[:-1]
        return out

    def begins(self, run: Int) -> Int:
        """First day of the segment of each run. run: (m,), not negative."""
        head = np.flatnonzero(self.heads)
        result: Int = self.first[head[self.segment[run]]]
        return result

    def multipliers(self) -> Multipliers:
        """The same, by series of registers: meter slot times `COUNT`, plus the register's number."""
        n = len(REGISTERS)
        series = (self.slot[:, None] * COUNT + np.arange(n)).ravel()
        order = np.argsort(series, kind="stable")
        return Multipliers(series[order], np.repeat(self.first, n)[order], np.repeat(self.multiplier, n)[order])
