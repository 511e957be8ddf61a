-- definitions.md: a features row for every account in the population; zero where an account has no ledger event yet.
CREATE OR REPLACE TABLE oracle.features{{clock}} AS
SELECT
    p.account_id,
    p.service_date,
    p.category,
    c.* EXCLUDE (account_id, service_date),
    coalesce(t.period_wh_30d, 0) AS period_wh_30d,
    t.sharp_share_30d_ppm,
    t.peak_share_30d_ppm,
    t.flat_share_30d_ppm,
    t.valley_share_30d_ppm,
    coalesce(t.reverse_wh_30d, 0) AS reverse_wh_30d,
    coalesce(t.period_wh_90d, 0) AS period_wh_90d,
    t.sharp_share_90d_ppm,
    t.peak_share_90d_ppm,
    t.flat_share_90d_ppm,
    t.valley_share_90d_ppm,
    coalesce(t.reverse_wh_90d, 0) AS reverse_wh_90d,
    coalesce(v.valued_wh_30d, 0) AS valued_wh_30d,
    coalesce(v.valued_30d_minor, 0) AS valued_30d_minor,
    coalesce(v.valued_wh_365d, 0) AS valued_wh_365d,
    coalesce(v.valued_365d_minor, 0) AS valued_365d_minor,
    v.contribution_365d_minor,
    v.price_level_365d_milli,
    m.max_demand_w_mtd,
    coalesce(m.demand_days_mtd, 0) AS demand_days_mtd,
    m.load_factor_mtd_ppm,
    m.max_demand_w_last_month,
    coalesce(m.demand_days_last_month, 0) AS demand_days_last_month,
    m.load_factor_last_month_ppm,
    p.capacity_va,
    CASE -- greatest() alone would skip the null
        WHEN m.max_demand_w_last_month IS NOT NULL
        THEN oracle.ppm(greatest(p.capacity_va - m.max_demand_w_last_month, 0), p.capacity_va)
    END AS unused_capacity_ppm,
    least(oracle.ppm(c.used_days_365d, least(p.service_date - p.opened_on + 1, 365)), 1000000) AS continuity_365d_ppm,
    {{credit}},
    p.service_date - p.opened_on AS tenure_days,
    b.days_since_theft,
    b.days_since_tampering,
    b.days_since_violation,
    b.days_since_inspection,
    coalesce(b.thefts_730d, 0) AS thefts_730d,
    coalesce(b.violations_365d, 0) AS violations_365d,
    coalesce(b.disconnected, 0) AS disconnected,
    NULL::INTEGER AS credit_score, -- s4_score.sql
    NULL::INTEGER AS current_value_score, -- and the others: s6_scores.sql
    NULL::INTEGER AS potential_score,
    NULL::INTEGER AS credit_dimension_score,
    NULL::INTEGER AS stability_score,
    NULL::INTEGER AS loyalty_score,
    NULL::INTEGER AS scale_score
FROM oracle.{{population}} p
SEMI JOIN oracle.compared_account k ON k.account_id = p.account_id
JOIN oracle.consumption{{clock}} c ON c.account_id = p.account_id AND c.service_date = p.service_date
LEFT JOIN oracle.apart_features{{clock}} t ON t.account_id = p.account_id AND t.service_date = p.service_date
LEFT JOIN oracle.valued{{clock}} v ON v.account_id = p.account_id AND v.service_date = p.service_date
LEFT JOIN oracle.demand{{clock}} m ON m.account_id = p.account_id AND m.service_date = p.service_date
LEFT JOIN oracle.ledger{{clock}} l ON l.account_id = p.account_id AND l.service_date = p.service_date
LEFT JOIN oracle.conduct{{clock}} b ON b.account_id = p.account_id AND b.service_date = p.service_date
ORDER BY p.service_date, p.account_id;
