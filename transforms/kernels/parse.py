"""From delivered columns to a source's schema: every row is either accepted or rejected with its first fault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.fields import Column, Relation
from schemas.inbound import (
    ENERGY_LIMIT_WH,
    INDEX_COLUMNS,
    MEASURES,
    MULTIPLIER,
    PERIODS,
    READ_AT,
    REGISTERS,
    SOURCES,
    STAMP,
)
from schemas.mapping import CURRENCY, REGISTER, ColumnMapping, SourceMapping, kind_of, zone
from schemas.marts import REJECTS
from schemas.reasons import FAULTS, REASONS
from transforms.kernels.dates import from_temporal, parse_days, shift_and_bound
from transforms.kernels.decimals import parse_decimal, rescale
from transforms.kernels.parsed import Mask, Parsed, blame, mask_of, no_faults

FLAGS = {"true": True, "false": False, "1": True, "0": False}
"""Texts read as flags where the mapping has no `map`; in any case of letters."""

VALUE_LENGTH = 200
"""Characters of a rejected value that are kept."""


@dataclass(frozen=True)
class Delivery:
    """One landed file. `uri` is an absolute path or a URL; `known_at` is in UTC."""

    seq: int
    source: str
    uri: str
    sha256: str
    known_at: datetime

    @property
    def file(self) -> str:
        """Last part of the path, as rejects name it."""
        return self.uri.rstrip("/").rsplit("/", 1)[-1]

    def day(self, time_zone: str) -> date:
        """Local day on which it became known."""
        return self.known_at.astimezone(zone(time_zone)).date()


class Decoded(NamedTuple):
    """A block of a delivery: `rows_read == rows.num_rows + rejects.num_rows`.

    rows: schema `accepted_schema(source)`. rejects: schema of the mart `rejects`, one record per rejected row.
    Both ascend by row.
    """

    rows: pa.RecordBatch
    rejects: pa.RecordBatch
    rows_read: int


class Broken(NamedTuple):
    """A row whose fields could not be told apart, or that none is asked for."""

    row: int
    text: str
    reason: str = "column_count"


def accepted_schema(source: str) -> pa.Schema:
    """Columns of the source, then the stamp: `delivery` int32, `row` int64."""
    relation = SOURCES[source]
    return Relation(relation.name, relation.meaning, relation.columns + STAMP, relation.version).schema


def decode_block(
    delivery: Delivery,
    mapping: SourceMapping,
    revision: int | None,
    columns: Mapping[str, pa.Array],
    row: NDArray[np.int64],
    broken: Sequence[Broken] = (),
) -> Decoded:
    """Decode one block of a delivered file.

    Args:
        revision: of all rows; None where the mapping takes it from a column.
        columns: source column -> (n,) string, integer, decimal, boolean, date or timestamp.
        row: (n,) row numbers, ascending.
        broken: rows beside those, rejected.
    """
    relation = SOURCES[mapping.source]
    parsed = {
        column.name: _decode_column(delivery, mapping, column, columns, len(row))
        if column.name != "revision" or revision is None
        else Parsed(_repeat(revision, len(row), column.type), no_faults(len(row)))
        for column in mapping.delivered
    }
    if READ_AT in relation.columns:
        at = parsed["service_date"].at
        parsed[READ_AT.name] = Parsed(pa.nulls(len(row), READ_AT.type) if at is None else at, no_faults(len(row)))
    if mapping.source == "ledger_events":
        parsed |= _ledger_rules(parsed, mapping.currency)
    if mapping.source == "register_readings":
        parsed |= _register_rules(parsed)
    if mapping.source == "meters":
        parsed |= _meter_rules(parsed)
    if mapping.sums_periods:
        parsed |= _period_rules(parsed)
    reason, at = first_faults([parsed[column.name].faults for column in mapping.delivered])
    good = reason == 0
    stamps = [_repeat(delivery.seq, len(row), STAMP[0].type), pa.array(row, STAMP[1].type)]
    arrays = [parsed[column.name].values for column in relation.columns] + stamps
    schema = accepted_schema(mapping.source)
    rows = pa.RecordBatch.from_arrays(arrays, schema=schema)
    if not good.all():
        rows = rows.filter(pa.array(good))
    rejects = _rejects(delivery, mapping, columns, row, reason, at, broken)
    return Decoded(rows, rejects, len(row) + len(broken))


def first_faults(faults: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Of k columns' (n,) faults, each row's first: (n,) its number, 0 where none, and (n,) the column it stands in."""
    reason = no_faults(len(faults[0]))
    at = np.zeros(len(reason), np.int64)
    for number, column in enumerate(faults):
        new = (reason == 0) & (column != 0)
        reason[new], at[new] = column[new], number
    return reason, at


