-- definitions.md, "Rolling consumption", "Maximum demand" and "What energy is worth": what follows from sums over days.
-- {{clock}}: of the sums up to a service day; or, `_clock`, of those as of its clock.

CREATE OR REPLACE TABLE oracle.apart_features{{clock}} AS
WITH summed AS (
    SELECT
        account_id,
        service_date,
        coalesce(sum(sharp_wh) FILTER (ago < 30), 0) AS sharp_30d,
        coalesce(sum(peak_wh) FILTER (ago < 30), 0) AS peak_30d,
        coalesce(sum(flat_wh) FILTER (ago < 30), 0) AS flat_30d,
        coalesce(sum(valley_wh) FILTER (ago < 30), 0) AS valley_30d,
        coalesce(sum(reverse_wh) FILTER (ago < 30), 0) AS reverse_30d,
        coalesce(sum(sharp_wh), 0) AS sharp_90d,
        coalesce(sum(peak_wh), 0) AS peak_90d,
        coalesce(sum(flat_wh), 0) AS flat_90d,
        coalesce(sum(valley_wh), 0) AS valley_90d,
        coalesce(sum(reverse_wh), 0) AS reverse_90d
    FROM oracle.apart_counted{{clock}}
    GROUP BY account_id, service_date
)
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
FROM summed;

-- cv_90d_ppm = isqrt(excess * 10^12 // square): a long division, three decimal digits a step, so that nothing
-- passes 2^127 as long as wh_90d < 2^58 (the product excess * 10^12 would, from days of 50 GWh on).
-- excess <= 89 * square, so the quotient is below 89 * 10^12 + 10^12 < 2^47.
CREATE OR REPLACE TABLE oracle.consumption{{clock}} AS
WITH divided AS (
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
    FROM oracle.window_sums{{clock}}
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
    used_days_365d,
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

-- Halves of a minor unit go up.
CREATE OR REPLACE TABLE oracle.valued{{clock}} AS
SELECT
    account_id,
    service_date,
    valued_wh_30d,
    oracle.floor_div(worth_30d + 5000000000, 10000000000) AS valued_30d_minor,
    valued_wh_365d,
    oracle.floor_div(worth_365d + 5000000000, 10000000000) AS valued_365d_minor,
    CASE WHEN costed_wh_365d > 0 THEN oracle.floor_div(margin_365d + 5000000000, 10000000000) END AS contribution_365d_minor,
    oracle.floor_div(valued_365d_minor::HUGEINT * 1000000, nullif(valued_wh_365d, 0)) AS price_level_365d_milli
FROM oracle.valued_sums{{clock}};

CREATE OR REPLACE TABLE oracle.demand{{clock}} AS
WITH summed AS (
    SELECT
        account_id,
        service_date,
        max(watts) FILTER (is_mtd) AS max_demand_w_mtd,
        count(*) FILTER (is_mtd) AS demand_days_mtd,
        sum(energy_wh) FILTER (is_mtd) AS wh_mtd,
        max(watts) FILTER (NOT is_mtd) AS max_demand_w_last_month,
        count(*) FILTER (NOT is_mtd) AS demand_days_last_month,
        sum(energy_wh) FILTER (NOT is_mtd) AS wh_last_month
    FROM oracle.demand_counted{{clock}}
    GROUP BY account_id, service_date
)
SELECT
    account_id,
    service_date,
    max_demand_w_mtd,
    demand_days_mtd,
    oracle.ppm(wh_mtd, nullif(max_demand_w_mtd::HUGEINT * 24 * demand_days_mtd, 0)) AS load_factor_mtd_ppm,
    max_demand_w_last_month,
    demand_days_last_month,
    oracle.ppm(wh_last_month, nullif(max_demand_w_last_month::HUGEINT * 24 * demand_days_last_month, 0))
        AS load_factor_last_month_ppm
FROM summed;
