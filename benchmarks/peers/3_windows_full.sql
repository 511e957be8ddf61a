-- (a) Rolling sums from all the days in reach. Stretches of days that do not overlap are summed once each.
CREATE OR REPLACE TEMP TABLE sums AS
WITH days_7 AS (
    SELECT slot, sum(energy_wh) AS wh, sum(received) AS received, count(*) AS days, sum(energy_wh::HUGEINT * energy_wh) AS squares,
        count(*) FILTER (energy_wh > 0) AS used
    FROM daily WHERE service_date BETWEEN today() - 6 AND today() GROUP BY slot
),
days_30 AS (
    SELECT slot, sum(energy_wh) AS wh, sum(received) AS received, count(*) AS days, sum(energy_wh::HUGEINT * energy_wh) AS squares,
        count(*) FILTER (energy_wh > 0) AS used
    FROM daily WHERE service_date BETWEEN today() - 29 AND today() - 7 GROUP BY slot
),
days_90 AS (
    SELECT slot, sum(energy_wh) AS wh, sum(received) AS received, count(*) AS days, sum(energy_wh::HUGEINT * energy_wh) AS squares,
        count(*) FILTER (energy_wh > 0) AS used
    FROM daily WHERE service_date BETWEEN today() - 89 AND today() - 30 GROUP BY slot
),
days_365 AS (
    SELECT slot, sum(energy_wh) AS wh, sum(received) AS received, count(*) FILTER (energy_wh > 0) AS used
    FROM daily WHERE service_date BETWEEN today() - 364 AND today() - 90 GROUP BY slot
),
year_ago AS (
    SELECT slot, sum(energy_wh) AS wh, sum(received) AS received
    FROM daily WHERE service_date BETWEEN today() - 454 AND today() - 365 GROUP BY slot
),
this_month AS (
    SELECT slot, sum(energy_wh) AS wh, sum(received) AS received
    FROM daily WHERE service_date BETWEEN date_trunc('month', today())::DATE AND today() GROUP BY slot
),
filled AS (
    SELECT k.slot,
        coalesce(a.wh, 0)::BIGINT AS wh_a, coalesce(a.received, 0)::INTEGER AS rec_a,
        coalesce(b.wh, 0)::BIGINT AS wh_b, coalesce(b.received, 0)::INTEGER AS rec_b,
        coalesce(c.wh, 0)::BIGINT AS wh_c, coalesce(c.received, 0)::INTEGER AS rec_c,
        coalesce(d.wh, 0)::BIGINT AS wh_d, coalesce(d.received, 0)::INTEGER AS rec_d,
        coalesce(y.wh, 0)::BIGINT AS wh_y, coalesce(y.received, 0)::INTEGER AS rec_y,
        coalesce(m.wh, 0)::BIGINT AS wh_m, coalesce(m.received, 0)::INTEGER AS rec_m,
        (coalesce(a.days, 0) + coalesce(b.days, 0) + coalesce(c.days, 0))::INTEGER AS days_90d,
        coalesce(a.squares, 0) + coalesce(b.squares, 0) + coalesce(c.squares, 0) AS squares_90d,
        (coalesce(a.used, 0) + coalesce(b.used, 0) + coalesce(c.used, 0) + coalesce(d.used, 0))::INTEGER AS used_days_365d
    FROM account_key k
    LEFT JOIN days_7 a USING (slot) LEFT JOIN days_30 b USING (slot) LEFT JOIN days_90 c USING (slot)
    LEFT JOIN days_365 d USING (slot) LEFT JOIN year_ago y USING (slot) LEFT JOIN this_month m USING (slot)
)
SELECT slot,
    wh_a AS wh_7d, rec_a AS received_7d,
    wh_a + wh_b AS wh_30d, rec_a + rec_b AS received_30d,
    wh_a + wh_b + wh_c AS wh_90d, rec_a + rec_b + rec_c AS received_90d,
    wh_a + wh_b + wh_c + wh_d AS wh_365d, rec_a + rec_b + rec_c + rec_d AS received_365d,
    wh_m AS wh_mtd, rec_m AS received_mtd, days_90d, squares_90d,
    wh_y AS wh_90d_year_ago, rec_y AS received_90d_year_ago, used_days_365d
FROM filled;
