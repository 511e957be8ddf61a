"""Rolled windows against windows recomputed from the days by definition, with energies up to the limit of a day."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from math import isqrt
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.inbound import APART, PERIODS, PRICE_LIMIT_NANO
from schemas.marts import PERIOD_WINDOWS, PROVISIONAL_WINDOWS, VALUED_WINDOWS, WINDOWS
from transforms.kernels.consumption import account_features, consumption_features
from transforms.kernels.exact import DAY_LIMIT_W, DAY_LIMIT_WH
from transforms.kernels.reference import NEVER, Expected
from transforms.kernels.valuation import lines
from transforms.kernels.windows import (
    MARGIN,
    DayBlock,
    ValueOf,
    Values,
    Windows,
    date_of,
    day_of,
)

ACCOUNTS = 3
SPAN = 365 + 90 + 40
"""Days rolled: the oldest day leaves every window, and months change."""


@dataclass(frozen=True)
class Days:
    """Days by number, each one (energy, received) per account, of the accounts known by then; days may lack."""

    first: int
    blocks: dict[int, list[tuple[int, int]]]
    apart: dict[int, dict[str, list[int]]] = field(default_factory=dict)
    """Energies of registers beside the total: some, on some days."""
    demand: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    """Maximum demands and the meters that tell them, on some days."""
    provisional: dict[int, list[int]] = field(default_factory=dict)
    """Provisional energies, also on days that lack."""

    @classmethod
    def random(cls, chance: Random, first: int) -> Days:
        blocks, apart, demand, provisional = {}, {}, {}, {}
        has_demand = chance.random() < 0.7
        told = chance.sample(APART, chance.randrange(len(APART) + 1))
        for day in range(first, first + SPAN):
            accounts = 1 + (day - first) * ACCOUNTS // SPAN  # the shard grows
            if chance.random() < 0.2:
                provisional[day] = [chance.choice((0, chance.randrange(DAY_LIMIT_WH))) for _ in range(accounts)]
            if chance.random() < 0.9:
                blocks[day] = [cls._account(chance) for _ in range(accounts)]
                registers = [name for name in told if chance.random() < 0.7]
                apart[day] = {name: [cls._account(chance)[0] for _ in range(accounts)] for name in registers}
                if has_demand and chance.random() < 0.8:
                    demand[day] = [cls._demand(chance) for _ in range(accounts)]
        return cls(first, blocks, apart, demand, provisional)

    @staticmethod
    def _demand(chance: Random) -> tuple[int, int]:
        meters = chance.choice([0, 1, 1, 2, 2])
        return (chance.choice([0, chance.randrange(100), chance.randrange(DAY_LIMIT_W)]) if meters else 0, meters)

    @staticmethod
    def _account(chance: Random) -> tuple[int, int]:
        received = chance.choice([0, 1, 1, 1, 2])
        return (chance.choice([0, chance.randrange(100), chance.randrange(DAY_LIMIT_WH)]) if received else 0, received)

    def load(self, day: int) -> DayBlock | None:
        instead = self.provisional.get(day)
        if day not in self.blocks:
            return replace(DayBlock.empty(len(instead)), provisional=np.array(instead)) if instead else None
        energy, received = zip(*self.blocks[day], strict=True)
        none = np.zeros(len(energy), np.int32)
        apart = {name: (np.array(wh, np.int64), none) for name, wh in self.apart.get(day, {}).items()}
        if day in self.demand:
            watts, meters = zip(*self.demand[day], strict=True)
            apart["max_demand"] = np.array(watts, np.int64), np.array(meters, np.int32)
        told = None if instead is None else np.array(instead)
        return DayBlock(np.array(energy, np.int64), np.array(received, np.int32), none, none, apart, told)

    def sum_apart(self, name: str, account: int, first: int, last: int) -> int:
        """What a register of an account has over the days `first .. last`."""
        columns = [self.apart[day].get(name, []) for day in range(first, last + 1) if day in self.apart]
        return sum(column[account] for column in columns if account < len(column))

    def with_demand(self, account: int, first: int, last: int) -> list[tuple[int, int]]:
        """(W, Wh) of the days `first .. last` that have a demand of all meters received."""
        out = []
        for day in range(first, last + 1):
            if day in self.demand and account < len(self.demand[day]):
                (watts, meters), (wh, received) = self.demand[day][account], self.blocks[day][account]
                out += [(watts, wh)] if meters >= received > 0 else []
        return out

    def of(self, account: int, first: int, last: int) -> list[tuple[int, int]]:
        """What an account has on the days `first .. last`."""
        days = (self.blocks.get(day, []) for day in range(first, last + 1))
        return [block[account] for block in days if account < len(block)]


EXPECTED = Expected(*(np.array(c, np.int32) for c in ([0, 1, 1], [0, 15000, 15900], [NEVER, 15950, NEVER], [1, 2, 1])))


def meters_expected(account: int, first: int, last: int) -> int:
    rows = zip(EXPECTED.slot, EXPECTED.installed, EXPECTED.removed, EXPECTED.meters, strict=True)
    return sum(int(m) * max(min(int(r), last + 1) - max(int(i), first), 0) for s, i, r, m in rows if s == account)


def price(day: int) -> int:
    """Of one kWh on a day, in billionths of a major unit: another one each day, up to the limit."""
    return day * 123_456_789_123 % (PRICE_LIMIT_NANO + 1)


def cost(day: int) -> int | None:
    """Of one kWh on a day, likewise: below the price or above it, on two days of three."""
    return None if day % 3 == 0 else price(day * 7)


def values(day: int, block: DayBlock) -> Values:
    """A day's energy at that price, where any was received, and what it is worth beyond its cost."""
    wh = np.where(block.received > 0, block.energy, 0)
    amounts = lines(wh, np.full(len(wh), price(day)))
    out = {"valued_major": amounts.major, "valued_parts": amounts.parts, "valued_wh": wh}
    if (of := cost(day)) is not None:
        spent = lines(wh, np.full(len(wh), of))
        beyond = amounts.major - spent.major, amounts.parts - spent.parts, wh
        out |= dict(zip(MARGIN, beyond, strict=True))
    return out


