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

from schemas.fields import PPM_LIMIT, Relation
from schemas.inbound import CATEGORIES
from schemas.marts import (
    PARETO,
    TIER_MIGRATION_MATRIX,
    TIER_ORDER,
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

CELLS = """
CREATE OR REPLACE TEMP TABLE cells (  -- one for each tier at both ends of a month, and category
    month DATE, from_tier VARCHAR, to_tier VARCHAR, category VARCHAR, accounts BIGINT, energy_wh HUGEINT, turnover_minor HUGEINT,
    tenure_days HUGEINT
)"""

HISTORY = """
CREATE OR REPLACE TEMP VIEW history AS
SELECT account_id, tier, tier_since, valid_from, valid_to, NULL AS category FROM customer_tiers WHERE valid_to IS NOT NULL
UNION ALL SELECT account_id, tier, tier_since, valid_from, DATE '{last}', {category} FROM customer_tiers_current
"""

# An account whose row of the history holds both days is in the same tier on both; the others are few, in most months.
# The category stands in `customer_tiers_current` for the last day; for any other it is looked up in `accounts`.
STAYED = """
INSERT INTO cells
SELECT $month, tier, tier, category, count(*), {sums}, sum($after::DATE - tier_since + 1)
FROM history {features} WHERE category IS NOT NULL AND valid_from <= $before AND valid_to >= $after GROUP BY ALL
"""
CHANGED = """
CREATE OR REPLACE TEMP TABLE changed AS
WITH seen AS (
    SELECT account_id, tier, tier_since, category, coalesce(valid_from <= $before AND valid_to >= $before, false) AS at_first,
        valid_from <= $after AND valid_to >= $after AS at_end
    FROM history
    WHERE valid_from <= $after AND valid_to >= coalesce($before, $after)
        AND NOT coalesce(category IS NOT NULL AND valid_from <= $before AND valid_to >= $after, false)
)
SELECT account_id, max(tier) FILTER (at_first) AS from_tier, max(tier) FILTER (at_end) AS to_tier,
    max(tier_since) FILTER (at_end) AS tier_since, max(category) FILTER (at_end) AS category,
    CASE WHEN to_tier IS NULL THEN $before::DATE ELSE $after END AS day
FROM seen WHERE at_first OR at_end GROUP BY account_id
"""
ADD_CHANGED = """
INSERT INTO cells
WITH looked_up AS (
    SELECT account_id, any_value(from_tier) AS from_tier, any_value(to_tier) AS to_tier, any_value(tier_since) AS tier_since,
        {category} AS category
    FROM (FROM changed WHERE category IS NULL) c JOIN accounts a USING (account_id) GROUP BY account_id
),
known AS (SELECT * EXCLUDE (day) FROM changed WHERE category IS NOT NULL UNION ALL BY NAME FROM looked_up)
SELECT $month, coalesce(from_tier, 'none'), coalesce(to_tier, 'none'), category, count(*), {sums},
    sum($after::DATE - tier_since + 1)
FROM known {features} GROUP BY ALL
"""
CATEGORY = (
    """coalesce(arg_max(a.category, a.valid_from) FILTER (a.valid_from <= day), arg_min(a.category, a.valid_from))"""
)
"""The category on `day` of the account that rows of `accounts`, named `a`, are grouped by."""

# `share_ppm` is what the cumulated share, rounded down, grows by: so a row adds up to all of it.
MATRIX = """
WITH summed AS (
    SELECT month, from_tier, to_tier, sum(accounts) AS accounts, sum(energy_wh) AS energy_wh, sum(turnover_minor) AS turnover_minor
    FROM cells JOIN months USING (month) WHERE before IS NOT NULL GROUP BY ALL
),
running AS (
    SELECT *, sum(accounts) OVER (PARTITION BY month, from_tier) AS total,
        sum(accounts) OVER (PARTITION BY month, from_tier ORDER BY to_tier) AS upto
    FROM summed
)
SELECT month, from_tier, to_tier, accounts, upto * 1000000 // total - (upto - accounts) * 1000000 // total AS share_ppm,
    energy_wh, turnover_minor
FROM running
"""

# Of a pair of days with a tier on both, most lie within one row of the history; the others join one row to the next.
PAIRS = """
INSERT INTO pairs
SELECT $month, tier, tier, sum(least(valid_to, $after) - greatest(valid_from + 1, $month) + 1)
FROM history WHERE valid_to >= $month AND valid_from < $after AND valid_to > valid_from GROUP BY ALL
UNION ALL
SELECT $month, a.tier, b.tier, count(*)
FROM (FROM history WHERE valid_to BETWEEN $month::DATE - 1 AND $after::DATE - 1) a
JOIN (FROM history WHERE valid_from BETWEEN $month AND $after) b
    ON b.account_id = a.account_id AND b.valid_from = a.valid_to + 1
GROUP BY ALL
"""
RATES = """
WITH exposed AS (
    SELECT month, from_tier, sum(account_days) AS account_days,
        coalesce(sum(account_days) FILTER (from_tier <> to_tier), 0) AS migrations
    FROM pairs GROUP BY ALL
),
rates AS (
    SELECT p.month, p.from_tier, p.to_tier, sum(p.account_days) AS migrations, any_value(e.account_days) AS account_days,
        sum(p.account_days) * 365000000 // any_value(e.account_days) AS rate_year_ppm
    FROM pairs p JOIN exposed e USING (month, from_tier) WHERE p.from_tier <> p.to_tier GROUP BY ALL
)
FROM rates
UNION ALL
SELECT e.month, e.from_tier, e.from_tier, e.migrations, e.account_days, -coalesce(sum(r.rate_year_ppm), 0)
FROM exposed e LEFT JOIN rates r USING (month, from_tier) GROUP BY ALL
"""

TENURE = """
SELECT month, CASE WHEN category IS NULL THEN 'all' ELSE 'category=' || category END AS scope, to_tier AS tier,
    sum(accounts) AS accounts, sum(tenure_days) AS tenure_days, sum(tenure_days) // sum(accounts) AS mean_tenure_days
FROM cells WHERE to_tier <> 'none' GROUP BY GROUPING SETS ((month, to_tier), (month, to_tier, category))
"""

MOVED = """
CREATE OR REPLACE TEMP TABLE moved AS  -- migrations of the months to be made
WITH recent AS (
    SELECT account_id, service_date, from_tier, to_tier, policy_version, month,
        lag(service_date) OVER of_account AS before_on, lag(from_tier) OVER of_account AS before_from
    FROM tier_migrations LEFT JOIN months ON month = date_trunc('month', service_date)
    WHERE service_date >= (SELECT min(month) - {days} FROM months)
    WINDOW of_account AS (PARTITION BY account_id ORDER BY service_date)
)
SELECT account_id, month, any_value(policy_version) AS policy_version, any_value(from_tier) AS from_tier,
    any_value(to_tier) AS to_tier,
    coalesce(any_value(before_from) = any_value(to_tier) AND day - any_value(before_on) <= {days}, false) AS flap,
    {category} AS category
FROM (SELECT *, service_date AS day FROM recent WHERE month IS NOT NULL) JOIN accounts a USING (account_id)
GROUP BY account_id, month, day
"""

STABILITY = """
WITH directed AS (
    SELECT m.*, coalesce(t.place > f.place, false) AS up, coalesce(t.place < f.place, false) AS down
    FROM moved m
    LEFT JOIN tier_place f ON f.policy_version = m.policy_version AND f.tier = m.from_tier
    LEFT JOIN tier_place t ON t.policy_version = m.policy_version AND t.tier = m.to_tier
),
counted AS (
    SELECT month, CASE WHEN category IS NULL THEN 'all' ELSE 'category=' || category END AS scope, count(*) AS migrations,
        count(*) FILTER (up) AS upgrades, count(*) FILTER (down) AS downgrades, count(*) FILTER (flap) AS flaps,
        count(DISTINCT account_id) FILTER (flap) AS flap_accounts
    FROM directed GROUP BY GROUPING SETS ((month), (month, category))
),
stayed AS (
    SELECT month, scope, from_tier, sum(accounts) AS accounts, coalesce(sum(accounts) FILTER (from_tier = to_tier), 0) AS stayed
    FROM (
        FROM (SELECT *, 'all' AS scope FROM cells) UNION ALL BY NAME FROM (SELECT *, 'category=' || category AS scope FROM cells)
    )
    WHERE from_tier <> 'none' AND to_tier <> 'none' GROUP BY ALL
),
mobility AS (
    SELECT month, scope,
        CASE WHEN count(*) > 1 THEN (count(*) * 1000000 - sum(stayed * 1000000 // accounts)) // (count(*) - 1) END AS mobility_ppm
    FROM stayed GROUP BY ALL
),
scopes AS (SELECT month, scope, sum(accounts) AS accounts FROM tenure GROUP BY ALL),
bins AS (  -- every tier, with half an account more
    SELECT month, scope, tier, (2 * coalesce(t.accounts, 0) + 1)::DOUBLE / (2 * s.accounts + len($tiers))::DOUBLE AS part
    FROM scopes s CROSS JOIN (SELECT unnest($tiers) AS tier) LEFT JOIN tenure t USING (month, scope, tier)
),
psi AS (
    SELECT b.month, b.scope, e.month = b.month - INTERVAL 1 MONTH AS by_month,
        round(sum((b.part - e.part) * ln(b.part / e.part)) * 1000000)::BIGINT AS micro
    FROM bins b JOIN bins e
        ON e.scope = b.scope AND e.tier = b.tier AND e.month IN (b.month - INTERVAL 1 MONTH, b.month - INTERVAL 12 MONTH)
    GROUP BY ALL
)
SELECT s.month, s.scope, coalesce(migrations, 0) AS migrations, coalesce(upgrades, 0) AS upgrades,
    coalesce(downgrades, 0) AS downgrades, upgrades * 1000000 // nullif(downgrades, 0) AS upgrade_ratio_ppm,
    coalesce(flaps, 0) AS flaps, coalesce(flap_accounts, 0) AS flap_accounts,
    flaps * 1000000 // nullif(migrations, 0) AS flap_rate_ppm, mobility_ppm, m.micro AS psi_month_micro, y.micro AS psi_year_micro
FROM scopes s JOIN months USING (month)
LEFT JOIN counted USING (month, scope) LEFT JOIN mobility USING (month, scope)
LEFT JOIN psi m ON m.month = s.month AND m.scope = s.scope AND m.by_month
LEFT JOIN psi y ON y.month = s.month AND y.scope = s.scope AND NOT y.by_month
"""

OF_DAY = """
SELECT $day AS service_date, f.category, h.tier, count(*) AS accounts, sum(f.wh_365d) AS energy_wh,
    sum(f.billed_365d_minor) AS turnover_minor
FROM history h JOIN features f USING (account_id)
WHERE f.service_date = $day AND h.valid_from <= $day AND h.valid_to >= $day GROUP BY ALL
"""
SHARES = """
WITH summed AS (
    SELECT service_date, CASE WHEN category IS NULL THEN 'all' ELSE 'category=' || category END AS scope, tier,
        sum(accounts) AS accounts, sum(energy_wh) AS energy_wh, sum(turnover_minor) AS turnover_minor
    FROM of_days GROUP BY GROUPING SETS ((service_date, tier), (service_date, tier, category))
),
whole AS (
    SELECT service_date, scope, sum(accounts) AS accounts, sum(energy_wh) AS energy_wh, sum(turnover_minor) AS turnover_minor
    FROM summed GROUP BY ALL
)
SELECT s.service_date, s.scope, s.tier, s.accounts, s.energy_wh, s.turnover_minor,
    s.accounts * 1000000 // w.accounts AS accounts_ppm,
    s.energy_wh * 1000000 // nullif(w.energy_wh, 0) AS energy_ppm,
    s.turnover_minor * 1000000 // nullif(w.turnover_minor, 0) AS turnover_ppm
FROM summed s JOIN whole w USING (service_date, scope)
"""


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
    orders = ((version.version, getattr(version, "tier_order", TIER_ORDER)) for version in policy.versions)
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
    lacking = _without_energy(carried.get(TIER_MIGRATION_MATRIX.name))
    months = [
        m
        for m in all_months
        if window.since is None or m.month >= window.since or (m.month in lacking and m.after >= window.held)
    ]
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


def _without_energy(matrix: pa.Table | None) -> set[date]:
    """Months whose matrix tells no energy."""
    if matrix is None:
        return set()
    lacking = pc.and_(pc.is_null(matrix["energy_wh"]), pc.not_equal(matrix["to_tier"], "none"))
    return set(matrix.filter(lacking)["month"].to_pylist())


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
    new[TIER_STABILITY.name] = con.sql(STABILITY, params={"tiers": list(TIERS)}).to_arrow_table()
    con.unregister("tenure")
    return new


def _shares(con: duckdb.DuckDBPyConnection, days: Sequence[date], last: date) -> pa.Table:
    con.execute(HISTORY.format(last=last, category="NULL"))
    con.execute(
        "CREATE OR REPLACE TEMP TABLE of_days (service_date DATE, category VARCHAR, tier VARCHAR, accounts BIGINT,"
        " energy_wh HUGEINT, turnover_minor HUGEINT)"
    )
    for day in days:
        con.execute("INSERT INTO of_days " + OF_DAY, {"day": day})
    return con.sql(SHARES).to_arrow_table()


def _add_last(con: duckdb.DuckDBPyConnection, shares: pa.Table, last: date) -> pa.Table:
    """The last day's shares: its month's cells hold them already."""
    con.execute("DELETE FROM of_days")
    con.execute(
        "INSERT INTO of_days SELECT $day, category, to_tier, sum(accounts), sum(energy_wh), sum(turnover_minor) FROM cells"
        " WHERE month = date_trunc('month', $day) AND to_tier <> 'none' GROUP BY ALL",
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


def days_to_make(held: Sequence[date], carried: pa.Table | None, touched: date | None) -> list[date]:
    """Service days of `features`, held, that `tier_shares` lacks, or that were made anew: from `touched` on."""
    known = set() if carried is None else set(carried["service_date"].to_pylist())
    return [day for day in held if day not in known or (touched is not None and day >= touched)]


__all__ = ["BY_MONTH", "FLAP_DAYS", "WATCHED", "Window", "days_to_make", "tier_places", "watch"]
