-- definitions.md, "Who has how much": what tiers have on each day, and the curve of the last day.
CREATE OR REPLACE TABLE oracle.tier_shares AS
WITH summed AS (
    SELECT
        t.service_date,
        t.scope,
        t.tier,
        count(*) AS accounts,
        sum(f.wh_365d) AS energy_wh,
        sum(f.billed_365d_minor) AS turnover_minor
    FROM (SELECT *, unnest(['all', 'category=' || category]) AS scope FROM oracle.tier_day) t
    JOIN oracle.features f ON f.account_id = t.account_id AND f.service_date = t.service_date
    GROUP BY t.service_date, t.scope, t.tier
)
SELECT
    *,
    oracle.ppm(accounts, sum(accounts) OVER together) AS accounts_ppm,
    oracle.ppm(energy_wh, sum(energy_wh) OVER together) AS energy_ppm,
    oracle.ppm(turnover_minor, sum(turnover_minor) OVER together) AS turnover_ppm
FROM summed
WINDOW together AS (PARTITION BY service_date, scope);

CREATE OR REPLACE TABLE oracle.pareto AS
WITH ranked AS (
    SELECT r.*
    FROM oracle.ranked r
    JOIN oracle.policy_day d ON d.service_date = r.service_date
    JOIN oracle.policy_version v ON v.policy_version = d.policy_version AND v.metric = r.metric
    WHERE r.service_date = getvariable('through')
)
SELECT
    r.service_date,
    r.metric,
    r.scope,
    p.percent,
    count(*) AS customers,
    sum(r.amount) AS amount_sum,
    oracle.ppm(sum(r.amount), any_value(r.total)) AS share_ppm
FROM ranked r
CROSS JOIN (SELECT unnest(range(1, 101)) AS percent) p
WHERE r.place <= (r.customers * p.percent + 99) // 100 -- rounded up
GROUP BY r.service_date, r.metric, r.scope, p.percent;
