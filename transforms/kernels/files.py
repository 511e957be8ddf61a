"""Delivered files, CSV and Parquet, as a stream of decoded blocks. Memory stays with the block, not the file."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.fs as pa_fs
import pyarrow.parquet as pq
from numpy.typing import NDArray

from schemas.dateformat import date_pattern
from schemas.errors import FileFault
from schemas.mapping import Kind, SourceMapping, kind_of, zone
from transforms.kernels.nem import READ_COLUMNS, nem12_rows, nem13_rows
from transforms.kernels.parse import Broken, Decoded, Delivery, decode_block

CSV_BLOCK_BYTES = 2 << 20  # Arrow reads up to 32 of them ahead
HEADER_BYTES = 1 << 20
SUFFIXES = {".csv": "csv", ".txt": "csv", ".tsv": "csv", ".csv.gz": "csv.gz", ".parquet": "parquet", ".pq": "parquet"}
NEM = {"nem12": nem12_rows, "nem13": nem13_rows}
DELIMITERS = (",", ";", "\t", "|")


class Raw(NamedTuple):
    """A block as delivered: source column -> (n,) values, (n,) row numbers, and the rows that fell apart."""

    columns: dict[str, pa.Array]
    row: NDArray[np.int64]
    broken: list[Broken]


def read_delivery(
    delivery: Delivery, mapping: SourceMapping, block_rows: int = 262_144, content: str | None = None
) -> Iterator[Decoded]:
    """Read one delivered file, in blocks of at most `block_rows` well-formed rows.

    content: path or URL of a copy that is read in its place.

    Yields at least one block (an empty one for a file without rows). Rows are numbered from 1; blank lines of a CSV
    file are no rows. Over all blocks: rows read = rows accepted + rows rejected.
    Raises: FileFault, before or while blocks are yielded, where the file is not what the mapping says.
    """
    revision = delivery_revision(delivery, mapping)
    form = file_format(mapping, delivery.uri)
    for block in _raw_blocks(delivery.uri, content or delivery.uri, form, mapping, block_rows):
        yield decode_block(delivery, mapping, revision, block.columns, block.row, block.broken)


def _raw_blocks(uri: str, content: str, form: str, mapping: SourceMapping, block_rows: int) -> Iterator[Raw]:
    with faults_of(uri), _opened(uri, content) as file:
        if form == "parquet":
            yield from _parquet_blocks(uri, file, mapping, block_rows)
            return
        packed = form == "csv.gz" or (form in NEM and uri.lower().endswith(".gz"))
        plain = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if packed else file
        if form in NEM:
            yield from _nem_blocks(uri, plain, form, mapping, block_rows)
        else:
            yield from _csv_blocks(uri, Utf8Reader(uri, plain, mapping.encoding), mapping, block_rows)


def file_format(mapping: SourceMapping, uri: str) -> str:
    """csv, csv.gz or parquet: as the mapping says, else by the file's suffix. Raises FileFault."""
    if mapping.format != "auto":
        return mapping.format
    for suffix, form in SUFFIXES.items():
        if uri.lower().endswith(suffix):
            return form
    raise FileFault(uri, "its suffix tells no format.", f"Set `format` of {mapping.source} to csv, csv.gz or parquet.")


def file_date(pattern: str, uri: str) -> date:
    """The day in a file's name, by a date format found anywhere in it or a regular expression. Raises FileFault.

    >>> file_date("_%Y%m%d", "/landing/readings_20150131.csv")
    datetime.date(2015, 1, 31)
    >>> file_date("(?P<date>[0-9-]+)", "/landing/readings_2015-1-31.csv")
    datetime.date(2015, 1, 31)
    """
    name = uri.rstrip("/").rsplit("/", 1)[-1]
    found = re.search(pattern if "(?P<" in pattern else rf"(?<!\d){date_pattern(pattern)}(?!\d)", name)
    if found:
        groups = found.groupdict()
        parts = [groups.get(short) or groups.get(long) for short, long in (("Y", "year"), ("m", "month"), ("d", "day"))]
        if groups.get("date"):
            digits = re.fullmatch(r"(\d{4})\D?(\d{1,2})\D?(\d{1,2})", groups["date"])
            parts = list(digits.groups()) if digits else []
        try:
            year, month, day = (int(part or 0) for part in parts)
            return date(year, month, day)
        except ValueError:
            pass
    raise FileFault(
        uri, f"its name holds no day as {pattern!r}.", "Rename the file or mend `file_date` in the mapping."
    )


def delivery_revision(delivery: Delivery, mapping: SourceMapping) -> int | None:
    """Revision of all rows of a delivery: yyyymmdd of the file's name, or its place in the order of delivery.

    None where the mapping takes the revision from a column. Raises FileFault.
    """
    if mapping.revision.column is not None:
        return None
    if mapping.revision.file_date is None:
        return delivery.seq
    day = file_date(mapping.revision.file_date, delivery.uri)
    return day.year * 10_000 + day.month * 100 + day.day


