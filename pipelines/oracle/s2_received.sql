-- What was read, by account and service day, before VEE; and what is expected of the days first_day .. through.

CREATE OR REPLACE TABLE oracle.service_day AS
SELECT unnest(generate_series(getvariable('first_day'), getvariable('through'), INTERVAL 1 DAY))::DATE AS service_date;

-- The same days, and those before them that have a reading in some window.
CREATE OR REPLACE TABLE oracle.reached_day AS
SELECT unnest(generate_series(
    least(getvariable('first_day'), (SELECT min(service_date) FROM oracle.counted_reading)),
    getvariable('through'),
    INTERVAL 1 DAY
))::DATE AS service_date;

-- Meter-days expected of an assignment (end_day exclusive, null: open) over the days from_day .. to_day.
CREATE OR REPLACE MACRO oracle.days_assigned(first_day, end_day, from_day, to_day) AS
    greatest(0, least(coalesce(end_day - 1, to_day), to_day) - greatest(first_day, from_day) + 1);

CREATE OR REPLACE TABLE oracle.expected AS
SELECT
    a.account_id,
    d.service_date,
    sum(oracle.days_assigned(a.first_day, a.end_day, d.service_date, d.service_date)) AS meters_expected,
    sum(oracle.days_assigned(a.first_day, a.end_day, d.service_date - 6, d.service_date)) AS expected_7d,
    sum(oracle.days_assigned(a.first_day, a.end_day, d.service_date - 29, d.service_date)) AS expected_30d,
    sum(oracle.days_assigned(a.first_day, a.end_day, d.service_date - 89, d.service_date)) AS expected_90d,
    sum(oracle.days_assigned(a.first_day, a.end_day, d.service_date - 364, d.service_date)) AS expected_365d,
    sum(oracle.days_assigned(
        a.first_day, a.end_day, date_trunc('month', d.service_date)::DATE, d.service_date
    )) AS expected_mtd,
    sum(oracle.days_assigned(
        a.first_day, a.end_day, d.service_date - 365 - 89, d.service_date - 365
    )) AS expected_90d_year_ago
FROM oracle.service_day d
JOIN oracle.assignment a ON a.first_day <= d.service_date AND a.is_main
SEMI JOIN oracle.known_account k ON k.account_id = a.account_id
GROUP BY a.account_id, d.service_date;

-- The total, and the registers beside it, of all meters.
CREATE OR REPLACE TABLE oracle.received AS
SELECT
    account_id,
    service_date,
    sum(energy_wh)::BIGINT AS energy_wh,
    count(*) AS meters_received,
    count(*) FILTER (quality <> 'actual') AS meters_estimated,
    count(*) FILTER (is_conflict) AS meters_conflict
FROM oracle.counted_reading
GROUP BY account_id, service_date;

CREATE OR REPLACE TABLE oracle.received_apart AS
SELECT account_id, service_date, register, sum(energy_wh)::BIGINT AS energy_wh, count(*) AS meters
FROM oracle.counted_apart
GROUP BY account_id, service_date, register;

-- Days of which an account's meters together tell more than is counted.
CREATE OR REPLACE TABLE oracle.beyond_limit AS
SELECT account_id, service_date
FROM oracle.received
WHERE energy_wh >= 1::BIGINT << 44
UNION
SELECT account_id, service_date
FROM oracle.received_apart
WHERE register = 'max_demand' AND energy_wh >= 1::BIGINT << 43;

-- The account's row on each service day, and whether the account is in the population.
CREATE OR REPLACE TABLE oracle.population AS
SELECT d.service_date, a.account_id, a.category, a.region, a.opened_on, a.capacity_va
FROM oracle.service_day d
JOIN oracle.account a
    ON (a.is_earliest OR a.valid_from <= d.service_date)
    AND (a.valid_to IS NULL OR d.service_date <= a.valid_to)
    AND a.opened_on <= d.service_date
    AND (a.closed_on IS NULL OR d.service_date <= a.closed_on);

-- The meters due on each day, also before the first service day; no row where there are none.
CREATE OR REPLACE TABLE oracle.due AS
SELECT a.account_id, d.service_date, count(*) AS meters_due
FROM oracle.assignment a
JOIN oracle.reached_day d ON a.first_day <= d.service_date AND (a.end_day IS NULL OR d.service_date < a.end_day)
SEMI JOIN oracle.known_account k ON k.account_id = a.account_id
WHERE a.is_main
GROUP BY ALL;
