"""What energy is worth by a tariff, exactly: rounded once a bill, never a line.

A price is an integer in billionths of a major unit for one kWh, so a line, Wh times price, is one in 10^-12 of a major unit. It may
pass int64, so lines are summed in two parts:

    energy = high * 1,000,000 + low        line = high * price * 1,000,000 + low * price
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schemas.inbound import PRICE_LIMIT_NANO

Int = npt.NDArray[np.int64]

SPLIT = 1_000_000
PARTS_OF_MAJOR = 10**12
"""A line is in these parts of a major unit."""


@dataclass(frozen=True)
class Amounts:
    """Exact amounts, (n,) each: `high * 1,000,000 + low` in 10^-12 of a major unit."""

    high: Int
    low: Int

    def by_bill(self, bill: Int, bills: int) -> Amounts:
        """Lines added up by the bill they are on. bill: (n,) numbers below `bills`."""
        out = Amounts(np.zeros(bills, np.int64), np.zeros(bills, np.int64))
        for into, lines in ((out.high, self.high), (out.low, self.low)):
            np.add.at(into, bill, lines)
        return out

    def rounded(self, digits: int = 2) -> Int:
        """In units of `10**-digits` of a major unit, digits up to 12, halves up. The one place where an amount is rounded."""
        per_unit = PARTS_OF_MAJOR // 10**digits
        if per_unit < SPLIT:
            return np.asarray(self.high * (SPLIT // per_unit) + (self.low + per_unit // 2) // per_unit)
        whole, rest = np.divmod(self.high, per_unit // SPLIT)
        more, low = np.divmod(self.low, per_unit)
        result: Int = whole + more + (rest * SPLIT + low + per_unit // 2) // per_unit
        return result


def lines(energy_wh: Int, price_nano: Int) -> Amounts:
    """What energy costs at a price. energy_wh: (n,) Wh; price_nano: (n,) billionths of a major unit for one kWh, both 0 or more.

    Raises ValueError where a price is beyond `PRICE_LIMIT_NANO`.

    >>> lines(np.array([387_500]), np.array([26_048_000])).rounded(4).tolist()
    [100936]
    """
    if (price_nano > PRICE_LIMIT_NANO).any() or (price_nano < 0).any():
        raise ValueError(f"prices are from 0 to {PRICE_LIMIT_NANO} billionths of a major unit; got {price_nano.max()}")
    high, low = np.divmod(energy_wh, SPLIT)
    return Amounts(high * price_nano, low * price_nano)


def scaled_price(price_nano: int, factor_ppm: int) -> int:
    """A price times a factor in ppm. Raises ValueError where billionths do not hold it: nothing is rounded before the bill.

    >>> scaled_price(45_663_000, 980_000)
    44749740
    """
    scaled, rest = divmod(price_nano * factor_ppm, 1_000_000)
    if rest:
        raise ValueError(f"{price_nano} billionths times {factor_ppm} ppm are no whole billionths")
    return scaled
