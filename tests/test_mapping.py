"""Source mappings: what is accepted, and that a refusal names the path, the value and what is allowed."""

from __future__ import annotations

import pickle
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.config import load_config
from schemas.dateformat import date_pattern
from schemas.errors import ConfigError
from schemas.inbound import SOURCES
from schemas.mapping import UNITS, kind_of, parse_sources
from schemas.policy import default_policy_text

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
        ({"topics": "a b"}, "meter_readings.topics[0]: 'a b': must be a topic's name: letters, digits"),
        ({"topics": []}, "meter_readings.topics: []: must be the names of topics, each once"),
        ({"topics": ["a", "a"]}, "must be the names of topics, each once, such as meter-readings"),
        ({"topics": "a", "payload": "avro"}, "meter_readings.payload: 'avro': must be 'json' or 'arrow'"),
        ({"payload": "json"}, "meter_readings.payload: 'json': says how messages are read; name `topics`, too"),
        ({"version": {"field": "v", "equals": 1}}, "says how messages are read; name `topics`, too"),
        ({"topics": "a", "version": {"field": "v", "equals": True}}, "meter_readings.version.equals: true: must be"),
        ({"topics": "a", "version": {"feild": "v"}}, "version.feild: 'v': no such key; there are field, equals"),
        ({"topics": "a", "revision": {"file_date": "%Y%m%d"}}, "revision.file_date: '%Y%m%d': a message has no file's"),
        ({"topics": "a", "columns": {**COLUMNS, "quality": "m.q"}}, "columns.meter_id: 'm': is an object in the messages"),
        ({"files": []}, "meter_readings.files: []: must be patterns relative to the landing folder"),
        ({"files": "../x.csv"}, "meter_readings.files: '../x.csv': must be patterns relative"),
        ({"format": "xlsx"}, "meter_readings.format: 'xlsx': must be 'auto', 'csv', 'csv.gz', 'parquet', 'nem12'"),
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
        ({"columns": {**COLUMNS, "meter_id": {}}}, "columns.meter_id: {}: needs either `column`, or `columns` that make"),
        ({"columns": {**COLUMNS, "service_date": {"column": "d", "format": "%Y"}}}, "must name the year, month"),
        ({"columns": {**COLUMNS, "service_date": {"constant": "today"}}}, "'today': must be a day such as 2015-01-31"),
        ({"columns": {**COLUMNS, "quality": {"column": "q", "map": {0: "good"}}}}, "map.0: 'good': must be actual"),
        ({"columns": {**COLUMNS, "quality": {"column": "q", "map": {True: "actual"}}}}, "put quotes around yes, no"),
        ({"columns": {**COLUMNS, "service_date": {"column": "d", "time_of_day": "noon"}}}, "service_date.time_of_day"),
        ({"columns": {**COLUMNS, "service_date": {"column": "d", "time_of_day": {"within_minutes": 720}}}}, "less than or equal"),
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


def test_a_source_comes_from_files_or_topics_or_both() -> None:
    both = parse_sources({"meter_readings": {"files": "x.csv", "topics": "a", "columns": COLUMNS}}, "w")[
        "meter_readings"
    ]
    assert (both.files, both.topics, both.payload, both.version) == (("x.csv",), ("a",), "json", None)
    version = {"field": "v", "equals": 2}
    body = {"topics": ["a", "b"], "payload": "arrow", "version": version, "columns": COLUMNS}
    only = parse_sources({"meter_readings": body}, "w")["meter_readings"]
    assert (only.files, only.topics) == ((), ("a", "b"))
    assert pickle.loads(pickle.dumps(only)) == only
    with pytest.raises(
        ConfigError, match=r"^w: sources.meter_readings.files: is missing; name `files`, `topics` of Kafka"
    ):
        parse_sources({"meter_readings": {"columns": COLUMNS}}, "w")


def test_a_topic_belongs_to_one_source() -> None:
    meters = {"meter_id": "m", "installed_on": "d", "account_id": "a"}
    two = {"meter_readings": {"topics": "a", "columns": COLUMNS}, "meters": {"topics": ["b", "a"], "columns": meters}}
    with pytest.raises(ConfigError, match=r"^w: sources.meters.topics: 'a': is a topic of meter_readings already$"):
        parse_sources(two, "w")


