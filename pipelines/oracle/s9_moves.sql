-- definitions.md, "How tiers move": rates by pairs of days, what goes up, down and back, and the stability of a month.
-- oracle.tier_place (policy_version, tier, place) and oracle.tier_code (tier) are given.
CREATE OR REPLACE TABLE oracle.tier_transition_rates AS
WITH pair AS (
    SELECT date_trunc('month', t.service_date)::DATE AS month, y.tier AS from_tier, t.tier AS to_tier
    FROM oracle.tier_day t
    JOIN oracle.tier_day y ON y.account_id = t.account_id AND y.service_date = t.service_date - 1
),
exposed AS (
    SELECT month, from_tier, count(*) AS account_days, count(*) FILTER (to_tier <> from_tier) AS migrations
    FROM pair
    GROUP BY ALL
),
rate AS (
    SELECT p.month, p.from_tier, p.to_tier, count(*) AS migrations, oracle.floor_div(count(*) * 365 * 1000000, e.account_days) AS rate
    FROM pair p
    JOIN exposed e ON e.month = p.month AND e.from_tier = p.from_tier
    WHERE p.to_tier <> p.from_tier
    GROUP BY p.month, p.from_tier, p.to_tier, e.account_days
)
SELECT r.month, r.from_tier, r.to_tier, r.migrations, e.account_days, r.rate AS rate_year_ppm
FROM rate r
JOIN exposed e ON e.month = r.month AND e.from_tier = r.from_tier
UNION ALL
SELECT
    month,
    from_tier,
    from_tier,
    migrations,
    account_days,
    -coalesce((SELECT sum(rate) FROM rate r WHERE r.month = e.month AND r.from_tier = e.from_tier), 0)
FROM exposed e;

CREATE OR REPLACE TABLE oracle.directed AS
SELECT
    m.account_id,
    date_trunc('month', m.service_date)::DATE AS month,
    unnest(['all', 'category=' || p.category]) AS scope,
    up.place > down.place AS is_up,
    up.place < down.place AS is_down,
    -- the one before it, if it left for where this one goes back to, not too long ago
    coalesce(
        (
            SELECT arg_max(b.from_tier, b.service_date) = m.to_tier AND m.service_date - max(b.service_date) <= 30
            FROM oracle.tier_migrations b
            WHERE b.account_id = m.account_id AND b.service_date < m.service_date
        ),
        false
    ) AS is_flap
FROM oracle.tier_migrations m
JOIN oracle.tier_day_known p ON p.account_id = m.account_id AND p.service_date = m.service_date
LEFT JOIN oracle.tier_place up ON up.policy_version = m.policy_version AND up.tier = m.to_tier
LEFT JOIN oracle.tier_place down ON down.policy_version = m.policy_version AND down.tier = m.from_tier;

CREATE OR REPLACE TABLE oracle.stability_index AS
WITH part AS (
    SELECT
        s.month,
        s.scope,
        c.tier,
        (2 * coalesce(t.accounts, 0) + 1) / (2 * s.accounts + (SELECT count(*) FROM oracle.tier_code)) AS part
    FROM (SELECT month, scope, sum(accounts) AS accounts FROM oracle.tier_tenure GROUP BY ALL) s
    CROSS JOIN oracle.tier_code c
    LEFT JOIN oracle.tier_tenure t ON t.month = s.month AND t.scope = s.scope AND t.tier = c.tier
)
SELECT
    a.month,
    a.scope,
    datediff('month', b.month, a.month) AS months_before,
    round(1000000 * sum((a.part - b.part) * ln(a.part / b.part)))::BIGINT AS psi
FROM part a
JOIN part b ON b.scope = a.scope AND b.tier = a.tier AND datediff('month', b.month, a.month) IN (1, 12)
GROUP BY a.month, a.scope, months_before;

CREATE OR REPLACE TABLE oracle.tier_stability AS
WITH counted AS (
    SELECT
        month,
        scope,
        count(*) AS migrations,
        count(*) FILTER (is_up) AS upgrades,
        count(*) FILTER (is_down) AS downgrades,
        count(*) FILTER (is_flap) AS flaps,
        count(DISTINCT account_id) FILTER (is_flap) AS flap_accounts
    FROM oracle.directed
    GROUP BY month, scope
)
SELECT
    s.month,
    s.scope,
    coalesce(c.migrations, 0) AS migrations,
    coalesce(c.upgrades, 0) AS upgrades,
    coalesce(c.downgrades, 0) AS downgrades,
    oracle.ppm(c.upgrades, c.downgrades) AS upgrade_ratio_ppm,
    coalesce(c.flaps, 0) AS flaps,
    coalesce(c.flap_accounts, 0) AS flap_accounts,
    oracle.ppm(c.flaps, c.migrations) AS flap_rate_ppm,
    m.mobility_ppm,
    one.psi AS psi_month_micro,
    twelve.psi AS psi_year_micro
FROM (SELECT DISTINCT month, scope FROM oracle.tier_tenure) s
LEFT JOIN counted c USING (month, scope)
LEFT JOIN oracle.mobility m USING (month, scope)
LEFT JOIN oracle.stability_index one ON one.month = s.month AND one.scope = s.scope AND one.months_before = 1
LEFT JOIN oracle.stability_index twelve ON twelve.month = s.month AND twelve.scope = s.scope AND twelve.months_before = 12;
