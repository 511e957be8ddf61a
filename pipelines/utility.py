"""A synthetic utility: who its customers are, what they use each day, what they are billed and how they pay.

Days are counted from the start of the simulation. Every draw comes from a generator of its own per purpose and
day, so any day's use can be asked for alone. Energy is int64 Wh and money int64 fen throughout; daily factors are
integers in 1/1024, so that the result does not hang on a processor's rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Ints = npt.NDArray[np.signedinteger[Any]]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.void]

READING = np.dtype(
    [("meter", "i4"), ("day", "i4"), ("energy_wh", "i8"), ("estimated", "?"), ("revision", "i1")],
)
EVENT = np.dtype(
    [
        ("slot", "i4"), ("tenancy", "i2"), ("kind", "i1"), ("part", "i1"), ("bill_day", "i4"), ("day", "i4"),
        ("due_day", "i4"), ("amount_fen", "i8"), ("directed", "?"), ("revision", "i1"),
    ]
)  # fmt: skip
ACCOUNT_ROW = np.dtype(
    [("slot", "i4"), ("tenancy", "i2"), ("valid_from", "i4"), ("closed_on", "i4"), ("revision", "i1")],
)
METER_ROW = np.dtype(
    [("meter", "i4"), ("tenancy", "i2"), ("removed_on", "i4"), ("revision", "i1")],
)
NEVER = np.iinfo(np.int32).max
"""A day that does not come: an account still open, a meter still in place."""

CHARGE, PAYMENT, REVERSAL, WRITE_OFF, ADJUSTMENT, REFUND, PREPAYMENT = range(7)
"""Kinds of ledger event, in the order of `EVENT_TYPES`."""

RESIDENTIAL, COMMERCIAL, INDUSTRIAL, AGRICULTURAL = range(4)
CATEGORY_SHARES = (0.88, 0.08, 0.015, 0.025)
CATEGORY_AFTER_CHANGE = np.array([COMMERCIAL, RESIDENTIAL, COMMERCIAL, COMMERCIAL], np.int8)
CATEGORY_LIFT = np.array([0.0, 1.8, 4.0, 0.6])
"""How far a category stands up the ladder of sizes, in standard deviations."""

SIZE_SIGMA = 1.66
"""Spread of the lognormal ladder of sizes; 1.68 gives a fifth of the customers four fifths."""
SIZE_MEDIAN_WH = 7_000
NOISE_SIGMAS = (0.08, 0.18, 0.35, 0.7)

PRICES = np.array([(5283, 4756), (8250, 7840), (6420, 5780), (4860, 3650)], np.int64)
"""(category, preferential): hundredths of a fen for one kWh."""
PREFERENTIAL_SHARES = np.array([0.08, 0.05, 0.25, 0.6])
REGION_SHARES = (0.3, 0.22, 0.18, 0.14, 0.1, 0.06)

GOOD, SLOW, BAD, PREPAYING = range(4)
PAYER_SHARES = (0.80, 0.12, 0.04, 0.04)
PAID_TWICE_SHARE = 0.003
"""Of the bills of good payers."""

ONE = 1024
"""The factor one, in 1/1024."""
_SHIFT = 10

SEASONS = (
    # (yearly swing, day of its peak, half-yearly swing, day of its peaks)
    (0.05, 205, 0.28, 22),
    (0.22, 205, 0.08, 22),
    (0.06, 300, 0.03, 22),
    (0.70, 165, 0.00, 0),
)
WEEKDAYS = (
    # (category, shape): Monday to Sunday in percent
    ((98, 98, 98, 98, 100, 104, 104), (96, 96, 96, 96, 98, 109, 109)),
    ((110, 110, 110, 110, 110, 78, 72), (95, 94, 94, 96, 103, 111, 107)),
    ((100, 100, 100, 100, 100, 100, 100), (113, 113, 113, 113, 111, 78, 59)),
    ((100, 100, 100, 100, 100, 100, 100), (102, 102, 102, 102, 102, 98, 92)),
)
HOLIDAYS = {(1, 1), (5, 1), (5, 2), (5, 3), (10, 1), (10, 2), (10, 3), (10, 4), (10, 5), (10, 6), (10, 7)}
"""Month and day of days that go like a Sunday."""

STREAMS = (
    "world",
    "noise",
    "bills",
    "readings",
    "ledger",
    "accounts",
    "meters",
    "faults",
    "dials",
    "conduct",
    "told",
    "refunds",
)
"""Purposes of random draws. The order is part of what a seed means."""


def generator(seed: int, stream: str, day: int = 0) -> np.random.Generator:
    """The generator of one purpose and day; independent of all others."""
    return np.random.Generator(np.random.PCG64([seed, STREAMS.index(stream), day]))


@dataclass(frozen=True, eq=False)
class Vacancies:
    """Slots (v,) that stand empty for `length` of every `period` days, and then use `left` 1024ths of the usual."""

    slots: Ints
    phase: Ints
    period: Ints
    length: Ints
    left: Ints


@dataclass(frozen=True, eq=False)
class World:
    """Everything about the utility that no day changes: arrays over N slots (premises) and M >= N meters.

    The first N meters are the slots' own; the rest are second, third and fourth meters of the larger ones.
    Slot `s` is in its tenancy `(day + phase) // period`; a negative one: not connected yet. Every tenancy but the
    first starts `gap` days after the one before it has ended.
    """

    seed: int
    start: date
    phase: Ints
    period: Ints
    gap: Ints
    category: npt.NDArray[np.int8]
    changes_on: Ints
    """Day on which the category becomes `CATEGORY_AFTER_CHANGE`."""
    shape: npt.NDArray[np.int8]
    """Weekday shape and strength of the season, 0 to 3."""
    growth: Ints
    """Growth in a year, in 1/1024."""
    region: npt.NDArray[np.int8]
    capacity_kva: Ints
    preferential: Bools
    payer: npt.NDArray[np.int8]
    cycle_day: npt.NDArray[np.int8]
    """Day of the month on which the bill is issued, 1 to 28."""
    terms_days: npt.NDArray[np.int8]
    vacancies: Vacancies
    meter_slot: Ints
    meter_base_wh: npt.NDArray[np.int64]
    meter_noise: Ints
    """Offset of the meter's row in `NOISE`."""
    meter_ids: pa.Array

    @property
    def slots(self) -> int:
        """N, the number of premises."""
        return len(self.phase)

    def random(self, stream: str, day: int = 0) -> np.random.Generator:
        """The generator of one purpose and day; see `generator`."""
        return generator(self.seed, stream, day)

    def category_on(self, day: int) -> npt.NDArray[np.int8]:
        """(N,) int8: the slots' categories on a day."""
        return np.where(self.changes_on <= day, CATEGORY_AFTER_CHANGE[self.category], self.category)


