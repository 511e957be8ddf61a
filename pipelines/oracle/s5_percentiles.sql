-- definitions.md, "Cut-offs": percentiles, from oracle.measured. Everybody whose metric is known ranks; a scope in which nobody
-- ranks has no cut-offs.
INSERT INTO oracle.cutoffs BY NAME
WITH placed AS (
    SELECT
        m.service_date,
        m.metric,
        r.ranked,
        r.within,
        CASE r.within
            WHEN 'category' THEN 'category=' || m.category
            WHEN 'region' THEN 'region=' || coalesce(m.region, '')
            ELSE 'all'
        END AS scope,
        m.account_id,
        m.amount,
        d.policy_version,
        row_number() OVER (
            PARTITION BY m.service_date, m.metric, r.ranked, scope
            ORDER BY CASE r.ranked WHEN 'largest_first' THEN -m.amount::HUGEINT ELSE m.amount::HUGEINT END, m.account_id
        ) AS place,
        count(*) OVER (PARTITION BY m.service_date, m.metric, r.ranked, scope) AS customers
    FROM oracle.measured m
    JOIN oracle.policy_day d ON d.service_date = m.service_date
    JOIN (SELECT DISTINCT policy_version, metric, within, ranked FROM oracle.policy_percentile) r
        ON r.policy_version = d.policy_version AND r.metric = m.metric
)
SELECT
    p.service_date,
    p.metric,
    p.scope,
    'percentile' AS rule,
    'P' AS class,
    'cut' AS side,
    p.ranked,
    'count' AS kind,
    c.cut_num,
    c.cut_den,
    arg_max(p.amount, p.place) AS amount,
    arg_max(p.account_id, p.place) AS boundary_account_id,
    count(*) AS inside_customers,
    any_value(p.customers) AS customers,
    any_value(p.policy_version) AS policy_version
FROM placed p
JOIN oracle.policy_percentile c
    ON c.policy_version = p.policy_version AND c.metric = p.metric AND c.within = p.within AND c.ranked = p.ranked
WHERE p.place <= (p.customers * c.cut_num + c.cut_den - 1) // c.cut_den -- rounded up
GROUP BY p.service_date, p.metric, p.scope, p.ranked, c.cut_num, c.cut_den;
