-- definitions.md, "Which reading counts". Rows known at the moment asked for: delivery <= as_known.

-- Reference rows: of one key the highest revision, then the content that comes first as text, column by column.
CREATE OR REPLACE TABLE oracle.meter AS
SELECT * EXCLUDE (revision, delivery, "row")
FROM accepted_meters
WHERE delivery <= getvariable('as_known')
QUALIFY row_number() OVER (
    PARTITION BY meter_id, installed_on
    ORDER BY revision DESC, [
        account_id, coalesce(removed_on::VARCHAR, ''), coalesce(role, ''),
        coalesce(multiplier::VARCHAR, ''), coalesce(modulus::VARCHAR, ''), coalesce(installed_total::VARCHAR, ''),
        coalesce(installed_sharp::VARCHAR, ''), coalesce(installed_peak::VARCHAR, ''), coalesce(installed_flat::VARCHAR, ''),
        coalesce(installed_valley::VARCHAR, ''), coalesce(installed_reverse::VARCHAR, ''), coalesce(removed_total::VARCHAR, ''),
        coalesce(removed_sharp::VARCHAR, ''), coalesce(removed_peak::VARCHAR, ''), coalesce(removed_flat::VARCHAR, ''),
        coalesce(removed_valley::VARCHAR, ''), coalesce(removed_reverse::VARCHAR, '')
    ]
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

-- Prices: in force up to the day before the next one of the same tariff and period.
CREATE OR REPLACE TABLE oracle.price AS
SELECT *, lead(valid_from) OVER (PARTITION BY tariff, period ORDER BY valid_from) - 1 AS valid_to
FROM (
    SELECT tariff, valid_from, period, price_nano, cost_nano
    FROM accepted_tariffs
    WHERE delivery <= getvariable('as_known')
    QUALIFY row_number() OVER (
        PARTITION BY tariff, valid_from, period ORDER BY revision DESC, price_nano::VARCHAR, coalesce(cost_nano::VARCHAR, '')
    ) = 1
);

-- The account of each meter: first_day inclusive, end_day exclusive (null: open). A later row ends those before it.
CREATE OR REPLACE TABLE oracle.assignment AS
SELECT
    meter_id,
    installed_on AS first_day,
    least(removed_on, lead(installed_on) OVER (PARTITION BY meter_id ORDER BY installed_on)) AS end_day,
    account_id,
    coalesce(role, 'main') = 'main' AS is_main
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

-- The same of its energy by period, of what was fed in and of its maximum demand: each competes by itself, among the rows that
-- have it.
CREATE OR REPLACE TABLE oracle.reading_apart AS
WITH told AS (
    UNPIVOT (
        SELECT meter_id, service_date, revision, sharp_wh, peak_wh, flat_wh, valley_wh, reverse_wh, max_demand_w
        FROM accepted_readings
        WHERE delivery <= getvariable('as_known')
    )
    ON sharp_wh AS sharp, peak_wh AS peak, flat_wh AS flat, valley_wh AS valley, reverse_wh AS reverse,
        max_demand_w AS max_demand
    INTO NAME register VALUE energy_wh -- of a maximum demand: W
)
SELECT
    meter_id,
    service_date,
    register,
    min(energy_wh) AS energy_wh
FROM (
    FROM told
    QUALIFY rank() OVER (PARTITION BY meter_id, service_date, register ORDER BY revision DESC) = 1
)
GROUP BY meter_id, service_date, register;
