-- definitions.md, "Cut-offs", from oracle.measured (service_date, account_id, category, metric, amount): the
-- population's metrics.

CREATE OR REPLACE TABLE oracle.ranked AS
SELECT
    m.service_date,
    m.metric,
    s.scope,
    m.account_id,
    m.amount,
    row_number() OVER largest_first AS place,
    sum(m.amount) OVER largest_first - m.amount AS amount_before,
    count(*) OVER ranked_together AS customers,
    sum(m.amount) OVER ranked_together AS total
FROM oracle.measured m
JOIN oracle.policy_day d ON d.service_date = m.service_date
JOIN oracle.policy_scope s
    ON s.policy_version = d.policy_version
    AND s.metric = m.metric
    AND (s.category IS NULL OR s.category = m.category)
WHERE m.amount > 0
WINDOW
    ranked_together AS (PARTITION BY m.service_date, m.metric, s.scope),
    largest_first AS (
        PARTITION BY m.service_date, m.metric, s.scope
        ORDER BY m.amount DESC, m.account_id
        ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    );

CREATE OR REPLACE TABLE oracle.inside AS
SELECT
    r.service_date,
    r.metric,
    r.scope,
    c.rule,
    c.class,
    c.side,
    arg_max(r.amount, r.place) AS amount,
    arg_max(r.account_id, r.place) AS boundary_account_id,
    count(*) AS inside_customers,
    sum(r.amount) AS inside_total
FROM oracle.ranked r
JOIN oracle.policy_day d ON d.service_date = r.service_date
JOIN oracle.policy_cut c ON c.policy_version = d.policy_version
WHERE CASE c.kind
    WHEN 'share' THEN r.amount_before * c.cut_den < r.total * c.cut_num
    ELSE r.place <= (r.customers * c.cut_num + c.cut_den - 1) // c.cut_den -- rounded up
END
GROUP BY ALL;

CREATE OR REPLACE TABLE oracle.concentration AS
WITH top20 AS (
    SELECT
        service_date,
        metric,
        scope,
        any_value(customers) AS customers,
        any_value(total) AS total,
        sum(amount) FILTER (place <= (customers + 4) // 5) AS top20_total
    FROM oracle.ranked
    GROUP BY ALL
),
value_group AS (
    SELECT
        service_date,
        metric,
        scope,
        length(bin(amount)) AS bits,
        amount >> greatest(0, bits - 7) AS head,
        count(*) AS c,
        sum(amount) AS s
    FROM oracle.ranked
    GROUP BY ALL
),
stacked AS (
    SELECT
        *,
        sum(s) OVER (
            PARTITION BY service_date, metric, scope
            ORDER BY bits, head
            ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        ) - s AS s_below
    FROM value_group
),
area AS (
    SELECT service_date, metric, scope, sum(c::HUGEINT * (2 * s_below + s)) AS area FROM stacked GROUP BY ALL
)
SELECT
    service_date,
    metric,
    scope,
    customers,
    total,
    oracle.ppm(top20_total, total) AS top20_share_ppm,
    1000000 - oracle.ppm(area, customers * total) AS gini_ppm
FROM top20
JOIN area USING (service_date, metric, scope);

-- A row for every cut on every service day, also where nobody is ranked.
CREATE OR REPLACE TABLE oracle.cutoffs AS
SELECT
    d.service_date,
    s.metric,
    s.scope,
    c.rule,
    c.class,
    c.side,
    'largest_first' AS ranked,
    c.kind,
    c.cut_num,
    c.cut_den,
    i.amount,
    i.boundary_account_id,
    coalesce(i.inside_customers, 0) AS inside_customers,
    coalesce(i.inside_total, 0) AS inside_total,
    coalesce(g.customers, 0) AS customers,
    coalesce(g.total, 0) AS total,
    g.top20_share_ppm,
    g.gini_ppm,
    d.policy_version
FROM oracle.policy_day d
JOIN oracle.policy_scope s ON s.policy_version = d.policy_version
JOIN oracle.policy_cut c ON c.policy_version = d.policy_version
LEFT JOIN oracle.inside i
    ON i.service_date = d.service_date
    AND i.metric = s.metric
    AND i.scope = s.scope
    AND i.rule = c.rule
    AND i.class = c.class
    AND i.side = c.side
LEFT JOIN oracle.concentration g
    ON g.service_date = d.service_date AND g.metric = s.metric AND g.scope = s.scope;