def recomputed(days: Days, account: int, day: int) -> dict[str, int | None]:
    """The rolling consumption of an account by docs/explanation/definitions.md, in Python integers."""
    out: dict[str, int | None] = {}
    month = day_of(date_of(day).replace(day=1))
    for name, first in [*((f"{w}d", day - w + 1) for w in WINDOWS), ("mtd", month)]:
        rows, due = days.of(account, first, day), meters_expected(account, first, day)
        out[f"wh_{name}"], out[f"received_{name}"] = sum(wh for wh, _ in rows), sum(received for _, received in rows)
        out[f"expected_{name}"] = due
        out[f"coverage_{name}_ppm"] = sum(received for _, received in rows) * 1_000_000 // due if due else None
    for w in PERIOD_WINDOWS:
        of = {name: days.sum_apart(name, account, day - w + 1, day) for name in APART}
        told = sum(of[name] for name in PERIODS)
        out[f"period_wh_{w}d"], out[f"reverse_wh_{w}d"] = told, of["reverse"]
        out |= {f"{name}_share_{w}d_ppm": of[name] * 1_000_000 // told if told else None for name in PERIODS}
    for w in VALUED_WINDOWS:
        lines_ = [
            (wh, price(n)) for n in range(day - w + 1, day + 1) for wh, received in days.of(account, n, n) if received
        ]
        out[f"valued_wh_{w}d"] = sum(wh for wh, _ in lines_)
        out[f"valued_{w}d_minor"] = (sum(wh * nano for wh, nano in lines_) + 5 * 10**9) // 10**10
    year = [(n, wh) for n in range(day - 364, day + 1) for wh, received in days.of(account, n, n) if received]
    costed = [(wh, price(n) - of) for n, wh in year if (of := cost(n)) is not None]
    beyond = (sum(wh * nano for wh, nano in costed) + 5 * 10**9) // 10**10
    out["contribution_365d_minor"] = beyond if any(wh for wh, _ in costed) else None
    valued = out["valued_wh_365d"]
    out["price_level_365d_milli"] = out["valued_365d_minor"] * 10**6 // valued if valued else None
    out["used_days_365d"] = sum(wh > 0 for wh, _ in days.of(account, day - 364, day))
    last_month = day_of(date_of(month - 1).replace(day=1))
    for name, first, last in [("mtd", month, day), ("last_month", last_month, month - 1)]:
        found = days.with_demand(account, first, last)
        highest = max((watts for watts, _ in found), default=None)
        out[f"max_demand_w_{name}"], out[f"demand_days_{name}"] = highest, len(found)
        hours = 24 * len(found)
        out[f"load_factor_{name}_ppm"] = (
            sum(wh for _, wh in found) * 1_000_000 // (highest * hours) if highest else None
        )
    for w in PROVISIONAL_WINDOWS:
        told = [days.provisional[n] for n in range(day - w + 1, day + 1) if n in days.provisional]
        out[f"provisional_wh_{w}d"] = sum(column[account] for column in told if account < len(column))
    used = [wh for wh, received in days.of(account, day - 89, day) if received]
    total = sum(used)
    out["days_90d"] = len(used)
    spread = len(used) * sum(wh * wh for wh in used) - total**2
    out["cv_90d_ppm"] = isqrt(spread * 10**12 // total**2) if total else None
    before = days.of(account, day - 365 - 89, day - 365)
    year_ago = sum(wh for wh, _ in before)
    out["wh_90d_year_ago"], out["received_90d_year_ago"] = year_ago, sum(received for _, received in before)
    out["expected_90d_year_ago"] = meters_expected(account, day - 365 - 89, day - 365)
    growth = (total - year_ago) * 1_000_000 // year_ago if year_ago else None
    out["growth_90d_ppm"] = None if growth is None else min(growth, 10**12)
    return out


def rolled(windows: Windows) -> list[dict[str, int | None]]:
    columns = consumption_features(windows, EXPECTED, np.arange(ACCOUNTS))
    out: list[dict[str, int | None]] = [{} for _ in range(ACCOUNTS)]
    for name, column in columns.items():
        values, known = column if isinstance(column, tuple) else (column, np.ones(ACCOUNTS, np.bool_))
        for row, value, is_known in zip(out, values.tolist(), known.tolist(), strict=True):
            row[name] = value if is_known else None
    return out


def assert_rolls_right(days: Days, checked: Callable[[int], bool]) -> None:
    """Roll through all days; on those to be checked the windows equal the recomputed ones."""
    windows = Windows.start(days.first)
    windows.grow(ACCOUNTS)
    for day in range(days.first, days.first + SPAN):
        windows.roll(days.load, values)
        if checked(day - days.first):
            assert rolled(windows) == [recomputed(days, account, day) for account in range(ACCOUNTS)]


def without(days: Days, day: int) -> Days:
    """The same days, one of which was not read."""
    held = {name: value for name, value in vars(days).items() if isinstance(value, dict)}
    return replace(days, **{name: {n: of for n, of in value.items() if n != day} for name, value in held.items()})


@settings(max_examples=4)
@given(st.integers(0, 1 << 32), st.integers(15_000, 16_000))
def test_as_of_the_clock_the_day_is_not_read(seed: int, first: int) -> None:
    days = Days.random(Random(seed), first)
    windows = Windows.start(first)
    windows.grow(ACCOUNTS)
    for day in range(first, first + SPAN):
        windows.turn(days.load, values)
        if (day - first) % 41 == 0 or date_of(day).day == 1:
            bare = without(days, day)
            assert rolled(windows) == [recomputed(bare, account, day) for account in range(ACCOUNTS)]
        windows.take_in(days.load, values)


@settings(max_examples=6)
@given(st.integers(0, 1 << 32), st.integers(15_000, 16_000))
def test_rolled_windows_equal_recomputed_ones(seed: int, first: int) -> None:
    assert_rolls_right(Days.random(Random(seed), first), lambda n: n < 40 or n % 29 == 0 or n > SPAN - 5)


@pytest.mark.parametrize("edge", [*WINDOWS, 365 + 90])
def test_a_window_edge_moved_by_a_day_is_found(edge: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The day that leaves on D is taken to be D-(w-1) instead of D-w."""
    roll = Windows.roll

    def moved(self: Windows, load: Callable[[int], DayBlock | None], worth: ValueOf) -> None:
        leaving = self.as_of + 1 - edge
        roll(self, lambda day: load(day + 1 if day == leaving else day), worth)

    days = Days.random(Random(edge), 15_700)
    assert_rolls_right(days, lambda n: n % 97 == 0 or n == SPAN - 1)
    monkeypatch.setattr(Windows, "roll", moved)
    with pytest.raises(AssertionError):
        assert_rolls_right(days, lambda n: n % 97 == 0 or n == SPAN - 1)


@given(st.integers(0, 1 << 32), st.integers(1, 60))
@settings(max_examples=10)
def test_rolling_on_from_a_checkpoint_is_rolling_on(seed: int, stop: int) -> None:
    days = Days.random(Random(seed), 15_700)
    windows = Windows.start(days.first)
    windows.grow(ACCOUNTS)
    for _ in range(stop):
        windows.roll(days.load, values)
    again = Windows.from_batch(windows.to_batch(), windows.as_of)
    for _ in range(5):
        windows.roll(days.load, values)
        again.roll(days.load, values)
    assert again.as_of == windows.as_of == days.first + stop + 4
    assert again.to_batch().equals(windows.to_batch())


def test_capacity_and_continuity_by_hand() -> None:
    """100 kW at most in January. Of 100 kVA, 0 VA, 400 kVA, and what is not known; opened long ago, 40 days ago, and today."""
    first = day_of(date(2015, 1, 29))
    days = Days(
        first,
        {first + n: [(n % 2, 1)] * ACCOUNTS for n in range(6)},
        demand={first + n: [(100_000, 1)] * ACCOUNTS for n in range(2)},
    )
    windows = Windows.start(first)
    windows.grow(ACCOUNTS)
    for _ in range(6):
        windows.roll(days.load, values)
    rows = np.zeros(5, np.int64)
    capacity, ago = np.array([90_000, 100_000, 400_000, 0, -1]), np.array([1000, 364, 39, 5, 0])
    found = account_features(windows, capacity, (windows.as_of - ago).astype(np.int32), rows)
    unused, known = found["unused_capacity_ppm"]
    assert np.ma.masked_array(unused, ~known).tolist() == [0, 0, 750_000, None, None]
    assert np.ma.masked_array(found["capacity_va"][0], ~found["capacity_va"][1]).tolist() == [
        *capacity.tolist()[:4],
        None,
    ]
    assert found["continuity_365d_ppm"].tolist() == [
        8_219,
        8_219,
        75_000,
        500_000,
        1_000_000,
    ]  # 3 days of 365, 40, 6 and 1


def test_growth_from_next_to_nothing_is_capped() -> None:
    """1 Wh on one day a year ago, then the most that a day can hold: far beyond what an int64 of ppm could."""
    first = 15_700
    days = Days(
        first, {first: [(1, 1)] * ACCOUNTS} | {first + n: [(DAY_LIMIT_WH - 1, 1)] * ACCOUNTS for n in range(300, 400)}
    )
    windows = Windows.start(first)
    windows.grow(ACCOUNTS)
    for _ in range(390):
        windows.roll(days.load, values)
    assert rolled(windows)[0]["growth_90d_ppm"] == 10**12
    assert rolled(windows) == [recomputed(days, account, first + 389) for account in range(ACCOUNTS)]


def test_worked_example_of_a_week() -> None:
    """1 kWh every day: 7 kWh a week from the seventh day on, and month to date begins anew on the 1st."""
    first = day_of(date(2015, 1, 29))
    days = Days(first, {first + n: [(1000, 1)] * ACCOUNTS for n in range(10)})
    windows = Windows.start(first)
    windows.grow(ACCOUNTS)
    seen = []
    for _ in range(10):
        windows.roll(days.load, values)
        seen.append((rolled(windows)[0]["wh_7d"], rolled(windows)[0]["wh_mtd"]))
    week = [1000, 2000, 3000, 4000, 5000, 6000, 7000, 7000, 7000, 7000]
    month = [1000, 2000, 3000, 1000, 2000, 3000, 4000, 5000, 6000, 7000]
    assert seen == list(zip(week, month, strict=True))


def test_worked_example_of_a_demand() -> None:
    """24 kWh a day, at most 2 kW: a load factor of a half; on the third day twice the energy, at most 4 kW, and the month turns."""
    first = day_of(date(2015, 1, 29))
    energy = {n: 48_000 if n == 2 else 24_000 for n in range(6)}
    days = Days(
        first,
        {first + n: [(wh, 1)] * ACCOUNTS for n, wh in energy.items()},
        demand={first + n: [(4_000 if n == 2 else 2_000, 1)] * ACCOUNTS for n in energy if n != 4},  # day 4: not told
    )
    windows = Windows.start(first)
    windows.grow(ACCOUNTS)
    seen = []
    for _ in energy:
        windows.roll(days.load, values)
        row = rolled(windows)[0]
        assert row == recomputed(days, 0, windows.as_of)
        seen.append(tuple(row[f"{name}"] for name in ("max_demand_w_mtd", "demand_days_mtd", "load_factor_mtd_ppm")))
    third = (24_000 + 24_000 + 48_000) * 1_000_000 // (4_000 * 24 * 3)  # a third
    assert seen == [
        (2_000, 1, 500_000), (2_000, 2, 500_000), (4_000, 3, third),
        (2_000, 1, 500_000), (2_000, 1, 500_000), (2_000, 2, 500_000),
    ]  # fmt: skip
    assert (row["max_demand_w_last_month"], row["demand_days_last_month"], row["load_factor_last_month_ppm"]) == (
        4_000, 3, third,
    )  # fmt: skip


DIFFERENCE = st.tuples(
    st.integers(0, 4), st.integers(0, 1 << 40), st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)
)


@given(st.lists(DIFFERENCE), st.integers(0, 20), st.booleans())
def test_differences_add_up_in_any_parts(rows: list[tuple[int, ...]], cut: int, back: bool) -> None:
    def added(block: DayBlock, some: list[tuple[int, ...]], sign: int = 1) -> DayBlock:
        slot, *columns = (np.array([row[i] for row in some], np.int64) for i in range(5))
        return block.add(5, slot.astype(np.int32), *(sign * column for column in columns))

    whole = added(DayBlock.empty(2), rows)
    parts = added(added(DayBlock.empty(0), rows[:cut]), rows[cut:])
    assert parts.to_batch().equals(whole.to_batch())
    if back:
        assert added(whole, rows, -1).to_batch().equals(DayBlock.empty(5).to_batch())
    assert DayBlock.from_batch(whole.to_batch()).to_batch().equals(whole.to_batch())


@given(st.dates(date(1900, 1, 1), date(2200, 1, 1)))
def test_day_numbers_are_days_since_1970(day: date) -> None:
    assert date_of(day_of(day)) == day
    assert date(1970, 1, 1) + timedelta(days=day_of(day)) == day
