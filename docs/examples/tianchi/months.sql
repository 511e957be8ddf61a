/* Class sizes, and what part of the energy each class uses, at the end of every month by the three ABC rules. */
SELECT
    strftime(service_date, '%Y-%m') AS month,
    rule,
    max(inside_customers) FILTER (class = 'A') AS a,
    max(inside_customers) FILTER (class = 'B') - max(inside_customers) FILTER (class = 'A') AS b,
    any_value(customers) - max(inside_customers) FILTER (class = 'B') AS c,
    max(inside_total) FILTER (class = 'A')::HUGEINT * 1000000 // any_value(total) AS a_share_ppm,
    max(inside_total) FILTER (class = 'B')::HUGEINT * 1000000 // any_value(total) AS a_and_b_share_ppm
FROM cutoffs
WHERE
    side = 'cut'
    AND rule <> 'percentile'
    AND service_date IN (SELECT max(service_date) FROM cutoffs GROUP BY date_trunc('month', service_date))
GROUP BY month, rule
ORDER BY month, rule
