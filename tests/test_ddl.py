"""The generated DuckDB statements and Parquet schemas carry what the schemas say."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas import ddl
from schemas.fields import TEXT, WH, Column, Relation
from schemas.inbound import SOURCES
from schemas.marts import FEATURES, MARTS

EVERY = [*MARTS.values(), *SOURCES.values()]
ODD = Relation(
    "odd",
    "Somebody's relation; drop it?",
    (Column("row", WH, "The row's number", "rows", key=True), Column('a"b', TEXT, 'It\'s "odd"', nullable=True)),
)


@pytest.mark.parametrize("relation", [*EVERY, ODD], ids=lambda relation: relation.name)
def test_a_table_has_the_columns_types_and_comments_of_its_schema(relation: Relation) -> None:
    with duckdb.connect() as con:
        con.execute(ddl.create_table(relation))
        for comment in ddl.comments(relation):
            con.execute(comment)
        columns = con.execute(
            "SELECT column_name, data_type, is_nullable, comment FROM duckdb_columns() WHERE NOT internal "
            "ORDER BY column_index"
        ).fetchall()
        (meaning,) = con.execute("SELECT comment FROM duckdb_tables()").fetchall()
        nothing = con.sql(f"SELECT * FROM {ddl.name(relation.name)}").to_arrow_table()
    assert columns == [(c.name, ddl.duckdb_type(c), c.nullable, ddl.describe(c)) for c in relation.columns]
    assert meaning == (relation.meaning,)
    assert nothing.schema.types == relation.schema.types


@pytest.mark.parametrize("relation", [*EVERY, ODD], ids=lambda relation: relation.name)
def test_a_view_of_nothing_has_types_and_comments(relation: Relation) -> None:
    with duckdb.connect() as con:
        con.execute(f"CREATE VIEW {ddl.name(relation.name)} AS {ddl.select_nothing(relation)}")
        for comment in ddl.comments(relation, "VIEW"):
            con.execute(comment)
        comments = con.execute(
            "SELECT comment FROM duckdb_columns() WHERE NOT internal ORDER BY column_index"
        ).fetchall()
        nothing = con.sql(f"SELECT * FROM {ddl.name(relation.name)}").to_arrow_table()
    assert comments == [(ddl.describe(column),) for column in relation.columns]
    assert nothing.num_rows == 0
    assert nothing.schema.types == relation.schema.types


@pytest.mark.parametrize("relation", EVERY, ids=lambda relation: relation.name)
def test_meaning_unit_key_and_privacy_reach_the_parquet_file(relation: Relation, tmp_path: Path) -> None:
    schema = ddl.parquet_schema(relation)
    pq.write_table(schema.empty_table(), tmp_path / "file.parquet")
    read = pq.read_schema(tmp_path / "file.parquet")
    assert read.metadata[b"wattier.relation"] == relation.name.encode()
    assert read.metadata[b"wattier.meaning"] == relation.meaning.encode()
    for column in relation.columns:
        metadata = read.field(column.name).metadata
        assert metadata.items() >= column.field().metadata.items()
        assert read.field(column.name).nullable == column.nullable


def test_the_unit_of_one_column_in_all_three_places(tmp_path: Path) -> None:
    assert 'COMMENT ON COLUMN "features"."wh_7d" IS \'Energy over the 7 days up to the service day [Wh]\'' in (
        ddl.comments(FEATURES)
    )
    assert '"wh_7d" BIGINT NOT NULL' in ddl.create_table(FEATURES)
    assert ddl.parquet_schema(FEATURES).field("wh_7d").metadata[b"unit"] == b"Wh"


def test_an_arrow_type_without_duckdb_type_is_refused() -> None:
    with pytest.raises(KeyError):
        ddl.duckdb_type(Column("x", pa.float64(), "A float has no place here"))
