/* Class sizes, and what part of the energy the classes use, at the end of every month by the three ABC rules. */
WITH cut AS (
    SELECT
        strftime(service_date, '%Y-%m') AS month,
        rule,
        any_value(customers) AS customers,
        any_value(total) AS total,
        max(inside_customers) FILTER (class = 'A') AS in_a,
        max(inside_customers) AS in_a_or_b, -- the first third may reach further than the cut of class B: then nobody is B
        max(inside_total) FILTER (class = 'A') AS of_a,
        max(inside_total) AS of_a_or_b
    FROM cutoffs
    WHERE
        side = 'cut'
        AND rule <> 'percentile'
        AND service_date IN (SELECT max(service_date) FROM cutoffs GROUP BY date_trunc('month', service_date))
    GROUP BY service_date, rule
)
SELECT
    month,
    rule,
    in_a AS a,
    in_a_or_b - in_a AS b,
    customers - in_a_or_b AS c,
    of_a::HUGEINT * 1000000 // total AS a_share_ppm,
    (of_a_or_b - of_a)::HUGEINT * 1000000 // total AS b_share_ppm,
    (total - of_a_or_b)::HUGEINT * 1000000 // total AS c_share_ppm
FROM cut
ORDER BY month, rule
