"""The service calendar: which days there are, how complete each is, and which of them a run publishes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from schemas.marts import SERVICE_DAYS
from schemas.policy import Policy
from transforms.fold_days import sum_calendar
from transforms.kernels.exact import ppm
from transforms.kernels.windows import date_of
from transforms.shards import numpy

Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Calendar:
    """Days `first ..` by number, from the first one with a reading up to the last one with a reading or ledger event; where there
    are no readings, from the first ledger event.

    received, expected: (n,) meters; told: (n,) energies that meters tell beside their totals; events: (n,) ledger events.
    later: (2, k) days after these on which the number of meters expected changes, and by how much.
    """

    first: int
    received: Int
    told: Int
    expected: Int
    events: Int
    later: Int

    @classmethod
    def of(cls, rows: pa.Table) -> Calendar | None:
        """From what all runs of all shards added, of `CALENDAR_SCHEMA`; None where nothing counts yet."""
        day, received, told, step, events = (numpy(c, np.int64) for c in sum_calendar(rows).columns)
        read = (received > 0) | (told > 0)
        counted = read | (events > 0)
        if not counted.any():
            return None
        first, last = int(day[read if read.any() else counted].min()), int(day[counted].max())
        n = last - first + 1
        place, into = np.clip(day - first, 0, n), np.zeros((4, n + 1), np.int64)
        for row, values in enumerate((received, told, step, events)):
            np.add.at(into[row], place, values)
        later = np.stack([day, step])[:, day > last]
        return cls(first, into[0, :n], into[1, :n], np.cumsum(into[2, :n]), into[3, :n], later)

    def coverage_ppm(self) -> tuple[Int, npt.NDArray[np.bool_]]:
        """Meters received over meters expected, and where that is known. Both (n,)."""
        known = self.expected > 0
        return ppm(self.received, np.where(known, self.expected, 1)), known

    @property
    def read(self) -> npt.NDArray[np.bool_]:
        """Which days have a reading, be it of a period alone. (n,)."""
        result: npt.NDArray[np.bool_] = (self.received > 0) | (self.told > 0)
        return result

    def closed(self, policy: Policy) -> npt.NDArray[np.bool_]:
        """Which days pass the policy's floor. (n,)."""
        coverage, known = self.coverage_ppm()
        return ~known | (coverage >= policy.day_close.coverage_floor_ppm)

    def end(self, policy: Policy, asked: int | None) -> int | None:
        """Number of the last day to publish; None where no day can be. Rule: definitions.md, "The calendar"."""
        has_data = self.read if self.read.any() else self.events > 0
        fit = np.flatnonzero(self.closed(policy) & has_data) + self.first
        if asked is not None:
            if policy.day_close.below_floor == "provisional":
                return asked if asked >= self.first else None
            fit = fit[fit <= asked]
        return int(fit[-1]) if len(fit) else None

    def held(self, policy: Policy, end: int | None) -> str | None:
        """What waits beyond the last published day, in words; None where nothing does."""
        last = self.first + len(self.received) - 1
        if (end is not None and end >= last) or not self.read.any():
            return None
        open_days = np.flatnonzero(~self.closed(policy)) + self.first
        open_days = open_days[open_days > (self.first - 1 if end is None else end)]
        if len(open_days) == 0:
            return None
        day = int(open_days[0])
        return (
            f"readings go on to {date_of(last)}; the first day not complete is {date_of(day)}, with "
            f"{self.received[day - self.first]:,} of {self.expected[day - self.first]:,} meters"
        )

    def service_days(self, policy: Policy, through: int) -> pa.Table:
        """The `service_days` mart, `first .. through`."""
        n = through - self.first + 1
        nothing = np.zeros(max(n - len(self.received), 0), np.int64)
        steps, (day, step) = nothing.copy(), self.later[:, self.later[0] <= through]
        np.add.at(steps, day - self.first - len(self.received), step)
        expected = np.r_[self.expected, self.expected[-1] + np.cumsum(steps)]
        received, told, events = (np.r_[of, nothing] for of in (self.received, self.told, self.events))
        long = Calendar(self.first, received, told, expected, events, self.later)
        coverage, known = long.coverage_ppm()
        days = [date_of(day) for day in range(self.first, through + 1)]
        status = np.where(long.closed(policy), "closed", "provisional")
        return pa.table(
            [
                pa.array(days), long.expected[:n], long.received[:n], pa.array(coverage[:n], mask=~known[:n]), status[:n].tolist(),
                [policy.on(day).version for day in days],
            ],
            schema=SERVICE_DAYS.schema,
        )  # fmt: skip
