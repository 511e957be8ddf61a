-- definitions.md, "As of the day's clock": sums of the accounts and service days of oracle.moved_pair, up to the day before, in
-- the windows of the day.
CREATE OR REPLACE VIEW oracle.moved_population AS
FROM oracle.population SEMI JOIN oracle.moved_pair USING (account_id, service_date);

CREATE OR REPLACE TABLE oracle.window_sums_clock AS
WITH days AS (
    SELECT m.account_id, m.service_date, m.service_date - r.service_date AS ago, r.energy_wh AS wh, r.meters_received AS received
    FROM oracle.moved_pair m
    LEFT JOIN oracle.counted_day r
        ON r.account_id = m.account_id AND r.service_date BETWEEN m.service_date - 454 AND m.service_date - 1
),
estimated AS (
    SELECT
        account_id,
        m.service_date,
        sum(p.provisional_wh) FILTER (m.service_date - p.service_date < 30) AS provisional_wh_30d,
        sum(p.provisional_wh) AS provisional_wh_365d
    FROM oracle.moved_pair m
    JOIN oracle.provisional p USING (account_id)
    WHERE p.service_date BETWEEN m.service_date - 364 AND m.service_date - 1
    GROUP BY account_id, m.service_date
)
SELECT
    account_id,
    service_date,
    coalesce(sum(wh) FILTER (ago < 7), 0) AS wh_7d,
    coalesce(sum(received) FILTER (ago < 7), 0) AS received_7d,
    coalesce(sum(wh) FILTER (ago < 30), 0) AS wh_30d,
    coalesce(sum(received) FILTER (ago < 30), 0) AS received_30d,
    coalesce(sum(wh) FILTER (ago < 90), 0) AS wh_90d,
    coalesce(sum(received) FILTER (ago < 90), 0) AS received_90d,
    coalesce(sum(wh) FILTER (ago < 365), 0) AS wh_365d,
    coalesce(sum(received) FILTER (ago < 365), 0) AS received_365d,
    coalesce(sum(wh) FILTER (ago < day(service_date)), 0) AS wh_mtd,
    coalesce(sum(received) FILTER (ago < day(service_date)), 0) AS received_mtd,
    count(*) FILTER (ago < 90 AND received > 0) AS days_90d,
    count(*) FILTER (ago < 365 AND wh > 0) AS used_days_365d,
    sum(wh::HUGEINT * wh) FILTER (ago < 90 AND received > 0) AS squares_90d,
    coalesce(sum(wh) FILTER (ago >= 365), 0) AS wh_90d_year_ago,
    coalesce(sum(received) FILTER (ago >= 365), 0) AS received_90d_year_ago,
    coalesce(any_value(provisional_wh_30d), 0) AS provisional_wh_30d,
    coalesce(any_value(provisional_wh_365d), 0) AS provisional_wh_365d
FROM days
LEFT JOIN estimated USING (account_id, service_date)
GROUP BY account_id, service_date;

CREATE OR REPLACE VIEW oracle.apart_counted_clock AS
SELECT m.service_date, m.service_date - a.service_date AS ago, a.* EXCLUDE (service_date)
FROM oracle.moved_pair m
JOIN oracle.apart a USING (account_id)
WHERE a.service_date BETWEEN m.service_date - 89 AND m.service_date - 1;

CREATE OR REPLACE TABLE oracle.valued_sums_clock AS
SELECT
    account_id,
    m.service_date,
    coalesce(sum(wh) FILTER (m.service_date - w.service_date < 30), 0) AS valued_wh_30d,
    coalesce(sum(worth) FILTER (m.service_date - w.service_date < 30), 0) AS worth_30d,
    sum(wh) AS valued_wh_365d,
    sum(worth) AS worth_365d,
    sum(costed_wh) AS costed_wh_365d,
    sum(margin) AS margin_365d
FROM oracle.moved_pair m
JOIN oracle.worth w USING (account_id)
WHERE w.service_date BETWEEN m.service_date - 364 AND m.service_date - 1
GROUP BY account_id, m.service_date;

CREATE OR REPLACE VIEW oracle.demand_counted_clock AS
SELECT m.service_date, d.* EXCLUDE (service_date), d.month = date_trunc('month', m.service_date) AS is_mtd
FROM oracle.moved_pair m
JOIN oracle.demand_day d USING (account_id)
WHERE d.service_date < m.service_date AND d.month >= date_trunc('month', m.service_date) - INTERVAL 1 MONTH;
