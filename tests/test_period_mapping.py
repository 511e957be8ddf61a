"""Interval energy by period, days in several columns and rounding, by mapping alone."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
import yaml

from schemas.errors import ConfigError
from schemas.inbound import PERIODS
from schemas.mapping import parse_sources
from transforms.kernels.files import read_delivery
from transforms.kernels.messages import decode_messages
from transforms.kernels.parse import Delivery

TWO_RATES = """
meter_readings:
  files: "*.csv"
  topics: readings
  columns:
    meter_id: m
    service_date: {columns: [y, mo, d], format: "%Y-%m-%d"}
    peak_wh: {column: high, unit: kWh, round: half_up}
    valley_wh: {column: low, unit: kWh, round: half_up}
"""
COLUMNS = {"meter_id": "m", "service_date": {"column": "d", "format": "%Y-%m-%d"}}


def mapping(text=TWO_RATES):
    return parse_sources(yaml.safe_load(text), "w")["meter_readings"]


def told(rows):
    return [
        (row["meter_id"], f"{row['service_date']}", row["energy_wh"], row["peak_wh"], row["valley_wh"])
        for row in rows.to_pylist()
    ]


def read(tmp_path, text):
    path = tmp_path / "rows.csv"
    path.write_text(text)
    (block,) = read_delivery(Delivery(1, "meter_readings", str(path), "", datetime(2026, 6, 1, tzinfo=UTC)), mapping())
    assert block.rows_read == block.rows.num_rows + block.rejects.num_rows
    return block


def test_the_energy_of_a_day_is_the_sum_of_its_periods(tmp_path):
    block = read(
        tmp_path,
        "m,y,mo,d,high,low\n"
        "a,2026,3,1,1.0004,2\n"
        "a,2026,03,02,9.64000000000001,0.0005\n"
        "a,2026,3,3,,7\n"  # one period is not told: it adds nothing
        "a,2026,3,4,,\n"
        "a,2026,2,30,1,1\n"
        "a,2026,3,6,-1,1\n"
        "a,2026,3,7,274000000,274000000\n",  # each is a possible day, both together are none
    )
    assert told(block.rows) == [
        ("a", "2026-03-01", 3_000, 1_000, 2_000),
        ("a", "2026-03-02", 9_641, 9_640, 1),
        ("a", "2026-03-03", 7_000, None, 7_000),
    ]
    assert [(r["row"], r["column"], r["value"], r["reason"]) for r in block.rejects.to_pylist()] == [
        (4, "energy_wh", None, "missing_value"),
        (5, "service_date", "2026-2-30", "bad_date"),
        (6, "peak_wh", "-1", "out_of_range"),
        (7, "energy_wh", None, "out_of_range"),
    ]


def test_messages_say_the_same():
    message = json.dumps({"m": "a", "y": 2026, "mo": 3, "d": 1, "high": "1.0004", "low": 2}).encode()
    block = decode_messages([message], [7], [1_780_000_000_000], mapping(), topic="readings", partition=0)
    assert told(block.rows) == [("a", "2026-03-01", 3_000, 1_000, 2_000)]


def test_a_total_that_is_delivered_stands(tmp_path):
    text = TWO_RATES + "    energy_wh: {column: all, unit: kWh}\n"
    path = tmp_path / "rows.csv"
    path.write_text("m,y,mo,d,high,low,all\na,2026,3,1,1,2,4\n")
    (block,) = read_delivery(
        Delivery(1, "meter_readings", str(path), "", datetime(2026, 6, 1, tzinfo=UTC)), mapping(text)
    )
    assert told(block.rows) == [("a", "2026-03-01", 4_000, 1_000, 2_000)]
    assert not mapping(text).sums_periods


def test_a_maximum_demand_is_read_in_watts(tmp_path):
    text = TWO_RATES + "    max_demand_w: {column: p, unit: kW}\n"
    path = tmp_path / "rows.csv"
    path.write_text(
        "m,y,mo,d,high,low,p\na,2026,3,1,1,2,0.75\na,2026,3,2,1,2,\na,2026,3,3,1,2,0.7505\na,2026,3,4,1,2,137438953.473\n"
    )
    delivery = Delivery(1, "meter_readings", str(path), "", datetime(2026, 6, 1, tzinfo=UTC))
    (block,) = read_delivery(delivery, mapping(text))
    assert block.rows["max_demand_w"].to_pylist() == [750, None]
    assert [(r["row"], r["column"], r["reason"]) for r in block.rejects.to_pylist()] == [
        (3, "max_demand_w", "too_many_digits"),
        (4, "max_demand_w", "out_of_range"),
    ]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({}, "meter_readings also needs energy_wh"),
        ({"reverse_wh": {"column": "r", "unit": "kWh"}}, "meter_readings also needs energy_wh"),
        (
            {"peak_wh": {"columns": ["a", "b"], "unit": "kWh"}},
            "columns.peak_wh.columns: .*: peak_wh takes column, empty, unit",
        ),
        (
            {"peak_wh": {"column": "p", "unit": "kWh", "round": "down"}},
            "columns.peak_wh.round: 'down': must be 'half_up'",
        ),
        (
            {"service_date": {"column": "d", "columns": ["y", "d"]}},
            "needs either `column`, or `columns` that make a day",
        ),
    ],
)
def test_what_is_wrong_is_named(columns, says):
    with pytest.raises(ConfigError, match=says):
        parse_sources({"meter_readings": {"files": "x.csv", "columns": {**COLUMNS, **columns}}}, "w")


def test_every_period_alone_makes_a_day():
    for period in PERIODS:
        some = {**COLUMNS, f"{period}_wh": {"column": "e", "unit": "kWh"}}
        assert parse_sources({"meter_readings": {"files": "x.csv", "columns": some}}, "w")[
            "meter_readings"
        ].sums_periods