def test_every_fault_of_a_configuration_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as refused:
        parse_sources({"readings": {}, "meters": [], "tariffs": {"files": "x.csv"}}, "w.yaml")
    paths = [line.split(":")[1].strip() for line in str(refused.value).splitlines()]
    assert paths == ["sources.readings", "sources.meters", "sources.tariffs.columns"]
    with pytest.raises(ConfigError, match="must be a mapping from source to how it is read"):
        parse_sources(None, "w.yaml")


def test_every_number_column_has_units() -> None:
    numbers = [c for relation in SOURCES.values() for c in relation.columns if kind_of(c) == "number"]
    assert {column.unit for column in numbers if column.name not in ("revision", "priority")} == set(UNITS)


LEDGER = {
    "files": "*",
    "columns": {
        "account_id": "a", "event_id": "e", "event_type": "t", "event_date": "d",
        "amount_minor": {"column": "m", "unit": "yuan"},
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("source", "change", "message"),
    [
        ("ledger_events", {"columns": LEDGER["columns"] | {"currency": "c"}}, "currency: is missing; name the one"),
        ("ledger_events", {"currency": "yuan"}, "currency"),
        ("ledger_events", {"columns": LEDGER["columns"] | {"priority": {"column": "p", "unit": "kWh"}}}, "has no unit"),
        ("ledger_events", {"columns": LEDGER["columns"] | {"late_fee_ppm": "p"}}, "one of ppm, permille, percent"),
        ("accounts", {"currency": "CNY"}, "accounts has no amounts"),
    ],
)
def test_what_a_mapping_of_money_must_say(source: str, change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_sources({source: LEDGER | change}, "w.yaml")


def test_a_currency_may_be_named_without_a_column() -> None:
    how = parse_sources({"ledger_events": LEDGER | {"currency": "CNY"}}, "w.yaml")["ledger_events"]
    assert (how.currency, how.column("currency")) == ("CNY", None)


@pytest.mark.parametrize("wrong", ["", "%Y-%m", "%Y-%m-%d %d", "%Y-%m-%D", "%Y-%m-%d%"])
def test_date_formats_are_checked(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"must name the year|takes each of"):
        date_pattern(wrong)


KAFKA = """
landing: landing
kafka:
  bootstrap_servers: broker:9092
  {change}
sources:
  meter_readings:
    topics: readings
    columns: {{meter_id: m, service_date: d, energy_wh: {{column: e, unit: kWh}}}}
"""


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("{}", ""),
        ("options: {sasl.password: '${SECRET}', enable.ssl: true, socket.timeout.ms: 5000}", ""),
        ("options: {acks: '1', sasl.password: s3cret}", "kafka.options.acks"),
        ("options: {acks: '1', sasl.password: s3cret}", "is set by Wattier itself"),
        ("options: {sasl.password: [s3cret]}", "must be text; put it in quotes"),
        ("idle_timeout_seconds: 0", "kafka.idle_timeout_seconds: 0: must be greater than or equal to 1"),
        ("max_poll_rows: many", "kafka.max_poll_rows: 'many': must be a whole number"),
        (
            "dead_letter_topic: readings",
            "sources.meter_readings.topics: 'readings': is written by Wattier, as `kafka:`",
        ),
        ("tier_changes_topic: a/b", "kafka.tier_changes_topic: 'a/b': must be a topic's name"),
        ("brokers: x", "kafka.brokers: 'x': no such key; there are bootstrap_servers, options,"),
    ],
)
def test_the_part_kafka(tmp_path: Path, change: str, says: str) -> None:
    path = tmp_path / "wattier.yaml"
    (tmp_path / "policy.yaml").write_text(default_policy_text())
    path.write_text(KAFKA.format(change="" if change == "{}" else change))
    if not says:
        kafka = load_config(path).settings.kafka
        assert kafka is not None
        assert (kafka.idle_timeout_seconds, kafka.out_of_order_days, kafka.max_poll_rows) == (30, 1, 5000)
        return
    with pytest.raises(ConfigError) as refused:
        load_config(path)
    assert says in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_topics_need_a_broker(tmp_path: Path) -> None:
    path = tmp_path / "wattier.yaml"
    (tmp_path / "policy.yaml").write_text(default_policy_text())
    path.write_text(re.sub(r"(?s)kafka:.*?sources:", "sources:", KAFKA.format(change="")))
    with pytest.raises(ConfigError, match=r"sources.meter_readings.topics: 'readings': needs the part `kafka:` with"):
        load_config(path)
