-- 2. Counted: assigned on the day to an account that is known, and not of a check meter. Interval energy goes before
-- what follows from registers.
CREATE OR REPLACE TABLE oracle.counted_reading AS
WITH known_energy AS (
    FROM oracle.reading
    UNION ALL BY NAME
    SELECT
        meter_id,
        service_date,
        energy_wh,
        CASE WHEN is_actual THEN 'actual' ELSE 'estimated' END AS quality,
        is_conflict
    FROM oracle.register_day d
    ANTI JOIN oracle.reading i USING (meter_id, service_date)
    WHERE register = 'total'
)
SELECT a.account_id, r.*
FROM known_energy r
JOIN oracle.assignment a
    ON a.meter_id = r.meter_id
    AND a.first_day <= r.service_date
    AND (a.end_day IS NULL OR r.service_date < a.end_day)
    AND a.is_main
SEMI JOIN oracle.known_account k ON k.account_id = a.account_id;

-- The same of energy by period, of what was fed in, and of maximum demands (in W).
CREATE OR REPLACE TABLE oracle.counted_apart AS
WITH known_apart AS (
    FROM oracle.reading_apart
    UNION ALL BY NAME
    SELECT meter_id, service_date, register, energy_wh
    FROM oracle.register_day
    ANTI JOIN oracle.reading USING (meter_id, service_date)
    WHERE register <> 'total'
)
SELECT a.account_id, d.service_date, d.register, d.energy_wh
FROM known_apart d
JOIN oracle.assignment a
    ON a.meter_id = d.meter_id
    AND a.first_day <= d.service_date
    AND (a.end_day IS NULL OR d.service_date < a.end_day)
    AND a.is_main
SEMI JOIN oracle.known_account k ON k.account_id = a.account_id;

-- Ledger events of known accounts, in all their versions.
CREATE OR REPLACE TABLE oracle.ledger_event AS
SELECT * EXCLUDE (delivery, "row")
FROM accepted_ledger_events e
SEMI JOIN oracle.known_account k ON k.account_id = e.account_id
WHERE delivery <= getvariable('as_known');

-- The same of conduct events, and those that stand.
CREATE OR REPLACE TABLE oracle.conduct_event AS
SELECT * EXCLUDE (delivery, "row")
FROM accepted_conduct_events e
SEMI JOIN oracle.known_account k ON k.account_id = e.account_id
WHERE delivery <= getvariable('as_known');

CREATE OR REPLACE TABLE oracle.conduct_events AS
SELECT account_id, event_id, event_type, event_date
FROM (
    FROM oracle.conduct_event
    QUALIFY row_number() OVER (
        PARTITION BY account_id, event_id ORDER BY revision DESC, event_type = 'withdrawn' DESC, [event_type, event_date::VARCHAR]
    ) = 1
)
WHERE event_type <> 'withdrawn';

-- Pending: every accepted row that names a meter or an account not known.
CREATE OR REPLACE TABLE oracle.pending AS
SELECT
    'meter_readings' AS source,
    r.delivery,
    r."row",
    CASE WHEN a.account_id IS NULL THEN r.meter_id ELSE a.account_id END AS name,
    r.service_date AS event_date,
    CASE
        WHEN a.account_id IS NOT NULL THEN 'unknown_account'
        WHEN r.meter_id IN (SELECT meter_id FROM oracle.meter) THEN 'meter_not_assigned'
        ELSE 'unknown_meter'
    END AS reason
FROM accepted_readings r
LEFT JOIN oracle.assignment a
    ON a.meter_id = r.meter_id
    AND a.first_day <= r.service_date
    AND (a.end_day IS NULL OR r.service_date < a.end_day)
WHERE r.delivery <= getvariable('as_known')
    AND (a.account_id IS NULL OR a.account_id NOT IN (SELECT account_id FROM oracle.known_account))
UNION ALL
-- A register reading concerns the assignment of its day, else one that begins the day after.
SELECT
    'register_readings',
    r.delivery,
    r."row",
    coalesce(a.account_id, b.account_id, r.meter_id),
    r.service_date,
    CASE
        WHEN coalesce(a.account_id, b.account_id) IS NOT NULL THEN 'unknown_account'
        WHEN r.meter_id IN (SELECT meter_id FROM oracle.meter) THEN 'meter_not_assigned'
        ELSE 'unknown_meter'
    END
FROM accepted_registers r
LEFT JOIN oracle.assignment a
    ON a.meter_id = r.meter_id
    AND a.first_day <= r.service_date
    AND (a.end_day IS NULL OR r.service_date < a.end_day)
LEFT JOIN oracle.assignment b
    ON b.meter_id = r.meter_id
    AND b.first_day = r.service_date + 1
    AND (b.end_day IS NULL OR b.first_day < b.end_day)
WHERE r.delivery <= getvariable('as_known')
    AND coalesce(a.account_id, b.account_id, '') NOT IN (SELECT account_id FROM oracle.known_account)
UNION ALL
SELECT 'ledger_events', delivery, "row", account_id, event_date, 'unknown_account'
FROM accepted_ledger_events
WHERE delivery <= getvariable('as_known')
    AND account_id NOT IN (SELECT account_id FROM oracle.known_account)
UNION ALL
SELECT 'conduct_events', delivery, "row", account_id, event_date, 'unknown_account'
FROM accepted_conduct_events
WHERE delivery <= getvariable('as_known')
    AND account_id NOT IN (SELECT account_id FROM oracle.known_account)
UNION ALL
SELECT 'meters', delivery, "row", account_id, installed_on, 'unknown_account'
FROM accepted_meters
WHERE delivery <= getvariable('as_known')
    AND account_id NOT IN (SELECT account_id FROM oracle.known_account);
