"""marts.duckdb: typed, commented, swapped in one piece, and blind to files it was not given."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.marts import ACCEPTED, GENERATION, Publication, derive
from schemas import ddl
from schemas.fields import Relation
from schemas.marts import CUSTOMER_TIERS, CUSTOMER_TIERS_CURRENT, DAILY_CONSUMPTION, MARTS, SERVICE_DAYS

FIRST = date(2016, 3, 1)
PUBLICATION = Publication(3, FIRST, "2016-03-02T04:00:00Z", "0.1.0")


def rows(relation: Relation, *given: dict[str, object]) -> pa.Table:
    """Rows of a relation: what is not given is 0, the first allowed value, or some text or day."""

    def value(name: str, type_: pa.DataType) -> object:
        column = relation[name]
        if column.nullable:
            return None
        if pa.types.is_date(type_):
            return FIRST
        if pa.types.is_integer(type_):
            return column.minimum or 0
        return column.values[0] if column.values else ("x" if type_ == pa.string() else False)

    full = [{c.name: row.get(c.name, value(c.name, c.type)) for c in relation.columns} for row in given]
    return pa.Table.from_pylist(full, schema=ddl.parquet_schema(relation))


def write(path: Path, table: pa.Table) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return str(path)


def query(path: Path, sql: str) -> list[tuple[object, ...]]:
    with duckdb.connect(str(path), read_only=True) as con:
        return con.execute(sql).fetchall()


def test_every_mart_exists_typed_and_commented(tmp_path: Path) -> None:
    path = tmp_path / "marts.duckdb"
    derive(path, PUBLICATION, {"features": [], "customer_tiers": [], "customer_tiers_current": []}, {})
    for relation in [*MARTS.values(), GENERATION]:
        found = query(
            path,
            "SELECT column_name, data_type, comment FROM duckdb_columns() "
            f"WHERE table_name = {ddl.literal(relation.name)} ORDER BY column_index",
        )
        assert found == [(c.name, ddl.duckdb_type(c), ddl.describe(c)) for c in relation.columns]
    assert query(path, "SELECT comment FROM duckdb_views() WHERE view_name = 'features'") == [
        (MARTS["features"].meaning,)
    ]
    assert query(path, "FROM wattier_generation") == [(3, FIRST, "2016-03-02T04:00:00Z", "0.1.0")]
    assert [entry.name for entry in tmp_path.iterdir()] == ["marts.duckdb"]


def test_views_read_the_listed_files_and_no_others(tmp_path: Path) -> None:
    path = tmp_path / "marts.duckdb"
    given = write(tmp_path / "service_date=1999-01-01" / "a.parquet", rows(DAILY_CONSUMPTION, {"energy_wh": 7}))
    write(tmp_path / "service_date=1999-01-01" / "b.parquet", rows(DAILY_CONSUMPTION, {"energy_wh": 8}))
    relative = str(Path(given).relative_to(tmp_path))
    for file in (given, relative):
        derive(path, PUBLICATION, {"daily_consumption": [file]}, {})
        assert query(path, "SELECT service_date, energy_wh FROM daily_consumption") == [(FIRST, 7)]


def test_views_work_over_thousands_of_files(tmp_path: Path) -> None:
    write(tmp_path / "0.parquet", rows(DAILY_CONSUMPTION, {"energy_wh": 2**52 + 1}))
    for number in range(1, 3000):
        (tmp_path / f"{number}.parquet").hardlink_to(tmp_path / "0.parquet")
    path = tmp_path / "marts.duckdb"
    derive(path, PUBLICATION, {"daily_consumption": [f"{number}.parquet" for number in range(3000)]}, {})
    assert query(path, "SELECT sum(energy_wh) FROM daily_consumption") == [(3000 * (2**52 + 1),)]


def test_a_view_begins_where_retention_says(tmp_path: Path) -> None:
    path = tmp_path / "marts.duckdb"
    days = [{"service_date": FIRST - timedelta(1)}, {"service_date": FIRST}]
    file = write(tmp_path / "a.parquet", rows(DAILY_CONSUMPTION, *days))
    for files, shown in (([file], [(FIRST,)]), ([], [])):
        derive(path, PUBLICATION, {"daily_consumption": files}, {}, since={"daily_consumption": FIRST})
        assert query(path, "SELECT service_date FROM daily_consumption") == shown


def test_tier_history_is_the_closed_rows_and_the_current(tmp_path: Path) -> None:
    closed = rows(CUSTOMER_TIERS, {"account_id": "a", "valid_to": FIRST, "tier": "high"})
    current = rows(CUSTOMER_TIERS_CURRENT, {"account_id": "a", "valid_from": FIRST + timedelta(1), "tier": "low_small"})
    path = tmp_path / "marts.duckdb"
    for files in ([write(tmp_path / "closed.parquet", closed)], []):
        current_file = write(tmp_path / "current.parquet", current)
        derive(path, PUBLICATION, {"customer_tiers": files, "customer_tiers_current": [current_file]}, {})
        found = query(path, "SELECT account_id, valid_from, valid_to, tier FROM customer_tiers ORDER BY valid_from")
        history = [("a", FIRST, FIRST, "high"), ("a", FIRST + timedelta(1), None, "low_small")]
        assert found == (history if files else history[1:])


def test_small_marts_are_tables_and_survive_their_source(tmp_path: Path) -> None:
    path = tmp_path / "marts.duckdb"
    day = rows(SERVICE_DAYS, {"meters_expected": 2**53 + 1, "coverage_ppm": None})
    derive(path, PUBLICATION, {}, {"service_days": day.select(list(reversed(day.column_names)))})
    assert query(path, "SELECT service_date, meters_expected, coverage_ppm FROM service_days") == [
        (FIRST, 2**53 + 1, None)
    ]
    assert query(path, "SELECT table_name FROM duckdb_tables() WHERE table_name = 'service_days'") == [
        ("service_days",)
    ]


def test_the_accepted_log_is_readable(tmp_path: Path) -> None:
    path = tmp_path / "marts.duckdb"
    readings = ACCEPTED["accepted_readings"]
    file = write(tmp_path / "r.parquet", rows(readings, {"meter_id": "m", "delivery": 4, "row": 9}))
    derive(path, PUBLICATION, {}, {}, {"accepted_readings": [file], "accepted_meters": []})
    assert query(path, 'SELECT meter_id, delivery, "row" FROM accepted_readings') == [("m", 4, 9)]
    assert query(path, "FROM accepted_meters") == []


def test_a_reader_keeps_the_old_file_and_the_next_sees_the_new(tmp_path: Path) -> None:
    path = tmp_path / "marts.duckdb"
    (tmp_path / ".marts.duckdb.2.tmp").write_text("left by a run that died")
    derive(path, PUBLICATION, {}, {})
    held = path.open("rb")
    with held:
        before = path.stat().st_ino
        derive(path, Publication(4, None, "2016-03-03T04:00:00Z", "0.1.0"), {}, {})
        assert path.stat().st_ino != before
    assert query(path, "SELECT generation, through FROM wattier_generation") == [(4, None)]
    assert [entry.name for entry in tmp_path.iterdir()] == ["marts.duckdb"]


def test_a_failed_derivation_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "marts.duckdb"
    derive(path, PUBLICATION, {}, {})
    with pytest.raises(duckdb.Error):
        derive(path, Publication(4, FIRST, "", ""), {"features": ["missing.parquet"]}, {})
    assert query(path, "SELECT generation FROM wattier_generation") == [(3,)]
    derive(path, Publication(4, FIRST, "", ""), {}, {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["marts.duckdb"]


def test_names_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such mart: feature;"):
        derive(tmp_path / "m", PUBLICATION, {"feature": []}, {})
    with pytest.raises(ValueError, match="given both as files and as a table: rejects"):
        derive(tmp_path / "m", PUBLICATION, {"rejects": []}, {"rejects": MARTS["rejects"].schema.empty_table()})
