"""Messages of a topic: cut anywhere they give the same, as a file they give the same, and a bad one stops no other."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.inbound import BESIDE
from schemas.mapping import SourceMapping, parse_sources
from schemas.marts import REJECTS
from tests.kernels.test_files import OF_CURRENCIES, REJECTED_EVENTS
from transforms.kernels import messages
from transforms.kernels.files import read_delivery
from transforms.kernels.messages import RECORD_STEP, decode_messages, local_days, message_offsets, read_texts
from transforms.kernels.parse import Decoded, Delivery, accepted_schema

KNOWN_AT = datetime(2026, 2, 10, 6, tzinfo=UTC)
SENT_MS = int(KNOWN_AT.timestamp() * 1000)
FIELDS = ("meter", "day", "kwh", "code", "rev")
READINGS: dict[str, Any] = {
    "files": "*",
    "topics": "readings",
    "columns": {
        "meter_id": "meter",
        "service_date": "day",
        "energy_wh": {"column": "kwh", "unit": "kWh"},
        "quality": {"column": "code", "map": {"A": "actual", "1": "estimated", "true": "edited"}},
    },
    "revision": {"column": "rev"},
}
GOOD = b'{"meter":"M1","day":"2026-02-09","kwh":1.5,"code":"A","rev":3}'


def mapping(source: str = "meter_readings", **change: Any) -> SourceMapping:
    return parse_sources({source: READINGS | change}, "wattier.yaml")[source]


def decode(
    values: list[bytes | None],
    how: SourceMapping | None = None,
    first: int = 0,
    at: list[int] | None = None,
    **also: Any,
) -> Decoded:
    """Decoded, and the promises every block keeps."""
    how = how or mapping()
    offsets = range(first, first + len(values))
    found = decode_messages(values, offsets, at or [SENT_MS] * len(values), how, "readings", 3, **also)
    assert found.rows.schema.equals(accepted_schema(how.source), check_metadata=True)
    assert found.rejects.schema.equals(REJECTS.schema, check_metadata=True)
    found.rows.validate(full=True)
    found.rejects.validate(full=True)
    assert found.rows_read == found.rows.num_rows + found.rejects.num_rows
    numbers = found.rows["row"].to_pylist() + found.rejects["row"].to_pylist()
    assert len(set(numbers)) == len(numbers)
    assert set(message_offsets(pa.array(numbers, pa.int64())).to_pylist()) <= set(offsets)
    assert set(found.rejects["file"].to_pylist()) <= {"kafka:readings/3"}
    return found


def joined(blocks: list[Decoded]) -> Decoded:
    return Decoded(
        pa.concat_batches([block.rows for block in blocks]),
        pa.concat_batches([block.rejects for block in blocks]),
        sum(block.rows_read for block in blocks),
    )


def rejected(found: Decoded) -> list[tuple[int, str, str | None, str]]:
    return [tuple(row[name] for name in ("row", "column", "value", "reason")) for row in found.rejects.to_pylist()]


# --- what is read -------------------------------------------------------------------------------------------------


def test_one_by_hand() -> None:
    assert decode([GOOD], first=41).rows.to_pylist() == [
        {
            "meter_id": "M1", "service_date": date(2026, 2, 9), "read_at": None, "energy_wh": 1500, "quality": "actual",
            **dict.fromkeys(BESIDE.values()), "revision": 3, "delivery": 0, "row": 41,
        }
    ]  # fmt: skip


def test_the_multiplier_of_a_register_reading() -> None:
    columns = {
        "meter_id": "meter", "service_date": "day", "index_total": {"column": "R", "unit": "kWh"},
        "multiplier": {"column": "T_FACTOR", "unit": "times"},
    }  # fmt: skip
    how = parse_sources({"register_readings": {"topics": "registers", "columns": columns}}, "wattier.yaml")
    told = ("20", '"20"', "null", '""', "0", '"x"', "1.5", "{}")
    head = '{"meter":"M1","day":"2026-02-09","R":1.5'
    found = decode(
        [f'{head},"T_FACTOR":{value}}}'.encode() for value in told] + [f"{head}}}".encode()], how["register_readings"]
    )
    assert found.rows["multiplier"].to_pylist() == [20, 20, None, None, None]
    reasons = ("out_of_range", "bad_decimal", "too_many_digits", "malformed_message")
    values = zip(("0", "x", "1.5", "{}"), reasons, strict=True)
    assert rejected(found) == [(n, "multiplier", value, reason) for n, (value, reason) in enumerate(values, 4)]


def test_a_message_of_several_records_numbers_them() -> None:
    other = GOOD.replace(b"M1", b"M2")
    for message in (b"[" + GOOD + b",\n" + other + b"]", GOOD + b"\n\n" + other + b"\r\n", b" " + GOOD + b"\n" + other):
        found = decode([GOOD, message, b"[]"], first=7)
        assert found.rows["row"].to_pylist() == [7, 8, 8 + RECORD_STEP]
        assert found.rows["meter_id"].to_pylist() == ["M1", "M1", "M2"]


def test_an_object_may_be_written_over_several_lines() -> None:
    assert decode([json.dumps(json.loads(GOOD), indent=2).encode()]).rows.num_rows == 1


def test_a_field_inside_an_object_is_reached_by_its_path() -> None:
    columns = READINGS["columns"] | {"meter_id": "head.meter.id", "service_date": "head.day"}
    how = mapping(columns=columns)
    inside = b'{"head":{"meter":{"id":"M1"},"day":"2026-02-09"},"kwh":1,"code":"A","rev":1}'
    assert decode([inside], how).rows["meter_id"].to_pylist() == ["M1"]
    for less in (b'{"kwh":1,"code":"A","rev":1}', b'{"head":null,"kwh":1,"code":"A","rev":1}'):
        assert rejected(decode([less], how)) == [(0, "meter_id", None, "missing_value")]
    [row] = rejected(decode([b'{"head":5,"kwh":1,"code":"A","rev":1}'], how))
    assert row[3] == "malformed_message"


def test_a_number_arrives_as_it_was_sent() -> None:
    digits = "9007199254740993.001"  # a float has no such number
    how = mapping(columns=READINGS["columns"] | {"energy_wh": {"column": "kwh", "unit": "Wh"}})
    [row] = rejected(decode([GOOD.replace(b"1.5", digits.encode())], how))
    assert row == (0, "energy_wh", digits, "too_many_digits")
    assert decode([GOOD.replace(b"1.5", b"0.10000000")]).rows["energy_wh"].to_pylist() == [100]


def test_numbers_have_a_point_also_where_text_has_a_comma() -> None:
    values = [GOOD, GOOD.replace(b"1.5", b'"1,5"'), GOOD.replace(b"1.5", b'"1.5"')]
    found = decode(values, mapping(decimal=","))
    assert found.rows["energy_wh"].to_pylist() == [1500, 1500]
    assert rejected(found) == [(2, "energy_wh", "1.5", "bad_decimal")]


def test_the_message_s_own_day_bounds_what_is_accepted() -> None:
    """In Shanghai it is the next day from 16:00 UTC on."""
    how = mapping(time_zone="Asia/Shanghai", dates={"max_days_after_delivery": 0})
    evening = int(datetime(2026, 2, 8, 15, 59, tzinfo=UTC).timestamp() * 1000)
    found = decode([GOOD, GOOD, GOOD], how, at=[evening, evening + 60_000, evening])
    assert found.rows["row"].to_pylist() == [1]
    assert [row[0] for row in rejected(found)] == [0, 2]
    assert local_days([-1, 1 << 62], "UTC").tolist() == [0, messages.LAST_DELIVERY_DAY]


def test_without_a_revision_it_is_left_to_be_filled_in() -> None:
    assert decode([GOOD], mapping(revision="delivery")).rows["revision"].to_pylist() == [0]


# --- what is not --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "reason", "value"),
    [
        (None, "empty_message", None),
        (b"", "empty_message", None),
        (b" ", "malformed_message", " "),
        (b"null", "malformed_message", "null"),
        (b"[1]", "malformed_message", "[1]"),
        (b"{", "malformed_message", "{"),
        (GOOD + b"x", "malformed_message", GOOD.decode() + "x"),
        (GOOD + GOOD, "malformed_message", GOOD.decode() * 2),
        (GOOD + b"," + GOOD, "malformed_message", GOOD.decode() + "," + GOOD.decode()),
        (GOOD.replace(b"1.5", b"NaN"), "malformed_message", GOOD.decode().replace("1.5", "NaN")),
        (GOOD.replace(b"M1", b"\xff"), "malformed_message", GOOD.decode().replace("M1", "\ufffd")),
        (b'{"other":"\xc3"}', "malformed_message", '{"other":"\ufffd"}'),
        (b"[" * 5000, "malformed_message", "[" * 200),
        (b'{"a":' * 5000, "malformed_message", ('{"a":' * 5000)[:200]),
        (b"\xef\xbb\xbf" + GOOD, "malformed_message", "\ufeff" + GOOD.decode()),
        (b'{"x":"' + "户".encode() * 2000 + b'"}', "message_too_large", '{"x":"' + "户" * 194),
    ],
)
def test_a_bad_message_is_one_reject_and_the_others_go_on(
    message: bytes | None, reason: str, value: str | None
) -> None:
    found = decode([GOOD, message, GOOD], max_bytes=30_000 if reason == "malformed_message" else 5_000)
    assert found.rows["row"].to_pylist() == [0, 2]
    assert rejected(found) == [(1, "", value, reason)]


def test_an_object_where_a_value_belongs_is_refused() -> None:
    found = decode([GOOD.replace(b'"M1"', b'{"a": ["\\u6237"]}'), GOOD])
    assert rejected(found) == [(0, "meter_id", '{"a": ["\\u6237"]}', "malformed_message")]
    assert found.rows.num_rows == 1


def test_too_many_records_in_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MAX_RECORDS", 2)
    assert [row[3] for row in rejected(decode([b"[" + GOOD + b"," + GOOD + b"]", GOOD]))] == ["message_too_large"]


def test_another_version_is_refused() -> None:
    how = mapping(version={"field": "v", "equals": 2})
    lines = [GOOD.replace(b"}", f',"v":{version}}}'.encode()) for version in ("2", '"2"', "2.0", "null", "[2]")]
    found = decode([*lines, GOOD], how)
    assert found.rows["row"].to_pylist() == [0, 1]
    assert rejected(found) == [
        (2, "", "2.0", "schema_version"),
        (3, "", None, "schema_version"),
        (4, "", "[2]", "schema_version"),
        (5, "", None, "schema_version"),
    ]


# --- laws ---------------------------------------------------------------------------------------------------------

NUMBERS = st.sampled_from(["0", "7", "-1", "1.5", "0.0001", "12.340", "1e3", "-0", "99999999999999999999", "0.1"])
TEXTS = st.one_of(NUMBERS, st.sampled_from(["A", "1", "", " ", "2026-02-09", "2026-02-11", "2026-2-9", "户"]),
                  st.text("ab1户é\"\\/, ", max_size=4))  # fmt: skip
FIELD = st.one_of(
    st.none(),
    st.tuples(st.just("text"), TEXTS),
    st.tuples(st.just("number"), NUMBERS),
    st.tuples(st.just("flag"), st.sampled_from(["true", "false"])),
)
LIKELY = {"meter": "M1", "day": "2026-02-09", "kwh": "1.5", "code": "A", "rev": "3"}
RECORD = st.fixed_dictionaries({name: st.one_of(FIELD, *[st.just(("text", LIKELY[name]))] * 3) for name in FIELDS})


def as_json(record: dict[str, Any], missing: bool, ascii_only: bool) -> bytes:
    """A record as an object. missing: leave a field without a value out, rather than say null."""
    parts = []
    for name, value in record.items():
        if value is not None:
            said = json.dumps(value[1], ensure_ascii=ascii_only) if value[0] == "text" else value[1]
            parts.append(f'"{name}":{said}')
        elif not missing:
            parts.append(f'"{name}":null')
    return ("{" + ",".join(parts) + "}").encode()


@given(st.lists(RECORD, max_size=12), st.booleans(), st.booleans())
def test_as_a_file_the_same_records_give_the_same_rows(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]], missing: bool, ascii_only: bool
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerow(FIELDS)
    writer.writerows([["" if record[name] is None else record[name][1] for name in FIELDS] for record in records])
    path = tmp_path_factory.getbasetemp() / "readings.csv"
    path.write_text(text.getvalue(), encoding="utf-8")
    file = joined(list(read_delivery(Delivery(0, "meter_readings", str(path), "", KNOWN_AT), mapping())))
    sent = decode([as_json(record, missing, ascii_only) for record in records], first=1)
    assert sent.rows.equals(file.rows)
    assert [row[:2] + row[3:] for row in rejected(sent)] == [row[:2] + row[3:] for row in rejected(file)]


MESSAGES = st.one_of(
    RECORD.map(lambda record: as_json(record, True, False)),
    st.lists(RECORD, max_size=3).map(lambda some: b"[" + b",".join(as_json(r, False, True) for r in some) + b"]"),
    st.lists(RECORD, max_size=3).map(lambda some: b"\n".join(as_json(r, True, True) for r in some)),
    st.sampled_from([None, b"", b"{", b"5", b"\xff", GOOD + GOOD, b'{"meter":{}}', b'{"meter":"\\ud800"}']),
)


@given(st.lists(st.tuples(MESSAGES, st.integers(-2, 2)), max_size=10), st.lists(st.integers(0, 10)))
def test_cut_anywhere_they_give_the_same(sent: list[tuple[bytes | None, int]], cuts: list[int]) -> None:
    values = [value for value, _ in sent]
    at = [SENT_MS + days * 86_400_000 for _, days in sent]
    whole = decode(values, at=at)
    bounds = sorted({0, len(values), *(cut for cut in cuts if cut < len(values))})
    pairs = list(pairwise(bounds)) or [(0, 0)]
    assert joined([decode(values[a:b], first=a, at=at[a:b]) for a, b in pairs]) == whole


@given(st.lists(st.binary(max_size=40), max_size=5), st.sampled_from(["json", "arrow"]))
@example([b'{"meter":"\\ud800\\ud800"}'], "json")
def test_no_bytes_stop_the_batch(values: list[bytes], payload: str) -> None:
    decode(list(values), mapping(payload=payload))


@given(st.lists(st.one_of(st.none(), st.booleans(), st.integers(), st.text()), max_size=8), st.booleans())
def test_texts_are_what_python_reads(values: list[Any], ascii_only: bool) -> None:
    """Also beyond 64 bits, with every escape, and with zero bytes."""
    tokens = [
        msgspec.Raw(json.dumps(value, ensure_ascii=ascii_only).encode(errors="surrogatepass")) for value in values
        if not isinstance(value, str) or value.isprintable() or ascii_only
    ]  # fmt: skip
    want = [json.loads(bytes(token), parse_int=str) for token in tokens]
    found = read_texts(tokens)
    assert found.text.to_pylist() == [str(v).lower() if isinstance(v, bool) else v for v in want]
    assert not found.unfit.any()


# --- Arrow --------------------------------------------------------------------------------------------------------


def stream(table: pa.Table, rows: int | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, rows)
    return bytes(sink.getvalue())


TABLE = pa.table(
    {
        "meter": pa.array(["M1", "M2", None]).dictionary_encode(),
        "day": pa.array([date(2026, 2, 9)] * 3),
        "kwh": pa.array([Decimal("1.500"), Decimal("-1.000"), Decimal("2.000")], pa.decimal128(12, 3)),
        "code": ["A", "A", "A"],
        "rev": pa.array([3, 3, 3], pa.uint8()),
        "more": [1.5, 2.5, 3.5],
    }
)
ARROW = mapping(payload="arrow")


def test_a_stream_of_typed_columns() -> None:
    found = decode([stream(TABLE), stream(TABLE, rows=1)], ARROW, first=5)
    assert found.rows.column("row").to_pylist() == [5, 6]
    assert found.rows.drop_columns(["row"])[0:1].equals(decode([GOOD]).rows.drop_columns(["row"]))
    assert rejected(found) == [
        (5 + RECORD_STEP, "energy_wh", "-1.000", "out_of_range"),
        (5 + 2 * RECORD_STEP, "meter_id", None, "missing_value"),
        (6 + RECORD_STEP, "energy_wh", "-1.000", "out_of_range"),
        (6 + 2 * RECORD_STEP, "meter_id", None, "missing_value"),
    ]


@given(
    st.lists(st.sampled_from(["whole", "text", "less", "none", "broken", "float", "twice"]), max_size=8),
    st.integers(0, 8),
)
def test_streams_of_other_types_go_together(kinds: list[str], cut: int) -> None:
    made = {
        "whole": stream(TABLE),
        "text": stream(pa.table({name: TABLE[name].cast(pa.string()) for name in FIELDS})),
        "less": stream(TABLE.drop_columns(["kwh"])),
        "none": stream(TABLE.slice(0, 0)),
        "broken": stream(TABLE)[:-30],
        "float": stream(TABLE.set_column(2, "kwh", pa.array([1.5, 2.5, 3.5]))),
        "twice": stream(TABLE.append_column("kwh", TABLE["kwh"])),
    }
    values: list[bytes | None] = [made[kind] for kind in kinds]
    whole = decode(values, ARROW)
    assert joined([decode(values[:cut], ARROW), decode(values[cut:], ARROW, first=min(cut, len(values)))]) == whole
    assert whole.rows.num_rows == sum(kind in ("whole", "text") for kind in kinds)
    lost = {message: row[2] for row in rejected(whole) if row[3] == "malformed_message" for message in [row[0]]}
    assert lost.keys() == {at for at, kind in enumerate(kinds) if kind in ("broken", "float", "twice")}
    if "float" in kinds:
        assert lost[kinds.index("float")] == "column 'kwh' is stored as double, which is not exact"


def test_the_version_of_a_stream_is_a_column() -> None:
    how = mapping(payload="arrow", version={"field": "v", "equals": "2"})
    table = TABLE.append_column("v", pa.array([2, 1, 2]))
    found = decode([stream(table), stream(TABLE)], how)
    assert found.rows.num_rows == 1
    assert [row[3] for row in rejected(found)].count("schema_version") == 4


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_stream_is_read_or_refused(changes: list[tuple[int, int]]) -> None:
    data = bytearray(stream(TABLE))
    for at, byte in changes:
        data[at % len(data)] = byte
    decode([bytes(data), stream(TABLE)], ARROW)


def test_a_binary_array_is_as_good_as_a_list(tmp_path: Path) -> None:
    values = [GOOD, None, b"x"]
    found = decode_messages(pa.array(values, pa.binary()), np.arange(3), np.full(3, SENT_MS), mapping(), "readings", 3)
    assert found == decode(values)


@pytest.mark.parametrize(("row", "column", "reason"), REJECTED_EVENTS)
def test_ledger_events_are_rejected_as_in_a_file(row: str, column: str, reason: str) -> None:
    """The same rows as in tests/kernels/test_files.py, each as an object; a good one beside it is taken."""
    names = ("account", "id", "type", "day", "due", "amount", "ref", "money")
    how = parse_sources({"ledger_events": OF_CURRENCIES | {"topics": "readings"}}, "wattier.yaml")["ledger_events"]
    good = dict(zip(names, ("a", "2", "F", "2015-01-01", "", 1.5, None, "CNY"), strict=True))
    sent = [dict(zip(names, row.split(","), strict=False)), good]
    found = decode([json.dumps(one).encode() for one in sent], how)
    assert [(r["column"], r["reason"]) for r in found.rejects.to_pylist()] == [(column, reason)]
    assert found.rows.select(["event_type", "amount_minor"]).to_pylist() == [
        {"event_type": "refund", "amount_minor": 150}
    ]
