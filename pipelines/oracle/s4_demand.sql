-- definitions.md, "Maximum demand": of days with energy and a maximum demand that every meter received tells.
CREATE OR REPLACE TABLE oracle.demand_day AS
SELECT
    account_id,
    service_date,
    date_trunc('month', service_date)::DATE AS month,
    d.energy_wh AS watts,
    r.energy_wh
FROM oracle.counted_register d
JOIN oracle.counted_day r USING (account_id, service_date)
WHERE d.register = 'max_demand' AND r.meters_received > 0 AND d.meters >= r.meters_received;

-- The month of a service day up to it, and the whole month before; each day is added to the service days that it counts for.
CREATE OR REPLACE VIEW oracle.demand_counted AS
SELECT s.service_date, d.* EXCLUDE (service_date), d.month = date_trunc('month', s.service_date) AS is_mtd
FROM oracle.service_day s
JOIN oracle.demand_day d
    ON d.service_date <= s.service_date
    AND d.month >= date_trunc('month', s.service_date) - INTERVAL 1 MONTH;