def delivery_known_at(mapping: SourceMapping, uri: str, modified: datetime | None) -> datetime:
    """When a delivery became known, in UTC: the start of the local day in its name, or when it was modified.

    `modified` is aware, as `pyarrow.fs.FileInfo.mtime` is. Raises FileFault.
    """
    if mapping.known_at.file_date is not None:
        day = file_date(mapping.known_at.file_date, uri)
        return datetime(day.year, day.month, day.day, tzinfo=zone(mapping.time_zone)).astimezone(UTC)
    if modified is None:
        raise FileFault(uri, "its storage gives no time of modification.", "Set `known_at: {file_date: FORMAT}`.")
    return modified.astimezone(UTC)


def source_columns(mapping: SourceMapping) -> dict[str, list[str]]:
    """Source column -> the schema columns that are read from it."""
    wanted: dict[str, list[str]] = {}
    for column in mapping.delivered:
        mapped = mapping.column(column.name)
        for origin in mapped.origins if mapped else ():
            wanted.setdefault(origin, []).append(column.name)
    return wanted


@contextmanager
def faults_of(uri: str) -> Iterator[None]:
    """Turn what readers raise over a damaged file into a FileFault."""
    try:
        yield
    except FileNotFoundError:
        raise FileFault(uri, "does not exist.", "Land it again, or run again without it.") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise FileFault(uri, f"is truncated or corrupt gzip ({error}).", "Land the whole file again.") from None
    except pa.ArrowException as error:
        first = str(error).splitlines()[0]
        raise FileFault(
            uri, f"cannot be read ({first}).", "Check `format` in the mapping, else land it again."
        ) from None
    except OSError as error:
        raise FileFault(uri, f"cannot be read ({error}).", "Land the whole file again.") from None


@contextmanager
def _opened(uri: str, content: str) -> Iterator[Any]:
    """The file's content, open for reading at random places. Raises FileFault where it has no byte."""
    filesystem, path = pa_fs.FileSystem.from_uri(content)
    with filesystem.open_input_file(path) as file:
        if file.size() == 0:
            raise FileFault(uri, "is empty, without even a header.", "Land the whole file again.")
        yield file


# --- CSV ---------------------------------------------------------------------------------------------------------


class Utf8Reader:
    """Reads bytes of any encoding as UTF-8, without a byte order mark, and names the first byte that does not fit."""

    closed = False

    def __init__(self, uri: str, file: BinaryIO, encoding: str) -> None:
        self._uri, self._file, self._encoding = uri, file, encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._ready = b""
        self._offset = self._lines = 0
        self._started = self._ended = False

    def read(self, size: int) -> bytes:
        """At most `size` bytes; none only at the end. Raises FileFault."""
        while not self._ready and not self._ended:
            self._ready = self._next(size)
        out, self._ready = self._ready[:size], self._ready[size:]
        return out

    def unread(self, data: bytes) -> None:
        """Put bytes back in front."""
        self._ready = data + self._ready

    def readable(self) -> bool:
        """It is."""
        return True

    def close(self) -> None:
        """The file belongs to whoever opened it."""

    def _next(self, size: int) -> bytes:
        data = self._file.read(size)
        self._ended = not data
        held = self._decoder.getstate()[0]
        try:
            text = self._decoder.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            raise self._wrong_encoding(error, self._offset - len(held)) from None
        self._offset += len(data)
        self._lines += text.count("\n")
        if not self._started and text:
            self._started = True
            text = text.removeprefix("\ufeff")
        return text.encode()

    def _wrong_encoding(self, error: UnicodeDecodeError, before: int) -> FileFault:
        read = bytes(error.object)
        byte, offset = read[error.start], before + error.start
        line = self._lines + 1 + read[: error.start].count(b"\n")
        hint = "Set `encoding` in the mapping to what the file is written in, for example gb18030."
        if offset <= 1 and read[:2] == b"\x1f\x8b":
            hint = "It is compressed: set `format: csv.gz` in the mapping."
        return FileFault(
            self._uri, f"is not {self._encoding}: byte 0x{byte:02x} at offset {offset}, line {line}.", hint
        )


