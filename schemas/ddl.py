"""DuckDB statements and Parquet schemas, generated from the relations: a unit or a meaning is written down once."""

from __future__ import annotations

from typing import Literal

import pyarrow as pa

from schemas.fields import Column, Relation

DUCKDB_TYPES: dict[pa.DataType, str] = {
    pa.string(): "VARCHAR",
    pa.date32(): "DATE",
    pa.timestamp("us"): "TIMESTAMP",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.bool_(): "BOOLEAN",
}
"""The DuckDB type of every Arrow type a relation may use."""


def name(identifier: str) -> str:
    """An identifier quoted for SQL, as some columns are named like keywords (`row`, `class`).

    >>> name('odd"name')
    '"odd""name"'
    """
    return '"' + identifier.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text quoted for SQL.

    >>> literal("the day's end")
    "'the day''s end'"
    """
    return "'" + text.replace("'", "''") + "'"


def duckdb_type(column: Column) -> str:
    """The DuckDB type of a column. Raises KeyError for an Arrow type that has none yet."""
    return DUCKDB_TYPES[column.type]


def column_names(relation: Relation) -> str:
    """The relation's columns in order, quoted, for a SELECT list."""
    return ", ".join(name(column.name) for column in relation.columns)


def create_table(relation: Relation) -> str:
    """The CREATE TABLE statement of a relation, with NOT NULL where the schema says so."""
    columns = ",\n  ".join(
        f"{name(column.name)} {duckdb_type(column)}{'' if column.nullable else ' NOT NULL'}"
        for column in relation.columns
    )
    return f"CREATE TABLE {name(relation.name)} (\n  {columns}\n)"


def select_nothing(relation: Relation) -> str:
    """A SELECT of no rows, with the relation's names and types."""
    columns = ", ".join(f"CAST(NULL AS {duckdb_type(column)}) AS {name(column.name)}" for column in relation.columns)
    return f"SELECT {columns} WHERE false"


def comments(relation: Relation, kind: Literal["TABLE", "VIEW"] = "TABLE") -> list[str]:
    """The COMMENT statements of a relation and each of its columns: the meaning, and the unit in brackets."""
    target = name(relation.name)
    return [
        f"COMMENT ON {kind} {target} IS {literal(relation.meaning)}",
        *(
            f"COMMENT ON COLUMN {target}.{name(column.name)} IS {literal(describe(column))}"
            for column in relation.columns
        ),
    ]


def describe(column: Column) -> str:
    """Meaning and unit in one line: `Energy used on the day [Wh]`."""
    return f"{column.meaning} [{column.unit}]" if column.unit else column.meaning


def parquet_schema(relation: Relation) -> pa.Schema:
    """The schema to write a relation's Parquet files with.

    Arrow keeps the metadata of schema and fields (meaning, unit, key, privacy class) inside the file; whoever reads
    the file with Arrow gets it back.
    """
    return relation.schema.with_metadata({**relation.schema.metadata, "wattier.meaning": relation.meaning})
