"""Extracts of registers by mapping alone: wide rows as a state grid delivers them, and OBIS codes one a row."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from schemas.errors import ConfigError
from schemas.inbound import INDEX_COLUMNS
from schemas.mapping import parse_sources
from transforms.kernels.files import read_delivery
from transforms.kernels.parse import Delivery

WIDE = """
register_readings:
  files: "E_MP_DAY_READ*.csv"
  columns:
    meter_id: METER_ID
    service_date: {column: DATADATE, format: "%Y%m%d"}
    index_total: {column: R, unit: kWh}
    index_sharp: {column: R1, unit: kWh}
    index_peak: {column: R2, unit: kWh}
    index_flat: {column: R3, unit: kWh}
    index_valley: {column: R4, unit: kWh}
    max_demand: {column: MD, unit: kW}
    quality: {column: STATUS, map: {"0": actual, "1": estimated}}
"""
OBIS = """
register_readings:
  files: "obis*.csv"
  columns:
    meter_id: meter
    service_date: {column: read_at, format: "%Y-%m-%d %H:%M:%S", shift_days: -1}
    register:
      column: obis
      map: {"1.8.0": total, "1.8.1": peak, "1.8.2": valley, "2.8.0": reverse, "1.6.0": max_demand, "3.8.0": null}
    index: {column: value, unit: kWh}
"""


def read(tmp_path: Path, mapping: str, text: str):
    """Accepted rows, as (meter, day, {register: index}, quality), and rejects as (row, column, value, reason)."""
    path = tmp_path / "rows.csv"
    path.write_text(text)
    parsed = parse_sources(yaml.safe_load(mapping), "wattier.yaml")["register_readings"]
    delivery = Delivery(1, "register_readings", str(path), "", datetime(2026, 6, 1, tzinfo=UTC))
    (block,) = read_delivery(delivery, parsed)
    rows = [
        (
            row["meter_id"],
            row["service_date"].isoformat(),
            {name: row[column] for name, column in INDEX_COLUMNS.items() if row[column] is not None},
            row["quality"],
        )
        for row in block.rows.to_pylist()
    ]
    rejects = [(r["row"], r["column"], r["value"], r["reason"]) for r in block.rejects.to_pylist()]
    assert block.rows_read == len(rows) + len(rejects)
    return rows, rejects


def test_wide_rows(tmp_path):
    rows, rejects = read(
        tmp_path,
        WIDE,
        "METER_ID,DATADATE,R,R1,R2,R3,R4,MD,STATUS\n"
        "m1,20260301,123.45,1.0001,2,3,4.000001,0.3825,0\n"
        "m1,20260302,124,,2,3,,,1\n"
        "m1,20260303,,,,,,,0\n"
        "m1,20260304,1.0000001,,,,,,0\n"
        "m1,20260305,-1,,,,,,0\n"
        "m1,20260306,,,,,,1.25,0\n"
        "m1,20260307,1,,,,,-1,0\n",
    )
    whole = {"total": 123_450_000, "sharp": 1_000_100, "peak": 2_000_000, "flat": 3_000_000, "valley": 4_000_001,
             "max_demand": 382_500}  # fmt: skip
    assert rows == [
        ("m1", "2026-03-01", whole, "actual"),
        ("m1", "2026-03-02", {"total": 124_000_000, "peak": 2_000_000, "flat": 3_000_000}, "estimated"),
        ("m1", "2026-03-06", {"max_demand": 1_250_000}, "actual"),
    ]
    assert rejects == [
        (3, "index_total", "", "missing_value"),
        (4, "index_total", "1.0000001", "too_many_digits"),
        (5, "index_total", "-1", "out_of_range"),
        (7, "max_demand", "-1", "out_of_range"),
    ]


def test_when_a_register_was_read_is_kept_beside_the_day_that_it_closes(tmp_path):
    """The service day is the day before the midnight nearby; the moment is the clock's, in UTC. A day alone has none."""
    sources = yaml.safe_load(OBIS)
    body = sources["register_readings"]
    body["time_zone"] = "Asia/Shanghai"
    body["columns"]["service_date"]["time_of_day"] = {"within_minutes": 30}
    rows = "meter,read_at,obis,value\nm1,2026-03-02 00:07:00,1.8.0,10\nm1,2026-03-02 23:55:10,1.8.0,11\n"
    assert moments(tmp_path, sources, rows) == [
        ("2026-03-01", "2026-03-01 16:07:00"), ("2026-03-02", "2026-03-02 15:55:10")
    ]  # fmt: skip
    body["columns"]["service_date"]["format"] = "%Y-%m-%d"
    assert moments(tmp_path, sources, rows.replace(" 00:07:00", "").replace(" 23:55:10", "")) == [
        ("2026-03-01", "None")
    ] * 2  # fmt: skip


