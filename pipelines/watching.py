"""How tiers move: matrices, rates, tenure, stability and shares by month and day, made of the marts at publication.

All are small tables. Of months and days that a run did not touch they are carried over; those it touched are made anew, a
month or a day at a time. What needs `features` is told of the days that `features` holds, so that a backfill and daily
runs give the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.watching_sql import (
    ADD_CHANGED,
    CATEGORY,
    CELLS,
    CHANGED,
    HISTORY,
    MATRIX,
    MOVED,
    OF_DAYS,
    PAIRS,
    RATES,
    SHARES,
    STABILITY,
    STAYED,
    TENURE,
)
from schemas.fields import PPM_LIMIT, Relation
from schemas.inbound import CATEGORIES
from schemas.marts import (
    PARETO,
    TIER_MIGRATION_MATRIX,
    TIER_SHARES,
    TIER_STABILITY,
    TIER_TENURE,
    TIER_TRANSITION_RATES,
    TIERS,
)
from schemas.policy import Policy
from transforms.kernels.moves import lorenz

BY_MONTH = (TIER_MIGRATION_MATRIX, TIER_TRANSITION_RATES, TIER_TENURE, TIER_STABILITY)
WATCHED = (*BY_MONTH, TIER_SHARES, PARETO)
"""The marts that are made here."""

FLAP_DAYS = 30
"""Days within which a migration back to the tier that was left is a flap."""


@dataclass(frozen=True)
class Window:
    """What is to be made: months from `since` on, days after those carried over. held: first day that `features` holds.

    since: a first of a month, None: all; days: service days of `tier_shares` that are to be made.
    """

    since: date | None
    days: Sequence[date]
    held: date


@dataclass(frozen=True)
class Month:
    """A month to be made, and the last published days of the month before it, where there is one, and of itself."""

    month: date
    before: date | None
    after: date


def tier_places(policy: Policy) -> list[tuple[str, str, int]]:
    """(policy version, tier, its place from the lowest value up), of the tiers that have one."""
    orders = ((version.version, version.tier_order) for version in policy.versions)
    return [(version, tier, place) for version, order in orders for place, tier in enumerate(order)]


def watch(
    con: duckdb.DuckDBPyConnection, policy: Policy, window: Window, carried: Mapping[str, pa.Table]
) -> dict[str, pa.Table]:
    """The marts of `WATCHED`, made of marts that `con` sees by their names.

    These are `service_days`, `customer_tiers`, `customer_tiers_current`, `tier_migrations`, `accounts` and `features`; of
    each the rows that the window needs. carried: the marts as published before, of which months before the window and days
    not in it are kept.
    """
    (last,) = con.execute("SELECT max(service_date) FROM service_days").fetchall()[0]
    if last is None:
        return {relation.name: relation.schema.empty_table() for relation in WATCHED}
    all_months = list(_months(con))
    months = [m for m in all_months if window.since is None or m.month >= window.since]
    kept = _kept(carried, window, {m.month for m in all_months} - {m.month for m in months}, last)
    lost = {m.month for m in all_months if m.after < window.held}
    if TIER_MIGRATION_MATRIX.name in kept:
        kept[TIER_MIGRATION_MATRIX.name] = _less_energy(kept[TIER_MIGRATION_MATRIX.name], lost)
    new = _by_month(con, policy, months, last, window.held, kept)
    by_cells = last in window.days and any(m.after == last for m in months)
    new[TIER_SHARES.name] = _shares(con, [day for day in window.days if not (by_cells and day == last)], last)
    if by_cells:
        new[TIER_SHARES.name] = _add_last(con, new[TIER_SHARES.name], last)
    new[PARETO.name] = _curve(con, policy, last)
    return {relation.name: _joined(relation, kept.get(relation.name), new[relation.name]) for relation in WATCHED}


def _kept(carried: Mapping[str, pa.Table], window: Window, months: set[date], last: date) -> dict[str, pa.Table]:
    """The rows that are carried over: of these months, and of the days that are held and not made anew."""
    kept = {}
    for relation in (*BY_MONTH, TIER_SHARES):
        if (table := carried.get(relation.name)) is None:
            continue
        if relation is TIER_SHARES:
            day = table["service_date"]
            stays = pc.and_(pc.greater_equal(day, pa.scalar(window.held)), pc.less_equal(day, pa.scalar(last)))
            stays = pc.and_(stays, pc.invert(pc.is_in(day, pa.array(window.days, pa.date32()))))
        else:
            stays = pc.is_in(table["month"], pa.array(months, pa.date32()))
        kept[relation.name] = table.filter(stays).cast(relation.schema)
    return kept


def _less_energy(matrix: pa.Table, months: set[date]) -> pa.Table:
    """The matrix without the energy and turnover of these months: `features` does not hold their last day any more."""
    lost = pc.is_in(matrix["month"], pa.array(months, pa.date32()))
    for name in ("energy_wh", "turnover_minor"):
        at = matrix.schema.get_field_index(name)
        told = pc.if_else(lost, pa.scalar(None, pa.int64()), matrix[name])
        matrix = matrix.set_column(at, matrix.schema.field(at), told)
    return matrix


def _months(con: duckdb.DuckDBPyConnection) -> Iterator[Month]:
    ends = con.execute("""
        SELECT month, CASE WHEN lag(month) OVER by_month = month - INTERVAL 1 MONTH THEN lag(after) OVER by_month END, after
        FROM (SELECT date_trunc('month', service_date)::DATE AS month, max(service_date) AS after FROM service_days GROUP BY ALL)
        WINDOW by_month AS (ORDER BY month) ORDER BY month
    """).fetchall()
    yield from (Month(*row) for row in ends)


def _by_month(
    con: duckdb.DuckDBPyConnection, policy: Policy, months: Sequence[Month], last: date, held: date,
    kept: Mapping[str, pa.Table],
) -> dict[str, pa.Table]:  # fmt: skip
    con.execute(CELLS)
    con.execute(
        "CREATE OR REPLACE TEMP TABLE pairs (month DATE, from_tier VARCHAR, to_tier VARCHAR, account_days BIGINT)"
    )
    con.execute("CREATE OR REPLACE TEMP TABLE months (month DATE, before DATE, after DATE)")
    con.execute("CREATE OR REPLACE TEMP TABLE tier_place (policy_version VARCHAR, tier VARCHAR, place INTEGER)")
    if not months:
        return {relation.name: relation.schema.empty_table() for relation in BY_MONTH}
    con.executemany("INSERT INTO months VALUES (?, ?, ?)", [[m.month, m.before, m.after] for m in months])
    con.executemany("INSERT INTO tier_place VALUES (?, ?, ?)", tier_places(policy))
    for m in months:
        of_day, sums = "", "NULL::HUGEINT, NULL::HUGEINT"
        if m.after >= held:
            of_day = (
                "LEFT JOIN (SELECT account_id, wh_365d, billed_365d_minor FROM features"
                f" WHERE service_date = DATE '{m.after}') f USING (account_id)"
            )
            sums = "sum(f.wh_365d), sum(f.billed_365d_minor)"
        ends, here = {"before": m.before, "after": m.after}, {"month": m.month, "after": m.after}
        con.execute(HISTORY.format(last=last, category="category" if m.after == last else "NULL"))
        if m.after == last:
            con.execute(STAYED.format(sums=sums, features=of_day), ends | here)
        con.execute(CHANGED, ends)
        con.execute(ADD_CHANGED.format(category=CATEGORY, sums=sums, features=of_day), here)
        con.execute(PAIRS, here)
    new = {
        TIER_MIGRATION_MATRIX.name: con.sql(MATRIX).to_arrow_table(),
        TIER_TRANSITION_RATES.name: con.sql(RATES).to_arrow_table(),
        TIER_TENURE.name: con.sql(TENURE).to_arrow_table(),
    }
    old = kept.get(TIER_TENURE.name, TIER_TENURE.schema.empty_table())
    con.register("tenure", pa.concat_tables([old, new[TIER_TENURE.name].cast(TIER_TENURE.schema)]))
    con.execute(MOVED.format(days=FLAP_DAYS, category=CATEGORY))
    new[TIER_STABILITY.name] = con.sql(
        STABILITY, params={"tiers": [tier for tier in TIERS if tier != "closed"]}
    ).to_arrow_table()
    con.unregister("tenure")
    return new


def _shares(con: duckdb.DuckDBPyConnection, days: Sequence[date], last: date) -> pa.Table:
    con.execute(HISTORY.format(last=last, category="NULL"))
    con.execute(
        "CREATE OR REPLACE TEMP TABLE of_days (service_date DATE, category VARCHAR, tier VARCHAR, accounts BIGINT,"
        " energy_wh HUGEINT, turnover_minor HUGEINT)"
    )
    if days:
        con.execute("INSERT INTO of_days " + OF_DAYS, {"first": min(days), "last": max(days), "days": list(days)})
    return con.sql(SHARES).to_arrow_table()


def _add_last(con: duckdb.DuckDBPyConnection, shares: pa.Table, last: date) -> pa.Table:
    """The last day's shares: its month's cells hold them already."""
    con.execute("DELETE FROM of_days")
    con.execute(
        "INSERT INTO of_days SELECT $day, category, to_tier, sum(accounts), sum(energy_wh), sum(turnover_minor) FROM cells"
        " WHERE month = date_trunc('month', $day) AND to_tier NOT IN ('none', 'closed') GROUP BY ALL",
        {"day": last},
    )
    return pa.concat_tables([shares, con.sql(SHARES).to_arrow_table()])


def _curve(con: duckdb.DuckDBPyConnection, policy: Policy, last: date) -> pa.Table:
    abc = policy.on(last).abc
    scopes = ["all"] if abc.scope == "all" else [f"category={category}" for category in CATEGORIES]
    parts = [PARETO.schema.empty_table()]
    for scope in scopes:
        of_scope = "" if scope == "all" else f"AND category = '{scope.removeprefix('category=')}'"
        found = con.execute(
            f"SELECT {abc.metric}::BIGINT AS amount FROM features WHERE service_date = $day AND {abc.metric} > 0 {of_scope}",
            {"day": last},
        ).fetchnumpy()["amount"]
        customers, sums = lorenz(np.asarray(found, np.int64))
        n = len(sums)
        shares = [amount * PPM_LIMIT // sums[-1] for amount in sums]
        columns = [[last] * n, [abc.metric] * n, [scope] * n, list(range(1, n + 1)), customers, sums, shares]
        parts.append(pa.table(columns, schema=PARETO.schema))
    return pa.concat_tables(parts)


def _joined(relation: Relation, kept: pa.Table | None, new: pa.Table) -> pa.Table:
    """What was carried over and what was made, in the order of the keys."""
    new = new.select(relation.schema.names).cast(relation.schema)
    if kept is not None:
        new = pa.concat_tables([kept, new])
    return new.sort_by([(key, "ascending") for key in relation.keys])


def flap_counts(
    con: duckdb.DuckDBPyConnection, relation: str = "tier_migrations", since: date = date.min
) -> tuple[int, int, int]:
    """Migrations of a relation like `tier_migrations`, those of them that are flaps, and the accounts that made these.

    For comparing policies over any days; by month and scope it stands in `tier_stability`. since: first day that counts; a flap
    on it is back from what the relation tells of the `FLAP_DAYS` before.
    """
    found = con.execute(
        f"""
        WITH recent AS (
            SELECT account_id, service_date, to_tier, service_date - lag(service_date) OVER of_account AS after_days,
                lag(from_tier) OVER of_account AS before_from
            FROM {relation} WINDOW of_account AS (PARTITION BY account_id ORDER BY service_date)
        )
        SELECT count(*), count(*) FILTER (back), count(DISTINCT account_id) FILTER (back)
        FROM (SELECT account_id, coalesce(before_from = to_tier AND after_days <= {FLAP_DAYS}, false) AS back FROM recent
              WHERE service_date >= $since)
    """,
        {"since": since},
    ).fetchall()[0]
    return int(found[0]), int(found[1]), int(found[2])


def months_without_energy(matrix: pa.Table, days: Sequence[date], held: date) -> list[date]:
    """Months whose matrix tells no energy, though `features` holds their last day: retention was made longer."""
    ends = {day.replace(day=1): day for day in sorted(days)}
    lacking = pc.and_(pc.is_null(matrix["energy_wh"]), pc.not_equal(matrix["to_tier"], "none"))
    months = set(matrix.filter(lacking)["month"].to_pylist())
    return sorted(month for month in months if month in ends and ends[month] >= held)


def days_to_make(held: Sequence[date], carried: pa.Table | None, touched: date | None) -> list[date]:
    """Service days of `features`, held, that `tier_shares` lacks, or that were made anew: from `touched` on."""
    known = set() if carried is None else set(carried["service_date"].to_pylist())
    return [day for day in held if day not in known or (touched is not None and day >= touched)]
