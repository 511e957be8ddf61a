-- definitions.md, "VEE": what trips a rule, as read. One row per account to be judged and day without a gap, from the first day that any rule looks at.
CREATE OR REPLACE TABLE oracle.judged_day AS
WITH period AS (
    SELECT
        account_id,
        service_date,
        sum(register_wh) AS periods_wh,
        bool_and(meters = meters_received) AS by_all
    FROM (
        SELECT * EXCLUDE (energy_wh), energy_wh AS register_wh
        FROM oracle.received_apart
        WHERE register IN ('sharp', 'peak', 'flat', 'valley')
    )
    SEMI JOIN oracle.judged_account USING (account_id)
    LEFT JOIN oracle.received USING (account_id, service_date)
    GROUP BY account_id, service_date
),
each_day AS (SELECT k.account_id, d.service_date FROM oracle.judged_account k CROSS JOIN oracle.reached_day d)
SELECT
    account_id,
    service_date,
    coalesce(r.energy_wh, 0) AS wh,
    coalesce(r.meters_received, 0) > 0 AS is_read,
    coalesce(r.meters_received >= d.meters_due, false) AS is_complete,
    coalesce(r.meters_estimated, 0) > 0 AS is_estimated,
    p.periods_wh,
    p.by_all
FROM each_day
LEFT JOIN oracle.due d USING (account_id, service_date)
LEFT JOIN oracle.received r USING (account_id, service_date)
LEFT JOIN period p USING (account_id, service_date);

CREATE OR REPLACE TABLE oracle.like_day AS
SELECT
    d.account_id,
    d.service_date,
    count(*) AS days,
    max(l.wh) AS highest,
    min(l.wh) AS lowest
FROM oracle.judged_day d
JOIN oracle.judged_day l
    ON l.account_id = d.account_id AND l.is_read
    AND l.service_date IN (d.service_date - 7, d.service_date - 14, d.service_date - 21, d.service_date - 28)
WHERE d.service_date >= getvariable('first_day')
GROUP BY d.account_id, d.service_date;

-- How many like days are a thousandth of the day, and how many a thousand times it.
CREATE OR REPLACE TABLE oracle.other_unit AS
WITH pair AS (
    SELECT
        d.account_id,
        d.service_date,
        q.tolerance_ppm,
        unnest([true, false]) AS is_above,
        unnest([d.wh, l.wh])::HUGEINT AS large,
        unnest([l.wh, d.wh])::HUGEINT AS small,
        q.at_least_wh
    FROM oracle.judged_day d
    JOIN oracle.judged_day l
        ON l.account_id = d.account_id AND l.is_read
        AND l.service_date IN (d.service_date - 7, d.service_date - 14, d.service_date - 21, d.service_date - 28)
    JOIN oracle.policy_day v ON v.service_date = d.service_date
    JOIN oracle.policy_vee q ON q.policy_version = v.policy_version AND q.vee_rule = 'unit_mismatch'
)
SELECT account_id, service_date, count(*) FILTER (is_above) AS days_above, count(*) FILTER (NOT is_above) AS days_below
FROM pair
WHERE large >= at_least_wh AND small <= 1::HUGEINT << 52
    AND large BETWEEN small * (1000000 - tolerance_ppm) // 1000 AND small * (1000000 + tolerance_ppm) // 1000
GROUP BY account_id, service_date;

-- How many days in a row, up to this one, something holds.
CREATE OR REPLACE TABLE oracle.run_of_days AS
WITH marked AS (
    SELECT
        *,
        is_read AND wh > 0 AND coalesce(is_read AND wh = lag(wh) OVER days AND lag(is_read) OVER days, false) AS goes_on,
        is_complete AND wh = 0 AS is_zero
    FROM oracle.judged_day
    WINDOW days AS (PARTITION BY account_id ORDER BY service_date)
),
numbered AS (
    SELECT
        *,
        count(*) FILTER (NOT goes_on) OVER days AS same_run,
        count(*) FILTER (NOT is_zero) OVER days AS zero_run,
        count(*) FILTER (NOT is_estimated) OVER days AS estimated_run
    FROM marked
    WINDOW days AS (PARTITION BY account_id ORDER BY service_date ROWS UNBOUNDED PRECEDING)
)
SELECT
    account_id,
    service_date,
    CASE WHEN is_read AND wh > 0 THEN
        row_number() OVER (PARTITION BY account_id, same_run ORDER BY service_date)
    ELSE 0 END AS same_days,
    CASE WHEN is_zero THEN
        count(*) FILTER (is_zero) OVER (PARTITION BY account_id, zero_run ORDER BY service_date ROWS UNBOUNDED PRECEDING)
    ELSE 0 END AS zero_days,
    CASE WHEN is_estimated THEN
        count(*) FILTER (is_estimated) OVER (
            PARTITION BY account_id, estimated_run ORDER BY service_date ROWS UNBOUNDED PRECEDING
        )
    ELSE 0 END AS estimated_days
