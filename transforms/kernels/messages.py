"""Messages of a Kafka topic, JSON or Arrow, as decoded blocks. The text of a number reaches the parser as it was sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Raw
from numpy.typing import NDArray

from schemas.mapping import Kind, SourceMapping, kind_of, zone
from schemas.marts import REJECTS
from transforms.kernels.dates import EPOCH
from transforms.kernels.files import source_columns
from transforms.kernels.parse import VALUE_LENGTH, Decoded, Delivery, decode_block
from transforms.kernels.parsed import Mask, mask_of

Longs = NDArray[np.int64]

OFFSET = "offset"
"""The last column of rows that came as messages: the offset of their message."""

RECORD_STEP = 1 << 44
"""What the row number grows by from one record of a message to the next; offsets are below it."""

MAX_RECORDS = 1 << 19
"""One message holds fewer records than this, so that row numbers fit."""

MAX_BYTES = 10_000_000
LAST_DELIVERY_DAY = (date(9000, 1, 1) - EPOCH).days

_NULL = Raw(b"null")
_SHOWN_BYTES = 4 * VALUE_LENGTH + 4


def decode_messages(
    values: Sequence[bytes | None] | pa.BinaryArray,
    offsets: Sequence[int],
    timestamps_ms: Sequence[int],
    mapping: SourceMapping,
    topic: str,
    partition: int,
    max_bytes: int = MAX_BYTES,
) -> Decoded:
    """Decode messages of one partition, in the order of their offsets; cut anywhere, they give the same rows.

    A JSON message is an object, an array of objects, or one object a line; objects inside it are reached as
    `outer.inner`. An Arrow message is one IPC stream. A field that is not there is empty.

    Args:
        values: (n,) the messages, 2 GiB at most together; None for one without a value.
        offsets: (n,) ascending, below 2**44.
        timestamps_ms: (n,) Kafka's timestamps. Their local days bound the days that are accepted.

    Returns: rows and rejects in the order of messages and of the records in them. `row` is the message's offset, plus
    2**44 for each record that stands before it in the message. `delivery` is 0, and so is `revision` where the
    mapping takes it from the order of delivery. A message that cannot be taken apart is one row read and one reject
    of its own: malformed_message, empty_message, message_too_large. So is a record whose layout is not the mapping's
    `version` (schema_version), or where an object stands for a value (malformed_message).
    """
    messages = values.to_pylist() if isinstance(values, pa.Array) else values
    refused: list[Refused] = []
    tell_apart = _arrow_records if mapping.payload == "arrow" else _json_records
    pieces = list(tell_apart(messages, mapping, max_bytes, refused))
    offset = np.asarray(offsets, np.int64)
    days = local_days(timestamps_ms, mapping.time_zone)
    name = f"kafka:{topic}/{partition}"
    decoded: list[Decoded] = []
    read = 0
    for piece in pieces:
        row = offset[piece.message] + piece.place * RECORD_STEP
        decoded += _decode(piece, row, days[piece.message], mapping, name)
        read += len(row)
        refused += piece.refused
    rows = _in_order([block.rows for block in decoded])
    rejects = _in_order([block.rejects for block in decoded] + _refusals(refused, offset, mapping.source, name))
    at = rejects.schema.get_field_index("file")
    rejects = rejects.set_column(at, REJECTS.schema.field("file"), _same(name, rejects.num_rows))
    return Decoded(rows, rejects, read + len(refused))


def message_offsets(row: pa.Array) -> pa.Array:
    """The offset of the message that each row came in. row: (n,) int64; returns (n,) int64."""
    return pc.bit_wise_and(row, RECORD_STEP - 1)


def local_days(timestamps_ms: Sequence[int], time_zone: str) -> Longs:
    """Local days of Kafka's timestamps, in days since 1970, held within 1970 and 9000. (n,) to (n,)."""
    latest = LAST_DELIVERY_DAY * 86_400_000
    moments = pa.array(np.clip(np.asarray(timestamps_ms, np.int64), 0, latest), pa.timestamp("ms", time_zone))
    local = pc.floor_temporal(pc.local_timestamp(moments), unit="day")
    return np.asarray(pc.cast(pc.cast(local, pa.date32()), pa.int32())).astype(np.int64)


class Refused(NamedTuple):
    """A message, or a record in one, that is not taken."""

    message: int
    place: int
    column: str
    value: str | None
    reason: str


@dataclass
class Records:
    """k records that were told apart: source column -> (k,) values; (k,) number of the message, and place in it."""

    columns: dict[str, pa.Array]
    message: Longs
    place: Longs
    refused: list[Refused] = field(default_factory=list)

    def keep(self, good: Mask) -> None:
        """Leave records out. good: (k,)."""
        if not good.all():
            self.columns = {name: values.filter(pa.array(good)) for name, values in self.columns.items()}
            self.message, self.place = self.message[good], self.place[good]

    def refuse(self, bad: Mask, column: str, values: pa.Array, reason: str) -> None:
        """Refuse records, showing a value of each. bad: (k,)."""
        for at in np.flatnonzero(bad):
            shown = values[at].as_py()
            self.refused.append(Refused(int(self.message[at]), int(self.place[at]), column, shown, reason))


