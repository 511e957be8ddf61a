"""NEM12 and NEM13, the meter data files of the Australian market operator, as rows that a mapping can name.

    100 header                                  250 header of an accumulated read: previous and current index
    200 an NMI, one of its data streams         550 ...
    300 a day: its intervals, their quality     900 end
    400 ... quality by interval
    500 ...
    900 end

NEM12 gives one row for each NMI, day and version of it: each data stream that the mapping names is a column (`E1`, `B1`, ...), in
kWh, the sum of the day's intervals; its number is the line of the version's first 300 record. The records of a version are paired
by the time of their update, wherever in the file they stand. NEM13 gives two rows for the n-th 250 record, the previous index and
the current one, numbered 2n - 1 and 2n. Values stay exact decimals: a library that reads them as floats would not do.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import FileFault
from schemas.reasons import FAULTS
from transforms.kernels.decimals import parse_decimal
from transforms.kernels.parse import Broken
from transforms.kernels.parsed import mask_of

QUALITIES = "AFSEN"
"""Quality flags from best to worst: actual, final substitute, substitute, forward estimate, null. A day has its worst."""

POWER = {"WH": -3, "KWH": 0, "MWH": 3}
"""Unit of measure -> power of ten to kWh."""

SCALE = 9
"""Decimals of an interval that are kept, in the unit that it is told in; one with more is a fault of its row."""

SUMMED_AT_ONCE = 4096
"""Records whose intervals are held before they are added up."""

INTERVALS = (5, 15, 30)
DAY_COLUMNS = ("nmi", "date", "quality", "reason_code", "updated")
READ_COLUMNS = ("nmi", "suffix", "register_id", "meter_serial", "direction", "uom", "read_at", "index", "quality",
                "reason_code", "updated")  # fmt: skip
READ_FIELDS = 22
"""Fields of a 250 record up to the last one that is read."""


Lines = Callable[[], Iterable[str]]
"""The lines of a file, from the first."""


class Rows(NamedTuple):
    """A block: column -> (n,) text, the number of each row, ascending, and the records that are no row."""

    columns: dict[str, pa.Array]
    row: list[int]
    broken: list[Broken]


class Told:
    """A 300 record: a day of one data stream, with the flags of the 400 records below it. kwh: the sum, once it is made."""

    __slots__ = ("flags", "kwh", "line", "reason", "suffix", "unit", "updated", "values")

    def __init__(self, line: int, record: list[str], suffix: str, unit: str, count: int) -> None:
        values, rest = record[2 : 2 + count], record[2 + count :]
        if len(values) < count or not rest or not rest[0][:1].isalpha():
            told = next((at for at, field in enumerate(record[2:]) if field[:1].isalpha()), len(record) - 2)
            values, rest = [f"{told} intervals, not {count}"], record[2 + told :]  # no decimal: a fault of the row
        self.line, self.suffix, self.unit, self.values = line, suffix, unit, values
        self.kwh: str | None = None
        self.flags = rest[0][:1] if rest else ""
        self.reason = rest[1] if len(rest) > 1 else ""
        self.updated = rest[3] if len(rest) > 3 else ""


class Row(NamedTuple):
    """A version of an NMI's day: what each data stream tells, and the line of the first record that is new in it."""

    line: int
    nmi: str
    day: str
    streams: Mapping[str, Told]


class Nmi:
    """What a file tells of one NMI."""

    def __init__(self) -> None:
        self.days: dict[str, list[Told]] = {}
        self.others: dict[str, tuple[int, str]] = {}
        """Day -> line and data stream of its first record that no column is asked for."""

    def take(self, record: Sequence[str], told: Told | None, line: int, suffix: str) -> None:
        """Take in a 300 record. told: what it says, where a column is asked for it."""
        day = record[1] if len(record) > 1 else ""
        if told is None:
            self.others.setdefault(day, (line, suffix))
        else:
            self.days.setdefault(day, []).append(told)

    def rows(self, nmi: str) -> Iterator[Row]:
        """The versions of its days, from the oldest on."""
        for day, told in self.days.items():
            for line, streams in _versions(told):
                yield Row(line, nmi, day, streams)

    def rejects(self, nmi: str) -> Iterator[Broken]:
        """Its days, where no column is asked for any of its data streams."""
        if not self.days:
            for day, (line, suffix) in self.others.items():
                yield Broken(line, f"{nmi} {day}: {suffix}", "stream_not_mapped")


