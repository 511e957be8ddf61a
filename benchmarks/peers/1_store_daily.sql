-- One month of readings: of one meter and day the highest revision.
INSERT INTO daily
SELECT a.slot, r.service_date, sum(r.energy_wh)::BIGINT, count(*)::INTEGER
FROM published.accepted_readings r
JOIN assignment a
    ON a.meter_id = r.meter_id AND a.first_day <= r.service_date AND (a.end_day IS NULL OR r.service_date < a.end_day)
WHERE date_trunc('month', r.service_date) = {{month}}
GROUP BY a.slot, r.service_date
ORDER BY r.service_date, a.slot;
