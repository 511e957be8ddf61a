"""What the simulated utility's meters show: cumulative registers, from the energy that goes through them.

    index at the end of a day = index at its beginning + energy / multiplier        modulo where the register turns over

Multipliers divide 1,000 and indexes are told to a thousandth of a Wh, so that registers say exactly what was used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.utility import METER_ROW, ONE, READING, Occupancy, Rows, World, new_rows
from schemas.inbound import PERIODS

Int = npt.NDArray[np.int64]

SHOWN = ("total", *PERIODS)
"""The registers of a simulated meter."""

REGISTER = np.dtype([*READING.descr, ("opened", "i8", (len(SHOWN),))])
"""A reading of registers: the day's energy, and what the registers showed before it, in thousandths of a Wh."""

METER_SHOWN = np.dtype([*METER_ROW.descr, ("installed", "i8", (len(SHOWN),)), ("removed", "i8", (len(SHOWN),))])
"""A meter row with the indexes at both ends; `NOT_TOLD` where none is given."""

NOT_TOLD = -1
MULTIPLIERS = np.array([1, 10, 20, 40, 100, 200, 500, 1_000])
"""Divisors of 1,000."""

MULTIPLY_FROM_WH = 200_000
"""A meter has the smallest multiplier with which its registers rise by less than this on an average day."""

MODULUS, LARGE_MODULUS = 10**12, 10**14
"""Registers turn over at a million kWh, those of the largest at a hundred million."""

PARTS = np.array([(92, 328, 340, 264), (150, 420, 300, 154), (130, 300, 290, 304), (40, 240, 420, 324)], np.int64)
"""(category, period): what is used in each time-of-use period, in 1/1024."""


def split(energy_wh: Int, category: npt.NDArray[Any]) -> Int:
    """The day's energy in all and by period, the flat one having what is left. (m,) each; returns (m, 5) Wh."""
    parts = energy_wh[:, None] * PARTS[category] // ONE
    flat = PERIODS.index("flat")
    parts[:, flat] += energy_wh - parts.sum(axis=1)
    return np.column_stack([energy_wh, parts])


class Dials:
    """What all M meters show, as the days go by.

    multiplier: (M,); modulus: (M,) and shown: (M, 5) thousandths of a Wh; installed: (M, 5) what they showed as the present
    tenancy began, `NOT_TOLD` where that was before the simulation.
    """

    def __init__(self, world: World) -> None:
        rise = world.meter_base_wh
        at = np.searchsorted(MULTIPLIERS * MULTIPLY_FROM_WH, rise, side="right")
        self.multiplier = MULTIPLIERS[np.minimum(at, len(MULTIPLIERS) - 1)]
        self.modulus = np.where(rise // self.multiplier < 5 * MULTIPLY_FROM_WH, MODULUS, LARGE_MODULUS)
        shape = (len(rise), len(SHOWN))
        self.shown = world.random("dials").integers(0, 1 << 62, shape) % self.modulus[:, None]
        self.shown[:, 0] = self.shown[:, 1:].sum(axis=1) % self.modulus  # the total counts what the others count
        self.installed = np.full(shape, NOT_TOLD, np.int64)

    def install(self, meters: Rows) -> Rows:
        """METER_ROW rows of a day with the indexes of those that begin on it. Returns METER_SHOWN rows."""
        out = new_rows(METER_SHOWN, len(meters), removed=NOT_TOLD, **{n: meters[n] for n in METER_ROW.names or ()})
        new = meters["meter"][meters["revision"] == 1]
        self.installed[new] = self.shown[new]
        out["installed"] = self.installed[meters["meter"]]
        return out

    def begin(self, meters: Rows, held: Occupancy, world: World) -> Rows:
        """As `install`, on the first day: of tenancies that began before, a reading of the midnight before it tells more."""
        out = self.install(meters)
        before = held.opened_on[world.meter_slot[meters["meter"]]] < 0
        self.installed[meters["meter"][before]] = NOT_TOLD
        out["installed"][before] = NOT_TOLD
        return out

    def opening(self, readings: Rows) -> Rows:
        """REGISTER rows of the midnight before the first day, of meters that have no index of their installation."""
        meter = readings["meter"][self.installed[readings["meter"], 0] == NOT_TOLD]
        return new_rows(REGISTER, len(meter), meter=meter, day=-1, revision=1, opened=self.shown[meter])

    def turn(self, world: World, readings: Rows) -> Rows:
        """READING rows of a day as REGISTER rows; the registers go on."""
        meter = readings["meter"]
        out = new_rows(
            REGISTER, len(readings), opened=self.shown[meter], **{n: readings[n] for n in READING.names or ()}
        )
        self.shown[meter] = self.after(world, out)
        return out

    def remove(self, meters: Rows) -> None:
        """Write into METER_SHOWN rows of a day what those that end on it show at its end."""
        ends = meters["revision"] > 1
        meters["removed"][ends] = self.shown[meters["meter"][ends]]

    def after(self, world: World, rows: Rows) -> Int:
        """What REGISTER rows show at the end of their day: (m, 5) thousandths of a Wh."""
        meter = rows["meter"]
        used = split(rows["energy_wh"], world.category[world.meter_slot[meter]])
        used *= (1_000 // self.multiplier[meter])[:, None]
        return np.asarray((rows["opened"] + used) % self.modulus[meter][:, None])
