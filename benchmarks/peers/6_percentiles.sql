-- The percentiles of one ranking, {{scope}} saying who ranks together, {{order}} who comes first; {{cuts}}: its shares.
INSERT INTO cut_row BY NAME
WITH placed AS (
    SELECT {{scope}} AS scope, account_id, {{metric}} AS amount, row_number() OVER ranking AS place, count(*) OVER together AS customers
    FROM feature f
    WHERE {{metric}} IS NOT NULL
    WINDOW together AS (PARTITION BY {{scope}}), ranking AS (PARTITION BY {{scope}} ORDER BY {{metric}} {{order}}, account_id)
)
SELECT today() AS service_date, '{{metric}}' AS metric, scope, 'percentile' AS rule, 'P' AS class, 'cut' AS side, {{ranked}} AS ranked,
    'count' AS kind, c.num AS cut_num, c.den AS cut_den, amount, account_id AS boundary_account_id, place AS inside_customers, customers,
    {{policy_version}} AS policy_version
FROM placed, (SELECT unnest({{cuts}}) AS c)
WHERE place = (customers::HUGEINT * c.num + c.den - 1) // c.den;
