/* Open amounts by age, on-time ratio and days beyond terms of all customers together, at the ends of half-years. */
SELECT
    service_date,
    sum(current_minor)::BIGINT AS current_minor,
    sum(overdue_1_30_minor)::BIGINT AS overdue_1_30_minor,
    sum(overdue_31_60_minor)::BIGINT AS overdue_31_60_minor,
    (sum(bills_on_time_365d) * 1000000 // sum(bills_due_365d))::BIGINT AS on_time_ppm,
    (sum(beyond_terms_365d_days) * 1000 // sum(bills_due_365d))::BIGINT AS mean_beyond_terms_milli
FROM features
WHERE service_date = last_day(service_date) AND month(service_date) IN (6, 12)
GROUP BY service_date
ORDER BY service_date