def _repeat(value: object, rows: int, type_: pa.DataType) -> pa.Array:
    return pa.repeat(pa.scalar(value, type_), rows)


def _decode_column(
    delivery: Delivery, mapping: SourceMapping, column: Column, columns: Mapping[str, pa.Array], rows: int
) -> Parsed:
    """One schema column of a block; an empty value of a required column is `missing_value`."""
    mapped = mapping.column(column.name)
    if mapped is None:
        return Parsed(pa.nulls(rows, column.type), no_faults(rows))
    if not mapped.origins:
        parsed = Parsed(_repeat(mapped.constant, rows, column.type), no_faults(rows))
    else:
        raw = _without(_joined(mapped, columns), mapped.empty)
        parsed = _parse(delivery, mapping, column, mapped, raw)
        if column.name == REGISTER and "" not in (mapped.map or {}):
            blame(parsed.faults, ~mask_of(parse_text(raw, strip=True).values.is_valid()), "missing_value")
    if not column.nullable:
        blame(parsed.faults, mask_of(parsed.values.is_null()), "missing_value")
    return parsed


def _joined(mapped: ColumnMapping, columns: Mapping[str, pa.Array]) -> pa.Array:
    """The delivered values of a mapped column: (n,) of the source's one column, or as text of several."""
    if mapped.column is not None:
        return columns[mapped.column]
    parts = [pc.utf8_trim_whitespace(pc.cast(columns[name], pa.string())) for name in mapped.columns]
    return pc.binary_join_element_wise(*parts, "-")


def _parse(delivery: Delivery, mapping: SourceMapping, column: Column, mapped: ColumnMapping, raw: pa.Array) -> Parsed:
    """Parse (n,) delivered values by the kind of their schema column."""
    text = pa.types.is_string(raw.type)
    match kind_of(column):
        case "number":
            scale = mapping.scale(column.name)
            bounds, rounded = (column.minimum, column.maximum), mapped.round is not None
            mark = mapping.decimal
            return (
                parse_decimal(raw, scale, mark, *bounds, rounded=rounded)
                if text
                else rescale(raw, scale, *bounds, rounded=rounded)
            )
        case "day":
            drop, within = mapped.time_of_day == "drop", mapped.minutes_off
            told = column.name == "service_date"
            if text or pa.types.is_integer(raw.type):
                clock = mapping.time_zone if told else None
                days = parse_days(pc.cast(raw, pa.string()), mapped.format or "%Y-%m-%d", drop, within, clock)
            else:
                days = from_temporal(raw, mapping.time_zone, drop, within, instants=told)
            first, last = mapping.day_bounds(column.name, delivery.day(mapping.time_zone))
            return shift_and_bound(days, mapped.shift_days, first, last)
        case "flag" if pa.types.is_boolean(raw.type):
            return Parsed(raw, no_faults(len(raw)))
        case "flag" if not mapped.map:
            return parse_codes(pc.utf8_lower(pc.cast(raw, pa.string())), FLAGS)
        case "code" if not mapped.map:
            return parse_codes(raw, {code: code for code in column.values})
        case "id":
            return parse_text(raw, strip=True)
        case _ if mapped.map:
            return parse_codes(raw, mapped.map)
        case _:
            return parse_text(raw, strip=False)


