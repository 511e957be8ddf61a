"""`wattier verify`: recompute what is published from the accepted events, and name every difference."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb

from pipelines import oracle
from schemas.errors import StateError
from schemas.fields import Relation
from schemas.marts import MARTS
from schemas.policy import Policy
from schemas.rule_sql import literal

DEFAULT_SAMPLE = 200
"""Accounts compared where neither all nor a number is asked for."""

LISTED = 1000
"""Mismatches a report lists. All are counted, and all are stored where a file is asked for."""

BY_DAY = ("daily_consumption", "features", "scores", "cutoffs", "tier_shares")
"""Marts that may hold the latest service days only: compared from the first day they hold to the last service day."""

KEPT_AS = {"scores": "features"}
"""Marts that have the days of another, if they have any: one that has none is not taken for one that keeps none."""

OF_TIERS = ("tier_migration_matrix", "tier_transition_rates", "tier_tenure", "tier_stability", "tier_shares")
"""Marts that count tiers."""

OF_ALL = (*OF_TIERS, "service_actions", "planned_actions", "plan_capacity")
"""Marts that follow from all accounts' tiers, which are not recomputed where a sample is compared."""

ALL_ACCOUNTS = ("service_days", "cutoffs", "pending", "reading_exceptions", "pareto", *OF_TIERS)
"""Marts that are not about single accounts."""

TOLERANCE = {"psi_month_micro": 1, "psi_year_micro": 1}
"""How far apart figures may be that are made of logarithms. All others are exact."""

COMPARED = (
    "service_days", "daily_consumption", "features", "cutoffs", "scores", "customer_tiers", "customer_tiers_current",
    "tier_migrations", "abuse_steps", "service_actions", "planned_actions", "plan_capacity", *OF_TIERS, "pareto",
    "accounts", "conduct_events", "pending", "reading_exceptions",
    "ledger_exceptions", "vee_results",
)  # fmt: skip
"""Every mart the oracle knows. The others tell of runs and of rejected rows."""

EVENTS = (
    "accepted_readings", "accepted_registers", "accepted_ledger_events", "accepted_conduct_events", "accepted_accounts",
    "accepted_meters", "accepted_tariffs",
)  # fmt: skip


@dataclass(frozen=True)
class MartResult:
    """What the comparison of one mart gave. `days` is None where a mart is compared whole, not day by day."""

    mart: str
    rows: int
    days: int | None
    values: int
    missing: int
    extra: int

    @property
    def mismatches(self) -> int:
        """Values that differ, rows that are missing and rows that should not be there."""
        return self.values + self.missing + self.extra


@dataclass(frozen=True)
class Difference:
    """One value that differs. For a whole row `column` is empty and `problem` is missing or extra."""

    mart: str
    key: str
    column: str
    published: str | None
    expected: str | None
    problem: str

    def __str__(self) -> str:
        if self.problem == "missing":
            return f"{self.mart} {self.key}: the row is missing"
        if self.problem == "extra":
            return f"{self.mart} {self.key}: the row should not be there"
        return f"{self.mart} {self.key}: {self.column} is {_shown(self.published)}, expected {_shown(self.expected)}"


@dataclass(frozen=True)
class Report:
    """The outcome: figures per mart, and the first differences. `accounts` is None where all were compared."""

    first_day: date | None
    through: date | None
    accounts: int | None
    marts: tuple[MartResult, ...]
    differences: tuple[Difference, ...]

    @property
    def mismatches(self) -> int:
        """All differences of all marts."""
        return sum(result.mismatches for result in self.marts)

    @property
    def ok(self) -> bool:
        """Whether every published row compared is as the definitions say."""
        return self.mismatches == 0

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {
            "ok": self.ok,
            "mismatches": self.mismatches,
            "first_day": self.first_day and self.first_day.isoformat(),
            "through": self.through and self.through.isoformat(),
            "accounts": self.accounts,
            "marts": [asdict(result) | {"mismatches": result.mismatches} for result in self.marts],
            "differences": [asdict(difference) for difference in self.differences],
        }

    def __str__(self) -> str:
        """A short table, then one line for each listed difference."""
        whom = "all accounts" if self.accounts is None else f"{self.accounts} sampled accounts, cut-offs of all"
        when = f"{self.first_day} to {self.through}" if self.first_day else "no service day published"
        lines = [
            f"Recomputed from the accepted events: {when}, {whom}.",
            f"{'mart':<24}{'days':>6}{'rows':>12}{'mismatches':>12}",
        ]
        for result in self.marts:
            days = "" if result.days is None else str(result.days)
            lines.append(f"{result.mart:<24}{days:>6}{result.rows:>12}{result.mismatches:>12}")
        lines += [str(difference) for difference in self.differences]
        if self.mismatches > len(self.differences):
            lines.append(f"... and {self.mismatches - len(self.differences)} more")
        return "\n".join(lines)


