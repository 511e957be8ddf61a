-- cv_90d_ppm = isqrt(excess * 10^12 // square). Where the product passes 2^127 a long division, three digits a step.
CREATE OR REPLACE TEMP TABLE variation AS
WITH parts AS (
    SELECT slot, days_90d * squares_90d - wh_90d::HUGEINT * wh_90d AS e, wh_90d::HUGEINT * wh_90d AS s
    FROM sums WHERE wh_90d > 0
),
divided AS (
    SELECT slot, e * 1000000000000 // s AS q FROM parts WHERE e < 100000000000000000000000000::HUGEINT
    UNION ALL
    SELECT slot, q * 1000 + r * 1000 // s
    FROM (SELECT slot, s, q * 1000 + r * 1000 // s AS q, r * 1000 % s AS r
    FROM (SELECT slot, s, q * 1000 + r * 1000 // s AS q, r * 1000 % s AS r
    FROM (SELECT slot, s, q * 1000 + r * 1000 // s AS q, r * 1000 % s AS r
    FROM (SELECT slot, s, e // s AS q, e % s AS r FROM parts WHERE e >= 100000000000000000000000000::HUGEINT))))
),
near AS (SELECT slot, q::BIGINT AS q, floor(sqrt(q::DOUBLE))::BIGINT AS root FROM divided)  -- at most one off
SELECT slot, CASE WHEN root * root > q THEN root - 1 WHEN (root + 1) * (root + 1) <= q THEN root + 1 ELSE root END AS cv_90d_ppm
FROM near;

-- Features of every account in the population.
CREATE OR REPLACE TEMP TABLE feature AS
WITH population AS (
    SELECT slot, category, opened_on, capacity_va FROM account_row
    WHERE (is_earliest OR valid_from <= today()) AND (valid_to IS NULL OR today() <= valid_to)
        AND opened_on <= today() AND (closed_on IS NULL OR today() <= closed_on)
)
SELECT
    k.account_id, today() AS service_date, p.category,
    coalesce(wh_7d, 0) AS wh_7d, coalesce(received_7d, 0) AS received_7d, coalesce(expected_7d, 0) AS expected_7d,
    ppm(coalesce(received_7d, 0), expected_7d) AS coverage_7d_ppm,
    coalesce(wh_30d, 0) AS wh_30d, coalesce(received_30d, 0) AS received_30d, coalesce(expected_30d, 0) AS expected_30d,
    ppm(coalesce(received_30d, 0), expected_30d) AS coverage_30d_ppm,
    coalesce(wh_90d, 0) AS wh_90d, coalesce(received_90d, 0) AS received_90d, coalesce(expected_90d, 0) AS expected_90d,
    ppm(coalesce(received_90d, 0), expected_90d) AS coverage_90d_ppm,
    coalesce(wh_365d, 0) AS wh_365d, coalesce(received_365d, 0) AS received_365d, coalesce(expected_365d, 0) AS expected_365d,
    ppm(coalesce(received_365d, 0), expected_365d) AS coverage_365d_ppm,
    coalesce(wh_mtd, 0) AS wh_mtd, coalesce(received_mtd, 0) AS received_mtd, coalesce(expected_mtd, 0) AS expected_mtd,
    ppm(coalesce(received_mtd, 0), expected_mtd) AS coverage_mtd_ppm,
    coalesce(days_90d, 0) AS days_90d,
    cv_90d_ppm,
    coalesce(wh_90d_year_ago, 0) AS wh_90d_year_ago, coalesce(received_90d_year_ago, 0) AS received_90d_year_ago,
    coalesce(expected_90d_year_ago, 0) AS expected_90d_year_ago,
    capped_ppm(wh_90d - wh_90d_year_ago, wh_90d_year_ago, 1000000000000) AS growth_90d_ppm,
    -- The world's meters have no registers and no demands, and are all read; its tariffs have no prices.
    0::BIGINT AS period_wh_30d, NULL::BIGINT AS sharp_share_30d_ppm, NULL::BIGINT AS peak_share_30d_ppm,
    NULL::BIGINT AS flat_share_30d_ppm, NULL::BIGINT AS valley_share_30d_ppm, 0::BIGINT AS reverse_wh_30d,
    0::BIGINT AS period_wh_90d, NULL::BIGINT AS sharp_share_90d_ppm, NULL::BIGINT AS peak_share_90d_ppm,
    NULL::BIGINT AS flat_share_90d_ppm, NULL::BIGINT AS valley_share_90d_ppm, 0::BIGINT AS reverse_wh_90d,
    0::BIGINT AS valued_wh_30d, 0::BIGINT AS valued_30d_minor, 0::BIGINT AS valued_wh_365d, 0::BIGINT AS valued_365d_minor,
    NULL::BIGINT AS contribution_365d_minor, NULL::BIGINT AS price_level_365d_milli,
    NULL::BIGINT AS max_demand_w_mtd, 0::INTEGER AS demand_days_mtd, NULL::BIGINT AS load_factor_mtd_ppm,
    NULL::BIGINT AS max_demand_w_last_month, 0::INTEGER AS demand_days_last_month, NULL::BIGINT AS load_factor_last_month_ppm,
    p.capacity_va, NULL::BIGINT AS unused_capacity_ppm, coalesce(used_days_365d, 0)::INTEGER AS used_days_365d,
    ppm(coalesce(used_days_365d, 0), least(today() - p.opened_on + 1, 365)) AS continuity_365d_ppm,
    0::BIGINT AS provisional_wh_30d, 0::BIGINT AS provisional_wh_365d,
    coalesce(l.billed_365d_minor, 0) AS billed_365d_minor,
    coalesce(billed - credited, 0) AS balance_minor,
    coalesce(current_minor, 0) AS current_minor,
    coalesce(overdue_1_30_minor, 0) AS overdue_1_30_minor, coalesce(overdue_31_60_minor, 0) AS overdue_31_60_minor,
    coalesce(overdue_61_90_minor, 0) AS overdue_61_90_minor, coalesce(overdue_91_minor, 0) AS overdue_91_minor,
    coalesce(overdue_1_30_minor + overdue_31_60_minor + overdue_61_90_minor + overdue_91_minor, 0) AS overdue_minor,
    coalesce(credited - (billed - opened), 0) AS unallocated_minor,
    coalesce(l.bills_due_365d, 0) AS bills_due_365d, coalesce(l.bills_on_time_365d, 0) AS bills_on_time_365d,
    ppm(l.bills_on_time_365d, l.bills_due_365d) AS on_time_365d_ppm,
    coalesce(beyond_settled + unsettled * (today() - DATE '1970-01-01') - unsettled_due, 0)::BIGINT AS beyond_terms_365d_days,
    beyond_terms_365d_days * 1000 // nullif(l.bills_due_365d, 0) AS mean_beyond_terms_365d_milli,
    coalesce(today() - oldest_due, 0)::INTEGER AS oldest_overdue_days,
    coalesce(l.bills_due_365d - l.bills_on_time_365d, 0) AS late_bills_365d,
    beyond_terms_365d_days * 1000 // nullif(late_bills_365d, 0) AS mean_late_365d_milli,
    coalesce(d.bills_due_1d, 0)::INTEGER AS bills_due_1d, coalesce(l.bills_due_90d, 0) AS bills_due_90d, coalesce(l.bills_on_time_90d, 0) AS bills_on_time_90d,
    ppm(l.bills_on_time_90d, l.bills_due_90d) AS on_time_90d_ppm,
    capped_ppm(on_time_90d_minor, due_90d_minor, 1000000) AS on_time_amount_90d_ppm,
    capped_ppm(on_time_365d_minor, due_365d_minor, 1000000) AS on_time_amount_365d_ppm,
    ppm(weight_on_time, weight_due) AS on_time_decayed_ppm,
    coalesce(l.bounced_90d, 0) AS bounced_90d, coalesce(l.bounced_365d, 0) AS bounced_365d,
    coalesce(l.payments_365d, 0) AS payments_365d,
    today() - last_paid AS days_since_payment,
    CASE WHEN paid_days > 1 THEN (last_paid - first_paid) * 1000::BIGINT // (paid_days - 1) END AS payment_interval_365d_milli,
    CASE WHEN l.billed_365d_minor > 0 THEN least(
        coalesce(credited - (billed - opened), 0)::HUGEINT * 365 // l.billed_365d_minor, 1000000000000
    )::BIGINT END AS prepayment_cover_days,
    CASE WHEN l.billed_365d_minor > 0 THEN least(overdue_minor::HUGEINT * 12000 // l.billed_365d_minor, 1000000000000)::BIGINT END
        AS arrears_months_milli,
    CASE WHEN oldest_due IS NULL THEN 0 ELSE months_before + 1 END::INTEGER AS months_in_arrears,
    (today() - p.opened_on)::INTEGER AS tenure_days,
    -- Nothing of conduct lands.
    NULL::INTEGER AS days_since_theft, NULL::INTEGER AS days_since_tampering, NULL::INTEGER AS days_since_violation,
    NULL::INTEGER AS days_since_inspection, 0::INTEGER AS thefts_730d, 0::INTEGER AS violations_365d, 0::INTEGER AS disconnected,
    NULL::INTEGER AS credit_score, p.slot
FROM population p
JOIN account_key k USING (slot)
LEFT JOIN sums USING (slot)
LEFT JOIN variation USING (slot)
LEFT JOIN expected USING (slot)
LEFT JOIN ledger_row l USING (slot)
LEFT JOIN (SELECT slot, count(*) AS bills_due_1d FROM bill WHERE due_date = today() - 1 GROUP BY slot) d USING (slot);
UPDATE feature SET credit_score = {{score}};
