-- Cut-offs of the day: one sort, then every cut is a place in it.
CREATE OR REPLACE TEMP TABLE ranked AS
SELECT {{scope}} AS scope, account_id, {{metric}} AS amount,
    (row_number() OVER largest_first)::INTEGER AS place,
    (sum({{metric}}) OVER largest_first - {{metric}})::BIGINT AS before
FROM feature f
WHERE {{metric}} > 0
WINDOW largest_first AS (
    PARTITION BY {{scope}} ORDER BY {{metric}} DESC, account_id ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
);

CREATE OR REPLACE TEMP TABLE cut_row AS
WITH whole AS (
    SELECT scope, count(*) AS customers, sum(amount)::BIGINT AS total FROM ranked GROUP BY scope
),
top20 AS (
    SELECT scope, sum(amount) AS top20_total FROM ranked JOIN whole USING (scope) WHERE place <= (customers + 4) // 5 GROUP BY scope
),
value_group AS (
    SELECT scope, length(bin(amount)) AS bits, amount >> greatest(0, bits - 7) AS head, count(*) AS c, sum(amount) AS s
    FROM ranked GROUP BY ALL
),
area AS (
    SELECT scope, sum(c::HUGEINT * (2 * below + s)) AS area
    FROM (SELECT *, sum(s) OVER (PARTITION BY scope ORDER BY bits, head) - s AS below FROM value_group)
    GROUP BY scope
),
bound AS (  -- the largest sum before, and the last place, that are inside
    SELECT scope, rule, class, side, kind, cut_num, cut_den,
        CASE kind WHEN 'share' THEN (total::HUGEINT * cut_num - 1) // cut_den END AS most_before,
        CASE kind WHEN 'count' THEN (customers::HUGEINT * cut_num + cut_den - 1) // cut_den END AS last_place
    FROM whole, policy_cut
),
held AS (
    SELECT b.scope, rule, class, side,
        count(*) FILTER (r.before <= b.most_before OR r.place <= b.last_place) AS inside_customers
    FROM bound b JOIN ranked r USING (scope)
    GROUP BY ALL
)
SELECT today() AS service_date, '{{metric}}' AS metric, s.scope, c.rule, c.class, c.side,
    'largest_first' AS ranked, c.kind, c.cut_num, c.cut_den, r.amount, r.account_id AS boundary_account_id,
    coalesce(h.inside_customers, 0)::BIGINT AS inside_customers, coalesce(r.before + r.amount, 0)::BIGINT AS inside_total,
    coalesce(w.customers, 0)::BIGINT AS customers, coalesce(w.total, 0)::BIGINT AS total,
    (top20_total::HUGEINT * 1000000 // total)::BIGINT AS top20_share_ppm,
    1000000 - (area * 1000000 // (w.customers::HUGEINT * w.total))::BIGINT AS gini_ppm,
    {{policy_version}} AS policy_version
FROM policy_cut c
CROSS JOIN (SELECT unnest({{scopes}}) AS scope) s
LEFT JOIN whole w USING (scope) LEFT JOIN top20 USING (scope) LEFT JOIN area USING (scope)
LEFT JOIN held h ON h.scope = s.scope AND h.rule = c.rule AND h.class = c.class AND h.side = c.side
LEFT JOIN ranked r ON r.scope = s.scope AND r.place = h.inside_customers;