def _csv_blocks(uri: str, reader: Utf8Reader, mapping: SourceMapping, block_rows: int) -> Iterator[Raw]:
    header = _read_header(uri, reader, mapping)
    wanted = list(source_columns(mapping))
    _check_header(uri, header, mapping, reader)
    broken: list[Broken] = []
    batches = _csv_batches(reader, mapping, header, wanted, lambda bad: broken.append(Broken(bad.number, bad.text)))
    first = 1
    for table in _rechunk(batches, block_rows):
        row, passed = _number_rows(first, table.num_rows, np.array([bad.row for bad in broken], np.int64))
        columns = {name: table[name].combine_chunks() for name in wanted}
        _check_lines(uri, columns, row, broken)
        yield Raw(columns, row, broken[:passed])
        del broken[:passed]
        first = int(row[-1]) + 1 if len(row) else first
    _check_lines(uri, {}, np.empty(0, np.int64), broken)
    if broken or first == 1:
        empty = {name: pa.array([], pa.string()) for name in wanted}
        yield Raw(empty, np.empty(0, np.int64), broken)


def _read_header(uri: str, reader: Utf8Reader, mapping: SourceMapping) -> list[str]:
    """Take the header off the reader: names without blanks around them. Raises FileFault."""
    head = b""
    while len(head) < HEADER_BYTES and (piece := reader.read(HEADER_BYTES - len(head))):
        head += piece
    if not head.strip():
        raise FileFault(uri, "is empty, without even a header.", "Land the whole file again.")
    used = 0

    def lines() -> Iterator[str]:
        nonlocal used
        for line in io.StringIO(head.decode(errors="replace"), newline=""):
            used += len(line.encode())
            yield line

    if mapping.quoting:
        records = csv.reader(lines(), delimiter=mapping.delimiter)
    else:
        records = csv.reader(lines(), delimiter=mapping.delimiter, quoting=csv.QUOTE_NONE)
    try:
        names = next(filter(None, records), [])
    except csv.Error as error:
        raise FileFault(uri, f"its header cannot be read ({error}).", "Check `delimiter` and `quoting`.") from None
    reader.unread(head[used:])
    return [name.strip() for name in names]


def _check_header(uri: str, header: list[str], mapping: SourceMapping, reader: Utf8Reader) -> None:
    wanted = source_columns(mapping)
    _check_names(uri, header, wanted)
    missing = [name for name in wanted if name not in header]
    if missing:
        for delimiter in DELIMITERS:
            names = [name.strip().strip('"') for name in mapping.delimiter.join(header).split(delimiter)]
            if all(name in names for name in wanted):
                raise _no_column(uri, missing, header, f"Its delimiter looks like {delimiter!r}: set `delimiter`.")
        raise _no_column(uri, missing, header, _mend(missing, wanted, mapping))


def _check_names(uri: str, header: list[str], wanted: dict[str, list[str]]) -> None:
    for name in wanted:
        if header.count(name) > 1:
            raise FileFault(uri, f"has {header.count(name)} columns named {name!r}.", "Land it with one of each name.")


def _mend(missing: list[str], wanted: dict[str, list[str]], mapping: SourceMapping) -> str:
    return f"Check `sources.{mapping.source}.columns` ({', '.join(wanted[missing[0]])}), or land the file again."


def _no_column(uri: str, missing: list[str], header: list[str], hint: str) -> FileFault:
    shown = ", ".join(repr(name) for name in header[:50])
    return FileFault(uri, f"has no column {', '.join(map(repr, missing))}. It has {shown[:500]}.", hint)


def _csv_batches(
    reader: Utf8Reader,
    mapping: SourceMapping,
    header: list[str],
    wanted: list[str],
    on_broken: Callable[[Any], None],
) -> Iterator[pa.RecordBatch]:
    """Batches of the wanted columns as text. Rows with another number of fields than the header go to `on_broken`."""
    first_byte = reader.read(1)
    if not first_byte:
        return
    reader.unread(first_byte)

    def skip(bad: Any) -> str:
        on_broken(bad)
        return "skip"

    places = [f"{place}" for place in range(len(header))]
    include = [places[header.index(name)] for name in wanted]
    with closing(
        pa_csv.open_csv(
            pa.PythonFile(reader, mode="r"),
            # One thread: only then are broken rows numbered, and workers are many anyway.
            read_options=pa_csv.ReadOptions(use_threads=False, block_size=CSV_BLOCK_BYTES, column_names=places),
            parse_options=pa_csv.ParseOptions(
                delimiter=mapping.delimiter,
                quote_char='"' if mapping.quoting else False,
                newlines_in_values=mapping.quoting,
                invalid_row_handler=skip,
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types=dict.fromkeys(include, pa.string()), include_columns=include, strings_can_be_null=False
            ),
        )
    ) as batches:
        for batch in batches:
            yield batch.rename_columns(wanted)


