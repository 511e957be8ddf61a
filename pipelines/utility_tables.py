"""The simulated utility's rows as the tables that it delivers."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.utility import (
    ACCOUNT_ROW,
    CATEGORY_AFTER_CHANGE,
    CHARGE,
    EVENT,
    METER_ROW,
    NEVER,
    PREPAYING,
    READING,
    REVERSAL,
    Rows,
    World,
    account_ids,
    opened_on,
)  # fmt: skip
from pipelines.utility_registers import METER_SHOWN, NOT_TOLD, REGISTER, SHOWN, Dials
from schemas.inbound import CATEGORIES, EVENT_TYPES

REGISTERS = "registers"
"""The source in place of `readings` where meters show registers."""

EVENT_LETTERS = ("C", "P", "R", "W", "A", "F", "V")
TARIFFS = tuple(name + suffix for name in ("RES", "COM", "IND", "AGR") for suffix in ("", "-P"))
REGIONS = ("Riverside", "Old Town", "North", "Harbour", "Hills", "New District")
VOLTAGES = ("220V", "380V", "10kV", "35kV", "110kV")
VOLTAGE_FROM_KVA = (16, 100, 8_000, 40_000)
_EPOCH = date(1970, 1, 1)


def _decimal(values: npt.NDArray[np.int64], scale: int) -> pa.Array:
    """(n,) decimal128(18, scale) of integers in the smallest unit."""
    words = np.empty((len(values), 2), np.int64)
    words[:, 0], words[:, 1] = values, values >> 63
    return pa.Array.from_buffers(pa.decimal128(18, scale), len(values), [None, pa.py_buffer(words)])


def code_names(names: tuple[str, ...], codes: npt.NDArray[Any]) -> pa.Array:
    """(n,) string: the names that codes (n,) stand for."""
    return pa.array(names).take(pa.array(codes.astype(np.int32)))


def dates(world: World, days: npt.NDArray[Any]) -> pa.Array:
    """(n,) date32; null for NEVER."""
    epoch_days = days.astype(np.int64) + (world.start - _EPOCH).days
    return pa.array(epoch_days.astype(np.int32), mask=days == NEVER).cast(pa.date32())


def readings_table(world: World, rows: Rows) -> pa.Table:
    """READING rows as delivered: energy in kWh."""
    return pa.table({
        "meter_id": world.meter_ids.take(pa.array(rows["meter"])),
        "service_date": dates(world, rows["day"]),
        "energy_kwh": _decimal(rows["energy_wh"], 3),
        "quality": code_names(("A", "E"), rows["estimated"]),
        "revision": pa.array(rows["revision"].astype(np.int64)),
    })  # fmt: skip


def ledger_table(world: World, rows: Rows) -> pa.Table:
    """EVENT rows as delivered: amounts in yuan. An event's id is its letter, its bill's day and a part."""
    account_id = account_ids(rows["slot"], rows["tenancy"])
    billed = pc.strftime(dates(world, rows["bill_day"]), "%y%m%d")
    suffix = pc.binary_join_element_wise(billed, pa.array(rows["part"]).cast(pa.string()), "-")
    none = pa.scalar(None, pa.string())
    return pa.table({
        "account_id": account_id,
        "event_id": pc.binary_join_element_wise(code_names(EVENT_LETTERS, rows["kind"]), suffix, ""),
        "event_type": code_names(EVENT_TYPES, rows["kind"]),
        "event_date": dates(world, rows["day"]),
        "due_date": dates(world, np.where(rows["kind"] == CHARGE, rows["due_day"], NEVER)),
        "amount_yuan": _decimal(rows["amount_fen"], 2),
        "bill_id": pc.if_else(
            pa.array(rows["directed"].astype(bool)), pc.binary_join_element_wise(account_id, billed, "-"), none
        ),
        "ref_event_id": pc.if_else(
            pa.array(rows["kind"] == REVERSAL), pc.binary_join_element_wise("P", suffix, ""), none
        ),
        "revision": pa.array(rows["revision"].astype(np.int64)),
    })  # fmt: skip


def accounts_table(world: World, rows: Rows) -> pa.Table:
    """ACCOUNT_ROW rows as delivered."""
    slots, tenancy, valid_from = rows["slot"], rows["tenancy"].astype(np.int64), rows["valid_from"]
    category = np.where(
        world.changes_on[slots] <= valid_from,
        CATEGORY_AFTER_CHANGE[world.category[slots]], world.category[slots],
    )  # fmt: skip
    voltage = np.searchsorted(VOLTAGE_FROM_KVA, world.capacity_kva[slots], side="right")
    return pa.table({
        "account_id": account_ids(slots, tenancy),
        "valid_from": dates(world, valid_from),
        "category": code_names(CATEGORIES, category),
        "region": code_names(REGIONS, world.region[slots]),
        "voltage": code_names(VOLTAGES, voltage),
        "tariff": code_names(TARIFFS, 2 * category + world.preferential[slots]),
        "preferential": pa.array(world.preferential[slots]),
        "capacity_kva": pa.array(world.capacity_kva[slots]),
        "prepaid": pa.array(world.payer[slots] == PREPAYING),
        "opened_on": dates(world, opened_on(world, slots, tenancy)),
        "closed_on": dates(world, rows["closed_on"]),
        "revision": pa.array(rows["revision"].astype(np.int64)),
    })  # fmt: skip


def meters_table(world: World, rows: Rows) -> pa.Table:
    """METER_ROW rows as delivered: installed on the first day of the tenancy."""
    slots, tenancy = world.meter_slot[rows["meter"]], rows["tenancy"].astype(np.int64)
    return pa.table({
        "meter_id": world.meter_ids.take(pa.array(rows["meter"])),
        "installed_on": dates(world, opened_on(world, slots, tenancy)),
        "account_id": account_ids(slots, tenancy),
        "removed_on": dates(world, rows["removed_on"]),
        "revision": pa.array(rows["revision"].astype(np.int64)),
    })  # fmt: skip


def _index(values: npt.NDArray[np.int64]) -> pa.Array:
    """(n,) decimal128(18, 6) kWh of thousandths of a Wh; null for `NOT_TOLD`."""
    return pc.if_else(pa.array(values != NOT_TOLD), _decimal(values, 6), pa.scalar(None, pa.decimal128(18, 6)))


def registers_table(world: World, dials: Dials, rows: Rows) -> pa.Table:
    """REGISTER rows as delivered: indexes in kWh, dated by the midnight that closes the day."""
    columns = dict(zip(SHOWN, map(_index, dials.after(world, rows).T), strict=True))
    table = readings_table(world, rows).drop_columns(["service_date", "energy_kwh"])
    parts = {"meter_id": table["meter_id"], "read_at": dates(world, rows["day"] + 1)}
    parts |= {f"{name}_kwh": column for name, column in columns.items()}
    return pa.table(parts | {"quality": table["quality"], "revision": table["revision"]})


def dials_table(world: World, dials: Dials, rows: Rows) -> pa.Table:
    """METER_SHOWN rows as delivered: how the registers are read, and what they showed at both ends."""
    table = meters_table(world, rows)
    table = table.append_column("multiplier", pa.array(dials.multiplier[rows["meter"]]))
    table = table.append_column("modulus_kwh", _decimal(dials.modulus[rows["meter"]], 6))
    for end in ("installed", "removed"):
        for name, shown in zip(SHOWN, rows[end].T, strict=True):
            table = table.append_column(f"{end}_{name}_kwh", _index(shown))
    return table


Tables = dict[str, tuple[np.dtype[np.void], Callable[[Rows], pa.Table]]]
"""By source: what its rows are, and how they become a table."""


def tables(world: World, dials: Dials | None) -> Tables:
    """The sources of a utility, of registers where there are dials."""
    meters: Tables = {
        "meters": (METER_ROW, partial(meters_table, world)), "readings": (READING, partial(readings_table, world)),
    }  # fmt: skip
    if dials:
        meters = {
            "meters": (METER_SHOWN, partial(dials_table, world, dials)),
            REGISTERS: (REGISTER, partial(registers_table, world, dials)),
        }
    accounts = (ACCOUNT_ROW, partial(accounts_table, world))
    return {"accounts": accounts, **meters, "ledger": (EVENT, partial(ledger_table, world))}