# --- what is the same for both ------------------------------------------------------------------------------------


def _decode(piece: Records, row: Longs, days: Longs, mapping: SourceMapping, name: str) -> Iterator[Decoded]:
    """Decode records, those of one local day together: the day decides which service days are accepted."""
    revision = 0 if mapping.revision.column is None else None
    here = zone(mapping.time_zone)
    for day in np.unique(days) if len(days) else [0]:
        at = datetime.combine(EPOCH + timedelta(int(day)), datetime.min.time(), here) + timedelta(hours=12)
        delivery = Delivery(0, mapping.source, name, "", at)
        same = days == day
        columns = piece.columns
        if not same.all():
            columns = {name: values.filter(pa.array(same)) for name, values in columns.items()}
        yield decode_block(delivery, mapping, revision, columns, row[same])


def _in_order(blocks: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """Blocks of one schema as one, ordered by message and by place in it."""
    filled = [block for block in blocks if block.num_rows]
    if not filled:
        return blocks[0]
    whole = pa.concat_batches(filled)
    row = np.asarray(whole.column("row"))
    order = np.lexsort((row // RECORD_STEP, row % RECORD_STEP))
    return whole if (order[1:] > order[:-1]).all() else whole.take(pa.array(order))


def _refusals(refused: Sequence[Refused], offset: Longs, source: str, name: str) -> list[pa.RecordBatch]:
    if not refused:
        return []
    columns: dict[str, Any] = {
        "source": [source] * len(refused),
        "delivery": [0] * len(refused),
        "file": [name] * len(refused),
        "row": [int(offset[one.message]) + one.place * RECORD_STEP for one in refused],
        "column": [one.column for one in refused],
        "value": [one.value if one.value is None else one.value[:VALUE_LENGTH] for one in refused],
        "reason": [one.reason for one in refused],
    }
    schema = REJECTS.schema
    return [pa.record_batch([pa.array(columns[f.name], f.type) for f in schema], schema=schema)]


def _same(value: str, rows: int) -> pa.Array:
    return pa.repeat(pa.scalar(value, pa.string()), rows)


def _shown(value: bytes) -> str:
    """The beginning of a message, as text."""
    return value[:_SHOWN_BYTES].decode(errors="replace")


def _unfit(value: bytes | None, max_bytes: int) -> tuple[str, str | None] | None:
    """Reason and what is shown of a message that is not even looked into."""
    if not value:
        return "empty_message", None
    return ("message_too_large", _shown(value)) if len(value) > max_bytes else None


def _wanted(mapping: SourceMapping) -> tuple[str, ...]:
    """The fields or columns of a message that are read, the version's last."""
    version = [mapping.version.field] if mapping.version else []
    return tuple(dict.fromkeys([*source_columns(mapping), *version]))


def _hold_version(records: Records, mapping: SourceMapping, found: pa.Array) -> Mask:
    """(k,) whether a record has the version that the mapping names. found: (k,) string."""
    assert mapping.version is not None
    good = mask_of(pc.equal(found, str(mapping.version.equals)))
    records.refuse(~good, "", found, "schema_version")
    return good


# --- JSON ---------------------------------------------------------------------------------------------------------


class Texts(NamedTuple):
    """(k,) fields of records: their text, null where there is none; where it stood in quotes; where it is no value."""

    text: pa.Array
    quoted: Mask
    unfit: Mask


def _json_records(
    messages: Sequence[bytes | None], mapping: SourceMapping, max_bytes: int, refused: list[Refused]
) -> Iterator[Records]:
    names = _wanted(mapping)
    reader = _reader(names)
    records = _one_each(messages, reader, max_bytes)
    if records is not None:
        message, place = np.arange(len(records), dtype=np.int64), np.zeros(len(records), np.int64)
    else:
        records, message, place = _several_each(messages, reader, max_bytes, refused)
    fields = {name: read_texts(reader.tokens(records, name)) for name in names}
    found = Records({name: texts.text for name, texts in fields.items()}, message, place)
    good = np.ones(len(records), np.bool_)
    if mapping.version:
        good &= _hold_version(found, mapping, fields[mapping.version.field].text)
    for name, columns in source_columns(mapping).items():
        bad = fields[name].unfit & good
        if bad.any():
            found.refuse(bad, columns[0], fields[name].text, "malformed_message")
            good &= ~bad
        if mapping.decimal != "." and any(kind_of(mapping.target(column)) == "number" for column in columns):
            text, quoted = fields[name].text, pa.array(fields[name].quoted)
            found.columns[name] = pc.if_else(quoted, text, pc.replace_substring(text, ".", mapping.decimal))
    found.keep(good)
    yield found


def _one_each(messages: Sequence[bytes | None], reader: Reader, max_bytes: int) -> list[Any] | None:
    """The records of messages that are one object each; None where any is something else."""
    try:
        together = b"\n".join(messages)  # type: ignore[arg-type]
        if len(together) > max_bytes and len(max(messages, key=len)) > max_bytes:  # type: ignore[arg-type]
            return None
        if not together.isascii():
            together.decode()
        decode = reader.one
        return [decode(message) for message in messages]  # type: ignore[arg-type]
    except (TypeError, UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return None


def _several_each(
    messages: Sequence[bytes | None], reader: Reader, max_bytes: int, refused: list[Refused]
) -> tuple[list[Any], Longs, Longs]:
    """Records, number of their message and place in it; what cannot be told apart is refused."""
    records: list[Any] = []
    counts = np.zeros(len(messages), np.int64)
    for at, message in enumerate(messages):
        unfit = _unfit(message, max_bytes)
        if unfit is None:
            assert message is not None
            try:
                inside = reader.all(message)
                if len(inside) < MAX_RECORDS:
                    records += inside
                    counts[at] = len(inside)
                    continue
                unfit = "message_too_large", _shown(message)
            except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
                unfit = "malformed_message", _shown(message)
        refused.append(Refused(at, 0, "", unfit[1], unfit[0]))
    return records, np.repeat(np.arange(len(messages)), counts), _places(counts)


def _places(counts: Longs) -> Longs:
    """0, 1, 2 ... within each message.

    >>> _places(np.array([1, 3, 0, 2]))
    array([0, 0, 1, 2, 0, 1])
    """
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)


class Reader:
    """Takes the wanted fields out of JSON objects, each as the bytes that stand there."""

    def __init__(self, names: Sequence[str]) -> None:
        self._getters: dict[str, list[tuple[Callable[[Any], Any], Any]]] = {}
        kind = self._type([(name, tuple(name.split("."))) for name in names])
        self.one = msgspec.json.Decoder(kind).decode
        self._many = msgspec.json.Decoder(list[kind]).decode  # type: ignore[valid-type]

    def _type(self, paths: Sequence[tuple[str, tuple[str, ...]]]) -> Any:
        """A class of records with a field for each first part of the paths; what lies deeper is a record in it."""
        heads = list(dict.fromkeys(path[0] for _, path in paths))
        fields: list[tuple[str, Any, Any]] = []
        for number, head in enumerate(heads):
            deeper = [(name, path[1:]) for name, path in paths if path[0] == head and len(path) > 1]
            inner = self._type(deeper) if deeper else None
            fields.append((f"f{number}", inner | None, None) if inner else (f"f{number}", Raw, _NULL))
            for name in (name for name, path in paths if path[0] == head):
                nothing = inner() if inner else None
                self._getters.setdefault(name, []).insert(0, (attrgetter(f"f{number}"), nothing))
        rename = {f"f{number}": head for number, head in enumerate(heads)}
        return msgspec.defstruct("Record", fields, rename=rename, gc=False)

    def all(self, message: bytes) -> list[Any]:
        """All records of a message. Raises UnicodeDecodeError, msgspec.DecodeError, RecursionError."""
        message.decode()
        if message.lstrip().startswith(b"["):
            inside: list[Any] = self._many(message)
            return inside
        try:
            return [self.one(message)]
        except msgspec.DecodeError:
            lines = [line for line in message.split(b"\n") if line.strip()]
            if len(lines) < 2:
                raise
            return [self.one(line) for line in lines]

    def tokens(self, records: Sequence[Any], name: str) -> list[Raw]:
        """(k,) what stands in a field of the records; null where it is not there."""
        values: list[Any] = list(records)
        for getter, nothing in self._getters[name]:
            values = list(map(getter, values))
            if nothing is not None:
                values = [nothing if value is None else value for value in values]
        return values


_reader = lru_cache(maxsize=64)(Reader)


def read_texts(tokens: Sequence[Raw]) -> Texts:
    """(k,) JSON values to text: strings without their quotes, numbers and flags as they stand, null as null.

    Objects and arrays are no values; their text is what stands there.
    """
    if not tokens:
        return Texts(pa.array([], pa.string()), np.zeros(0, np.bool_), np.zeros(0, np.bool_))
    together = b"\0".join(tokens)  # a zero byte never stands in JSON
    ends = np.append(np.flatnonzero(np.frombuffer(together, np.uint8) == 0), len(together))
    starts = np.append(0, ends[:-1] + 1)
    first = np.frombuffer(together, np.uint8)[starts]
    quoted, empty = first == ord('"'), first == ord("n")
    unfit = (first == ord("{")) | (first == ord("["))
    if b"\\" in together or unfit.any():
        texts = [_text(bytes(token)) for token in tokens]
        unfit |= np.array([text is None for text in texts])
        shown = [bytes(token).decode() if text is None else text for token, text in zip(tokens, texts, strict=True)]
        return Texts(pa.array(shown, pa.string(), mask=empty), quoted, unfit)
    bare = np.append(0, np.cumsum(ends - starts - 2 * quoted)).astype(np.int32)
    data = together.translate(None, b'\0"')
    text = pa.StringArray.from_buffers(len(tokens), pa.py_buffer(bare), pa.py_buffer(data))
    return Texts(pc.if_else(pa.array(empty), None, text) if empty.any() else text, quoted, unfit)


def _text(token: bytes) -> str | None:
    """The text of one JSON value; None where it is an object, an array or no text at all."""
    if token.startswith((b"{", b"[")):
        return None
    try:
        return msgspec.json.decode(token, type=str) if token.startswith(b'"') else token.decode()
    except (msgspec.DecodeError, UnicodeError):
        return None


# --- Arrow --------------------------------------------------------------------------------------------------------


def _arrow_records(
    messages: Sequence[bytes | None], mapping: SourceMapping, max_bytes: int, refused: list[Refused]
) -> Iterator[Records]:
    """Records of messages whose columns have the same types, together."""
    alike: dict[pa.Schema, list[tuple[int, pa.Table]]] = {}
    for at, message in enumerate(messages):
        unfit = _unfit(message, max_bytes)
        if unfit is None:
            assert message is not None
            try:
                table = _read_stream(message, mapping)
                if table.num_rows < MAX_RECORDS:
                    alike.setdefault(table.schema, []).append((at, table))
                    continue
                unfit = "message_too_large", f"{table.num_rows} rows"
            except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
                unfit = "malformed_message", (str(error).splitlines() or [type(error).__name__])[0]
        refused.append(Refused(at, 0, "", unfit[1], unfit[0]))
    if not alike:
        nothing = {name: pa.array([], pa.string()) for name in _wanted(mapping)}
        yield Records(nothing, np.zeros(0, np.int64), np.zeros(0, np.int64))
    for parts in alike.values():
        table = pa.concat_tables([part for _, part in parts]).combine_chunks()
        counts = np.array([part.num_rows for _, part in parts], np.int64)
        columns = {name: _whole(table[name]) for name in table.column_names}
        found = Records(columns, np.repeat(np.array([at for at, _ in parts], np.int64), counts), _places(counts))
        if mapping.version:
            found.keep(_hold_version(found, mapping, pc.cast(columns[mapping.version.field], pa.string())))
        yield found


def _read_stream(message: bytes, mapping: SourceMapping) -> pa.Table:
    """The wanted columns of one IPC stream, checked. Raises Arrow's errors, ValueError and OSError."""
    with pa.ipc.open_stream(message) as stream:
        table = stream.read_all()
    wanted = _wanted(mapping)
    for name in wanted:
        if table.column_names.count(name) > 1:
            raise ValueError(f"there are several columns {name!r}")
    table.validate(full=True)
    readable = source_columns(mapping)
    columns = {}
    for name in wanted:
        found = table[name] if name in table.column_names else pa.chunked_array([pa.nulls(table.num_rows, pa.string())])
        columns[name] = _plain(found)
        for column in readable.get(name, ()):
            _check_type(name, columns[name].type, kind_of(mapping.target(column)))
    return pa.table(columns) if columns else table.select([])


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Dictionaries taken apart, and every kind of text as string."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(pa.string()) if _is_text(column.type) or pa.types.is_null(column.type) else column


_FITS: Mapping[Kind, Callable[[pa.DataType], bool]] = {
    "number": lambda found: pa.types.is_decimal(found) and found.precision <= 38 and abs(found.scale) <= 38,
    "day": lambda found: pa.types.is_date(found) or pa.types.is_timestamp(found),
    "flag": pa.types.is_boolean,
}


def _check_type(name: str, found: pa.DataType, kind: Kind) -> None:
    """Hold a column's type against what it is read as. Raises ValueError."""
    fits = _is_text(found) or pa.types.is_integer(found) or pa.types.is_null(found)
    if not fits and not (kind in _FITS and _FITS[kind](found)):
        exact = ", which is not exact" if pa.types.is_floating(found) else f", which cannot be read as a {kind}"
        raise ValueError(f"column {name!r} is stored as {found}{exact}")


def _is_text(found: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_string(found) or types.is_large_string(found) or types.is_string_view(found)
        or types.is_binary(found) or types.is_large_binary(found)
    )  # fmt: skip
