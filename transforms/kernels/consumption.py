"""The consumption columns of `features`, made of the rolling sums of a shard: see `windows`.

Formulas: docs/explanation/definitions.md, "Rolling consumption" and "What energy is worth".
"""

from __future__ import annotations

from collections.abc import Callable, Set

import numpy as np

from schemas.inbound import APART, PERIODS
from schemas.marts import DEMAND_MONTHS, PERIOD_WINDOWS, PROVISIONAL_WINDOWS, VALUED_WINDOWS, WINDOWS
from transforms.kernels.exact import ppm, ratio, variation_ppm
from transforms.kernels.reference import Expected
from transforms.kernels.valuation import Amounts
from transforms.kernels.windows import (
    BASE,
    DEMAND_SUMS,
    MARGIN,
    SUMS,
    VALUES,
    YEAR,
    Int,
    Int32,
    Mask,
    Windows,
    date_of,
    day_of,
)

Nullable = tuple[Int, Mask]

GROWTH_LIMIT = 10**6
"""Growth beyond a million-fold is given as a million-fold; it would pass int64 in the end."""

HOURS = 24
"""Of every day, also where clocks change."""


def _ratio(numerator: Int, denominator: Int) -> Nullable:
    known = denominator > 0
    return ppm(numerator, np.where(known, denominator, 1)), known


_PERIOD_COLUMNS = (("period_wh", ""), *((f"{name}_share", "_ppm") for name in PERIODS), ("reverse_wh", ""))
"""What is made of energy by period: before and after the window in a column's name."""


def _period_features(windows: Windows, days: int, rows: Int) -> dict[str, Int | Nullable]:
    """Energy by time-of-use period over some days. Formula: docs/explanation/definitions.md, "Rolling consumption"."""
    nothing = np.zeros(len(rows), np.int64)
    of = {name: windows.sums[key][rows] if (key := f"{name}_wh_{days}d") in windows.sums else nothing for name in APART}
    told: Int = np.sum([of[name] for name in PERIODS], axis=0)
    none = told, told > 0  # most shards have no such meter
    shares = {f"{name}_share_{days}d_ppm": _ratio(of[name], told) if told.any() else none for name in PERIODS}
    return {f"period_wh_{days}d": told, **shares, f"reverse_wh_{days}d": of["reverse"]}


def _valued_features(windows: Windows, days: int, rows: Int) -> dict[str, Int | Nullable]:
    """What energy over some days is worth. Formula: docs/explanation/definitions.md, "What energy is worth"."""
    nothing = np.zeros(len(rows), np.int64)

    def sums(names: tuple[str, ...]) -> tuple[Amounts, Int]:
        held = [f"{name}_{days}d" for name in names]
        major, parts, wh = (windows.sums[key][rows] if key in windows.sums else nothing for key in held)
        return Amounts(major, parts), wh

    worth, wh = sums(VALUES)
    out: dict[str, Int | Nullable] = {f"valued_wh_{days}d": wh, f"valued_{days}d_minor": worth.rounded()}
    if days == YEAR:
        margin, of = sums(MARGIN)
        out |= {"contribution_365d_minor": (margin.rounded(), of > 0)}
        out |= {"price_level_365d_milli": _ratio(worth.rounded(), wh)}  # minor units per Wh, in ppm
    return out


def _demand_features(windows: Windows, month: str, rows: Int) -> dict[str, Int | Nullable]:
    """Maximum demand and load factor of a month. Formula: docs/explanation/definitions.md, "Rolling consumption"."""
    nothing = np.zeros(len(rows), np.int64)
    highest, energy, days = (
        windows.sums[key][rows] if (key := f"{name}_{month}") in windows.sums else nothing for name in DEMAND_SUMS
    )
    return {
        f"max_demand_w_{month}": (highest, days > 0),
        f"demand_days_{month}": days,
        f"load_factor_{month}_ppm": _ratio(energy, highest * (HOURS * days)),
    }


_OF_YEAR = ("contribution_365d_minor", "price_level_365d_milli")
"""What is made of energy that is valued, over a year alone."""