def verify(
    marts_path: str,
    policy: Policy,
    *,
    sample: int | None = None,
    all_days: bool = False,
    store: Path | str | None = None,
) -> Report:
    """Compare the published marts in the DuckDB file `marts_path` with the oracle.

    With `all_days` every account is compared, else `sample` accounts (200 where it is None), chosen by a seeded hash.
    Either way every service day that a mart holds is compared, and the cut-offs are recomputed from all accounts.
    `store` names a Parquet file for the mismatches. The published file is only read.
    Raises StateError where it lacks a mart or the accepted events.
    """
    if all_days and sample is not None:
        raise ValueError(f"all_days and sample={sample} exclude each other")
    with _attached(marts_path) as con:
        first_day, through = _days(con, policy)
        accounts = None if all_days else _sample(con, DEFAULT_SAMPLE if sample is None else sample)
        (held,) = con.execute("SELECT min(service_date) FROM published.features").fetchall()[0]
        oracle.recompute(con, policy, first_day, through, accounts, features_from=held, counted=True)
        con.execute(
            'CREATE TABLE mismatch (mart VARCHAR, key VARCHAR, "column" VARCHAR, published VARCHAR, expected VARCHAR,'
            " problem VARCHAR)"
        )
        results = tuple(
            _compare(con, MARTS[name], sampled=accounts is not None)
            for name in COMPARED
            if accounts is None or name not in OF_ALL
        )
        listed = con.execute(f"SELECT * FROM mismatch ORDER BY ALL LIMIT {LISTED}").fetchall()
        if store is not None:
            con.execute(f"COPY (FROM mismatch ORDER BY ALL) TO {literal(str(store))} (FORMAT parquet)")
    return Report(
        first_day=first_day if first_day <= through else None,
        through=through if first_day <= through else None,
        accounts=None if accounts is None else len(accounts),
        marts=results,
        differences=tuple(Difference(*row) for row in listed),
    )