def parse_codes(raw: pa.Array, meanings: Mapping[str, Any]) -> Parsed:
    """Translate (n,) codes, blanks around them ignored, to text or flags. Fault: `unknown_code`.

    A blank gives null, unless it is a code itself.
    """
    text = pc.utf8_trim_whitespace(pc.cast(raw, pa.string()).fill_null(""))
    at = pc.index_in(text, value_set=pa.array(list(meanings), pa.string()))
    faults = no_faults(len(text))
    blame(faults, mask_of(pc.and_(at.is_null(), pc.not_equal(text, ""))), "unknown_code")
    return Parsed(pa.array(list(meanings.values())).take(at), faults)


def parse_text(raw: pa.Array, strip: bool) -> Parsed:
    """(n,) text as it is, or without the blanks around it; text of blanks alone is null. No faults."""
    text = pc.cast(raw, pa.string())
    trimmed = pc.utf8_trim_whitespace(text)
    kept = pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, pa.string()), trimmed if strip else text)
    return Parsed(kept, no_faults(len(text)))


def _without(raw: pa.Array, empty: Sequence[str]) -> pa.Array:
    """Null where the value, as text, is one of those that stand for nothing."""
    if not empty:
        return raw
    nothing = pc.is_in(pc.utf8_trim_whitespace(pc.cast(raw, pa.string())), value_set=pa.array(empty, pa.string()))
    return pc.if_else(nothing, pa.scalar(None, raw.type), raw)


def _ledger_rules(parsed: Mapping[str, Parsed], currency: str | None) -> dict[str, Parsed]:
    """Rules between the columns of a ledger event: the columns they change, with the faults they add.

    A charge needs a due date, on or after its event date. Adjustments are other than zero, and all other amounts above it.
    A reversal needs the event it reverses; its amount may be empty and is then 0. A currency that a row tells is `currency`.
    """
    kind = parsed["event_type"].values
    charge, adjustment, reversal = (mask_of(pc.equal(kind, name)) for name in ("charge", "adjustment", "reversal"))
    positive = mask_of(kind.is_valid()) & ~adjustment & ~reversal
    due, amount, reversed_event = (parsed[name] for name in ("due_date", "amount_minor", "ref_event_id"))

    due_faults = due.faults.copy()
    blame(due_faults, charge & mask_of(due.values.is_null()), "missing_value")
    early = mask_of(pc.less(due.values, parsed["event_date"].values))
    blame(due_faults, (charge | adjustment) & early, "due_before_issue")

    amount_faults = amount.faults.copy()
    amount_faults[reversal & (amount_faults == FAULTS["missing_value"])] = 0
    below: Mask = mask_of(pc.less_equal(amount.values, 0)) & positive
    blame(amount_faults, below | (mask_of(pc.equal(amount.values, 0)) & adjustment), "not_positive")

    event_faults = reversed_event.faults.copy()
    blame(event_faults, reversal & mask_of(reversed_event.values.is_null()), "missing_value")
    out = {
        "due_date": Parsed(due.values, due_faults),
        "amount_minor": Parsed(amount.values.fill_null(0), amount_faults),
        "ref_event_id": Parsed(reversed_event.values, event_faults),
    }
    if told := parsed.get(CURRENCY.name):
        faults = told.faults.copy()
        blame(faults, mask_of(pc.not_equal(pc.utf8_trim_whitespace(told.values), currency)), "wrong_currency")
        out[CURRENCY.name] = Parsed(told.values, faults)
    return out


def _register_rules(parsed: Mapping[str, Parsed]) -> dict[str, Parsed]:
    """Rules between the columns of a register reading: a row of one value is spread over the registers' columns.

    A row without any index is `missing_value`, but for one whose code is mapped to no register: it is accepted, and says nothing.
    """
    names = list(INDEX_COLUMNS.values())
    if REGISTER not in parsed:
        empty = np.logical_and.reduce([mask_of(parsed[name].values.is_null()) for name in names])
        faults = parsed["index_total"].faults.copy()
        blame(faults, empty, "missing_value")
        return {"index_total": Parsed(parsed["index_total"].values, faults)}
    register, index = parsed[REGISTER], parsed["index"]
    unwanted, times = mask_of(register.values.is_null()), parsed[MULTIPLIER]
    faults, times_faults = index.faults.copy(), times.faults.copy()
    faults[unwanted] = times_faults[unwanted] = 0
    nothing = pa.scalar(None, index.values.type)
    spread = {
        name: Parsed(
            pc.if_else(pc.equal(register.values, of).fill_null(False), index.values, nothing), no_faults(len(faults))
        )
        for name, of in zip(names, MEASURES, strict=True)
    }
    told = pc.if_else(pa.array(unwanted), nothing, times.values)
    return {**spread, "index": Parsed(index.values, faults), MULTIPLIER: Parsed(told, times_faults)}


