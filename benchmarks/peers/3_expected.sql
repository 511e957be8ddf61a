-- Meter-days expected over each window.
CREATE OR REPLACE TEMP TABLE expected AS
SELECT slot,
    sum(days_assigned(first_day, end_day, today(), today()))::INTEGER AS expected_1d,
    sum(days_assigned(first_day, end_day, today() - 6, today()))::INTEGER AS expected_7d,
    sum(days_assigned(first_day, end_day, today() - 29, today()))::INTEGER AS expected_30d,
    sum(days_assigned(first_day, end_day, today() - 89, today()))::INTEGER AS expected_90d,
    sum(days_assigned(first_day, end_day, today() - 364, today()))::INTEGER AS expected_365d,
    sum(days_assigned(first_day, end_day, date_trunc('month', today())::DATE, today()))::INTEGER AS expected_mtd,
    sum(days_assigned(first_day, end_day, today() - 454, today() - 365))::INTEGER AS expected_90d_year_ago
FROM assignment
WHERE first_day <= today()
GROUP BY slot;
