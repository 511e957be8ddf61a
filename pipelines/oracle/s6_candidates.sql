-- definitions.md, "Service actions": what the accounts of some service days are candidates for, one SELECT for each rule of the policy
-- version in force on them. In double braces stand these, and the bounds of the days.
CREATE OR REPLACE TEMP TABLE candidate AS
WITH facts AS (
    SELECT f.*, t.tier, t.abc, t.credit_grade, coalesce(a.step_taken, a.step) AS abuse_step
    FROM (FROM oracle.features WHERE service_date BETWEEN {{first}} AND {{last}}) f
    JOIN (FROM oracle.tier_day WHERE service_date BETWEEN {{first}} AND {{last}}) t
        ON t.account_id = f.account_id AND t.service_date = f.service_date
    LEFT JOIN (FROM oracle.abuse_day WHERE service_date BETWEEN {{first}} AND {{last}}) a
        ON a.account_id = f.account_id AND a.service_date = f.service_date
),
applies AS (
    {{candidates}}
)
SELECT c.*, p.free, p.usual
FROM applies c
LEFT JOIN oracle.places p ON p.service_date = c.service_date AND p.resource = c.resource
-- Of one action the first rule.
QUALIFY row_number() OVER (PARTITION BY c.service_date, c.account_id, c.action ORDER BY c.rule_number) = 1;