FROM numbered;

CREATE OR REPLACE TABLE oracle.tripped AS
WITH facts AS (
    SELECT
        d.*,
        v.policy_version,
        p.account_id IS NOT NULL AS is_inside,
        a.capacity_va,
        l.days AS like_days,
        l.highest,
        l.lowest,
        u.days_above,
        u.days_below,
        r.same_days,
        r.zero_days,
        r.estimated_days
    FROM oracle.judged_day d
    JOIN oracle.policy_day v USING (service_date)
    LEFT JOIN oracle.population p USING (account_id, service_date)
    LEFT JOIN oracle.account a
        ON a.account_id = d.account_id
        AND (a.is_earliest OR a.valid_from <= d.service_date)
        AND (a.valid_to IS NULL OR d.service_date <= a.valid_to)
    LEFT JOIN oracle.like_day l USING (account_id, service_date)
    LEFT JOIN oracle.other_unit u USING (account_id, service_date)
    LEFT JOIN oracle.run_of_days r USING (account_id, service_date)
),
limits AS (
    SELECT
        f.*,
        q.* EXCLUDE (policy_version),
        f.wh AS as_read_wh,
        CASE q.vee_rule
            WHEN 'unit_mismatch' THEN CASE WHEN days_above >= min_like_days THEN wh // 1000 ELSE wh::HUGEINT * 1000 END
            WHEN 'spike' THEN greatest(highest::HUGEINT * factor_ppm // 1000000, at_least_wh)
            WHEN 'low' THEN lowest::HUGEINT * factor_ppm // 1000000
            WHEN 'capacity' THEN capacity_va::HUGEINT * 24 * factor_ppm // 1000000
            WHEN 'inactive_use' THEN 0
            WHEN 'sum_check' THEN greatest(wh::HUGEINT * tolerance_ppm // 1000000, tolerance_wh)
        END AS limit_wh
    FROM facts f
    JOIN oracle.policy_vee q USING (policy_version)
)
SELECT
    account_id, service_date, vee_rule, rule_number, severity, as_read_wh, limit_wh::BIGINT AS limit_wh, policy_version
FROM limits l
WHERE CASE vee_rule
    WHEN 'unit_mismatch' THEN days_above >= min_like_days OR (days_below >= min_like_days AND is_complete)
    WHEN 'spike' THEN like_days >= min_like_days AND wh > limit_wh
    WHEN 'low' THEN like_days >= min_like_days AND lowest >= at_least_wh AND is_complete AND wh < limit_wh
    WHEN 'capacity' THEN is_inside AND capacity_va > 0 AND capacity_va <= 1::BIGINT << 42 AND wh > limit_wh
    WHEN 'frozen' THEN same_days = run_days
    WHEN 'zero_use' THEN zero_days = run_days AND EXISTS (
        FROM oracle.judged_day b
        WHERE b.account_id = l.account_id AND b.service_date = l.service_date - run_days AND b.wh > 0
    )
    WHEN 'prolonged_estimation' THEN estimated_days = run_days
    WHEN 'inactive_use' THEN NOT is_inside AND wh > 0
    WHEN 'sum_check' THEN by_all AND abs(wh - periods_wh) > limit_wh
END
UNION ALL
SELECT d.account_id, d.service_date, 'day_limit', 1000, 'reject', d.wh, 1::BIGINT << 44, v.policy_version
FROM oracle.judged_day d
JOIN oracle.policy_day v USING (service_date)
SEMI JOIN oracle.beyond_limit b ON b.account_id = d.account_id AND b.service_date = d.service_date;