def _meter_rules(parsed: Mapping[str, Parsed]) -> dict[str, Parsed]:
    """A meter is not removed before it is installed; indexes that are given are below the modulus, where that is given."""
    removed, modulus = parsed["removed_on"], parsed["modulus"].values
    removed_faults = removed.faults.copy()
    blame(removed_faults, mask_of(pc.less(removed.values, parsed["installed_on"].values)), "removed_before_installed")
    out = {"removed_on": Parsed(removed.values, removed_faults)}
    for name in (f"{prefix}_{register}" for prefix in ("installed", "removed") for register in REGISTERS):
        faults = parsed[name].faults.copy()
        blame(faults, mask_of(pc.greater_equal(parsed[name].values, modulus)), "index_beyond_modulus")
        out[name] = Parsed(parsed[name].values, faults)
    return out


def _period_rules(parsed: Mapping[str, Parsed]) -> dict[str, Parsed]:
    """Interval energy without a total is the sum of its periods; one that is empty adds nothing, but not all of them."""
    periods = [parsed[f"{name}_wh"] for name in PERIODS]
    energy = reduce(pc.add, [period.values.fill_null(0) for period in periods])
    told = np.logical_or.reduce([mask_of(period.values.is_valid()) | (period.faults != 0) for period in periods])
    faults = no_faults(len(told))
    blame(faults, ~told, "missing_value")
    blame(faults, mask_of(pc.greater(energy, ENERGY_LIMIT_WH)), "out_of_range")
    return {"energy_wh": Parsed(energy, faults)}


def _rejects(
    delivery: Delivery,
    mapping: SourceMapping,
    columns: Mapping[str, pa.Array],
    row: NDArray[np.int64],
    reason: NDArray[np.uint8],
    at: NDArray[np.int64],
    broken: Sequence[Broken],
) -> pa.RecordBatch:
    """Records of the rejected rows, ascending by row."""
    kinds = pa.array(REASONS)
    whole_rows = {
        "row": pa.array([bad.row for bad in broken], pa.int64()),
        "column": _repeat("", len(broken), pa.string()),
        "value": _shown(pa.array([bad.text for bad in broken], pa.string())),
        "reason": pa.array([bad.reason for bad in broken], pa.string()),
    }
    pieces = [pa.table(whole_rows)]
    for number, column in enumerate(mapping.delivered):
        hit = np.flatnonzero((reason != 0) & (at == number))
        mapped = mapping.column(column.name)
        raw = _joined(mapped, columns).take(pa.array(hit)) if mapped and mapped.origins else pa.nulls(len(hit))
        piece = {
            "row": pa.array(row[hit], pa.int64()),
            "column": _repeat(column.name, len(hit), pa.string()),
            "value": _shown(raw),
            "reason": kinds.take(pa.array(reason[hit].astype(np.int64) - 1)),
        }
        pieces.append(pa.table(piece))
    found = pa.concat_tables(pieces).sort_by("row").combine_chunks()
    stamps = {"source": mapping.source, "delivery": delivery.seq, "file": delivery.file}
    schema = REJECTS.schema
    arrays = [
        _repeat(stamps[field.name], len(found), field.type) if field.name in stamps else _flat(found[field.name])
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _shown(raw: pa.Array) -> pa.Array:
    return pc.utf8_slice_codeunits(pc.cast(raw, pa.string()), 0, VALUE_LENGTH)


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
