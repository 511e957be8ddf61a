"""Delivered files: what is read, what is rejected row by row, and what refuses the whole file."""

from __future__ import annotations

import gzip
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.errors import FileFault
from schemas.inbound import BESIDE, SOURCES
from schemas.mapping import SourceMapping, parse_sources
from schemas.marts import REJECTS
from schemas.reasons import REASONS
from transforms.kernels import files
from transforms.kernels.files import delivery_known_at, file_date, read_delivery
from transforms.kernels.parse import Decoded, Delivery, accepted_schema

KNOWN_AT = datetime(2016, 7, 1, 6, tzinfo=UTC)
HEADER = "record_date,user_id,power_consumption\n"
READINGS: dict[str, Any] = {
    "files": "*",
    "columns": {
        "meter_id": "user_id",
        "service_date": {"column": "record_date", "format": "%Y/%m/%d"},
        "energy_wh": {"column": "power_consumption", "unit": "kWh"},
    },
}
LEDGER: dict[str, Any] = {
    "files": "*",
    "columns": {
        "account_id": "account",
        "event_id": "id",
        "event_type": {
            "column": "type",
            "map": {
                "B": "charge",
                "P": "payment",
                "R": "reversal",
                "A": "adjustment",
                "W": "write_off",
                "F": "refund",
                "V": "prepayment",
            },
        },
        "event_date": "day",
        "due_date": "due",
        "amount_minor": {"column": "amount", "unit": "yuan"},
        "ref_event_id": "ref",
    },
}


def mapping(body: dict[str, Any], source: str = "meter_readings", **change: Any) -> SourceMapping:
    return parse_sources({source: body | change}, "wattier.yaml")[source]


def land(path: Path, content: str | bytes, source: str = "meter_readings") -> Delivery:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" and data[:2] != b"\x1f\x8b" else data)
    return Delivery(7, source, str(path), "", KNOWN_AT)


def land_table(path: Path, table: pa.Table) -> Delivery:
    pq.write_table(table, path)
    return Delivery(7, "meter_readings", str(path), "", KNOWN_AT)


def read(delivery: Delivery, how: SourceMapping, block_rows: int = 262_144) -> Decoded:
    """All blocks as one; each must balance, keep its schema and name every rejected row once."""
    blocks = list(read_delivery(delivery, how, block_rows))
    assert blocks
    for block in blocks:
        assert block.rows.schema.equals(accepted_schema(how.source), check_metadata=True)
        assert block.rejects.schema.equals(REJECTS.schema, check_metadata=True)
        block.rows.validate(full=True)
        assert block.rows_read == block.rows.num_rows + block.rejects.num_rows
        assert block.rows.num_rows <= block_rows
    whole = Decoded(
        pa.concat_batches([block.rows for block in blocks]),
        pa.concat_batches([block.rejects for block in blocks]),
        sum(block.rows_read for block in blocks),
    )
    numbers = whole.rows["row"].to_pylist() + whole.rejects["row"].to_pylist()
    assert sorted(numbers) == list(range(1, whole.rows_read + 1))
    return whole


def rejected(decoded: Decoded) -> list[tuple[int, str, str | None, str]]:
    return [tuple(row[name] for name in ("row", "column", "value", "reason")) for row in decoded.rejects.to_pylist()]


# --- what is read ------------------------------------------------------------------------------------------------


def test_the_real_layout(tmp_path: Path) -> None:
    delivery = land(tmp_path / "power 100%.csv", HEADER + "2015/1/1,1,1135\n2015/1/1,2,24\n2015/11/30,1, 7 \n")
    decoded = read(delivery, mapping(READINGS))
    assert not decoded.rejects.num_rows
    assert decoded.rows.to_pydict() == {
        "meter_id": ["1", "2", "1"],
        "service_date": [date(2015, 1, 1), date(2015, 1, 1), date(2015, 11, 30)],
        "read_at": [None] * 3,
        "energy_wh": [1_135_000, 24_000, 7_000],
        "quality": ["actual"] * 3,
        **{column: [None] * 3 for column in BESIDE.values()},
        "revision": [7] * 3,
        "delivery": [7] * 3,
        "row": [1, 2, 3],
    }


