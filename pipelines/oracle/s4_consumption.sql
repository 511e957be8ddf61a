-- definitions.md, "Daily consumption" and "Rolling consumption", for service days first_day .. through.

-- What is told beside the total, each in a column; max_demand_wh is in W.
CREATE OR REPLACE TABLE oracle.apart AS
PIVOT oracle.counted_register
ON register IN ('sharp', 'peak', 'flat', 'valley', 'reverse', 'max_demand')
USING sum(energy_wh)::BIGINT AS wh
GROUP BY account_id, service_date;

CREATE OR REPLACE VIEW oracle.daily_consumption AS
SELECT
    account_id,
    service_date,
    coalesce(r.energy_wh, 0) AS energy_wh,
    coalesce(r.meters_received, 0) AS meters_received,
    coalesce(r.meters_estimated, 0) AS meters_estimated,
    coalesce(r.meters_conflict, 0) AS meters_conflict,
    coalesce(e.meters_expected, 0) AS meters_expected,
    a.sharp_wh,
    a.peak_wh,
    a.flat_wh,
    a.valley_wh,
    a.reverse_wh,
    a.max_demand_wh AS max_demand_w,
    r.as_read_wh,
    p.provisional_wh
FROM oracle.counted_day r
FULL JOIN oracle.apart a USING (account_id, service_date)
FULL JOIN oracle.provisional p USING (account_id, service_date)
LEFT JOIN oracle.expected e USING (account_id, service_date)
WHERE service_date BETWEEN getvariable('first_day') AND getvariable('through');

-- Sums over 30 and 90 days, without a window: each counted day is added to the days whose windows it lies in.
CREATE OR REPLACE TABLE oracle.apart_sums AS
SELECT
    a.account_id,
    d.service_date,
    coalesce(sum(sharp_wh) FILTER (a.service_date > d.service_date - 30), 0) AS sharp_30d,
    coalesce(sum(peak_wh) FILTER (a.service_date > d.service_date - 30), 0) AS peak_30d,
    coalesce(sum(flat_wh) FILTER (a.service_date > d.service_date - 30), 0) AS flat_30d,
    coalesce(sum(valley_wh) FILTER (a.service_date > d.service_date - 30), 0) AS valley_30d,
    coalesce(sum(reverse_wh) FILTER (a.service_date > d.service_date - 30), 0) AS reverse_30d,
    coalesce(sum(sharp_wh), 0) AS sharp_90d,
    coalesce(sum(peak_wh), 0) AS peak_90d,
    coalesce(sum(flat_wh), 0) AS flat_90d,
    coalesce(sum(valley_wh), 0) AS valley_90d,
    coalesce(sum(reverse_wh), 0) AS reverse_90d
FROM oracle.service_day d
JOIN oracle.apart a ON a.service_date BETWEEN d.service_date - 89 AND d.service_date
GROUP BY a.account_id, d.service_date;

CREATE OR REPLACE VIEW oracle.apart_features AS
SELECT
    account_id,
    service_date,
    sharp_30d + peak_30d + flat_30d + valley_30d AS period_wh_30d,
    oracle.ppm(sharp_30d, nullif(period_wh_30d, 0)) AS sharp_share_30d_ppm,
    oracle.ppm(peak_30d, nullif(period_wh_30d, 0)) AS peak_share_30d_ppm,
    oracle.ppm(flat_30d, nullif(period_wh_30d, 0)) AS flat_share_30d_ppm,
    oracle.ppm(valley_30d, nullif(period_wh_30d, 0)) AS valley_share_30d_ppm,
    reverse_30d AS reverse_wh_30d,
    sharp_90d + peak_90d + flat_90d + valley_90d AS period_wh_90d,
    oracle.ppm(sharp_90d, nullif(period_wh_90d, 0)) AS sharp_share_90d_ppm,
    oracle.ppm(peak_90d, nullif(period_wh_90d, 0)) AS peak_share_90d_ppm,
    oracle.ppm(flat_90d, nullif(period_wh_90d, 0)) AS flat_share_90d_ppm,
    oracle.ppm(valley_90d, nullif(period_wh_90d, 0)) AS valley_share_90d_ppm,
    reverse_90d AS reverse_wh_90d
FROM oracle.apart_sums;

