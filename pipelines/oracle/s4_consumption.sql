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

-- For sums over 30 and 90 days, without a window: each counted day is added to the days whose windows it lies in.
CREATE OR REPLACE VIEW oracle.apart_counted AS
SELECT d.service_date, d.service_date - a.service_date AS ago, a.* EXCLUDE (service_date)
FROM oracle.service_day d
JOIN oracle.apart a ON a.service_date BETWEEN d.service_date - 89 AND d.service_date;

-- One row per account and day without a gap, so that a window of w days is a window of w rows.
CREATE OR REPLACE VIEW oracle.window_sums AS
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
        count(*) FILTER (wh > 0) OVER last_365 AS used_days_365d,
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
)
FROM summed WHERE service_date >= getvariable('first_day');
