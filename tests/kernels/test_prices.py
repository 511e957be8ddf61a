"""Which prices are in force, and what a day is worth by them: against plain Python."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from schemas.inbound import APART, PERIODS, PRICE_LIMIT_NANO, PRICED
from transforms.kernels.exact import DAY_LIMIT_WH
from transforms.kernels.prices import NO_PRICE, Prices, day_values
from transforms.kernels.windows import DayBlock

TARIFFS, DAY = 3, 20
ROWS = st.dictionaries(
    st.tuples(st.integers(0, TARIFFS - 1), st.integers(0, len(PRICED) - 1), st.integers(10, 30)),
    st.sampled_from((0, 1, 500_000_000, 123_456_789, PRICE_LIMIT_NANO)),
    min_size=1,
    max_size=30,
)
COSTS = st.sampled_from((None, 0, 400_000_000, PRICE_LIMIT_NANO))
ENERGY = st.sampled_from((0, 1, 999_999, 1_000_000, 8_320, DAY_LIMIT_WH - 1))
ACCOUNTS = st.lists(
    st.tuples(
        st.integers(-1, TARIFFS - 1), ENERGY, st.integers(0, 2),
        st.dictionaries(st.sampled_from(APART), st.tuples(ENERGY, st.integers(1, 2))),
    ),
    max_size=8,
)  # fmt: skip


def in_force(rows, tariff, period, day):
    """The price by the definition; None where there is none."""
    starts = [start for t, p, start in rows if (t, PRICED[p]) == (tariff, period) and start <= day]
    return rows[tariff, PRICED.index(period), max(starts)] if starts else None


def worth(rows, day, tariff, energy, received, apart):
    """(10^-12 of a major unit, Wh) by the definition."""
    told = {name: apart[name] for name in PERIODS if name in apart}
    price = {name: in_force(rows, tariff, name, day) for name in PRICED}
    if told and all(m >= received and (wh == 0 or price[name] is not None) for name, (wh, m) in told.items()):
        return sum(wh * (price[name] or 0) for name, (wh, _) in told.items()), sum(wh for wh, _ in told.values())
    if received and price["total"] is not None:
        return energy * price["total"], energy
    return 0, 0


def margin(rows, costs, day, tariff, energy, received, apart):
    """The same of the lines that have a cost, less the cost: (10^-12 of a major unit, Wh) by the definition."""
    if worth(rows, day, tariff, energy, received, apart) == worth(rows, day, tariff, energy, received, {}):
        used = {"total": energy if received and in_force(rows, tariff, "total", day) is not None else 0}
    else:
        used = {name: wh for name, (wh, _) in apart.items() if name in PERIODS}
    known = {name: (wh, in_force(costs, tariff, name, day)) for name, wh in used.items() if wh}
    lines = [(wh, in_force(rows, tariff, name, day) - cost) for name, (wh, cost) in known.items() if cost is not None]
    return sum(wh * beyond for wh, beyond in lines), sum(wh for wh, _ in lines)


@given(ROWS, ACCOUNTS, st.data())
def test_a_day_is_worth_what_the_definition_says(rows, accounts, data):
    ordered, costs = sorted(rows), {key: data.draw(COSTS) for key in rows}
    prices = Prices(
        *(np.array([key[at] for key in ordered], np.int32) for at in range(3)),
        np.array([rows[key] for key in ordered], np.int64),
        np.array([NO_PRICE if costs[key] is None else costs[key] for key in ordered], np.int64),
    )
    assert prices.have_costs == any(cost is not None for cost in costs.values())
    n = len(accounts)
    apart = {}
    for name in APART:
        of = [account[3].get(name, (0, 0)) for account in accounts]
        if any(meters for _, meters in of):
            apart[name] = np.array([wh for wh, _ in of], np.int64), np.array([meters for _, meters in of], np.int32)
    received = np.array([account[2] for account in accounts], np.int32)
    energy = np.array([account[1] if account[2] else 0 for account in accounts], np.int64)
    block = DayBlock(energy, received, np.zeros(n, np.int32), np.zeros(n, np.int32), apart)
    tariff = np.array([account[0] for account in accounts], np.int32)
    in_costs = prices.costs_on(DAY, TARIFFS)
    found = day_values(block, np.r_[tariff, np.int32([-1])], prices.on(DAY, TARIFFS), in_costs)
    for at, (number, used, meters, told) in enumerate(accounts):
        amount = int(found["valued_major"][at]) * 10**12 + int(found["valued_parts"][at])
        wanted = worth(rows, DAY, number, used if meters else 0, meters, told)
        assert (amount, found["valued_wh"][at]) == wanted
        amount = int(found["margin_major"][at]) * 10**12 + int(found["margin_parts"][at])
        wanted = margin(rows, costs, DAY, number, used if meters else 0, meters, told)
        assert (amount, found["margin_wh"][at]) == wanted


def test_a_season_is_another_row():
    """Tariff 0 costs 0.5 from day 10 and 0.8 from day 20; tariff 1 has a price of the valley alone."""
    costs = np.full(3, NO_PRICE)
    prices = Prices(
        np.int32([0, 0, 1]), np.int32([0, 0, 4]), np.int32([10, 20, 10]), np.array([5, 8, 3]) * 10**8, costs
    )
    assert [prices.on(day, 2)[0, 0] for day in (9, 10, 19, 20)] == [NO_PRICE, 5 * 10**8, 5 * 10**8, 8 * 10**8]
    assert prices.on(20, 2)[1].tolist() == [NO_PRICE] * 4 + [3 * 10**8]
    assert prices.on(20, 2)[-1].tolist() == [NO_PRICE] * 5
