"""What energy is worth by a tariff, exactly: rounded once a bill or window, never a line.

A price is an integer in billionths of a major unit for one kWh, so a line, Wh times price, is one in 10^-12 of a major unit. It may
pass int64, so it is kept in two parts, whole major units and the rest:

    energy = a * 1,000,000 + b      price = c * 1,000,000 + d
    line   = a*c * 10^12  +  (a*d + b*c) * 10^6  +  b*d
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
    """Exact amounts, (n,) each: `major * 10^12 + parts` in 10^-12 of a major unit. Parts of up to 10^6 lines can be added up."""

    major: Int
    parts: Int

    def by_bill(self, bill: Int, bills: int) -> Amounts:
        """Lines added up by the bill they are on. bill: (n,) numbers below `bills`."""
        out = Amounts(np.zeros(bills, np.int64), np.zeros(bills, np.int64))
        for into, lines in ((out.major, self.major), (out.parts, self.parts)):
            np.add.at(into, bill, lines)
        return out

    def rounded(self, digits: int = 2) -> Int:
        """In units of `10**-digits` of a major unit, digits up to 12, halves up. The one place where an amount is rounded."""
        per_unit = PARTS_OF_MAJOR // 10**digits
        result: Int = self.major * 10**digits + (self.parts + per_unit // 2) // per_unit
        return result


def lines(energy_wh: Int, price_nano: Int) -> Amounts:
    """What energy costs at a price. energy_wh: (n,) Wh, below 2^44; price_nano: (n,) billionths of a major unit for one kWh,
    both 0 or more.

    Raises ValueError where a price is beyond `PRICE_LIMIT_NANO`.

    >>> lines(np.array([387_500]), np.array([26_048_000])).rounded(4).tolist()
    [100936]
    """
    if (price_nano > PRICE_LIMIT_NANO).any() or (price_nano < 0).any():
        raise ValueError(f"prices are from 0 to {PRICE_LIMIT_NANO} billionths of a major unit; got {price_nano.max()}")
    (a, b), (c, d) = np.divmod(energy_wh, SPLIT), np.divmod(price_nano, SPLIT)
    major, middle = np.divmod(a * d + b * c, SPLIT)
    return Amounts(a * c + major, middle * SPLIT + b * d)


def scaled_price(price_nano: int, factor_ppm: int) -> int:
    """A price times a factor in ppm. Raises ValueError where billionths do not hold it: nothing is rounded before the bill.

    >>> scaled_price(45_663_000, 980_000)
    44749740
    """
    scaled, rest = divmod(price_nano * factor_ppm, 1_000_000)
    if rest:
        raise ValueError(f"{price_nano} billionths times {factor_ppm} ppm are no whole billionths")
    return scaled
