-- definitions.md, "The calendar": how complete each service day is, as it was read. Runs after s2_received.sql.
CREATE OR REPLACE TABLE oracle.service_days AS
WITH counted AS (
    SELECT
        d.service_date,
        d.policy_version,
        coalesce((SELECT sum(meters_expected) FROM oracle.expected e WHERE e.service_date = d.service_date), 0) AS meters_expected,
        coalesce((SELECT sum(meters_received) FROM oracle.received r WHERE r.service_date = d.service_date), 0) AS meters_received
    FROM oracle.policy_day d
)
SELECT
    service_date,
    meters_expected,
    meters_received,
    oracle.ppm(meters_received, meters_expected) AS coverage_ppm,
    CASE WHEN coverage_ppm < getvariable('coverage_floor_ppm') THEN 'provisional' ELSE 'closed' END AS status,
    policy_version
FROM counted;
