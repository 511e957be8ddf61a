"""Days of the calendar from text, and from the day and time columns of Parquet files."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.dateformat import date_pattern
from transforms.kernels.parsed import Mask, Parsed, blame, build, mask_of, no_faults

Longs = NDArray[np.int64]
EPOCH = date(1970, 1, 1)
DAY_SECONDS = 86_400


def parse_days(text: pa.Array | pa.ChunkedArray, date_format: str = "%Y-%m-%d", drop_time: bool = False,
               within_minutes: int = 0, clock: str | None = None) -> Parsed:  # fmt: skip
    """Parse days in a format such as %Y/%m/%d; 2015/1/1 and 2015/01/01 are the same day.

    Args:
        text: (n,) string. Blanks around a day are ignored; null and blank give null without a fault.
        date_format: see `schemas.dateformat.date_pattern`.
        drop_time: whether a time of day that the format names may be other than midnight.
        within_minutes: a time so close to a midnight, before or after it, is that midnight.
        clock: the time zone of the clock that showed the times of day; where it is given, they are told.

    Returns: values (n,) date32. Faults: `bad_date`; `off_midnight` for a time of day that is not within the minutes.

    >>> parse_days(pa.array(["2015/1/1", "2015/02/29", ""]), "%Y/%m/%d").values.to_pylist()
    [datetime.date(2015, 1, 1), None, None]
    """
    whole = text.combine_chunks() if isinstance(text, pa.ChunkedArray) else text
    coded = whole.dictionary_encode()  # a file has few different days, so each is parsed once
    days = _parse_distinct(coded.dictionary, date_format, drop_time, within_minutes, clock)
    if not len(coded.dictionary):
        return Parsed(pa.nulls(len(whole), pa.date32()), no_faults(len(whole)))
    index = coded.indices
    at = np.asarray(index.fill_null(0).to_numpy(zero_copy_only=False))
    faults = np.where(mask_of(index.is_valid()), days.faults[at], 0).astype(np.uint8)
    return Parsed(days.values.take(index), faults, days.at if days.at is None else days.at.take(index))


def _parse_distinct(
    text: pa.Array, date_format: str, drop_time: bool, within_minutes: int, clock: str | None
) -> Parsed:
    text = pc.utf8_trim_whitespace(text)
    filled = mask_of(pc.greater(pc.binary_length(text), 0))
    found = pc.extract_regex(text, f"^{date_pattern(date_format)}$")
    matched = mask_of(found.is_valid())
    part = {name: _whole(pc.struct_field(found, name), matched) for name in (f.name for f in found.type)}
    days, real = days_of(part["Y"], part["m"], part["d"])
    hour, minute, second = (part.get(name, np.zeros(len(text), np.int64)) for name in "HMS")
    real &= (hour < 24) & (minute < 60) & (second < 60)
    seconds = hour * 3600 + minute * 60 + second
    faults = no_faults(len(text))
    at = None
    if clock is not None and "H" in part:
        shown = build(days.astype(np.int64) * DAY_SECONDS + seconds, ~(matched & real), pa.timestamp("s"))
        at = _utc(_on_clock(shown, clock))
    if not drop_time and not within_minutes:
        real &= seconds == 0
    blame(faults, filled & ~(matched & real), "bad_date")
    if not drop_time and within_minutes:
        ahead, off = _nearest_midnight(seconds, DAY_SECONDS - seconds, within_minutes)
        blame(faults, filled & off, "off_midnight")
        days = days + ahead
    return Parsed(build(days, ~filled | (faults != 0), pa.date32()), faults, at)


def _on_clock(local: pa.Array, time_zone: str) -> pa.Array:
    """(n,) instants at which a clock shows these times: the first where it does so twice; a time that it leaves out is where it
    goes on.
    """
    return pc.assume_timezone(local, time_zone, ambiguous="earliest", nonexistent="latest")


def _utc(instants: pa.Array) -> pa.Array:
    """(n,) instants as timestamps in UTC, without a zone."""
    return pc.cast(pc.cast(pc.cast(instants, pa.timestamp("us", "UTC"), safe=False), pa.int64()), pa.timestamp("us"))


def _nearest_midnight(since: Longs, until: Longs, within_minutes: int) -> tuple[NDArray[np.int32], Mask]:
    """(n,) days to go on to the midnight that is so near, 0 or 1; and whether none is.

    since, until: (n,) seconds from the last midnight, and until the next.
    """
    before, after = until <= within_minutes * 60, since <= within_minutes * 60
    return (before & ~after).astype(np.int32), ~(before | after)


def _whole(digits: pa.Array, matched: Mask) -> Longs:
    return np.asarray(pc.cast(pc.if_else(pa.array(matched), digits, "0"), pa.int64()))


def days_of(
    year: NDArray[np.int64], month: NDArray[np.int64], day: NDArray[np.int64]
) -> tuple[NDArray[np.int32], Mask]:
    """(n,) days since 1970-01-01 from (n,) years 1 to 9999, months and days; and whether each is a real day."""
    real = (year >= 1) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)
    months = np.where(real, (year - 1970) * 12 + month - 1, 0).astype("M8[M]")
    days = months.astype("M8[D]") + np.where(real, day - 1, 0)
    real &= days.astype("M8[M]") == months
    return days.astype(np.int64).astype(np.int32), real


def from_temporal(
    column: pa.Array | pa.ChunkedArray, time_zone: str = "UTC", drop_time: bool = False, within_minutes: int = 0, *,
    instants: bool = False,
) -> Parsed:  # fmt: skip
    """Days from a date or timestamp column. A timestamp with a zone is an instant: its day is the local one there.

    The midnight of an instant is where its local day begins: at 1:00 where the clock leaves midnight out, the first time where it
    shows it twice. A timestamp without a zone is what a clock shows; its midnight is 0:00.

    column: (n,) date32, date64 or timestamp. Returns values (n,) date32. Faults: `bad_date` for a time of day other
    than midnight, unless `drop_time`; with `within_minutes` as `parse_days`. instants: whether those of timestamps are told.
    """
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    faults = no_faults(len(column))
    if not pa.types.is_timestamp(column.type):
        return Parsed(pc.cast(column, pa.date32()), faults)
    local, unit = column, column.type.unit
    if column.type.tz is not None:
        column = pc.cast(column, pa.timestamp(unit, time_zone))
        local = pc.local_timestamp(column)
    day = start = pc.floor_temporal(local, unit="day")
    days = np.asarray(pc.cast(pc.cast(day, pa.date32()), pa.int32()).fill_null(0))
    valid = mask_of(column.is_valid())
    if not drop_time:
        end = pc.add(day, pa.scalar(timedelta(days=1), pa.duration(unit)))
        if column.type.tz is not None:
            start, end = (_on_clock(local, time_zone) for local in (day, end))
        if within_minutes:
            ahead, off = _nearest_midnight(_seconds(column, start), _seconds(end, column), within_minutes)
            blame(faults, valid & off, "off_midnight")
            days = days + ahead
        else:
            blame(faults, valid & mask_of(pc.not_equal(column, start)), "bad_date")
    told = None
    if instants:
        told = _utc(column if column.type.tz is not None else _on_clock(column, time_zone))
    return Parsed(build(days, ~valid | (faults != 0), pa.date32()), faults, told)


def _seconds(later: pa.Array, earlier: pa.Array) -> Longs:
    """(n,) whole seconds from one time to another, rounded up; 0 for null."""
    micros = pc.cast(pc.cast(pc.subtract(later, earlier), pa.duration("us"), safe=False), pa.int64())
    return -(-np.asarray(micros.fill_null(0)) // 1_000_000)


def shift_and_bound(parsed: Parsed, shift_days: int, first: date, last: date) -> Parsed:
    """Move (n,) days by a number of days, then blame `date_out_of_range` outside `first .. last`, both inclusive."""
    valid = mask_of(parsed.values.is_valid())
    days = np.asarray(pc.cast(parsed.values, pa.int32()).fill_null(0)).astype(np.int64) + shift_days
    faults = parsed.faults.copy()
    blame(faults, valid & ((days < (first - EPOCH).days) | (days > (last - EPOCH).days)), "date_out_of_range")
    kept = valid & (faults == 0)
    return Parsed(build(np.where(kept, days, 0).astype(np.int32), ~kept, pa.date32()), faults, parsed.at)
