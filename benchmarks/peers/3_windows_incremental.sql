-- (b) Yesterday's rolling sums, plus the days that enter a window today, minus those that leave.
CREATE OR REPLACE TABLE sums AS
WITH moved AS (
    SELECT slot, service_date = today() AS enters, service_date = today() - 7 AS leaves_7, service_date = today() - 30 AS leaves_30,
        service_date = today() - 90 AS leaves_90, service_date = today() - 365 AS leaves_365,
        service_date = today() - 455 AS leaves_455, energy_wh AS wh, received AS rec
    FROM daily
    WHERE service_date IN (today(), today() - 7, today() - 30, today() - 90, today() - 365, today() - 455)
),
change AS (
    SELECT slot,
        sum(CASE WHEN enters THEN wh WHEN leaves_7 THEN -wh ELSE 0 END)::BIGINT AS wh_7d,
        sum(CASE WHEN enters THEN rec WHEN leaves_7 THEN -rec ELSE 0 END)::INTEGER AS received_7d,
        sum(CASE WHEN enters THEN wh WHEN leaves_30 THEN -wh ELSE 0 END)::BIGINT AS wh_30d,
        sum(CASE WHEN enters THEN rec WHEN leaves_30 THEN -rec ELSE 0 END)::INTEGER AS received_30d,
        sum(CASE WHEN enters THEN wh WHEN leaves_90 THEN -wh ELSE 0 END)::BIGINT AS wh_90d,
        sum(CASE WHEN enters THEN rec WHEN leaves_90 THEN -rec ELSE 0 END)::INTEGER AS received_90d,
        sum(CASE WHEN enters THEN wh WHEN leaves_365 THEN -wh ELSE 0 END)::BIGINT AS wh_365d,
        sum(CASE WHEN enters THEN rec WHEN leaves_365 THEN -rec ELSE 0 END)::INTEGER AS received_365d,
        coalesce(sum(wh) FILTER (enters), 0)::BIGINT AS wh_mtd,
        coalesce(sum(rec) FILTER (enters), 0)::INTEGER AS received_mtd,
        sum(CASE WHEN enters THEN 1 WHEN leaves_90 THEN -1 ELSE 0 END)::INTEGER AS days_90d,
        sum(CASE WHEN enters THEN wh::HUGEINT * wh WHEN leaves_90 THEN -(wh::HUGEINT * wh) ELSE 0 END)::HUGEINT AS squares_90d,
        sum(CASE WHEN leaves_365 THEN wh WHEN leaves_455 THEN -wh ELSE 0 END)::BIGINT AS wh_90d_year_ago,
        sum(CASE WHEN leaves_365 THEN rec WHEN leaves_455 THEN -rec ELSE 0 END)::INTEGER AS received_90d_year_ago,
        sum(CASE WHEN enters THEN (wh > 0)::INTEGER WHEN leaves_365 THEN -(wh > 0)::INTEGER ELSE 0 END)::INTEGER AS used_days_365d
    FROM moved
    GROUP BY slot
)
SELECT coalesce(s.slot, c.slot) AS slot, {{added}}
FROM sums s
FULL JOIN change c ON c.slot = s.slot;