def moments(tmp_path, sources, text):
    """Service days and moments of accepted rows."""
    path = tmp_path / "rows.csv"
    path.write_text(text)
    delivery = Delivery(1, "register_readings", str(path), "", datetime(2026, 6, 1, tzinfo=UTC))
    (block,) = read_delivery(delivery, parse_sources(sources, "w")["register_readings"])
    return [(f"{row['service_date']}", f"{row['read_at']}") for row in block.rows.to_pylist()]


def multipliers(tmp_path, mapping, text):
    """Multipliers of accepted rows, and rejects."""
    path = tmp_path / "rows.csv"
    path.write_text(text)
    sources = yaml.safe_load(mapping)
    sources["register_readings"]["columns"]["multiplier"] = {"column": "T_FACTOR", "unit": "times"}
    delivery = Delivery(1, "register_readings", str(path), "", datetime(2026, 6, 1, tzinfo=UTC))
    (block,) = read_delivery(delivery, parse_sources(sources, "wattier.yaml")["register_readings"])
    rejects = [(r["row"], r["column"], r["value"], r["reason"]) for r in block.rejects.to_pylist()]
    return block.rows["multiplier"].to_pylist(), rejects


def test_a_multiplier_beside_wide_rows(tmp_path):
    factors = ("20", "", "67108863", "67108864", "0", "-1", "2,5", "x", "1.5", "30.0")
    told, rejects = multipliers(
        tmp_path,
        WIDE,
        "METER_ID,DATADATE,R,R1,R2,R3,R4,MD,STATUS,T_FACTOR\n"
        + "".join(f'm{n},20260301,1,,,,,,0,"{factor}"\n' for n, factor in enumerate(factors))
        + "m,20260301,,,,,,,0,20\n",
    )
    assert told == [20, None, 67_108_863, 30]
    assert rejects == [
        *((n, "multiplier", factor, "out_of_range") for n, factor in ((4, "67108864"), (5, "0"), (6, "-1"))),
        *((n, "multiplier", factor, "bad_decimal") for n, factor in ((7, "2,5"), (8, "x"))),
        (9, "multiplier", "1.5", "too_many_digits"),
        (11, "index_total", "", "missing_value"),
    ]


def test_a_multiplier_beside_one_register_a_row(tmp_path):
    told, rejects = multipliers(
        tmp_path,
        OBIS,
        "meter,read_at,obis,value,T_FACTOR\n"
        "m1,2026-03-02 00:00:00,1.8.0,10,20\n"
        "m1,2026-03-02 00:00:00,1.8.2,4.5,\n"
        "m1,2026-03-02 00:00:00,3.8.0,7,20\n"
        "m1,2026-03-02 00:00:00,3.8.0,7,x\n"
        "m1,2026-03-02 00:00:00,1.8.0,10,x\n",
    )
    assert told == [20, None, None, None]  # a register that is not wanted tells nothing
    assert rejects == [(5, "multiplier", "x", "bad_decimal")]