@contextmanager
def _attached(marts_path: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to a temporary database, with the published one attached read-only as `published`."""
    if not Path(marts_path).is_file():
        raise StateError(f"{marts_path}: no marts are published here yet. `wattier run` publishes them.")
    with tempfile.TemporaryDirectory(prefix="wattier-verify-") as folder:
        config: dict[str, str | bool | int | float | list[str]] = {
            "temp_directory": folder,
            "autoinstall_known_extensions": "false",
            "preserve_insertion_order": "false",
        }
        with duckdb.connect(str(Path(folder) / "scratch.duckdb"), config=config) as con:
            con.execute(f"ATTACH {literal(marts_path)} AS published (READ_ONLY)")
            held = {row[0] for row in con.execute(
                "SELECT table_name FROM duckdb_tables() WHERE database_name = 'published'"
                " UNION ALL SELECT view_name FROM duckdb_views() WHERE database_name = 'published'"
            ).fetchall()}  # fmt: skip
            lacking = [name for name in (*EVENTS, *COMPARED) if name not in held]
            if lacking:
                raise StateError(
                    f"{marts_path}: {', '.join(lacking)} not found, so it cannot be verified."
                    " `wattier run` writes the file anew."
                )
            for name in EVENTS:
                con.execute(f"CREATE VIEW {name} AS FROM published.{name}")
            yield con


def _days(con: duckdb.DuckDBPyConnection, policy: Policy) -> tuple[date, date]:
    """First and last service day, as the definitions have them; the last one at or before the published last one.

    An empty calendar is a first day after the last.
    """
    (published,) = con.execute("SELECT max(service_date) FROM published.service_days").fetchall()[0]
    first_day, last_day = oracle.calendar(con, policy, published or date.min)
    if published is None or first_day is None:
        first_day = first_day or date(1970, 1, 1)
        return first_day, first_day - timedelta(days=1)
    return first_day, last_day or first_day - timedelta(days=1)


def _sample(con: duckdb.DuckDBPyConnection, count: int, seed: str = "wattier") -> list[str]:
    """`count` known accounts: those first in the order of a seeded hash."""
    rows = con.execute(
        "SELECT account_id FROM oracle.known_account ORDER BY md5(? || ':' || account_id), account_id LIMIT ?",
        [seed, count],
    ).fetchall()
    return [row[0] for row in rows]


def _compare(con: duckdb.DuckDBPyConnection, mart: Relation, sampled: bool) -> MartResult:
    """Full outer join of the published mart and the oracle's on the key; differences go to the table `mismatch`."""
    published, expected = f"published.{mart.name}", f"oracle.{mart.name}"
    keys = mart.keys
    days = None
    conditions = ["true"]
    if mart.name in BY_DAY:
        kept = f"published.{KEPT_AS.get(mart.name, mart.name)}"
        held, days = con.execute(
            "SELECT held, (SELECT count(*) FROM oracle.service_day WHERE service_date >= held)"
            f" FROM (SELECT min(service_date) AS held FROM {kept})"
        ).fetchall()[0]
        conditions.append(f"service_date >= {literal(held)}" if held else "false")
    elif mart.name == "service_days":
        days = _count(con, expected)
    if sampled and mart.name not in ALL_ACCOUNTS:
        conditions.append("account_id IN (SELECT account_id FROM oracle.compared_account)")
    where = " AND ".join(conditions)

    values = [column.name for column in mart.columns if not column.key]
    on = " AND ".join(f'p."{key}" = o."{key}"' for key in (*keys, "copy"))
    differs = " OR ".join(map(_differs, values)) or "false"
    columns = ", ".join(f'"{column.name}"' for column in mart.columns)
    key_columns = ", ".join(f'"{key}"' for key in keys)
    pairs = ", ".join(
        f"{{'column': {literal(name)}, 'published': p.\"{name}\"::VARCHAR, 'expected': o.\"{name}\"::VARCHAR,"
        f" 'differs': {_differs(name)}}}"
        for name in values
    )
    # `copy` numbers rows of one key, so that a row published twice is found: its second copy is an extra row.
    numbered = f"SELECT {columns}, row_number() OVER (PARTITION BY {key_columns}) AS copy FROM {{}} WHERE {where}"
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE difference AS
        SELECT
            {_key_text(mart)} AS key,
            CASE WHEN p.copy IS NULL THEN 'missing' WHEN o.copy IS NULL THEN 'extra' ELSE 'value' END AS problem,
            list_filter([{pairs}], lambda v: v.differs) AS found
        FROM ({numbered.format(published)}) p
        FULL JOIN ({numbered.format(expected)}) o ON {on}
        WHERE p.copy IS NULL OR o.copy IS NULL OR {differs}
    """)
    con.execute(f"""
        INSERT INTO mismatch
        SELECT '{mart.name}', key, v.column, v.published, v.expected, problem
        FROM (SELECT key, problem, unnest(found) AS v FROM difference WHERE problem = 'value')
        UNION ALL
        SELECT '{mart.name}', key, '', NULL, NULL, problem FROM difference WHERE problem <> 'value'
    """)
    found = dict(
        con.execute(f"SELECT problem, count(*) FROM mismatch WHERE mart = '{mart.name}' GROUP BY problem").fetchall()
    )
    rows = _count(con, f"{published} WHERE {where}") + found.get("missing", 0)
    return MartResult(mart.name, rows, days, found.get("value", 0), found.get("missing", 0), found.get("extra", 0))


def _differs(name: str) -> str:
    """SQL of whether the published value of a column, `p`'s, is another than `o`'s."""
    if name not in TOLERANCE:
        return f'p."{name}" IS DISTINCT FROM o."{name}"'
    return f'coalesce(abs(p."{name}" - o."{name}") > {TOLERANCE[name]}, p."{name}" IS DISTINCT FROM o."{name}")'


def _key_text(mart: Relation) -> str:
    """SQL of a row's name: the day, `account <id>`, then the other key columns."""
    parts = []
    for key in sorted(mart.keys, key=lambda key: (key != "service_date", key != "account_id")):
        value = f'coalesce(p."{key}", o."{key}")::VARCHAR'
        parts.append(value if key == "service_date" else f"'{key.removesuffix('_id')} ' || {value}")
    return " || ' ' || ".join(parts)


def _count(con: duckdb.DuckDBPyConnection, relation: str) -> int:
    (count,) = con.execute(f"SELECT count(*) FROM {relation}").fetchall()[0]
    return int(count)


def _shown(value: str | None) -> str:
    return "empty" if value is None else value