def test_receivables_become_charges_shifted_in_time(tmp_path: Path) -> None:
    text = "customerID,invoiceNumber,InvoiceDate,DueDate,InvoiceAmount\n0379-NEVHP,0000611365,1/2/2013,2/1/2013,55.94\n"
    columns = {
        "account_id": "customerID",
        "event_id": "invoiceNumber",
        "bill_id": "invoiceNumber",
        "event_type": {"constant": "charge"},
        "event_date": {"column": "InvoiceDate", "format": "%m/%d/%Y", "shift_days": 1096},
        "due_date": {"column": "DueDate", "format": "%m/%d/%Y", "shift_days": 1096},
        "amount_minor": {"column": "InvoiceAmount", "unit": "dollar"},
    }
    how = mapping({"files": "*", "columns": columns}, "ledger_events")
    [row] = read(land(tmp_path / "r.csv", text, "ledger_events"), how).rows.to_pylist()
    assert row["bill_id"] == row["event_id"] == "0000611365"
    assert (row["event_date"], row["due_date"]) == (date(2016, 1, 3), date(2016, 2, 2))
    assert row["amount_minor"] == 5594
    assert row["ref_event_id"] is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_encodings_line_ends_and_compression(tmp_path: Path, encoding: str, line_end: str, name: str) -> None:
    text = (HEADER + '2015/1/1," 户1 ",1\n\n2015/1/1,"x,""y",2').replace("\n", line_end)
    how = mapping(READINGS, encoding=encoding.removesuffix("-sig"))
    assert read(land(tmp_path / name, text.encode(encoding)), how).rows["meter_id"].to_pylist() == ["户1", 'x,"y']


def test_every_small_block_of_bytes_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f"2015/1/{i % 31 + 1},户{i},{i}" if i % 7 else f"2015/1/1,户{i}" for i in range(500)]
    delivery = land(tmp_path / "a.csv", (HEADER + "\n".join(rows)).encode("gb18030"))
    how = mapping(READINGS, encoding="gb18030")
    whole = read(delivery, how)
    assert rejected(whole)[1] == (8, "", "2015/1/1,户7", "column_count")
    monkeypatch.setattr(files, "CSV_BLOCK_BYTES", 101)
    assert read(delivery, how, block_rows=13) == whole


def test_a_file_of_a_header_is_a_file_of_no_rows(tmp_path: Path) -> None:
    for text in (HEADER, HEADER.strip(), HEADER + "\n\n"):
        assert read(land(tmp_path / "a.csv", text), mapping(READINGS)).rows_read == 0
    table = pa.table({"record_date": [], "user_id": [], "power_consumption": pa.array([], pa.int64())})
    assert read(land_table(tmp_path / "a.parquet", table), mapping(READINGS)).rows_read == 0


