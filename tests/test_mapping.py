"""Source mappings: what is accepted, and that a refusal names the path, the value and what is allowed."""

from __future__ import annotations

import pickle
from datetime import date
from typing import Any

import pytest
import yaml

from schemas.dateformat import date_pattern
from schemas.errors import ConfigError
from schemas.inbound import SOURCES
from schemas.mapping import UNITS, kind_of, parse_sources

TIANCHI = """
meter_readings:
  files: tianchi/*.csv.gz
  columns:
    meter_id: user_id
    service_date: {column: record_date, format: "%Y/%m/%d"}
    energy_wh: {column: power_consumption, unit: kWh}
  time_zone: Asia/Shanghai
  revision: {file_date: "_%Y%m%d"}
  dates: {min: 2015-01-01}
"""

COLUMNS: dict[str, Any] = {"meter_id": "m", "service_date": "d", "energy_wh": {"column": "e", "unit": "kWh"}}


def test_the_real_layout_needs_ten_lines() -> None:
    mapping = parse_sources(yaml.safe_load(TIANCHI), "wattier.yaml")["meter_readings"]
    assert mapping.files == ("tianchi/*.csv.gz",)
    assert mapping.scale("energy_wh") == 3
    assert mapping.dates.min == date(2015, 1, 1)
    quality = mapping.column("quality")
    assert quality is not None
    assert quality.constant == "actual"
    assert pickle.loads(pickle.dumps(mapping)) == mapping


def test_event_days_end_soon_and_reference_days_reach_far() -> None:
    mapping = parse_sources({"meter_readings": {"files": "x.csv", "columns": COLUMNS}}, "w")["meter_readings"]
    delivered = date(2020, 5, 1)
    assert mapping.day_bounds("service_date", delivered) == (date(2000, 1, 1), date(2020, 5, 2))
    assert mapping.day_bounds("due_date", delivered)[1].year == 2120
    assert mapping.day_bounds("opened_on", delivered)[0] == date(1900, 1, 1)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"fils": "x"}, "meter_readings.fils: 'x': no such key; there are files, format,"),
        ({"files": []}, "meter_readings.files: []: must be patterns relative to the landing folder"),
        ({"files": "../x.csv"}, "meter_readings.files: '../x.csv': must be patterns relative"),
        ({"format": "xlsx"}, "meter_readings.format: 'xlsx': must be 'auto', 'csv', 'csv.gz' or 'parquet'"),
        ({"delimiter": "::"}, "meter_readings.delimiter: '::': must be one ASCII character"),
        ({"encoding": "klingon"}, "meter_readings.encoding: 'klingon': no such encoding; for example utf-8, gb18030"),
        ({"decimal": "'"}, "meter_readings.decimal: \"'\": must be '.' or ','"),
        ({"time_zone": "Mars"}, "meter_readings.time_zone: 'Mars': no such time zone; use a name such as"),
        ({"revision": {"file_date": "%Q"}}, "meter_readings.revision.file_date: '%Q': takes each of %Y %m %d"),
        ({"revision": {"file_date": "(?P<day>x)"}}, "needs a group named date, or groups named year, month and day"),
        ({"revision": {"file_date": "(?P<date>"}}, "is no regular expression"),
        ({"revision": {"column": "r", "file_date": "%Y%m%d"}}, "must be `delivery`, `{column: NAME}` or"),
        ({"known_at": {"column": "r"}}, "must be `modified` or `{file_date: FORMAT}`"),
        ({"columns": {"meter_id": "m"}}, "columns: [\"meter_id\"]: meter_readings also needs service_date, energy_wh"),
        ({"columns": {**COLUMNS, "revision": "r"}}, "columns.revision: 'r': say it as `revision: {column: NAME}`"),
        ({"columns": {**COLUMNS, "kwh": "r"}}, "columns.kwh: 'kwh': meter_readings has the columns meter_id,"),
        ({"columns": {**COLUMNS, "energy_wh": "e"}}, "columns.energy_wh.unit: say the unit"),
        ({"columns": {**COLUMNS, "energy_wh": {"column": "e", "unit": "kwh"}}}, "'kwh': say the unit the source"),
        ({"columns": {**COLUMNS, "meter_id": {"column": "m", "unit": "kWh"}}}, "meter_id.unit: 'kWh': meter_id takes"),
        ({"columns": {**COLUMNS, "meter_id": {"colum": "m"}}}, "columns.meter_id.colum: 'm': no such key; there are"),
        ({"columns": {**COLUMNS, "meter_id": {}}}, "columns.meter_id: {}: needs either `column` or `constant`"),
        ({"columns": {**COLUMNS, "service_date": {"column": "d", "format": "%Y"}}}, "must name the year, month"),
        ({"columns": {**COLUMNS, "service_date": {"constant": "today"}}}, "'today': must be a day such as 2015-01-31"),
        ({"columns": {**COLUMNS, "quality": {"column": "q", "map": {0: "good"}}}}, "map.0: 'good': must be actual"),
        ({"columns": {**COLUMNS, "quality": {"column": "q", "map": {True: "actual"}}}}, "put quotes around yes, no"),
        ({"columns": {**COLUMNS, "quality": {"constant": "good"}}}, "columns.quality.constant: 'good': must be one of"),
        ({"columns": {**COLUMNS, "energy_wh": {"constant": -1}}}, "constant: -1: must be a whole number in Wh"),
        ({"columns": {**COLUMNS, "quality": {"constant": "actual", "map": {"0": "actual"}}}}, "constant takes no map"),
    ],
)  # fmt: skip
def test_a_refusal_names_path_value_and_what_is_allowed(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_sources({"meter_readings": {"files": "x.csv", "columns": COLUMNS, **change}}, "wattier.yaml")
    assert str(refused.value).startswith("wattier.yaml: sources.meter_readings.")
    assert says in str(refused.value)


def test_every_fault_of_a_configuration_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as refused:
        parse_sources({"readings": {}, "meters": [], "tariffs": {"files": "x.csv"}}, "w.yaml")
    paths = [line.split(":")[1].strip() for line in str(refused.value).splitlines()]
    assert paths == ["sources.readings", "sources.meters", "sources.tariffs.columns"]
    with pytest.raises(ConfigError, match="must be a mapping from source to how it is read"):
        parse_sources(None, "w.yaml")


def test_every_number_column_has_units() -> None:
    numbers = [c for relation in SOURCES.values() for c in relation.columns if kind_of(c) == "number"]
    assert {column.unit for column in numbers if column.name != "revision"} == set(UNITS)


@pytest.mark.parametrize("wrong", ["", "%Y-%m", "%Y-%m-%d %d", "%Y-%m-%D", "%Y-%m-%d%"])
def test_date_formats_are_checked(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"must name the year|takes each of"):
        date_pattern(wrong)
