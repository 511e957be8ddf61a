-- definitions.md: a features row for every account in the population; zero where an account has no ledger event yet.
CREATE OR REPLACE TABLE oracle.features AS
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
    m.max_demand_w_mtd,
    coalesce(m.demand_days_mtd, 0) AS demand_days_mtd,
    m.load_factor_mtd_ppm,
    m.max_demand_w_last_month,
    coalesce(m.demand_days_last_month, 0) AS demand_days_last_month,
    m.load_factor_last_month_ppm,
    coalesce(l.billed_365d_minor, 0) AS billed_365d_minor,
    coalesce(l.balance_minor, 0) AS balance_minor,
    coalesce(l.current_minor, 0) AS current_minor,
    coalesce(l.overdue_1_30_minor, 0) AS overdue_1_30_minor,
    coalesce(l.overdue_31_60_minor, 0) AS overdue_31_60_minor,
    coalesce(l.overdue_61_90_minor, 0) AS overdue_61_90_minor,
    coalesce(l.overdue_91_minor, 0) AS overdue_91_minor,
    coalesce(l.overdue_minor, 0) AS overdue_minor,
    coalesce(l.unallocated_minor, 0) AS unallocated_minor,
    coalesce(l.bills_due_365d, 0) AS bills_due_365d,
    coalesce(l.bills_on_time_365d, 0) AS bills_on_time_365d,
    oracle.ppm(l.bills_on_time_365d, l.bills_due_365d) AS on_time_365d_ppm,
    coalesce(l.beyond_terms_365d_days, 0) AS beyond_terms_365d_days,
    oracle.floor_div(l.beyond_terms_365d_days * 1000, nullif(l.bills_due_365d, 0)) AS mean_beyond_terms_365d_milli,
    b.days_since_theft,
    b.days_since_tampering,
    b.days_since_violation,
    b.days_since_inspection,
    coalesce(b.thefts_730d, 0) AS thefts_730d,
    coalesce(b.violations_365d, 0) AS violations_365d,
    coalesce(b.disconnected, 0) AS disconnected
FROM oracle.population p
SEMI JOIN oracle.compared_account k ON k.account_id = p.account_id
JOIN oracle.consumption c ON c.account_id = p.account_id AND c.service_date = p.service_date
LEFT JOIN oracle.apart_features t ON t.account_id = p.account_id AND t.service_date = p.service_date
LEFT JOIN oracle.valued v ON v.account_id = p.account_id AND v.service_date = p.service_date
LEFT JOIN oracle.demand m ON m.account_id = p.account_id AND m.service_date = p.service_date
LEFT JOIN oracle.ledger l ON l.account_id = p.account_id AND l.service_date = p.service_date
LEFT JOIN oracle.conduct b ON b.account_id = p.account_id AND b.service_date = p.service_date
ORDER BY p.service_date, p.account_id;