def _rechunk(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of `rows` rows; the last may have fewer."""
    held: pa.Table | None = None
    for batch in batches:
        table = pa.Table.from_batches([batch])
        held = table if held is None else pa.concat_tables([held, table])
        while held.num_rows >= rows:
            yield held.slice(0, rows)
            held = held.slice(rows)
    if held is not None and held.num_rows:
        yield held


def _number_rows(first: int, rows: int, skipped: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Numbers of the next `rows` rows from `first` on without (k,) ascending `skipped`; how many of these were passed.

    >>> _number_rows(1, 3, np.array([2, 5, 9]))
    (array([1, 3, 4]), 1)
    """
    # The i-th number left out moves a row on if it is at most the row's number: skipped[i] - i <= first + offset.
    offset = np.arange(first, first + rows, dtype=np.int64)
    moved = np.searchsorted(skipped - np.arange(len(skipped)), offset, side="right")
    return offset + moved, int(moved[-1]) if rows else 0


def _check_lines(uri: str, columns: dict[str, pa.Array], row: NDArray[np.int64], broken: list[Broken]) -> None:
    """A line break inside a mapped value or a broken row swallows rows. Raises FileFault."""
    rows = [bad.row for bad in broken if "\n" in bad.text.rstrip("\n")]
    for values in columns.values():
        at = pc.index(pc.match_substring(values, "\n"), pa.scalar(True)).as_py()
        rows += [int(row[at])] if at >= 0 else []
    if rows:
        raise FileFault(
            uri,
            f"row {min(rows)} goes on over a line break: a quote is probably not closed.",
            "Mend the quote, or set `quoting: false` in the mapping if the file quotes nothing.",
        )


# --- NEM12 and NEM13 ----------------------------------------------------------------------------------------------


def _nem_blocks(uri: str, file: BinaryIO, form: str, mapping: SourceMapping, block_rows: int) -> Iterator[Raw]:
    wanted = list(source_columns(mapping))
    if form == "nem13" and (unknown := [name for name in wanted if name not in READ_COLUMNS]):
        raise _no_column(uri, unknown, list(READ_COLUMNS), _mend(unknown, source_columns(mapping), mapping))

    def lines() -> Iterator[str]:
        file.seek(0)
        reader = cast(BinaryIO, Utf8Reader(uri, file, mapping.encoding))
        return _lines(codecs.iterdecode(iter(lambda: reader.read(1 << 20), b""), "utf-8"))

    for block in NEM[form](uri, lines, wanted, block_rows):
        columns = {name: block.columns[name] for name in wanted}
        yield Raw(columns, np.array(block.row, np.int64), block.broken)


def _lines(pieces: Iterator[str]) -> Iterator[str]:
    """Pieces of text as lines."""
    rest = ""
    for piece in pieces:
        *whole, rest = (rest + piece).split("\n")
        yield from whole
    if rest:
        yield rest


# --- Parquet -----------------------------------------------------------------------------------------------------


def _parquet_blocks(uri: str, file: Any, mapping: SourceMapping, block_rows: int) -> Iterator[Raw]:
    parquet = pq.ParquetFile(file)
    schema, wanted = parquet.schema_arrow, source_columns(mapping)
    _check_names(uri, schema.names, wanted)
    missing = [name for name in wanted if name not in schema.names]
    if missing:
        raise _no_column(uri, missing, schema.names, _mend(missing, wanted, mapping))
    for name, columns in wanted.items():
        for column in columns:
            _check_type(uri, name, schema.field(name).type, kind_of(mapping.target(column)))
    first = 1
    for batch in parquet.iter_batches(block_rows, columns=list(wanted), use_threads=False):
        row = np.arange(first, first + batch.num_rows, dtype=np.int64)
        yield Raw({name: _plain(batch[name]) for name in wanted}, row, [])
        first += batch.num_rows
    if first == 1:
        yield Raw({name: _plain(pa.array([], schema.field(name).type)) for name in wanted}, np.empty(0, np.int64), [])


def _check_type(uri: str, name: str, found: pa.DataType, kind: Kind) -> None:
    """Hold a Parquet column's type against what it is read as. Raises FileFault."""
    types = pa.types
    if types.is_dictionary(found):
        found = found.value_type
    if types.is_floating(found):
        raise FileFault(
            uri, f"column {name!r} is stored as floating point, which is not exact.",
            "Export it as a decimal, a whole number or text.",
        )  # fmt: skip
    fits = _is_text(found) or types.is_integer(found) or types.is_null(found)
    if kind == "number":
        fits = fits or (types.is_decimal(found) and found.precision <= 38)
    elif kind == "day":
        fits = fits or types.is_date(found) or types.is_timestamp(found)
    elif kind == "flag":
        fits = fits or types.is_boolean(found)
    if not fits:
        raise FileFault(
            uri, f"column {name!r} is stored as {found}, which cannot be read as a {kind}.", "Export it as text."
        )


def _is_text(found: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_string(found) or types.is_large_string(found) or types.is_string_view(found)
        or types.is_binary(found) or types.is_large_binary(found)
    )  # fmt: skip


def _plain(column: pa.Array) -> pa.Array:
    """Dictionaries taken apart, and every kind of text as string."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.string()) if _is_text(column.type) or pa.types.is_null(column.type) else column
