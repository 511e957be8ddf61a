"""Tariffs by service day: which prices are in force, and what a day's energy of each account is worth by them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schemas.inbound import PERIODS, PRICED
from transforms.kernels.reference import last_per_slot
from transforms.kernels.valuation import lines
from transforms.kernels.windows import VALUES, DayBlock, Values

Int = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]

NO_PRICE = -1
TOTAL = PRICED.index("total")


@dataclass(frozen=True)
class Prices:
    """Effective-dated prices, ascending by (tariff, period, valid_from).

    tariff: (k,) number of the tariff; period: (k,) code in `PRICED`; valid_from: (k,) day numbers; price_nano: (k,).
    """

    tariff: Int32
    period: Int32
    valid_from: Int32
    price_nano: Int

    def on(self, day: int, tariffs: int) -> Int:
        """The prices in force on a day: (tariffs + 1, len(PRICED)), `NO_PRICE` where there is none.

        The last row has none at all: it is that of tariff -1. tariffs: more than any number of a tariff.
        """
        key = self.tariff * len(PRICED) + self.period
        row = last_per_slot(key, self.valid_from <= day, (tariffs + 1) * len(PRICED))
        return np.where(row >= 0, self.price_nano[row], NO_PRICE).reshape(-1, len(PRICED))


def day_values(block: DayBlock, tariff: Int32, prices: Int) -> Values:
    """A day's energy at the prices of the day. Formula: docs/explanation/definitions.md, "What energy is worth".

    tariff: (n,) by account slot, n at least the block's, -1 where none; prices: as `Prices.on` gives them.
    """
    tariff = tariff[: len(block.energy)]
    none, all_priced = np.ones(len(tariff), np.bool_), np.ones(len(tariff), np.bool_)
    price = {}
    for name in PERIODS:
        if name in block.apart:
            energy, meters = block.apart[name]
            price[name] = prices[tariff, PRICED.index(name)]
            none &= meters == 0
            all_priced &= (meters == 0) | ((meters >= block.received) & ((energy == 0) | (price[name] >= 0)))
    by_period = ~none & all_priced
    total = prices[tariff, TOTAL]
    by_total = ~by_period & (block.received > 0) & (total >= 0)
    wh = np.where(by_total, block.energy, 0)
    amounts = lines(wh, np.maximum(total, 0))
    major, parts = amounts.major, amounts.parts
    for name, of in price.items():
        energy = np.where(by_period, block.apart[name][0], 0)
        line = lines(energy, np.maximum(of, 0))
        major, parts, wh = major + line.major, parts + line.parts, wh + energy
    return dict(zip(VALUES, (major, parts, wh), strict=True))
