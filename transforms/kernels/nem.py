"""NEM12 and NEM13, the meter data files of the Australian market operator, as rows that a mapping can name.

    100 header                                  250 header of an accumulated read: previous and current index
    200 an NMI, one of its data streams         550 ...
    300 a day: its intervals, their quality     900 end
    400 ... quality by interval
    500 ...
    900 end

NEM12 gives one row for each NMI and day: each data stream that the mapping names is a column (`E1`, `B1`, ...), in kWh, the
sum of the day's intervals; its number is the line of the day's first 300 record. NEM13 gives two rows for the n-th 250 record, the
previous index and the current one, numbered 2n - 1 and 2n. Values stay exact decimals: a library that reads them as floats would
not do.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import FileFault
from transforms.kernels.decimals import parse_decimal
from transforms.kernels.parse import Broken
from transforms.kernels.parsed import mask_of

QUALITIES = "AFSEN"
"""Quality flags from best to worst: actual, final substitute, substitute, forward estimate, null. A day has its worst."""

POWER = {"WH": -3, "KWH": 0, "MWH": 3}
"""Unit of measure -> power of ten to kWh."""

SCALE = 6
"""Decimals of a kWh that are kept; an interval with more is a fault of its row."""

INTERVALS = (5, 15, 30)
DAY_COLUMNS = ("nmi", "date", "quality", "reason_code", "updated")
READ_COLUMNS = ("nmi", "suffix", "register_id", "meter_serial", "direction", "uom", "read_at", "index", "quality",
                "reason_code", "updated")  # fmt: skip
READ_FIELDS = 22
"""Fields of a 250 record up to the last one that is read."""


class Rows(NamedTuple):
    """A block: column -> (n,) text, the number of each row, ascending, and the records that are no row."""

    columns: dict[str, pa.Array]
    row: list[int]
    broken: list[Broken]


class Day:
    """One NMI and day of a NEM12 file, as its records come. line: of its first 300 record."""

    def __init__(self, nmi: str, day: str, line: int) -> None:
        self.nmi, self.day, self.line = nmi, day, line
        self.streams: dict[str, tuple[list[str], str]] = {}
        self.quality: dict[str, list[str]] = {}
        self.reason = self.updated = ""


def nem12_rows(uri: str, lines: Iterable[str], wanted: Sequence[str], block_rows: int) -> Iterator[Rows]:
    """The rows of a NEM12 file, in blocks. wanted: columns that are asked for, `DAY_COLUMNS` or data streams such as E1.

    Raises FileFault where the file is no NEM12, is cut off, holds none of the data streams, or a record stands where it cannot.
    """
    streams = [name for name in wanted if name not in DAY_COLUMNS]
    seen: set[str] = set()
    held: dict[str, Day] = {}
    done: list[Day] = []
    current: Day | None = None
    nmi = suffix = unit = ""
    length = 0
    for number, record in _records(uri, lines, "NEM12"):
        match record[0]:
            case "200":
                _check_stream(uri, number, record)
                if record[1] != nmi:
                    held = {}
                    if len(done) >= block_rows:
                        yield _day_block(done, streams)
                        done = []
                nmi, suffix, unit, length = record[1], record[4], record[7], int(record[8])
                seen.add(suffix)
                current = None
            case "300":
                if not nmi:
                    raise _fault(uri, number, "a 300 record before any 200 record")
                current = None
                if suffix in streams:
                    day = record[1] if len(record) > 1 else ""
                    current = held.get(day)
                    if current is None or suffix in current.streams:  # a second one of a stream is a row of its own
                        current = held[day] = Day(nmi, day, number)
                        done.append(current)
                    _take_day(current, record, suffix, unit, 1440 // length)
            case "400":
                if current is not None and len(record) > 3:
                    current.quality[suffix].append(record[3][:1])
            case "500" | "900":
                pass
            case other:
                raise _fault(uri, number, f"a record {other!r}; NEM12 has 100, 200, 300, 400, 500 and 900")
    _check_streams(uri, streams, seen)
    yield _day_block(done, streams)


def _check_stream(uri: str, number: int, record: Sequence[str]) -> None:
    """Whether a 200 record tells its intervals. Raises FileFault."""
    if len(record) < 9 or not record[8].isdigit() or int(record[8]) not in INTERVALS:
        raise _fault(uri, number, f"a 200 record with the interval length {record[8:9]}; it is 5, 15 or 30 minutes")


def _check_streams(uri: str, wanted: Sequence[str], seen: set[str]) -> None:
    """Whether a file that tells of any data stream has one that is wanted. Raises FileFault."""
    if seen and seen.isdisjoint(wanted):
        raise FileFault(
            uri, f"has no data stream {' or '.join(map(repr, wanted))}. It has {', '.join(map(repr, sorted(seen)))}.",
            "Check the columns in the mapping, or land the file again.",
        )  # fmt: skip


def _take_day(day: Day, record: list[str], suffix: str, unit: str, count: int) -> None:
    values, rest = record[2 : 2 + count], record[2 + count :]
    if len(values) < count or not rest or not rest[0][:1].isalpha():
        told = next((at for at, field in enumerate(record[2:]) if field[:1].isalpha()), len(record) - 2)
        values, rest = [f"{told} intervals, not {count}"], record[2 + told :]  # no decimal: a fault of the row
    day.streams[suffix] = (values, unit)
    day.quality[suffix] = [rest[0][:1]] if rest else [""]
    day.reason = (rest[1] if len(rest) > 1 else "") or day.reason
    day.updated = max(day.updated, rest[3] if len(rest) > 3 else "")


def _worst(flags: Iterable[str]) -> str:
    """The worst quality flag of a day. V says that it varies: 400 records tell. One that is not known is worse than all."""
    told = list(flags)
    real = [flag for flag in told if flag != "V"] or told
    return max(real, key=lambda flag: QUALITIES.find(flag) if flag in QUALITIES else len(QUALITIES), default="")


def _day_block(days: Sequence[Day], streams: Sequence[str]) -> Rows:
    columns = {
        "nmi": pa.array([day.nmi for day in days], pa.string()),
        "date": pa.array([day.day for day in days], pa.string()),
        "quality": pa.array([_worst(f for flags in day.quality.values() for f in flags) for day in days], pa.string()),
        "reason_code": pa.array([day.reason for day in days], pa.string()),
        "updated": pa.array([day.updated for day in days], pa.string()),
    }
    nothing: tuple[list[str], str] = ([], "KWH")
    return Rows(
        columns | {name: _sums([day.streams.get(name, nothing) for day in days]) for name in streams},
        [day.line for day in days],
        [],
    )


def _sums(streams: Sequence[tuple[list[str], str]]) -> pa.Array:
    """Text of the kWh of each day, the sum of its intervals. Null where none is told, or one is empty; no number: as it stands."""
    counts = np.array([len(values) for values, _ in streams], np.int64)
    flat = pa.array([value for values, _ in streams for value in values], pa.string())
    parsed = parse_decimal(flat, SCALE + 3)
    amount = np.asarray(parsed.values.fill_null(0))
    empty, bad = mask_of(pc.equal(pc.utf8_trim_whitespace(flat), "")), parsed.faults != 0
    ends = np.cumsum(counts)
    # In two halves, so that no sum of intervals passes int64.
    high, low = (np.r_[0, np.cumsum(half)] for half in (amount >> 32, amount & 0xFFFFFFFF))
    out: list[str | None] = []
    for (values, unit), end, count in zip(streams, ends.tolist(), counts.tolist(), strict=True):
        span = slice(end - count, end)
        power = POWER.get(unit.strip().upper())
        if count == 0 or empty[span].any():
            out.append(None)
        elif bad[span].any():
            out.append(values[int(np.argmax(bad[span]))])
        elif power is None:
            out.append(unit)  # another unit, such as kvarh, is no energy: a fault of the row
        else:
            total = (int(high[end] - high[end - count]) << 32) + int(low[end] - low[end - count])
            out.append(_text(total, SCALE + 3 - power))
    return pa.array(out, pa.string())


def _text(amount: int, decimals: int) -> str:
    """An amount in 10^-decimals as decimal text."""
    sign, digits = "-" * (amount < 0), f"{abs(amount):0{decimals + 1}d}"
    return f"{sign}{digits[:-decimals]}.{digits[-decimals:]}"


def nem13_rows(uri: str, lines: Iterable[str], wanted: Sequence[str], block_rows: int) -> Iterator[Rows]:
    """The rows of a NEM13 file, in blocks: of each 250 record the previous index, then the current one. Raises FileFault."""
    rows: list[list[str]] = []
    row: list[int] = []
    broken: list[Broken] = []
    reads = 0
    for number, record in _records(uri, lines, "NEM13"):
        if record[0] == "250":
            reads += 1
            if len(record) < READ_FIELDS:
                broken.append(Broken(2 * reads - 1, ",".join(record)))
                continue
            who = [record[1], record[4], record[3], record[6], record[7], record[19]]
            for at in (8, 13):
                value, when, quality, reason = record[at : at + 4]
                rows.append([*who, when, value, quality[:1], reason, record[21]])
            row += [2 * reads - 1, 2 * reads]
        elif record[0] not in ("550", "900"):
            raise _fault(uri, number, f"a record {record[0]!r}; NEM13 has 100, 250, 550 and 900")
        if len(rows) >= block_rows:
            yield _read_block(rows, wanted, row, broken)
            rows, row, broken = [], [], []
    yield _read_block(rows, wanted, row, broken)


def _read_block(rows: Sequence[Sequence[str]], wanted: Sequence[str], row: list[int], broken: list[Broken]) -> Rows:
    columns = {
        name: pa.array([fields[at] for fields in rows], pa.string())
        for at, name in enumerate(READ_COLUMNS) if name in wanted
    }  # fmt: skip
    return Rows(columns, row, broken)


def _records(uri: str, lines: Iterable[str], version: str) -> Iterator[tuple[int, list[str]]]:
    """The records after the header, with their line numbers; the file has to begin with 100 and end with 900."""
    number, last = 0, ""
    for number, record in _fields(uri, lines):
        if not any(record):
            continue
        if not last and record[:2] != ["100", version]:
            raise FileFault(
                uri, f"does not begin with 100,{version}: line {number} is {','.join(record)[:80]!r}.",
                "Check `format` in the mapping, else land the whole file again.",
            )  # fmt: skip
        if last == "900":
            raise _fault(uri, number, "a record after the 900 record")
        if last:
            yield number, record
        last = record[0]
    if last != "900":
        raise FileFault(
            uri, f"ends after line {number} without a 900 record: it is cut off.", "Land the whole file again."
        )


def _fields(uri: str, lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Each record's line number and its fields, without blanks around them. Raises FileFault where a quote is not closed."""
    reader = csv.reader(lines)
    try:
        for fields in reader:
            yield reader.line_num, [field.strip() for field in fields]
    except csv.Error as error:
        raise _fault(uri, reader.line_num, f"no record ({error})") from None


def _fault(uri: str, line: int, what: str) -> FileFault:
    return FileFault(uri, f"line {line} is {what}.", "Land the file again, mended.")