def nem12_rows(uri: str, lines: Lines, wanted: Sequence[str], block_rows: int) -> Iterator[Rows]:
    """The rows of a NEM12 file, in blocks. wanted: columns that are asked for, `DAY_COLUMNS` or data streams such as E1.

    The file is gone through twice, so that of an NMI only what stands between its first record and its last is held.
    Raises FileFault where the file is no NEM12, is cut off, holds none of the data streams, or a record stands where it cannot.
    """
    streams = [name for name in wanted if name not in DAY_COLUMNS]
    left = _stream_counts(lines())
    seen: set[str] = set()
    held: dict[str, Nmi] = {}
    fresh: list[Told] = []
    done, broken = list[Row](), list[Broken]()
    told: Told | None = None
    nmi = suffix = unit = ""
    length = 0
    for number, record in _records(uri, lines(), "NEM12"):
        match record[0]:
            case "200":
                _check_stream(uri, number, record)
                if nmi and left[nmi] == 0:
                    _finish({nmi: held.pop(nmi)}, done, broken)
                if len(fresh) >= SUMMED_AT_ONCE or len(done) >= block_rows:
                    _sum_up(fresh)
                    fresh = []
                if len(done) >= block_rows:
                    yield _day_block(done, streams, broken)
                    done, broken = [], []
                nmi, suffix, unit, length = record[1], record[4], record[7], int(record[8])
                left[nmi] -= 1
                held.setdefault(nmi, Nmi())
                seen.add(suffix)
                told = None
            case "300":
                if not nmi:
                    raise _fault(uri, number, "a 300 record before any 200 record")
                told = None
                if suffix in streams:
                    told = Told(number, record, suffix, unit, 1440 // length)
                    fresh.append(told)
                held[nmi].take(record, told, number, suffix)
            case "400":
                if told is not None and len(record) > 3:
                    told.flags += record[3][:1]
            case "500" | "900":
                pass
            case other:
                raise _fault(uri, number, f"a record {other!r}; NEM12 has 100, 200, 300, 400, 500 and 900")
    _check_streams(uri, streams, seen)
    _finish(held, done, broken)
    _sum_up(fresh)
    yield _day_block(done, streams, broken)


def _stream_counts(lines: Iterable[str]) -> Counter[str]:
    """How many 200 records each NMI has. Where a strange quote hides one, its NMI is held to the end of the file."""
    found = (line.split(",", 2) for line in lines if line.lstrip(' "\t').startswith("200"))
    return Counter(fields[1].strip(' "\t\r') for fields in found if len(fields) > 1)


def _finish(held: Mapping[str, Nmi], done: list[Row], broken: list[Broken]) -> None:
    """Take in what is told of some NMIs, of which no more comes."""
    for name, nmi in held.items():
        done += nmi.rows(name)
        broken += nmi.rejects(name)


def _versions(told: Sequence[Told]) -> Iterator[tuple[int, dict[str, Told]]]:
    """The versions of a day by the time of their update: what each data stream tells then, and the first line that is new.

    A version takes one record of each data stream; of one that has no newer record, what it told before.
    """
    times: Counter[tuple[str, str]] = Counter()
    order = []
    for one in told:
        order.append((one.updated, times[one.suffix, one.updated], one.line, one))
        times[one.suffix, one.updated] += 1
    streams: dict[str, Told] = {}
    new: dict[str, int] = {}
    for *_, one in sorted(order, key=lambda at: at[:3]):
        if one.suffix in new:
            yield min(new.values()), dict(streams)
            new = {}
        streams[one.suffix], new[one.suffix] = one, one.line
    yield min(new.values()), streams


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


def _worst(flags: Iterable[str]) -> str:
    """The worst quality flag of a day. V says that it varies: 400 records tell. One that is not known is worse than all."""
    told = list(flags)
    real = [flag for flag in told if flag != "V"] or told
    return max(real, key=lambda flag: QUALITIES.find(flag) if flag in QUALITIES else len(QUALITIES), default="")


def _day_block(rows: Sequence[Row], streams: Sequence[str], broken: list[Broken]) -> Rows:
    rows = sorted(rows)
    columns: dict[str, list[str | None]] = {
        "nmi": [row.nmi for row in rows],
        "date": [row.day for row in rows],
        "quality": [_worst(flag for told in row.streams.values() for flag in told.flags or [""]) for row in rows],
        "reason_code": [max(row.streams.values(), key=_reasoned).reason for row in rows],
        "updated": [max(told.updated for told in row.streams.values()) for row in rows],
    }
    for name in streams:
        columns[name] = [row.streams[name].kwh if name in row.streams else None for row in rows]
    return Rows(
        {name: pa.array(column, pa.string()) for name, column in columns.items()}, [row.line for row in rows], broken
    )


def _reasoned(told: Told) -> tuple[bool, int]:
    """The last record of a day that gives a reason comes last."""
    return told.reason != "", told.line


def _sum_up(records: Sequence[Told]) -> None:
    """Make the kWh of each, the sum of its intervals: null where one is empty, no number as it stands. Forget these."""
    counts = np.array([len(told.values) for told in records], np.int64)
    flat = pa.array([value for told in records for value in told.values], pa.string())
    parsed = parse_decimal(flat, SCALE)
    amount = np.asarray(parsed.values.fill_null(0))
    empty, bad = mask_of(pc.equal(pc.utf8_trim_whitespace(flat), "")), parsed.faults != 0
    ends = np.cumsum(counts)
    # In two halves, so that no sum of intervals passes int64.
    high, low = (np.r_[0, np.cumsum(half)] for half in (amount >> 32, amount & 0xFFFFFFFF))
    for told, end, count in zip(records, ends.tolist(), counts.tolist(), strict=True):
        span = slice(end - count, end)
        power = POWER.get(told.unit.strip().upper())
        if empty[span].any():
            told.kwh = None
        elif bad[span].any():
            at = int(np.argmax(bad[span]))
            long = parsed.faults[span][at] == FAULTS["too_many_digits"]
            told.kwh = f"{told.values[at]}, with more than {SCALE} decimals" if long else told.values[at]
        else:
            total = (int(high[end] - high[end - count]) << 32) + int(low[end] - low[end - count])
            # another unit, such as kvarh, is no energy: a fault of the row
            told.kwh = told.unit if power is None else _text(total, SCALE - power)
        told.values = []


def _text(amount: int, decimals: int) -> str:
    """An amount in 10^-decimals as decimal text."""
    sign, digits = "-" * (amount < 0), f"{abs(amount):0{decimals + 1}d}"
    return f"{sign}{digits[:-decimals]}.{digits[-decimals:]}"


def nem13_rows(uri: str, lines: Lines, wanted: Sequence[str], block_rows: int) -> Iterator[Rows]:
    """The rows of a NEM13 file, in blocks: of each 250 record the previous index, then the current one. Raises FileFault."""
    rows: list[list[str]] = []
    row: list[int] = []
    broken: list[Broken] = []
    reads = 0
    for number, record in _records(uri, lines(), "NEM13"):
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
