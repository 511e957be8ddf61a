"""Tariffs in an account shard: which prices hold, and the numbers that tariffs have there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.inbound import PRICED, STAMP, TARIFFS
from transforms.kernels.prices import NO_PRICE, Prices, day_values
from transforms.kernels.reference import Population, days, latest, marked
from transforms.kernels.windows import DayBlock, ValueOf, Values
from transforms.shards import Slots, State, numpy

TARIFFS_SCHEMA = pa.schema([pa.field(f.name, f.type) for f in (*TARIFFS.columns, *STAMP)])
TARIFFS_STATE = pa.schema([*TARIFFS_SCHEMA, pa.field("number", pa.int32())])
"""The prices that hold, with the number of their tariff."""


@dataclass(frozen=True)
class TariffsUpdate:
    """tariffs: the prices that hold; accepted, superseded: of the new rows; restate_from: first day a price may differ."""

    tariffs: pa.Table
    accepted: int
    superseded: int
    restate_from: int | None


def update_tariffs(held: pa.Table, new: pa.Table, slots: Slots) -> TariffsUpdate:
    """Merge new prices, `TARIFFS_SCHEMA`, into those held, `TARIFFS_STATE`. slots: of the shard's tariffs; may grow."""
    if new.num_rows == 0:
        return TariffsUpdate(held, 0, 0, None)
    new = new.append_column("number", numbered(slots, new["tariff"].combine_chunks()))
    keys = ["tariff", "valid_from", "period"]
    content = ["price_nano", "cost_nano"]
    merged = latest(marked(held, new), keys, [*content, "fresh", "delivery", "row"])
    fresh = merged.filter(merged["fresh"])
    before = held.select([*keys, *content]).rename_columns([*keys, "was", "did_cost"])
    both = fresh.select([*keys, *content]).join(before, keys, join_type="left outer")
    price = pc.fill_null(pc.not_equal(both["price_nano"], both["was"]), True)
    cost = pc.not_equal(pc.fill_null(both["cost_nano"], NO_PRICE), pc.fill_null(both["did_cost"], NO_PRICE))
    other = both.filter(pc.or_(price, cost))
    first = int(days(other["valid_from"]).min()) if other.num_rows else None
    tariffs = merged.drop_columns(["fresh"]).combine_chunks()
    return TariffsUpdate(tariffs, fresh.num_rows, new.num_rows - fresh.num_rows, first)


def numbered(slots: Slots, tariff: pa.Array) -> pa.Array:
    """The number of each tariff, -1 where there is none; new ones get the next. tariff: (n,) string."""
    number, some = np.full(len(tariff), -1, np.int32), tariff.is_valid()
    number[some.to_numpy(zero_copy_only=False)] = slots.add(tariff.filter(some))
    return pa.array(number)


def load_prices(state: State) -> Prices:
    """The stored prices of a shard."""
    table = state.table("tariffs", TARIFFS_STATE)
    period = numpy(pc.index_in(table["period"], value_set=pa.array(PRICED)), np.int32)
    number, valid_from = numpy(table["number"], np.int32), days(table["valid_from"])
    order = np.lexsort((valid_from, period, number))
    price, cost = numpy(table["price_nano"]), numpy(pc.fill_null(table["cost_nano"], NO_PRICE), np.int64)
    return Prices(number[order], period[order], valid_from[order], price[order], cost[order])


def valuer(state: State, people: Population, n: int) -> ValueOf | None:
    """What values a day's energy of `n` accounts; None where no price is known."""
    prices = load_prices(state)
    if len(prices.tariff) == 0:
        return None
    tariffs = int(max(people.tariff.max(initial=-1), prices.tariff.max())) + 1

    def values(day: int, block: DayBlock) -> Values:
        costs = prices.costs_on(day, tariffs) if prices.have_costs else None
        return day_values(block, people.tariff_on(day, n), prices.on(day, tariffs), costs)

    return values
