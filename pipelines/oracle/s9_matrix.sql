-- definitions.md, "How tiers move": the matrix of months, tenure, and the mobility of a month, from the tiers of every day.
CREATE OR REPLACE TABLE oracle.month_end AS
SELECT date_trunc('month', service_date)::DATE AS month, max(service_date) AS last_day
FROM oracle.service_day
GROUP BY ALL;

-- A closed account counts by the category that its reference data tell.
CREATE OR REPLACE TABLE oracle.tier_day_known AS
SELECT t.* REPLACE (coalesce(t.category, a.category) AS category)
FROM oracle.tier_day t
ASOF LEFT JOIN (
    SELECT account_id, category, CASE WHEN is_earliest THEN DATE '0001-01-01' ELSE valid_from END AS since FROM oracle.account
) a ON a.account_id = t.account_id AND a.since <= t.service_date;

CREATE OR REPLACE TABLE oracle.at_month_end AS
SELECT m.month, t.account_id, t.category, t.tier, m.last_day - t.tier_since + 1 AS tenure, f.wh_365d, f.billed_365d_minor
FROM oracle.month_end m
JOIN oracle.tier_day_known t ON t.service_date = m.last_day
LEFT JOIN oracle.features f ON f.account_id = t.account_id AND f.service_date = m.last_day;

-- The first month of the calendar has none before it, and no moves.
CREATE OR REPLACE TABLE oracle.month_move AS
WITH side AS (
    SELECT month, account_id, category, tier AS to_tier, NULL AS from_tier, wh_365d, billed_365d_minor FROM oracle.at_month_end
    UNION ALL BY NAME
    SELECT (month + INTERVAL 1 MONTH)::DATE AS month, account_id, category AS category_before, tier AS from_tier
    FROM oracle.at_month_end
)
SELECT
    month,
    account_id,
    coalesce(max(category), max(category_before)) AS category,
    coalesce(max(from_tier), 'none') AS from_tier,
    coalesce(max(to_tier), 'none') AS to_tier,
    max(wh_365d) AS wh_365d,
    max(billed_365d_minor) AS billed_365d_minor
FROM side
WHERE month IN (SELECT month FROM oracle.month_end) AND month > (SELECT min(month) FROM oracle.month_end)
GROUP BY month, account_id;

CREATE OR REPLACE TABLE oracle.tier_migration_matrix AS
WITH counted AS (
    SELECT
        month,
        from_tier,
        to_tier,
        count(*) AS accounts,
        sum(wh_365d) AS energy_wh,
        sum(billed_365d_minor) AS turnover_minor
    FROM oracle.month_move
    WHERE NOT (from_tier = 'closed' AND to_tier = 'closed')
    GROUP BY ALL
)
SELECT
    c.month,
    c.from_tier,
    c.to_tier,
    c.accounts,
    -- up to and with this tier, less up to the one before it
    oracle.ppm((SELECT sum(accounts) FROM counted x WHERE x.month = c.month AND x.from_tier = c.from_tier AND x.to_tier <= c.to_tier),
               (SELECT sum(accounts) FROM counted x WHERE x.month = c.month AND x.from_tier = c.from_tier))
    - coalesce(oracle.ppm(
        (SELECT sum(accounts) FROM counted x WHERE x.month = c.month AND x.from_tier = c.from_tier AND x.to_tier < c.to_tier),
        (SELECT sum(accounts) FROM counted x WHERE x.month = c.month AND x.from_tier = c.from_tier)), 0) AS share_ppm,
    CASE WHEN e.last_day >= getvariable('features_from') THEN c.energy_wh END AS energy_wh,
    CASE WHEN e.last_day >= getvariable('features_from') THEN c.turnover_minor END AS turnover_minor
FROM counted c
JOIN oracle.month_end e USING (month);

-- A scope is all, or one category.
CREATE OR REPLACE TABLE oracle.tier_tenure AS
SELECT
    month,
    unnest(['all', 'category=' || category]) AS scope,
    tier,
    count(*) AS accounts,
    sum(tenure) AS tenure_days,
    sum(tenure) // count(*) AS mean_tenure_days
FROM (SELECT month, category, tier, tenure FROM oracle.at_month_end WHERE tier <> 'closed')
GROUP BY month, scope, tier;

CREATE OR REPLACE TABLE oracle.mobility AS
WITH leavable AS (
    SELECT
        month,
        scope,
        from_tier,
        oracle.ppm(count(*) FILTER (to_tier = from_tier), count(*)) AS stayed_ppm
    FROM (SELECT *, unnest(['all', 'category=' || category]) AS scope FROM oracle.month_move)
    WHERE from_tier NOT IN ('none', 'closed') AND to_tier NOT IN ('none', 'closed')
    GROUP BY month, scope, from_tier
)
SELECT month, scope, oracle.floor_div(count(*) * 1000000 - sum(stayed_ppm), nullif(count(*) - 1, 0)) AS mobility_ppm
FROM leavable
GROUP BY month, scope;
