/* Class sizes on the last service day by the three ABC rules, and how uneven energy is spread. */
SELECT
    rule,
    max(inside_customers) FILTER (class = 'A') AS a,
    max(inside_customers) - max(inside_customers) FILTER (class = 'A') AS b,
    any_value(customers) - max(inside_customers) AS c,
    any_value(top20_share_ppm) AS top20_share_ppm,
    any_value(gini_ppm) AS gini_ppm
FROM cutoffs
WHERE side = 'cut' AND rule <> 'percentile' AND service_date = (SELECT max(service_date) FROM cutoffs)
GROUP BY rule
ORDER BY rule