def normal_quantiles(n: int) -> npt.NDArray[np.float64]:
    """(n,) float64, ascending: the standard normal at the middles of n equal parts.

    >>> [round(float(z), 3) for z in normal_quantiles(4)]
    [-1.15, -0.319, 0.319, 1.15]
    """
    grid = np.linspace(-5.5, 5.5, 4401)
    below = np.array([0.5 * math.erfc(-z / math.sqrt(2)) for z in grid])
    return np.interp((np.arange(n) + 0.5) / n, below, grid)


def _noise() -> npt.NDArray[np.int64]:
    """(4 * 1024,) int64 in 1/1024: lognormal day-to-day noise of mean one, for each class of steadiness."""
    z = normal_quantiles(ONE)
    tables = [np.exp(sigma * z - sigma * sigma / 2) for sigma in NOISE_SIGMAS]
    return np.asarray(np.rint(ONE * np.concatenate(tables)), np.int64)


NOISE = _noise()


def _pick(shares: tuple[float, ...], rng: np.random.Generator, n: int) -> npt.NDArray[np.int8]:
    """(n,) int8: classes in the given shares, exact up to rounding, in random order."""
    edges = np.cumsum(shares)[:-1]
    return np.searchsorted(edges, rng.permutation((np.arange(n) + 0.5) / n), side="right").astype(np.int8)


