"""Derives marts.duckdb: what BI reads. Small marts are tables inside; large ones are views over immutable files.

The views list their files one by one. A glob would see files that a later publication adds while a query runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import duckdb
import pyarrow as pa

from schemas import ddl
from schemas.fields import COUNT, DAY, TEXT, Column, Relation
from schemas.inbound import (
    ACCOUNTS,
    CONDUCT_EVENTS,
    LEDGER_EVENTS,
    METER_READINGS,
    METERS,
    REGISTER_READINGS,
    STAMP,
    TARIFFS,
)
from schemas.marts import CUSTOMER_TIERS, CUSTOMER_TIERS_CURRENT, MARTS, VIEWS

ACCEPTED: dict[str, Relation] = {
    name: Relation(name, f"Accepted rows, every revision. {source.meaning}", (*source.columns, *STAMP))
    for name, source in (
        ("accepted_readings", METER_READINGS),
        ("accepted_registers", REGISTER_READINGS),
        ("accepted_ledger_events", LEDGER_EVENTS),
        ("accepted_conduct_events", CONDUCT_EVENTS),
        ("accepted_accounts", ACCOUNTS),
        ("accepted_meters", METERS),
        ("accepted_tariffs", TARIFFS),
    )
}
"""The accepted log as views, by name."""

GENERATION = Relation(
    "wattier_generation",
    "Which publication this file was derived from: one row.",
    (
        Column("generation", COUNT, "The publication", key=True),
        Column("through", DAY, "Last service day published; null before the first", nullable=True),
        Column("published_at", TEXT, "Moment of publication, UTC"),
        Column("wattier_version", TEXT, "Version of the software"),
    ),
)


@dataclass(frozen=True)
class Patch:
    """What was put right in a mart's files since: files of the keys that are gone, and of the rows in their place."""

    gone: Sequence[str]
    rows: Sequence[str]


@dataclass(frozen=True)
class Publication:
    """What `wattier_generation` says of a publication."""

    generation: int
    through: date | None
    published_at: str
    wattier_version: str


def derive(
    path: Path,
    publication: Publication,
    files: Mapping[str, Sequence[str]],
    tables: Mapping[str, pa.Table],
    extra_views: Mapping[str, Sequence[str]] | None = None,
    since: Mapping[str, date] | None = None,
    patches: Mapping[str, Patch] | None = None,
    views: Mapping[str, str] | None = None,
) -> None:
    """Writes marts.duckdb beside `path` under a temporary name and renames it over `path`.

    files: mart -> its Parquet files, absolute, relative to the folder of `path`, or URLs; `customer_tiers` holds the
    closed intervals, those that go on are taken from `customer_tiers_current`. tables: mart -> its rows, stored
    inside; names and types as in the schema. extra_views: name in `ACCEPTED` -> Parquet files.
    since: mart -> first service day its view shows, where retention has passed part of a file. patches: mart -> what is put
    right in its files. views: the queries of `VIEWS` on other marts; one without a query is empty.
    Every mart exists afterwards; one given neither way is an empty table. Readers of the old file keep it while they
    hold it open. Raises ValueError for a name that is no mart or is given twice, and DuckDB's own errors for files
    that are missing or lack a column.
    """
    extra = extra_views or {}
    _check_names(files, tables, extra)
    temporary = path.with_name(f".{path.name}.{publication.generation}.tmp")
    for leftover in path.parent.glob(f".{path.name}.*.tmp*"):
        leftover.unlink()
    base = path.parent.absolute()
    with duckdb.connect(str(temporary)) as con:
        con.begin()
        read_others = (CUSTOMER_TIERS.name, *VIEWS)  # and come last
        for relation in sorted(MARTS.values(), key=lambda mart: mart.name in read_others):
            if query := (views or {}).get(relation.name):
                _create_view(con, relation, query)
            elif relation.name in files:
                query = mart_query(
                    relation, files, base, (since or {}).get(relation.name), (patches or {}).get(relation.name)
                )
                _create_view(con, relation, query)
            else:
                _create_table(con, relation, tables.get(relation.name))
        for name, paths in extra.items():
            _create_view(con, ACCEPTED[name], scan(ACCEPTED[name], paths, base))
        _create_table(con, GENERATION, _generation_row(publication))
        con.commit()
    temporary.replace(path)
    # A log that a writing reader left belongs to the old file; DuckDB would try it on the new one.
    path.with_name(f"{path.name}.wal").unlink(missing_ok=True)


def scan(relation: Relation, files: Iterable[str], base: Path) -> str:
    """The SELECT of a relation's columns from exactly these files; of no rows where there are none.

    Partition folders in the paths add no columns. Relative paths are taken from `base`.
    """
    paths = [file if "://" in file else str(base / file) for file in files]
    if not paths:
        return ddl.select_nothing(relation)
    listed = ", ".join(map(ddl.literal, paths))
    return f"SELECT {ddl.column_names(relation)} FROM read_parquet([{listed}], hive_partitioning = false)"


def _check_names(files: Mapping[str, object], tables: Mapping[str, object], extra: Mapping[str, object]) -> None:
    unknown = sorted(((files.keys() | tables.keys()) - MARTS.keys()) | (extra.keys() - ACCEPTED.keys()))
    if unknown:
        raise ValueError(f"no such mart: {', '.join(unknown)}; there are {', '.join([*MARTS, *ACCEPTED])}")
    twice = sorted(files.keys() & tables.keys())
    if twice:
        raise ValueError(f"given both as files and as a table: {', '.join(twice)}")


def mart_query(
    relation: Relation,
    files: Mapping[str, Sequence[str]],
    base: Path,
    since: date | None = None,
    patch: Patch | None = None,
) -> str:
    """The SELECT of a mart's rows from its files; of `customer_tiers` those that go on are taken from their own mart."""
    query = scan(relation, files[relation.name], base)
    if patch and patch.gone:
        keys = Relation(relation.name, relation.meaning, tuple(c for c in relation.columns if c.key))
        query = (
            f"SELECT * FROM (FROM ({query}) ANTI JOIN ({scan(keys, patch.gone, base)}) USING ({ddl.column_names(keys)})"
            f" UNION ALL {scan(relation, patch.rows, base)})"
        )
    if since is not None and files[relation.name]:
        query += f" WHERE service_date >= DATE '{since.isoformat()}'"
    if relation is not CUSTOMER_TIERS:
        return query
    columns = ", ".join(
        "CAST(NULL AS DATE) AS valid_to" if column.name == "valid_to" else ddl.name(column.name)
        for column in relation.columns
    )
    return f"{query} UNION ALL SELECT {columns} FROM {ddl.name(CUSTOMER_TIERS_CURRENT.name)}"


def _create_view(con: duckdb.DuckDBPyConnection, relation: Relation, query: str) -> None:
    con.execute(f"CREATE VIEW {ddl.name(relation.name)} AS {query}")
    for comment in ddl.comments(relation, "VIEW"):
        con.execute(comment)


def _create_table(con: duckdb.DuckDBPyConnection, relation: Relation, rows: pa.Table | None) -> None:
    con.execute(ddl.create_table(relation))
    for comment in ddl.comments(relation):
        con.execute(comment)
    if rows is not None and rows.num_rows:
        con.register("incoming", rows)
        con.execute(f"INSERT INTO {ddl.name(relation.name)} SELECT {ddl.column_names(relation)} FROM incoming")
        con.unregister("incoming")


def _generation_row(publication: Publication) -> pa.Table:
    row = {column.name: getattr(publication, column.name) for column in GENERATION.columns}
    return pa.Table.from_pylist([row], schema=GENERATION.schema)