def test_one_register_a_row(tmp_path):
    rows, rejects = read(
        tmp_path,
        OBIS,
        "meter,read_at,obis,value\n"
        "m1,2026-03-02 00:00:00,1.8.0,10\n"
        "m1,2026-03-02 00:00:00,1.8.2,4.5\n"
        "m1,2026-03-02 00:00:00,1.6.0,2.75\n"
        "m1,2026-03-02 00:00:00,3.8.0,7\n"
        "m1,2026-03-02 00:00:00,9.9.9,7\n"
        "m1,2026-03-02 00:00:00,2.8.0,\n"
        "m1,2026-03-02 00:07:00,1.8.0,10\n",
    )
    assert rows == [
        ("m1", "2026-03-01", {"total": 10_000_000}, "actual"),
        ("m1", "2026-03-01", {"valley": 4_500_000}, "actual"),
        ("m1", "2026-03-01", {"max_demand": 2_750_000}, "actual"),
        ("m1", "2026-03-01", {}, "actual"),
    ]
    assert rejects == [
        (5, "register", "9.9.9", "unknown_code"),
        (6, "index", "", "missing_value"),
        (7, "service_date", "2026-03-02 00:07:00", "bad_date"),
    ]


@pytest.mark.parametrize("told", ["", "  ", "-"])
def test_a_row_that_tells_no_register_is_rejected(tmp_path, told):
    """But where the mapping says that no code is a register that is not wanted. A hyphen stands for nothing here."""
    rows = f"meter,read_at,obis,value\nm1,2026-03-02 00:00:00,{told},garbage\n"
    mapping = OBIS.replace("column: obis\n", 'column: obis\n      empty: ["-"]\n')
    assert read(tmp_path, mapping, rows) == ([], [(1, "register", told, "missing_value")])
    on_purpose = mapping.replace('"3.8.0": null', '"3.8.0": null, "": null')
    assert read(tmp_path, on_purpose, rows) == ([("m1", "2026-03-01", {}, "actual")], [])
    total = mapping.replace('"3.8.0": null', '"3.8.0": null, "": total')
    assert read(tmp_path, total, rows.replace("garbage", "7"))[0] == [
        ("m1", "2026-03-01", {"total": 7_000_000}, "actual")
    ]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"index": None}, "also needs index"),
        (
            {"index_peak": {"column": "p", "unit": "kWh"}},
            "columns.index_peak: 'index_peak': register_readings has the columns",
        ),
        ({"register": {"column": "o", "map": {"1": "noon"}}}, "columns.register.map.1: 'noon': must be total, sharp,"),
        ({"index": {"column": "v"}}, "say the unit the source delivers: one of mWh, Wh, kWh, MWh"),
        ({"register": None, "index": None}, "also needs index_total, or register and index,"),
    ],
)
def test_what_does_not_fit_is_refused(change, says):
    sources = yaml.safe_load(OBIS)
    columns = sources["register_readings"]["columns"]
    columns |= change
    for name in [name for name, value in columns.items() if value is None]:
        del columns[name]
    with pytest.raises(ConfigError) as refusal:
        parse_sources(sources, "wattier.yaml")
    assert says in str(refusal.value)


WITHOUT_TOTAL = (
    "must map index_total, as the energy of a day is that of the total; where meters show none, deliver the energy of "
)
WITHOUT_TOTAL += "days as `meter_readings`"


@pytest.mark.parametrize(
    ("mapping", "register", "says"),
    [
        (WIDE.replace("    index_total: {column: R, unit: kWh}\n", ""), None, f": {WITHOUT_TOTAL}"),
        (
            OBIS,
            {"column": "obis", "map": {"1.8.1": "peak", "1.8.2": "valley", "3.8.0": None}},
            "must map a code to total",
        ),
        (OBIS, {"constant": "peak"}, "sources.register_readings.columns.register: 'peak': must map a code to total"),
        (OBIS, {"constant": "total"}, ""),
        (OBIS, "register", ""),  # the codes are the registers' own names
    ],
)
def test_registers_without_a_total_are_refused(mapping, register, says):
    """Periods alone give no energy: every day would be 0, and none covered."""
    sources = yaml.safe_load(mapping)
    if register:
        sources["register_readings"]["columns"]["register"] = register
    if not says:
        parse_sources(sources, "wattier.yaml")
        return
    with pytest.raises(ConfigError) as refusal:
        parse_sources(sources, "wattier.yaml")
    assert says in str(refusal.value)
    assert str(refusal.value).startswith("wattier.yaml: sources.register_readings.columns")
    assert refusal.value.exit_code == 2
