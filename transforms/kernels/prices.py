"""Tariffs by service day: which prices are in force, and what a day's energy of each account is worth by them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schemas.inbound import PERIODS, PRICED
from transforms.kernels.reference import last_per_slot
from transforms.kernels.valuation import Amounts, lines
from transforms.kernels.windows import MARGIN, VALUES, DayBlock, Values

Int = npt.NDArray[np.int64]
Int32 = npt.NDArray[np.int32]

NO_PRICE = -1
TOTAL = PRICED.index("total")


@dataclass(frozen=True)
class Prices:
    """Effective-dated prices, ascending by (tariff, period, valid_from).

    tariff: (k,) number of the tariff; period: (k,) code in `PRICED`; valid_from: (k,) day numbers; price_nano, cost_nano: (k,), the
    latter `NO_PRICE` where it is not known.
    """

    tariff: Int32
    period: Int32
    valid_from: Int32
    price_nano: Int
    cost_nano: Int

    @property
    def have_costs(self) -> bool:
        """Whether any cost is known."""
        return bool((self.cost_nano >= 0).any())

    def on(self, day: int, tariffs: int) -> Int:
        """The prices in force on a day: (tariffs + 1, len(PRICED)), `NO_PRICE` where there is none.

        The last row has none at all: it is that of tariff -1. tariffs: more than any number of a tariff.
        """
        return self._on(self.price_nano, day, tariffs)

    def costs_on(self, day: int, tariffs: int) -> Int:
        """The costs that stand beside these prices, likewise."""
        return self._on(self.cost_nano, day, tariffs)

    def _on(self, column: Int, day: int, tariffs: int) -> Int:
        key = self.tariff * len(PRICED) + self.period
        row = last_per_slot(key, self.valid_from <= day, (tariffs + 1) * len(PRICED))
        return np.where(row >= 0, column[row], NO_PRICE).reshape(-1, len(PRICED))


def day_values(block: DayBlock, tariff: Int32, prices: Int, costs: Int | None = None) -> Values:
    """A day's energy at the prices of the day. Formula: docs/explanation/definitions.md, "What energy is worth".

    tariff: (n,) by account slot, n at least the block's, -1 where none; prices, costs: as `Prices` gives them. With costs there is
    also `MARGIN`, what the lines that have a cost are worth beyond it.
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
    used = [(TOTAL, total, np.where(by_total, block.energy, 0))]
    used += [(PRICED.index(name), of, np.where(by_period, block.apart[name][0], 0)) for name, of in price.items()]
    nothing = np.zeros(len(tariff), np.int64)
    values = dict.fromkeys(VALUES if costs is None else (*VALUES, *MARGIN), nothing)

    def add(names: tuple[str, ...], amounts: Amounts, wh: Int, sign: int = 1) -> None:
        for name, column in zip(names, (amounts.major, amounts.parts, wh), strict=True):
            values[name] = values[name] + sign * column

    for period, of, energy in used:
        add(VALUES, lines(energy, np.maximum(of, 0)), energy)
        if costs is not None:
            cost = costs[tariff, period]
            some = np.where(cost >= 0, energy, 0)
            add(MARGIN, lines(some, np.maximum(of, 0)), some)
            add(MARGIN, lines(some, np.maximum(cost, 0)), nothing, -1)
    return values
