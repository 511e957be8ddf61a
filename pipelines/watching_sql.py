"""The statements that `pipelines/watching.py` makes its marts by; words in braces are filled in by it."""

from __future__ import annotations

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
    FROM cells JOIN months USING (month)
    WHERE before IS NOT NULL AND NOT (from_tier = 'closed' AND to_tier = 'closed') GROUP BY ALL
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
FROM cells WHERE to_tier NOT IN ('none', 'closed') GROUP BY GROUPING SETS ((month, to_tier), (month, to_tier, category))
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
    WHERE from_tier NOT IN ('none', 'closed') AND to_tier NOT IN ('none', 'closed') GROUP BY ALL
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

OF_DAYS = """
SELECT f.service_date, f.category, h.tier, count(*) AS accounts, sum(f.wh_365d) AS energy_wh,
    sum(f.billed_365d_minor) AS turnover_minor
FROM history h JOIN features f USING (account_id)
WHERE f.service_date BETWEEN $first AND $last AND f.service_date IN (SELECT unnest($days))
    AND f.service_date BETWEEN h.valid_from AND h.valid_to AND h.tier <> 'closed'
GROUP BY ALL
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