def ids(prefix: str, numbers: npt.NDArray[Any]) -> pa.Array:
    """(n,) string: a letter and nine digits."""
    return pc.utf8_replace_slice(pa.array(numbers.astype(np.int64) + 10**9).cast(pa.string()), 0, 1, prefix)


def account_ids(slots: Ints, tenancy: Ints) -> pa.Array:
    """(n,) string: the ids of the accounts that hold slots."""
    return ids("A", slots.astype(np.int64) * 100 + tenancy)


def build_world(accounts: int, seed: int, start: date) -> World:
    """The utility of a seed. Sizes are a fixed lognormal ladder; category and chance say who stands where on it."""
    n = accounts
    rng = generator(seed, "world")
    category = _pick(CATEGORY_SHARES, rng, n)
    rank = np.argsort(np.argsort(CATEGORY_LIFT[category] + rng.standard_normal(n), kind="stable"), kind="stable")
    ladder = SIZE_MEDIAN_WH * np.exp(SIZE_SIGMA * np.maximum(normal_quantiles(n), -2.6))
    base_wh = np.rint(ladder).astype(np.int64)[rank]

    business = category >= INDUSTRIAL
    period = np.where(business, rng.integers(3_000, 12_000, n), rng.integers(700, 4_000, n))
    phase = (rng.random(n) * period).astype(np.int64)
    phase = np.where(rng.random(n) < 0.025, -rng.integers(1, 730, n), phase)

    often_empty = np.flatnonzero((rng.random(n) < 0.06) & ~business)
    v = len(often_empty)
    empty_period = rng.integers(120, 500, v)
    vacancies = Vacancies(
        slots=often_empty,
        phase=rng.integers(0, 500, v),
        period=empty_period,
        length=empty_period * rng.integers(5, 45, v) // 100,
        left=np.where(rng.random(v) < 0.7, 0, 15),
    )

    more = np.where(rank >= n - n // 20, rng.integers(0, 4, n), (rng.random(n) < 0.01).astype(np.int64))
    meter_slot = np.concatenate([np.arange(n), np.repeat(np.arange(n), more)])
    return World(
        seed=seed,
        start=start,
        phase=phase,
        period=period,
        gap=rng.integers(0, 60, n),
        category=category,
        changes_on=rng.integers(1, 36_500, n),
        shape=rng.integers(0, 4, n, dtype=np.int8),
        growth=np.clip(np.rint(ONE * rng.normal(0.03, 0.12, n)), -400, 600).astype(np.int64),
        region=_pick(REGION_SHARES, rng, n),
        capacity_kva=np.maximum(4, base_wh * rng.integers(3, 9, n) // 24_000),
        preferential=rng.random(n) < PREFERENTIAL_SHARES[category],
        payer=_pick(PAYER_SHARES, rng, n),
        cycle_day=rng.integers(1, 29, n, dtype=np.int8),
        terms_days=rng.integers(15, 21, n, dtype=np.int8),
        vacancies=vacancies,
        meter_slot=meter_slot.astype(np.int32),
        meter_base_wh=(base_wh // (1 + more))[meter_slot],
        meter_noise=(ONE * np.where(category == INDUSTRIAL, rng.integers(0, 3, n), rng.integers(1, 4, n)))[meter_slot],
        meter_ids=ids("M", np.arange(len(meter_slot))),
    )


@dataclass(frozen=True, eq=False)
class Occupancy:
    """Who holds the slots on a day: tenancy (N,), whether anyone does, first day of it, and who comes or leaves."""

    tenancy: Ints
    active: Bools
    opened_on: Ints
    opens: Bools
    closes: Bools


def opened_on(world: World, slots: Ints | slice, tenancy: Ints) -> Ints:
    """First days (n,) of tenancies (n,) of slots."""
    later = np.where(tenancy > 0, world.gap[slots], 0)
    return np.asarray(tenancy * world.period[slots] - world.phase[slots] + later)


def occupancy(world: World, day: int) -> Occupancy:
    """Who holds the slots on a day; on day 0 everyone there counts as coming."""
    t = day + world.phase
    tenancy = t // world.period
    opened = opened_on(world, slice(None), tenancy)
    active = (tenancy >= 0) & (opened <= day)
    opens = active if day == 0 else opened == day
    closes = active & (t - tenancy * world.period == world.period - 1)
    return Occupancy(tenancy, active, opened, opens & (tenancy >= 0), closes)


def day_factors(day: date) -> npt.NDArray[np.int64]:
    """(16,) int64 in 1/1024: season times weekday, at `4 * category + shape`."""
    of_year = day.timetuple().tm_yday
    weekday = 6 if (day.month, day.day) in HOLIDAYS else day.weekday()
    factors = []
    for (year, year_peak, half, half_peak), shapes in zip(SEASONS, WEEKDAYS, strict=True):
        swing = year * math.cos(2 * math.pi * (of_year - year_peak) / 365.25)
        swing += half * math.cos(4 * math.pi * (of_year - half_peak) / 365.25)
        for strength in (1.0, 0.5):
            factors += [(1 + strength * swing) * shape[weekday] / 100 for shape in shapes]
    return np.asarray(np.rint(ONE * np.array(factors)), np.int64)


def readings_for_day(world: World, day: int, held: Occupancy | None = None) -> Rows:
    """(m,) READING, ascending by meter: the energy used on one day, before anything happens to its delivery.

    Any day can be asked for alone. `held` spares the occupancy where the caller has it.
    """
    held = held or occupancy(world, day)
    profile = 4 * world.category_on(day) + world.shape
    level = np.maximum(ONE + world.growth * day // 365, ONE // 8)
    level = level * day_factors(world.start + timedelta(days=day))[profile] >> _SHIFT
    rests = world.vacancies
    empty = (day + rests.phase) % rests.period < rests.length
    level[rests.slots[empty]] = level[rests.slots[empty]] * rests.left[empty] >> _SHIFT

    draw = world.random("noise", day).integers(0, 1 << 16, len(world.meter_slot), dtype=np.uint16) >> 6
    energy_wh = world.meter_base_wh * level[world.meter_slot] >> _SHIFT
    energy_wh = energy_wh * NOISE[world.meter_noise + draw] >> _SHIFT
    meter = np.flatnonzero(held.active[world.meter_slot])
    return new_rows(READING, len(meter), meter=meter, day=day, energy_wh=energy_wh[meter], revision=1)


def new_rows(dtype: np.dtype[np.void], n: int, **columns: Any) -> Rows:
    """(n,) of a dtype; columns not given are zero."""
    rows = np.zeros(n, dtype)
    for name, values in columns.items():
        rows[name] = values
    return rows


# Reference data -------------------------------------------------------------------------------------------------------


def reference_rows(world: World, day: int, held: Occupancy) -> tuple[Rows, Rows]:
    """ACCOUNT_ROW and METER_ROW of a day: accounts that open, change category or close.

    A closing is the row delivered before, under the next revision, with its last day.
    """
    opens, closes = np.flatnonzero(held.opens), np.flatnonzero(held.closes)
    changes = np.flatnonzero(held.active & ~held.opens & (world.changes_on == day))

    def account_rows(slots: Ints, valid_from: Ints, **columns: Any) -> Rows:
        return new_rows(
            ACCOUNT_ROW, len(slots), slot=slots, tenancy=held.tenancy[slots], valid_from=valid_from, **columns
        )

    changed = (held.opened_on < world.changes_on) & (world.changes_on <= day)
    held_since = np.where(changed, world.changes_on, held.opened_on)
    accounts = (
        account_rows(opens, held.opened_on[opens], closed_on=NEVER, revision=1),
        account_rows(changes, world.changes_on[changes], closed_on=NEVER, revision=1),
        account_rows(closes, held_since[closes], closed_on=day, revision=2),
    )

    def meter_rows(which: Bools, **columns: Any) -> Rows:
        meters = np.flatnonzero(which[world.meter_slot])
        return new_rows(METER_ROW, len(meters), meter=meters, tenancy=held.tenancy[world.meter_slot[meters]], **columns)

    meters = (meter_rows(held.opens, removed_on=NEVER, revision=1),
              meter_rows(held.closes, removed_on=day + 1, revision=2))  # fmt: skip
    return np.concatenate(accounts), np.concatenate(meters)


# The ledger -----------------------------------------------------------------------------------------------------------


@dataclass
class Books:
    """What billing keeps per slot: energy not billed yet (N,) Wh, and what prepaying ones have in credit (N,) fen."""

    unbilled_wh: npt.NDArray[np.int64]
    credit_fen: npt.NDArray[np.int64]

    def meter(self, world: World, readings: Rows) -> None:
        """Adds a day's use."""
        own = readings["meter"] < world.slots
        self.unbilled_wh[readings["meter"][own]] += readings["energy_wh"][own]
        np.add.at(self.unbilled_wh, world.meter_slot[readings["meter"][~own]], readings["energy_wh"][~own])

    def bill(self, world: World, day: int, held: Occupancy) -> Rows:
        """(n,) EVENT: charges of the slots whose day of the month it is, and of those that close."""
        of_month = (world.start + timedelta(days=day)).day
        slots = np.flatnonzero(held.active & (held.closes | (world.cycle_day == of_month)))
        category = world.category_on(day)[slots]
        price = PRICES[category, world.preferential[slots].astype(np.int8)]
        fen = self.unbilled_wh[slots] * price // 100_000
        self.unbilled_wh[slots[(fen > 0) | held.closes[slots]]] = 0
        slots, fen = slots[fen > 0], fen[fen > 0]
        return new_rows(
            EVENT, len(slots), slot=slots, tenancy=held.tenancy[slots], kind=CHARGE, bill_day=day, day=day,
            due_day=day + world.terms_days[slots].astype(np.int32), amount_fen=fen, directed=True, revision=1,
        )  # fmt: skip

    def top_up(self, bills: Rows, closes: Bools, rng: np.random.Generator) -> Rows:
        """(n,) EVENT: prepayments, in tens of yuan, that keep two bills in credit.

        A leaver pays what is owed, or is paid back in a fortnight what is left.
        """
        slots, fen = bills["slot"], bills["amount_fen"]
        credit = self.credit_fen[slots] - fen
        short = np.maximum(0, np.where(closes, 0, 2 * fen) - credit)
        paid = -(-short // 1_000) * 1_000
        self.credit_fen[slots] = np.where(closes, 0, credit + paid)
        due, left = paid > 0, closes & (credit > 0)
        return np.concatenate([
            _follow(bills[due], PREPAYMENT, 1, bills["day"][due] + rng.integers(1, 6, due.sum()), paid[due], False),
            _follow(bills[left], REFUND, 1, bills["day"][left] + 14, credit[left], False),
        ])  # fmt: skip


def _follow(bills: Rows, kind: int, part: int, day: Any, amount_fen: Any, directed: Any) -> Rows:
    """(n,) EVENT: events that come of bills."""
    rows = bills.copy()
    rows["kind"], rows["part"] = kind, part
    rows["day"], rows["amount_fen"], rows["directed"] = day, amount_fen, directed
    return rows


def settle(bills: Rows, payer: npt.NDArray[np.int8], rng: np.random.Generator) -> Rows:
    """(m,) EVENT: what comes of bills (n,), by the kind of payer (n,): GOOD, SLOW or BAD.

    Good ones pay before the due date, slow ones days to weeks after it. Bad ones skip bills (and pay them months
    later or never), pay in parts, or late. Payments that name no bill are rounded up to whole yuan. A few payments
    bounce; most of these are made again. A few bills are adjusted or written off.
    """
    n = len(bills)
    issued, due, fen = bills["day"], bills["due_day"], bills["amount_fen"]
    mood = rng.random(n)
    skips = (payer == BAD) & (mood < 0.35)
    in_parts = (payer == BAD) & (mood >= 0.35) & (mood < 0.65)
    day = np.select(
        [payer == GOOD, payer == SLOW, skips],
        [
            rng.integers(issued + 1, due + 1),
            due + np.minimum(rng.geometric(0.08, n), 60),
            due + rng.integers(100, 250, n),
        ],
        default=due + rng.integers(5, 90, n),
    )
    directed = (rng.random(n) < 0.75) & ~skips
    part_fen = np.where(in_parts, fen * rng.integers(30, 80, n) // 100, fen)
    paid = np.where(directed, part_fen, -(-part_fen // 100) * 100)
    first = _follow(bills, PAYMENT, 1, day, paid, directed)[~(skips & (mood < 0.18))]
    rest = _follow(bills, PAYMENT, 2, day + rng.integers(15, 60, n), fen - paid, True)[in_parts & (mood < 0.5)]
    lost = _follow(bills, WRITE_OFF, 1, due + rng.integers(90, 270, n), fen, True)[skips & (mood < 0.06)]

    change = np.maximum(100, fen // 20) * np.where(rng.random(n) < 0.6, -1, 1)
    names_bill = (change < 0) & (rng.random(n) < 0.5)
    adjusted = _follow(bills, ADJUSTMENT, 1, issued + rng.integers(3, 40, n), change, names_bill)
    adjusted = adjusted[rng.random(n) < 0.003]

    bounced = first[(rng.random(len(first)) < 0.006) & (first["amount_fen"] > 0)]
    returned = bounced["day"] + rng.integers(2, 10, len(bounced))
    repaid = _follow(bounced, PAYMENT, 3, returned + rng.integers(3, 20, len(bounced)), bounced["amount_fen"], True)
    reversals = _follow(bounced, REVERSAL, 1, returned, bounced["amount_fen"], False)
    events = np.concatenate([first, rest, lost, adjusted, reversals, repaid[rng.random(len(repaid)) < 0.8]])
    return np.asarray(events[(events["amount_fen"] > 0) | (events["kind"] == ADJUSTMENT)])


def pay_twice(bills: Rows, rng: np.random.Generator) -> Rows:
    """(n,) EVENT: a few bills are paid once more by mistake, within days of their due date; weeks later that is paid back."""
    bills = bills[rng.random(len(bills)) < PAID_TWICE_SHARE]
    day = bills["due_day"] + rng.integers(1, 6, len(bills))
    again = _follow(bills, PAYMENT, 4, day, bills["amount_fen"], False)
    return np.concatenate(
        [again, _follow(again, REFUND, 2, day + rng.integers(7, 29, len(day)), again["amount_fen"], False)]
    )


def ledger_for_day(world: World, books: Books, day: int, held: Occupancy, refunds: bool = True) -> Rows:
    """(n,) EVENT: the day's bills and everything that will come of them, on the days it will happen; `refunds` or none."""
    rng = world.random("bills", day)
    bills = books.bill(world, day, held)
    payer = world.payer[bills["slot"]]
    ahead = payer == PREPAYING
    events = np.concatenate([
        bills,
        settle(bills[~ahead], payer[~ahead], rng),
        books.top_up(bills[ahead], held.closes[bills["slot"][ahead]], rng),
    ])  # fmt: skip
    if not refunds:
        return np.asarray(events[events["kind"] != REFUND])
    return np.concatenate([events, pay_twice(bills[payer == GOOD], world.random("refunds", day))])
