-- definitions.md, "Which reading counts". Rows known at the moment asked for: delivery <= as_known.

-- Reference rows: of one key the highest revision, then the content that comes first as text, column by column.
CREATE OR REPLACE TABLE oracle.meter AS
SELECT meter_id, installed_on, account_id, removed_on
FROM accepted_meters
WHERE delivery <= getvariable('as_known')
QUALIFY row_number() OVER (
    PARTITION BY meter_id, installed_on
    ORDER BY revision DESC, [account_id, coalesce(removed_on::VARCHAR, '')]
) = 1;

CREATE OR REPLACE TABLE oracle.account AS
WITH winner AS (
    SELECT * EXCLUDE (revision, delivery, "row")
    FROM accepted_accounts
    WHERE delivery <= getvariable('as_known')
    QUALIFY row_number() OVER (
        PARTITION BY account_id, valid_from
        ORDER BY revision DESC, [
            category, coalesce(region, ''), coalesce(voltage, ''), coalesce(tariff, ''),
            coalesce(preferential::VARCHAR, ''), coalesce(capacity_va::VARCHAR, ''), coalesce(prepaid::VARCHAR, ''),
            opened_on::VARCHAR, coalesce(closed_on::VARCHAR, '')
        ]
    ) = 1
)
SELECT
    *,
    lead(valid_from) OVER (PARTITION BY account_id ORDER BY valid_from) - 1 AS valid_to,
    row_number() OVER (PARTITION BY account_id ORDER BY valid_from) = 1 AS is_earliest
FROM winner;

CREATE OR REPLACE VIEW oracle.accounts AS SELECT * EXCLUDE (is_earliest) FROM oracle.account;

CREATE OR REPLACE TABLE oracle.known_account AS SELECT DISTINCT account_id FROM oracle.account;

-- The account of each meter: first_day inclusive, end_day exclusive (null: open). A later row ends those before it.
CREATE OR REPLACE TABLE oracle.assignment AS
SELECT
    meter_id,
    installed_on AS first_day,
    least(removed_on, lead(installed_on) OVER (PARTITION BY meter_id ORDER BY installed_on)) AS end_day,
    account_id
FROM oracle.meter;

-- 1. One reading per meter and service day: the highest revision, of its energies the smallest.
CREATE OR REPLACE TABLE oracle.reading AS
WITH best AS (
    SELECT meter_id, service_date, energy_wh, quality
    FROM accepted_readings
    WHERE delivery <= getvariable('as_known')
    QUALIFY rank() OVER (PARTITION BY meter_id, service_date ORDER BY revision DESC) = 1
)
SELECT
    meter_id,
    service_date,
    min(energy_wh) AS energy_wh,
    -- equal energies of different quality: the quality that comes first as text
    min({'energy_wh': energy_wh, 'quality': quality}).quality AS quality,
    min(energy_wh) <> max(energy_wh) AS is_conflict
FROM best
GROUP BY meter_id, service_date;

-- 2. Counted: assigned on the day to an account that is known.
CREATE OR REPLACE TABLE oracle.counted_reading AS
SELECT a.account_id, r.*
FROM oracle.reading r
JOIN oracle.assignment a
    ON a.meter_id = r.meter_id
    AND a.first_day <= r.service_date
    AND (a.end_day IS NULL OR r.service_date < a.end_day)
SEMI JOIN oracle.known_account k ON k.account_id = a.account_id;

-- Ledger events of known accounts, in all their versions.
CREATE OR REPLACE TABLE oracle.ledger_event AS
SELECT * EXCLUDE (delivery, "row")
FROM accepted_ledger_events e
SEMI JOIN oracle.known_account k ON k.account_id = e.account_id
WHERE delivery <= getvariable('as_known');

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
SELECT 'ledger_events', delivery, "row", account_id, event_date, 'unknown_account'
FROM accepted_ledger_events
WHERE delivery <= getvariable('as_known')
    AND account_id NOT IN (SELECT account_id FROM oracle.known_account)
UNION ALL
SELECT 'meters', delivery, "row", account_id, installed_on, 'unknown_account'
FROM accepted_meters
WHERE delivery <= getvariable('as_known')
    AND account_id NOT IN (SELECT account_id FROM oracle.known_account);
