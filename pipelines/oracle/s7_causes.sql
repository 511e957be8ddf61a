-- definitions.md, "Causes": the changes of tier on days of one version after days of the same or another, and what
-- they follow from: today's features, cut-offs and memory. One after another they are put back in oracle.put_back.
CREATE OR REPLACE TABLE oracle.put_back AS
SELECT
    f.*,
    m.service_date AS cut_day,
    m.from_tier AS tier_before,
    m.from_abc AS abc_before,
    m.from_grade AS credit_grade_before,
    m.grade_before_yesterday,
    m.dwell,
    greatest(c.overdue_minor, y.overdue_minor) > 0 OR c.bills_due_1d > 0 AS is_due,
    q.region,
    r.region AS region_before
FROM oracle.moved m
JOIN oracle.population q ON q.account_id = m.account_id AND q.service_date = m.service_date
JOIN oracle.population r ON r.account_id = m.account_id AND r.service_date = m.service_date - 1
JOIN oracle.features f ON f.account_id = m.account_id AND f.service_date = m.service_date
JOIN oracle.features_clock c ON c.account_id = m.account_id AND c.service_date = m.service_date
JOIN oracle.features y ON y.account_id = m.account_id AND y.service_date = m.service_date - 1
WHERE m.cause IS NULL AND m.policy_version = {{policy_version}} AND m.from_policy_version = {{version_before}};