readings = st.lists(
    st.tuples(
        st.text(st.characters(codec="gb18030", exclude_categories=["C", "Z"]), min_size=1, max_size=5),
        st.dates(date(2000, 1, 1), date(2016, 7, 2)),
        st.decimals(0, 1_000_000, places=3),
    ),
    max_size=20,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(readings, st.integers(1, 7), st.booleans())
def test_csv_and_parquet_give_the_same_rows(
    tmp_path: Path, rows: list[tuple[str, date, Decimal]], block_rows: int, typed: bool
) -> None:
    text = HEADER.replace(",", ";")
    for meter, day, energy in rows:
        quoted, number = meter.replace('"', '""'), f"{energy:f}".replace(".", ",")
        text += f'{day.year}/{day.month}/{day.day};"{quoted}";{number}\n'
    csv = read(land(tmp_path / "a.csv", text), mapping(READINGS, delimiter=";", decimal=","), block_rows)
    days = [row[1] for row in rows]
    table = pa.table(
        {
            "power_consumption": pa.array([row[2] for row in rows], pa.decimal128(20, 3)),
            "user_id": pa.array([row[0] for row in rows], pa.string()).dictionary_encode(),
            "record_date": pa.array(days, pa.date32()).cast(pa.date32() if typed else pa.timestamp("ms")),
        }
    )
    parquet = read(land_table(tmp_path / "a.parquet", table), mapping(READINGS), block_rows)
    midnights = [datetime(day.year, day.month, day.day) for day in days]  # noqa: DTZ001
    assert parquet.rows["read_at"].to_pylist() == ([None] * len(days) if typed else midnights)
    assert csv._replace(rows=csv.rows.drop_columns("read_at")) == parquet._replace(
        rows=parquet.rows.drop_columns("read_at")
    )
    assert csv.rows["energy_wh"].to_pylist() == [int(energy * 1000) for _, _, energy in rows]
    assert csv.rows["meter_id"].to_pylist() == [meter for meter, _, _ in rows]


def test_codes_flags_and_what_stands_for_nothing(tmp_path: Path) -> None:
    columns = {
        "account_id": "id",
        "valid_from": {"constant": date(2015, 1, 1)},
        "category": {"column": "cat", "map": {1: "residential", "": "commercial"}},
        "region": "region",
        "preferential": {"column": "pref", "map": {"Y": True, "N": False}},
        "prepaid": "prepaid",
        "capacity_va": {"column": "kva", "unit": "kVA", "empty": ["-"]},
        "opened_on": "opened",
        "closed_on": {"column": "closed", "empty": ["9999-12-31"]},
    }
    text = "id,cat,region,pref,prepaid,kva,opened,closed\n"
    text += "a,1, north ,Y,TRUE,315,1985-06-01,9999-12-31\nb,,,N,0,-,2015-01-01,\n"
    text += "c,2,,,,,2015-01-01,\nd,1,,x,,,2015-01-01,\n"
    how = mapping({"files": "*", "columns": columns, "revision": {"file_date": "%Y%m%d"}}, "accounts")
    decoded = read(land(tmp_path / "accounts_20150301.csv", text, "accounts"), how)
    a, b = decoded.rows.to_pylist()
    assert (a["category"], a["region"], a["preferential"], a["prepaid"]) == ("residential", " north ", True, True)
    assert (a["capacity_va"], a["closed_on"], a["voltage"], a["revision"]) == (315_000, None, None, 20150301)
    assert (b["category"], b["region"], b["preferential"], b["prepaid"]) == ("commercial", None, False, False)
    assert b["capacity_va"] is None
    assert rejected(decoded) == [(3, "category", "2", "unknown_code"), (4, "preferential", "x", "unknown_code")]


# --- what is rejected --------------------------------------------------------------------------------------------


REJECTED_READINGS = [
    ("2015/1/1,1", "", "2015/1/1,1", "column_count"),
    ("2015/1/1,1,2,3", "", "2015/1/1,1,2,3", "column_count"),
    ("2015/1/1, ,1", "meter_id", " ", "missing_value"),
    ("2015/1/1,1,", "energy_wh", "", "missing_value"),
    ("2015/1/1,1,1e3", "energy_wh", "1e3", "bad_decimal"),
    ("2015/1/1,1,NaN", "energy_wh", "NaN", "bad_decimal"),
    ("2015/1/1,1,0.0001", "energy_wh", "0.0001", "too_many_digits"),
    ("2015/1/1,1,-1", "energy_wh", "-1", "out_of_range"),
    ("2015/1/1,1,300000000", "energy_wh", "300000000", "out_of_range"),
    ("2015/2/29,1,1", "service_date", "2015/2/29", "bad_date"),
    ("1999/12/31,1,1", "service_date", "1999/12/31", "date_out_of_range"),
    ("2016/7/3,1,1", "service_date", "2016/7/3", "date_out_of_range"),
    ("2015/2/29,,NaN", "meter_id", "", "missing_value"),
    (f"2015/1/1,1,{'x' * 300}", "energy_wh", "x" * 200, "bad_decimal"),
]
REJECTED_EVENTS = [
    ("a,1,B,2015-01-01,,10,", "due_date", "missing_value"),
    ("a,1,B,2015-01-02,2015-01-01,10,", "due_date", "due_before_issue"),
    ("a,1,B,2015-01-01,2015-01-01,0,", "amount_minor", "not_positive"),
    ("a,1,P,2015-01-01,,-0.01,", "amount_minor", "not_positive"),
    ("a,1,P,2015-01-01,,,", "amount_minor", "missing_value"),
    ("a,1,P,2015-01-01,,0.001,", "amount_minor", "too_many_digits"),
    ("a,1,A,2015-01-01,,0,", "amount_minor", "not_positive"),
    ("a,1,R,2015-01-01,,1,", "ref_event_id", "missing_value"),
    ("a,1,R,2015-01-01,,x,0", "amount_minor", "bad_decimal"),
    ("a,1,X,2015-01-01,,,", "event_type", "unknown_code"),
    ("a,1,B,2015-01-01,2015/01/01,0,", "due_date", "bad_date"),
    *(
        (f"a,1,{kind},2015-01-01,,{amount},", "amount_minor", "not_positive")
        for kind in "PVFW"
        for amount in ("0", "-5")
    ),
    ("a,1,P,2015-01-01,,2814749767106.57,", "amount_minor", "out_of_range"),
    ("a,1,A,2015-01-01,,-2814749767106.57,", "amount_minor", "out_of_range"),
    ("a,1,P,2015-01-01,,99999999999999999999,", "amount_minor", "out_of_range"),
    ("a,1,P,2015-01-01,,1,,EUR", "currency", "wrong_currency"),
    ("a,1,P,2015-01-01,,1,,cny", "currency", "wrong_currency"),
]
OF_CURRENCIES = {**LEDGER, "currency": "CNY", "columns": LEDGER["columns"] | {"currency": "money"}}


@pytest.mark.parametrize(("row", "column", "value", "reason"), REJECTED_READINGS)
def test_rejected_readings(tmp_path: Path, row: str, column: str, value: str, reason: str) -> None:
    decoded = read(land(tmp_path / "a.csv", f"{HEADER}2015/1/1,1,1\n{row}\n2016/7/2,1,1\n"), mapping(READINGS))
    assert rejected(decoded) == [(2, column, value, reason)]
    record = decoded.rejects.to_pylist()[0]
    assert (record["source"], record["delivery"], record["file"]) == ("meter_readings", 7, "a.csv")
    assert decoded.rows["row"].to_pylist() == [1, 3]


@pytest.mark.parametrize(("row", "column", "reason"), REJECTED_EVENTS)
def test_rejected_ledger_events(tmp_path: Path, row: str, column: str, reason: str) -> None:
    text = f"account,id,type,day,due,amount,ref,money\n{row if row.count(',') == 7 else row + ','}\n"
    decoded = read(land(tmp_path / "l.csv", text, "ledger_events"), mapping(OF_CURRENCIES, "ledger_events"))
    assert [(r["column"], r["reason"]) for r in decoded.rejects.to_pylist()] == [(column, reason)]


def test_a_time_too_far_from_midnight_is_rejected(tmp_path: Path) -> None:
    """Ten minutes before and after midnight are taken for it; eleven are not."""
    rows = "meter,at,kwh\n1,2015-01-01 23:50,1\n1,2015-01-02 00:10,1\n1,2015-01-02 00:11,1\n1,2015-01-02 23:49,1\n"
    day = {"column": "at", "format": "%Y-%m-%d %H:%M", "time_of_day": {"within_minutes": 10}}
    columns = {"meter_id": "meter", "service_date": day, "energy_wh": {"column": "kwh", "unit": "kWh"}}
    (mapped,) = parse_sources({"meter_readings": {"files": "t.csv", "columns": columns}}, "w").values()
    decoded = read(land(tmp_path / "t.csv", rows), mapped)
    assert decoded.rows["service_date"].to_pylist() == [date(2015, 1, 2)] * 2
    assert rejected(decoded) == [
        (3, "service_date", "2015-01-02 00:11", "off_midnight"),
        (4, "service_date", "2015-01-02 23:49", "off_midnight"),
    ]


def test_an_index_of_the_reference_that_the_meter_cannot_show_is_rejected(tmp_path: Path) -> None:
    """A dial of 1,000 kWh shows 999.999999 at most; of one whose modulus is not told nothing is known."""
    rows = "m,on,a,modulus,installed,removed\n1,2015-01-01,a,1000,999.999999,\n2,2015-01-01,a,1000,1000,\n"
    rows += "3,2015-01-01,a,1000,0,1000.5\n4,2015-01-01,a,,1000,2000\n5,2015-01-01,a,1000,,\n"
    columns = {"meter_id": "m", "installed_on": "on", "account_id": "a"} | {
        name: {"column": column, "unit": "kWh"}
        for name, column in (("modulus", "modulus"), ("installed_total", "installed"), ("removed_total", "removed"))
    }
    (mapped,) = parse_sources({"meters": {"files": "m.csv", "columns": columns}}, "w").values()
    decoded = read(land(tmp_path / "m.csv", rows, "meters"), mapped)
    assert decoded.rows["meter_id"].to_pylist() == ["1", "4", "5"]
    assert rejected(decoded) == [
        (2, "installed_total", "1000", "index_beyond_modulus"),
        (3, "removed_total", "1000.5", "index_beyond_modulus"),
    ]


def test_a_meter_that_is_removed_before_it_is_installed_is_rejected(tmp_path: Path) -> None:
    """On one day it is taken back: the row never holds."""
    rows = "m,on,off,a\n1,2015-01-02,2015-01-01,a\n2,2015-01-02,2015-01-02,a\n3,2015-01-02,2015-01-03,a\n"
    rows += "4,2015-01-02,,a\n5,2015-13-01,2015-01-01,a\n"
    columns = {"meter_id": "m", "installed_on": "on", "account_id": "a", "removed_on": "off"}
    decoded = read(land(tmp_path / "m.csv", rows, "meters"), mapping({"files": "m.csv", "columns": columns}, "meters"))
    assert decoded.rows["meter_id"].to_pylist() == ["2", "3", "4"]
    assert rejected(decoded) == [
        (1, "removed_on", "2015-01-01", "removed_before_installed"),
        (5, "installed_on", "2015-13-01", "bad_date"),
    ]


def test_accepted_ledger_events(tmp_path: Path) -> None:
    text = (
        "account,id,type,day,due,amount,ref\na,1,B,2015-01-01,2015-01-01,10.5,\na,2,P,2015-01-02,,10.50,\n"
        "a,3,R,2015-01-03,,,2\na,4,A,2015-01-03,,-0.01,\n"
    )
    decoded = read(land(tmp_path / "l.csv", text, "ledger_events"), mapping(LEDGER, "ledger_events"))
    assert not decoded.rejects.num_rows
    assert decoded.rows["amount_minor"].to_pylist() == [1050, 1050, 0, -1]


def test_an_amount_of_no_currency_is_in_the_one_that_the_mapping_names(tmp_path: Path) -> None:
    """Told by its code, by a code that the mapping translates, or not at all."""
    rows = "a,1,P,2015-01-01,,1,, CNY \na,2,P,2015-01-01,,2,,\na,3,P,2015-01-01,,3,,RMB\n"
    text = "account,id,type,day,due,amount,ref,money\n" + rows
    how = mapping(OF_CURRENCIES, "ledger_events")
    decoded = read(land(tmp_path / "l.csv", text, "ledger_events"), how)
    assert decoded.rows["amount_minor"].to_pylist() == [100, 200]
    assert rejected(decoded) == [(3, "currency", "RMB", "wrong_currency")]
    columns = OF_CURRENCIES["columns"] | {"currency": {"column": "money", "map": {"RMB": "CNY", "CNY": "CNY"}}}
    decoded = read(
        land(tmp_path / "l.csv", text, "ledger_events"), mapping({**OF_CURRENCIES, "columns": columns}, "ledger_events")
    )
    assert decoded.rows.num_rows == 3
    assert "currency" not in decoded.rows.schema.names


def test_columns_of_a_ledger_that_earlier_extracts_lack(tmp_path: Path) -> None:
    """A late fee is a rate a day; what an extract does not tell is empty."""
    text = "account,id,type,day,due,amount,ref,fee,first,last,rank,where,how\n"
    text += "a,1,B,2015-01-31,2015-02-01,1,,0.05,2015-01-01,2015-01-31,-3,,\na,2,P,2015-01-31,,1,,,,,,counter,cash\n"
    more = {
        "late_fee_ppm": {"column": "fee", "unit": "percent"}, "period_from": "first", "period_to": "last", "priority": "rank",
        "channel": "where", "tender": "how",
    }  # fmt: skip
    how = mapping({**LEDGER, "columns": LEDGER["columns"] | more}, "ledger_events")
    found = read(land(tmp_path / "l.csv", text, "ledger_events"), how).rows.select(list(more)).to_pylist()
    charge, payment = ([row[name] for name in more] for row in found)
    assert charge == [500, date(2015, 1, 1), date(2015, 1, 31), -3, None, None]
    assert payment == [None, None, None, None, "counter", "cash"]
    plain = read(land(tmp_path / "l.csv", text, "ledger_events"), mapping(LEDGER, "ledger_events")).rows
    assert all(plain[name].null_count == 2 for name in more)


def test_every_reason_is_explained_and_reachable() -> None:
    seen = {reason for *_, reason in REJECTED_READINGS} | {reason for *_, reason in REJECTED_EVENTS}
    seen |= {"off_midnight", "index_beyond_modulus", "removed_before_installed"}
    seen |= {"stream_not_mapped"}  # tests/kernels/test_nem.py
    of_messages = {
        "malformed_message",
        "empty_message",
        "message_too_large",
        "schema_version",
    }  # tests/test_messages.py
    assert seen | of_messages == set(REASONS)
    assert all(meaning.endswith(".") and len(meaning) > 40 for meaning in REASONS.values())


def test_a_column_of_revisions(tmp_path: Path) -> None:
    text = (
        "record_date,user_id,power_consumption,rev\n2015/1/1,1,1,3\n2015/1/1,1,1,\n2015/1/1,1,1,1.5\n2015/1/1,1,1,-1\n"
    )
    decoded = read(land(tmp_path / "a.csv", text), mapping(READINGS, revision={"column": "rev"}))
    assert decoded.rows["revision"].to_pylist() == [3]
    assert [reason for *_, reason in rejected(decoded)] == ["missing_value", "too_many_digits", "out_of_range"]


# --- what refuses the file ---------------------------------------------------------------------------------------

ROWS = "".join(f"2015/1/1,{i},{i}\n" for i in range(1000))


@pytest.mark.parametrize(
    ("name", "content", "problem", "hint"),
    [
        ("a.csv", "record_date,user,power_consumption\n", "has no column 'user_id'. It has 'rec", "(meter_id)"),
        ("a.csv", (HEADER + ROWS).replace(",", ";"), "It has 'record_date;user_id;power", "looks like ';'"),
        ("a.csv", HEADER.replace("\n", ",user_id\n"), "has 2 columns named 'user_id'", "one of each name"),
        ("a.csv", "", "is empty", "Land the whole file again"),
        ("a.csv", "\n\n", "is empty", "Land the whole file again"),
        ("a.csv.gz", gzip.compress((HEADER + ROWS).encode(), mtime=0)[:-20], "is truncated or corrupt gzip", "Land the"),
        ("a.csv.gz", gzip.compress(b"", mtime=0)[:-9], "is truncated or corrupt gzip", "Land the whole file"),
        ("a.csv.gz", b"\x1f\x8bnot gzip at all", "is truncated or corrupt gzip", "Land the whole file"),
        ("a.csv.gz", "", "is empty", "Land the whole file again"),
        ("a.csv", gzip.compress(HEADER.encode(), mtime=0), "byte 0x8b at offset 1, line 1", "`format: csv.gz`"),
        ("a.csv", HEADER.encode() + "2015/1/1,户,1\n".encode("gb18030"), "byte 0xbb at offset 47, line 2", "gb18030"),
        ("a.csv", HEADER.encode() + "2015/1/1,户".encode()[:-1], "not utf-8: byte 0xe6 at offset 47", "encoding"),
        ("a.csv", HEADER + '2015/1/1,"1,1\n' + ROWS, "row 1 goes on over a line break", "`quoting: false`"),
        ("a.csv", HEADER + '2015/1/1,1,1\n"2015/1/1,1,1\n' + ROWS, "row 2 goes on over a line", "`quoting: false`"),
        ("a.parquet", b"PAR1 no more than this", "cannot be read", "`format`"),
        ("a.parquet", "", "is empty", "Land the whole file again"),
        ("a.xlsx", HEADER, "its suffix tells no format", "csv, csv.gz or parquet"),
    ],
)  # fmt: skip
def test_files_refused(tmp_path: Path, name: str, content: str | bytes, problem: str, hint: str) -> None:
    delivery = land(tmp_path / name, content)
    with pytest.raises(FileFault) as fault:
        list(read_delivery(delivery, mapping(READINGS)))
    assert fault.value.file == delivery.uri
    assert problem in fault.value.problem
    assert hint in fault.value.hint


@pytest.mark.parametrize("at", ["late", "early"])
def test_a_wrong_byte_far_into_the_file_is_named(tmp_path: Path, at: str) -> None:
    before = (HEADER + ROWS * (1500 if at == "late" else 1)).encode()
    delivery = land(tmp_path / "a.csv", before + b"2015/1/1,\xff,1\n")
    with pytest.raises(FileFault, match=f"byte 0xff at offset {len(before) + 9}, line {before.count(10) + 1}"):
        list(read_delivery(delivery, mapping(READINGS)))


@pytest.mark.parametrize(
    ("column", "values", "problem"),
    [
        ("power_consumption", pa.array([1.5]), "column 'power_consumption' is stored as floating point"),
        ("user_id", pa.array([1.0]), "column 'user_id' is stored as floating point"),
        ("power_consumption", pa.array([True]), "is stored as bool, which cannot be read as a number"),
        ("record_date", pa.array([[1]]), "cannot be read as a day"),
        ("user_id", pa.array([b"\xff"]), "cannot be read"),
        ("other", pa.array([1]), "has no column 'power_consumption'. It has 'record_date', 'user_id', 'other'"),
    ],
)
def test_parquet_files_refused(tmp_path: Path, column: str, values: pa.Array, problem: str) -> None:
    columns = {"record_date": pa.array(["2015/1/1"]), "user_id": pa.array([1]), "power_consumption": pa.array([1])}
    if column not in columns:
        del columns["power_consumption"]
    delivery = land_table(tmp_path / "a.parquet", pa.table(columns | {column: values}))
    with pytest.raises(FileFault) as fault:
        list(read_delivery(delivery, mapping(READINGS)))
    assert problem in fault.value.problem


def test_a_file_that_has_gone(tmp_path: Path) -> None:
    with pytest.raises(FileFault, match="does not exist"):
        list(read_delivery(Delivery(1, "meter_readings", str(tmp_path / "a.csv"), "", KNOWN_AT), mapping(READINGS)))


def test_a_url_is_read(tmp_path: Path) -> None:
    land(tmp_path / "a.csv", HEADER + "2015/1/1,1,1\n")
    url = (tmp_path / "a.csv").as_uri()
    assert read(Delivery(1, "meter_readings", url, "", KNOWN_AT), mapping(READINGS)).rows.num_rows == 1


# --- the two times -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("%Y%m%d", "readings_20150131.csv"),
        ("readings-%Y-%m-%d", "readings-2015-1-31.csv.gz"),
        (r"_(?P<date>\d{8})_", "r_20150131_v2.csv"),
        (r"(?P<year>\d{4})y(?P<month>\d+)m(?P<day>\d+)", "r_2015y1m31.csv"),
    ],
)
def test_the_day_in_a_name(pattern: str, name: str) -> None:
    assert file_date(pattern, f"/20990101/{name}") == date(2015, 1, 31)


@pytest.mark.parametrize("name", ["readings.csv", "r_120150131.csv", "r_20150231.csv"])
def test_a_name_without_a_day(tmp_path: Path, name: str) -> None:
    delivery = land(tmp_path / name, HEADER)
    with pytest.raises(FileFault, match="its name holds no day as '%Y%m%d'"):
        list(read_delivery(delivery, mapping(READINGS, revision={"file_date": "%Y%m%d"})))


def test_when_a_delivery_became_known() -> None:
    modified = datetime(2015, 2, 1, 3, tzinfo=UTC)
    assert delivery_known_at(mapping(READINGS), "/x.csv", modified) == modified
    dated = mapping(READINGS, known_at={"file_date": "%Y%m%d"}, time_zone="Asia/Shanghai")
    assert delivery_known_at(dated, "/x_20150201.csv", modified) == datetime(2015, 1, 31, 16, tzinfo=UTC)
    with pytest.raises(FileFault, match="gives no time of modification"):
        delivery_known_at(mapping(READINGS), "s3://bucket/x.csv", None)


def test_schemas_of_all_sources_carry_the_stamp() -> None:
    for source in SOURCES:
        assert accepted_schema(source).names[-2:] == ["delivery", "row"]
