"""The simulated utility itself: sizes, shapes of use, who holds what, and how people pay."""

from __future__ import annotations

import doctest
from datetime import date

import numpy as np
import pytest

import pipelines.utility
from pipelines.utility import (
    BAD,
    CHARGE,
    EVENT,
    GOOD,
    INDUSTRIAL,
    PAYMENT,
    PREPAYING,
    PREPAYMENT,
    READING,
    REFUND,
    RESIDENTIAL,
    REVERSAL,
    SLOW,
    Books,
    World,
    build_world,
    day_factors,
    ledger_for_day,
    occupancy,
    pay_twice,
    readings_for_day,
    reference_rows,
    settle,
)

START = date(2026, 1, 1)


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(2_000, 7, START)


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(pipelines.utility).failed == 0


@pytest.mark.parametrize("accounts", [200, 2_000, 20_000])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_fifth_of_the_customers_bring_about_four_fifths(accounts: int, seed: int) -> None:
    world = build_world(accounts, seed, START)
    used = np.zeros(accounts, np.int64)
    for day in range(0, 365, 13):
        rows = readings_for_day(world, day)
        np.add.at(used, world.meter_slot[rows["meter"]], rows["energy_wh"])
    used = np.sort(used[used > 0])[::-1]
    first_fifth = int(used[: -(-len(used) // 5)].sum())
    assert 75 * int(used.sum()) <= 100 * first_fifth <= 85 * int(used.sum())


def test_any_day_can_be_asked_for_alone(world: World) -> None:
    rows = readings_for_day(world, 17)
    assert rows.dtype == READING
    assert np.array_equal(rows, readings_for_day(world, 17, occupancy(world, 17)))
    assert not np.array_equal(rows["energy_wh"], readings_for_day(world, 18)["energy_wh"])


def test_seasons_weekdays_and_empty_stretches(world: World) -> None:
    summer, spring = day_factors(date(2026, 7, 22)), day_factors(date(2026, 4, 22))
    assert summer[0] > 1.3 * spring[0]
    assert day_factors(date(2026, 6, 14))[9] < day_factors(date(2026, 6, 10))[9]
    thursday, holiday = day_factors(date(2026, 9, 24)), day_factors(date(2026, 10, 1))
    assert holiday[9] < thursday[9] * 6 // 10
    assert holiday[8] > thursday[8] * 95 // 100
    zeros = [np.count_nonzero(readings_for_day(world, day)["energy_wh"] == 0) for day in range(0, 300, 30)]
    assert min(zeros) > 0
    assert max(zeros) < 100


def bills_of(slots: int) -> np.ndarray:
    bills = np.zeros(slots, EVENT)
    bills["slot"] = np.arange(slots)
    bills["kind"], bills["day"], bills["due_day"], bills["amount_fen"] = CHARGE, 100, 117, 12_345
    return bills


def test_payers_pay_as_they_are() -> None:
    bills = bills_of(9_000)
    payer = np.repeat(np.array([GOOD, SLOW, BAD], np.int8), 3_000)
    events = settle(bills, payer, np.random.default_rng(0))
    first = events[(events["kind"] == PAYMENT) & (events["part"] == 1)]
    kind = payer[first["slot"]]
    assert set(first["day"][kind == GOOD].tolist()) == set(range(101, 118))
    assert first["day"][kind == SLOW].min() > 117
    assert first["day"][kind == BAD].min() > 117
    assert np.count_nonzero(kind == GOOD) == 3_000
    assert np.count_nonzero(kind == BAD) < 2_700
    assert set(first["amount_fen"][kind != BAD].tolist()) == {12_345, 12_400}
    assert first["amount_fen"][kind == BAD].min() < 6_000
    reversals = events[events["kind"] == REVERSAL]
    assert 0 < len(reversals) < 200
    paid_on = dict(zip(first["slot"].tolist(), first["day"].tolist(), strict=True))
    assert all(day > paid_on[slot] for slot, day in zip(reversals["slot"].tolist(), reversals["day"], strict=True))


def test_prepaying_customers_are_never_long_in_debt(world: World) -> None:
    books = Books(np.zeros(world.slots, np.int64), np.zeros(world.slots, np.int64))
    for day in range(120):
        held = occupancy(world, day)
        books.meter(world, readings_for_day(world, day, held))
        events = ledger_for_day(world, books, day, held)
        assert len(events) == 0 or events["day"].min() >= day
        ahead = world.payer[events["slot"]] == PREPAYING
        assert set(events["kind"][ahead].tolist()) <= {CHARGE, PREPAYMENT, REFUND}
        assert not events["directed"][ahead & (events["kind"] != CHARGE)].any()
    assert books.credit_fen.min() == 0
    assert books.credit_fen[world.payer == PREPAYING].max() > 0
    assert not books.credit_fen[world.payer != PREPAYING].any()


def test_what_is_paid_twice_is_paid_back_weeks_later() -> None:
    bills = bills_of(20_000)
    again, back = np.split(pay_twice(bills, np.random.default_rng(1)), 2)
    assert 0 < len(again) < 200
    assert (set(again["kind"].tolist()), set(back["kind"].tolist())) == ({PAYMENT}, {REFUND})
    assert again["amount_fen"].tolist() == back["amount_fen"].tolist()
    assert (again["day"] > again["due_day"]).all()
    assert (back["day"] >= again["day"] + 7).all()


def test_large_customers_are_mostly_businesses(world: World) -> None:
    largest = np.argsort(world.meter_base_wh[: world.slots])[-20:]
    assert np.count_nonzero(world.category[largest] == INDUSTRIAL) >= 5
    assert np.count_nonzero(world.category == RESIDENTIAL) > 1_700


def test_every_tenancy_opens_once_closes_once_and_in_turn(world: World) -> None:
    """Over ten years; rows of a day never name one key twice."""
    opened: set[tuple[int, int]] = set()
    closed: set[tuple[int, int]] = set()
    for day in range(0, 3650):
        held = occupancy(world, day)
        if day and not (held.opens | held.closes).any():
            continue
        opens = {(slot, int(held.tenancy[slot])) for slot in np.flatnonzero(held.opens).tolist()}
        closes = {(slot, int(held.tenancy[slot])) for slot in np.flatnonzero(held.closes).tolist()}
        assert not opens & opened
        assert not closes & closed
        opened |= opens
        closed |= closes
        assert closed <= opened
        accounts, meters = reference_rows(world, day, held)
        keys = accounts[["slot", "tenancy", "valid_from", "revision"]].tolist()
        assert len(set(keys)) == len(keys)
        assert set(np.unique(world.meter_slot[meters["meter"]])) <= set(np.unique(accounts["slot"]))
    assert all((slot, tenancy - 1) in closed for slot, tenancy in opened if tenancy > 0)
    assert len(closed) > 1_000