-- One row per account and day without a gap, so that a window of w days is a window of w rows.
CREATE OR REPLACE TABLE oracle.consumption AS
WITH by_day AS (
    SELECT
        k.account_id,
        d.service_date,
        date_trunc('month', d.service_date) AS month,
        coalesce(r.energy_wh, 0) AS wh,
        coalesce(r.meters_received, 0) AS received,
        p.provisional_wh
    FROM oracle.known_account k
    CROSS JOIN oracle.reached_day d
    LEFT JOIN oracle.counted_day r ON r.account_id = k.account_id AND r.service_date = d.service_date
    LEFT JOIN oracle.provisional p ON p.account_id = k.account_id AND p.service_date = d.service_date
),
summed AS (
    SELECT
        account_id,
        service_date,
        sum(wh) OVER last_7 AS wh_7d,
        sum(received) OVER last_7 AS received_7d,
        sum(wh) OVER last_30 AS wh_30d,
        sum(received) OVER last_30 AS received_30d,
        sum(wh) OVER last_90 AS wh_90d,
        sum(received) OVER last_90 AS received_90d,
        sum(wh) OVER last_365 AS wh_365d,
        sum(received) OVER last_365 AS received_365d,
        sum(wh) OVER this_month AS wh_mtd,
        sum(received) OVER this_month AS received_mtd,
        count(*) FILTER (received > 0) OVER last_90 AS days_90d,
        sum(wh::HUGEINT * wh) FILTER (received > 0) OVER last_90 AS squares_90d,
        coalesce(sum(wh) OVER year_ago, 0) AS wh_90d_year_ago,
        coalesce(sum(received) OVER year_ago, 0) AS received_90d_year_ago,
        coalesce(sum(provisional_wh) OVER last_30, 0) AS provisional_wh_30d,
        coalesce(sum(provisional_wh) OVER last_365, 0) AS provisional_wh_365d
    FROM by_day
    WINDOW
        last_7 AS (PARTITION BY account_id ORDER BY service_date ROWS BETWEEN 6 PRECEDING AND CURRENT ROW),
        last_30 AS (PARTITION BY account_id ORDER BY service_date ROWS BETWEEN 29 PRECEDING AND CURRENT ROW),
        last_90 AS (PARTITION BY account_id ORDER BY service_date ROWS BETWEEN 89 PRECEDING AND CURRENT ROW),
        last_365 AS (PARTITION BY account_id ORDER BY service_date ROWS BETWEEN 364 PRECEDING AND CURRENT ROW),
        year_ago AS (PARTITION BY account_id ORDER BY service_date ROWS BETWEEN 454 PRECEDING AND 365 PRECEDING),
        this_month AS (
            PARTITION BY account_id, month ORDER BY service_date ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
        )
),
-- cv_90d_ppm = isqrt(excess * 10^12 // square): a long division, three decimal digits a step, so that nothing
-- passes 2^127 as long as wh_90d < 2^58 (the product excess * 10^12 would, from days of 50 GWh on).
-- excess <= 89 * square, so the quotient is below 89 * 10^12 + 10^12 < 2^47.
divided AS (
    SELECT
        *,
        days_90d::HUGEINT * squares_90d - wh_90d::HUGEINT * wh_90d::HUGEINT AS excess,
        nullif(wh_90d::HUGEINT * wh_90d::HUGEINT, 0) AS square,
        excess // square AS digits_0,
        excess % square AS rest_0,
        rest_0 * 1000 // square AS digits_1,
        rest_0 * 1000 % square AS rest_1,
        rest_1 * 1000 // square AS digits_2,
        rest_1 * 1000 % square AS rest_2,
        rest_2 * 1000 // square AS digits_3,
        rest_2 * 1000 % square AS rest_3,
        rest_3 * 1000 // square AS digits_4,
        (((digits_0 * 1000 + digits_1) * 1000 + digits_2) * 1000 + digits_3) * 1000 + digits_4 AS quotient,
        floor(sqrt(quotient::DOUBLE))::HUGEINT AS root -- at most one off; set right below
    FROM summed
    WHERE service_date >= getvariable('first_day')
)
SELECT
    account_id,
    service_date,
    wh_7d,
    received_7d,
    coalesce(expected_7d, 0) AS expected_7d,
    oracle.ppm(received_7d, expected_7d) AS coverage_7d_ppm,
    wh_30d,
    received_30d,
    coalesce(expected_30d, 0) AS expected_30d,
    oracle.ppm(received_30d, expected_30d) AS coverage_30d_ppm,
    wh_90d,
    received_90d,
    coalesce(expected_90d, 0) AS expected_90d,
    oracle.ppm(received_90d, expected_90d) AS coverage_90d_ppm,
    wh_365d,
    received_365d,
    coalesce(expected_365d, 0) AS expected_365d,
    oracle.ppm(received_365d, expected_365d) AS coverage_365d_ppm,
    wh_mtd,
    received_mtd,
    coalesce(expected_mtd, 0) AS expected_mtd,
    oracle.ppm(received_mtd, expected_mtd) AS coverage_mtd_ppm,
    wh_90d_year_ago,
    received_90d_year_ago,
    coalesce(expected_90d_year_ago, 0) AS expected_90d_year_ago,
    provisional_wh_30d,
    provisional_wh_365d,
    days_90d,
    CASE
        WHEN root * root > quotient THEN root - 1
        WHEN (root + 1) * (root + 1) <= quotient THEN root + 1
        ELSE root
    END AS cv_90d_ppm,
    CASE -- least() would take a null for the largest
        WHEN wh_90d_year_ago > 0
        THEN least(oracle.ppm(wh_90d - wh_90d_year_ago, wh_90d_year_ago), 1000000000000)
    END AS growth_90d_ppm
FROM divided
LEFT JOIN oracle.expected USING (account_id, service_date);