def account_features(windows: Windows, capacity: Int, opened: Int32, rows: Int) -> dict[str, Int | Nullable]:
    """What use comes to beside what is known of the account; see `consumption_features`.

    capacity: (m,) contracted, VA, -1 where unknown; opened: (m,) day numbers.
    """
    nothing = np.zeros(len(rows), np.int64)
    demand, days = (
        windows.sums[key][rows] if (key := f"{name}_last_month") in windows.sums else nothing
        for name in ("demand_w", "demand_days")
    )
    whole = 1_000_000
    unused = ratio(np.maximum(capacity - demand, 0), whole, np.maximum(capacity, 1), whole)
    span = np.clip(windows.as_of - opened.astype(np.int64) + 1, 1, YEAR)
    return {
        "capacity_va": (np.maximum(capacity, 0), capacity >= 0),
        "unused_capacity_ppm": (unused, (capacity > 0) & (days > 0)),
        "continuity_365d_ppm": ratio(windows.sums["used_365d"][rows], whole, span, whole),
    }


def consumption_features(
    windows: Windows, expected: Expected, rows: Int, wanted: Set[str] | None = None
) -> dict[str, Int | Nullable]:
    """The rolling consumption columns of `features` for the account slots `rows`, as of the windows' day.

    rows: (m,) slots; wanted: leaves out what is dear and not among these. Between `turn` and `take_in` the columns are those
    of the day's clock. Returns column name -> (m,) int64, or a pair (values, known) where the column has nulls.
    Formulas: docs/explanation/definitions.md, "Rolling consumption".
    """

    def asked(*names: str) -> bool:
        return wanted is None or not wanted.isdisjoint(names)

    day, n = windows.as_of, len(windows.sums[SUMS[0]])
    out: dict[str, Int | Nullable] = {}
    month = day_of(date_of(day).replace(day=1))
    for name, first in [(f"{days}d", day - days + 1) for days in WINDOWS] + [("mtd", month)]:
        out[f"wh_{name}"], received = windows.sums[f"wh_{name}"][rows], windows.sums[f"received_{name}"][rows]
        out[f"received_{name}"] = received
        if asked(f"expected_{name}", f"coverage_{name}_ppm"):
            out[f"expected_{name}"] = due = expected.between(first, day, n)[rows]
            out[f"coverage_{name}_ppm"] = _ratio(received, due)
    for days in PERIOD_WINDOWS:
        if asked(*(f"{name}_{days}d{unit}" for name, unit in _PERIOD_COLUMNS)):
            out |= _period_features(windows, days, rows)
    for days in VALUED_WINDOWS:
        of_year = _OF_YEAR if days == YEAR else ()
        if asked(f"valued_wh_{days}d", f"valued_{days}d_minor", *of_year):
            out |= _valued_features(windows, days, rows)
    for name in DEMAND_MONTHS:
        if asked(f"max_demand_w_{name}", f"demand_days_{name}", f"load_factor_{name}_ppm"):
            out |= _demand_features(windows, name, rows)
    for days in PROVISIONAL_WINDOWS:
        provisional = windows.sums.get(f"provisional_wh_{days}d")
        out[f"provisional_wh_{days}d"] = np.zeros(len(rows), np.int64) if provisional is None else provisional[rows]
    return out | _base_features(windows, expected, rows, asked)


def _base_features(
    windows: Windows, expected: Expected, rows: Int, asked: Callable[..., bool]
) -> dict[str, Int | Nullable]:
    """Variation and growth over the base window."""
    day, n = windows.as_of, len(windows.sums[SUMS[0]])
    sums = {name: windows.sums[name][rows] for name in SUMS[len(WINDOWS) * 2 :]}
    total, before = windows.sums[f"wh_{BASE}d"][rows], sums["wh_90d_year_ago"]
    out: dict[str, Int | Nullable] = {"days_90d": sums["days_90d"], "used_days_365d": sums["used_365d"]}
    if asked("cv_90d_ppm"):
        some = total > 0
        variation = np.zeros(len(rows), np.int64)
        variation[some] = variation_ppm(
            *(a[some] for a in (sums["days_90d"], total, sums["hh_90d"], sums["hl_90d"], sums["ll_90d"]))
        )
        out["cv_90d_ppm"] = variation, some
    out["wh_90d_year_ago"], out["received_90d_year_ago"] = before, sums["received_90d_year_ago"]
    if asked("expected_90d_year_ago"):
        out["expected_90d_year_ago"] = expected.between(day - YEAR - BASE + 1, day - YEAR, n)[rows]
    if asked("growth_90d_ppm"):
        most = np.minimum(before, total // GROWTH_LIMIT + 1) * GROWTH_LIMIT
        out["growth_90d_ppm"] = _ratio(np.minimum(total - before, most), before)
    return out
