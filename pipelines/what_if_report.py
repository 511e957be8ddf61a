"""What another policy would change: moves between tiers, migrations and flaps under both, as figures, text and files."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb

from pipelines.watching import FLAP_DAYS, flap_counts
from pipelines.words import amount, decimal, for_spreadsheet, inert, listed, table
from schemas import ddl
from schemas.actions import PLAN_CAPACITY, PLANNED_ACTIONS
from schemas.labels import Lang, label
from schemas.marts import (
    ABUSE_STEPS,
    CAUSES,
    CUSTOMER_TIERS,
    CUSTOMER_TIERS_CURRENT,
    CUTOFFS,
    SCORES,
    TIER_MIGRATIONS,
    TIERS,
)
from transforms.storage import Entry
from transforms.stored_inputs import FIGURES, FIGURES_OF


@dataclass(frozen=True)
class Tried:
    """Days made under another policy. made: files below `scratch`; figures: which of `FIGURES` are told; name, versions: of the
    policy; clockless: columns of which the day's clock is not known; stay_days: the longest minimum stay of them.
    """

    scratch: str
    made: Sequence[Entry]
    first: date
    last: date
    figures: tuple[str, ...]
    name: str
    versions: tuple[str, ...]
    clockless: tuple[str, ...]
    stay_days: int


@dataclass
class Report:
    """The comparison. `published` and `tried` are the two sides.

    moves: by tier on the last day under both, accounts and figures; account_days: the same over all days; migrations: by cause, on
    both sides; flaps: tiers come back to within `FLAP_DAYS`, and their part of the migrations; staff: by limited resource, on both
    sides, over all days: places, candidates for one, how many rest, how many get one; stay_days: the minimum
    stay under the policy tried, where it is longer than the days.
    """

    policy: str
    versions: tuple[str, ...]
    first: date
    last: date
    currency: str | None
    accounts: int = 0
    moved: int = 0
    stay_days: int | None = None
    moves: list[dict[str, Any]] = field(default_factory=list)
    account_days: list[dict[str, Any]] = field(default_factory=list)
    migrations: dict[str, dict[str, int]] = field(default_factory=dict)
    flaps: dict[str, dict[str, int | None]] = field(default_factory=dict)
    staff: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    clockless: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return json.loads(json.dumps(vars(self), default=str))  # type: ignore[no-any-return]


SIDES = ("published", "tried")
STAFF = ("capacity", "candidates", "resting", "planned")
"""What is told of a limited resource."""


@contextmanager
def _both(marts: Path, tried: Tried) -> Iterator[duckdb.DuckDBPyConnection]:
    """Views of both sides: <side>_tiers of each account and stretch of the days, <side>_migrations, and `figures`."""
    first, last = ddl.literal(str(tried.first)), ddl.literal(str(tried.last))

    def files(kind: str) -> str:
        return ", ".join(ddl.literal(f"{tried.scratch}/{e.path}") for e in tried.made if e.kind == kind)

    def made(relation: Any, columns: str) -> str:
        found = files(f"mart:{relation.name}")
        return f"SELECT {columns} FROM read_parquet([{found}])" if found else f"{ddl.select_nothing(relation)}"

    with duckdb.connect() as con:
        con.execute(f"ATTACH {ddl.literal(str(marts))} AS marts (READ_ONLY)")
        names = ddl.column_names(CUSTOMER_TIERS)
        open_ = ", ".join(
            "NULL::DATE AS valid_to" if c.name == "valid_to" else ddl.name(c.name) for c in CUSTOMER_TIERS.columns
        )
        con.execute(
            f"CREATE TEMP VIEW tried_history AS SELECT * FROM ({made(CUSTOMER_TIERS, names)} UNION ALL "
            f"{made(CUSTOMER_TIERS_CURRENT, open_)}) WHERE coalesce(valid_to, DATE {last}) >= DATE {first}"
        )
        con.execute("CREATE TEMP VIEW published_history AS FROM marts.customer_tiers")
        for side in SIDES:
            con.execute(
                f"CREATE TEMP TABLE {side}_tiers AS SELECT * REPLACE (greatest(valid_from, DATE {first}) AS valid_from, "
                f"least(coalesce(valid_to, DATE {last}), DATE {last}) AS valid_to) FROM {side}_history "
                f"WHERE valid_from <= DATE {last} AND coalesce(valid_to, DATE {last}) >= DATE {first}"
            )
        names = ddl.column_names(TIER_MIGRATIONS)
        begin = ddl.literal(str(tried.first - timedelta(days=FLAP_DAYS)))
        told = f"SELECT {names} FROM marts.tier_migrations WHERE service_date BETWEEN DATE {begin} AND DATE {last}"
        con.execute(f"CREATE TEMP VIEW published_migrations AS {told}")
        con.execute(
            f"CREATE TEMP VIEW tried_migrations AS {told} AND service_date < DATE {first} UNION ALL {made(TIER_MIGRATIONS, names)}"
        )
        for relation in (CUTOFFS, ABUSE_STEPS, SCORES, PLAN_CAPACITY, PLANNED_ACTIONS):
            con.execute(f"CREATE TEMP VIEW tried_{relation.name} AS {made(relation, ddl.column_names(relation))}")
        told = f"SELECT * FROM marts.plan_capacity WHERE service_date BETWEEN DATE {first} AND DATE {last}"
        con.execute(f"CREATE TEMP VIEW published_plan_capacity AS {told}")
        missing = "".join(f", NULL::BIGINT AS {name}" for name in FIGURES if name not in tried.figures)
        found = files(FIGURES_OF)
        none = "SELECT NULL::VARCHAR AS account_id" + "".join(f", NULL::BIGINT AS {name}" for name in FIGURES)
        con.execute(
            "CREATE TEMP VIEW figures AS "
            + (f"SELECT *{missing} FROM read_parquet([{found}])" if found else f"{none} WHERE false")
        )
        yield con


def compare(marts: Path, tried: Tried, currency: str | None) -> Report:
    """Compare days made under another policy with those published. marts: marts.duckdb."""
    report = Report(tried.name, tried.versions, tried.first, tried.last, currency, clockless=tried.clockless)
    if tried.stay_days > (tried.last - tried.first).days + 1:
        report.stay_days = tried.stay_days
    params = {"first": tried.first, "last": tried.last}
    with _both(marts, tried) as con:
        report.moves = _rows(con.execute(
            f"""SELECT p.tier AS published, t.tier AS tried, count(*) AS accounts,
                       {", ".join(f"sum({name})::BIGINT AS {name}" for name in FIGURES)}
                FROM published_tiers p JOIN tried_tiers t USING (account_id) LEFT JOIN figures USING (account_id)
                WHERE p.valid_to = $last AND t.valid_to = $last GROUP BY ALL ORDER BY accounts DESC, published, tried""",
            {"last": tried.last},
        ))  # fmt: skip
        report.account_days = _rows(con.execute(
            """SELECT p.tier AS published, t.tier AS tried,
                      sum(least(p.valid_to, t.valid_to) - greatest(p.valid_from, t.valid_from) + 1)::BIGINT AS account_days
               FROM published_tiers p JOIN tried_tiers t
               ON p.account_id = t.account_id AND p.valid_from <= t.valid_to AND t.valid_from <= p.valid_to
               GROUP BY ALL ORDER BY account_days DESC, published, tried"""
        ))  # fmt: skip
        for side in SIDES:
            causes = con.execute(
                f"SELECT cause, count(*) FROM {side}_migrations WHERE service_date BETWEEN $first AND $last GROUP BY ALL",
                params,
            ).fetchall()
            report.migrations[side] = dict(sorted(causes, key=lambda row: CAUSES.index(row[0])))
            moves, flaps, _ = flap_counts(con, f"{side}_migrations", tried.first)
            sums = ", ".join(f"sum({name})::BIGINT AS {name}" for name in STAFF)
            rows = _rows(
                con.execute(f"SELECT resource, {sums} FROM {side}_plan_capacity GROUP BY resource ORDER BY resource")
            )
            for row in rows:
                report.staff.setdefault(row.pop("resource"), {})[side] = row
            report.flaps[side] = {"flaps": flaps, "flap_rate_ppm": flaps * 1_000_000 // moves if moves else None}
    report.accounts = sum(row["accounts"] for row in report.moves)
    report.moved = sum(row["accounts"] for row in report.moves if row["published"] != row["tried"])
    return report


def _rows(cursor: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def keep(marts: Path, tried: Tried, report: Report, out: Path, *, accounts: bool) -> None:
    """Write the marts made, the comparison, and where it is asked for the accounts that would move, into a folder."""
    with _both(marts, tried) as con:
        for view, name, keys in (
            ("tried_history", CUSTOMER_TIERS.name, CUSTOMER_TIERS.keys),
            (f"(FROM tried_migrations WHERE service_date >= DATE '{tried.first}')", TIER_MIGRATIONS.name, TIER_MIGRATIONS.keys),
            ("tried_cutoffs", CUTOFFS.name, CUTOFFS.keys),
            ("tried_abuse_steps", ABUSE_STEPS.name, ABUSE_STEPS.keys),
            ("tried_scores", SCORES.name, SCORES.keys),
            ("tried_planned_actions", PLANNED_ACTIONS.name, PLANNED_ACTIONS.keys),
            ("tried_plan_capacity", PLAN_CAPACITY.name, PLAN_CAPACITY.keys),
        ):  # fmt: skip
            path = ddl.literal(str(out / f"{name}.parquet"))
            order = ", ".join(map(ddl.name, keys))
            con.execute(f"COPY (FROM {view} ORDER BY {order}) TO {path} (FORMAT parquet, COMPRESSION zstd)")
        if accounts:
            _list(con, tried, out / "accounts.csv")
    (out / "report.json").write_text(json.dumps(report.to_json(), indent=1) + "\n", encoding="utf-8")


def _list(con: duckdb.DuckDBPyConnection, tried: Tried, path: Path) -> None:
    columns = [f"{side[0]}.{name} AS {name}_{side}" for name in ("tier", "abc", "credit_grade") for side in SIDES]
    cursor = con.execute(
        f"""SELECT account_id, {", ".join(columns)}, t.rule AS rule_tried, {", ".join(FIGURES)}
            FROM published_tiers p JOIN tried_tiers t USING (account_id) LEFT JOIN figures USING (account_id)
            WHERE p.valid_to = $last AND t.valid_to = $last AND p.tier <> t.tier
            ORDER BY {FIGURES[0]} DESC NULLS LAST, account_id""",
        {"last": tried.last},
    )
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([column[0] for column in cursor.description or ()])
        while rows := cursor.fetchmany(10_000):
            writer.writerows([for_spreadsheet(row[0]), *row[1:]] for row in rows)


# --- as text ---------------------------------------------------------------------------------------------------------
def as_text(report: Report, lang: Lang) -> str:
    """The comparison in words."""

    def say(code: str, **values: object) -> str:
        return label("what_if", code, lang).format(**values)

    def tier(code: str) -> str:
        return label("tier", code, lang)

    versions = listed([inert(version) for version in report.versions], lang)
    out = [say("title", policy=inert(report.policy), versions=versions, first=report.first, last=report.last), ""]
    out += [say("moved", last=report.last, moved=f"{report.moved:,}", accounts=f"{report.accounts:,}")]
    if report.stay_days is not None:
        out.append(say("stay", stay=report.stay_days))
    moves = [row for row in report.moves if row["published"] != row["tried"]]
    if moves:
        told = [name for name in FIGURES if any(row[name] is not None for row in moves)]
        head = [say("published"), say("tried"), say("accounts"), *(say(name) for name in told)]
        lines = [
            [
                tier(row["published"]),
                tier(row["tried"]),
                f"{row['accounts']:,}",
                *_figures(row, told, report.currency, lang),
            ]
            for row in moves
        ]
        out += table([head, *lines], frozenset(range(2, len(head))))
    out += ["", say("tiers", last=report.last)]
    counts = {code: [0, 0] for code in TIERS}
    for row in report.moves:
        counts[row["published"]][0] += row["accounts"]
        counts[row["tried"]][1] += row["accounts"]
    head = [say("tier"), say("published"), say("tried")]
    lines = [[tier(code), *(f"{n:,}" for n in both)] for code, both in counts.items() if any(both)]
    out += table([head, *lines], frozenset((1, 2)))
    days = sum(row["account_days"] for row in report.account_days)
    other = sum(row["account_days"] for row in report.account_days if row["published"] != row["tried"])
    out += ["", say("days", other=f"{other:,}", days=f"{days:,}"), ""]
    causes = {cause: [report.migrations[side].get(cause, 0) for side in SIDES] for cause in CAUSES}
    lines = [[say("migrations"), *(f"{sum(report.migrations[side].values()):,}" for side in SIDES)]]
    lines += [
        [f"  {label('cause', cause, lang)}", *(f"{n:,}" for n in both)] for cause, both in causes.items() if any(both)
    ]
    lines.append([say("flaps", days=FLAP_DAYS), *(f"{report.flaps[side]['flaps']:,}" for side in SIDES)])
    rates = [report.flaps[side]["flap_rate_ppm"] for side in SIDES]
    lines.append([say("flap_rate"), *(say("no_rate") if ppm is None else decimal(ppm // 100, 2, "%") for ppm in rates)])
    out += table([["", say("published"), say("tried")], *lines], frozenset((1, 2)))
    if report.staff:
        out += ["", say("staff")]
        head = ["", *(say("of_side", what=say(name), side=say(side)) for name in STAFF for side in SIDES)]
        rows = [
            [
                label("resource", resource, lang),
                *(f"{both.get(side, {}).get(name, 0):,}" for name in STAFF for side in SIDES),
            ]
            for resource, both in sorted(report.staff.items())
        ]
        out += table([head, *rows], frozenset(range(1, len(head))))
    if report.clockless:
        out += ["", say("clockless", columns=listed([label("feature", name, lang) for name in report.clockless], lang))]
    return "\n".join(out)


def _figures(row: dict[str, Any], names: Sequence[str], currency: str | None, lang: Lang) -> list[str]:
    out = []
    for name in names:
        value = row[name]
        if value is None:
            out.append("")
        else:
            out.append(
                decimal(value // 100_000, 1, "MWh")
                if name == FIGURES[0]
                else amount(value, "minor units", lang, currency)
            )
    return out
