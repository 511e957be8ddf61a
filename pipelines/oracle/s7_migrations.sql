-- definitions.md, "Tiers": every change of tier, and its cause where nothing has to be put back to find it.
CREATE OR REPLACE TABLE oracle.moved AS
SELECT
    t.account_id,
    t.service_date,
    y.tier AS from_tier,
    t.tier AS to_tier,
    y.abc AS from_abc,
    t.abc AS to_abc,
    CASE WHEN t.tier = 'closed' THEN 'closed' WHEN y.tier = 'closed' THEN 'opened' END AS cause,
    t.rule,
    d.policy_version,
    y.credit_grade AS from_grade,
    t.credit_grade AS to_grade,
    b.policy_version AS from_policy_version,
    y.credit_grade_before AS grade_before_yesterday,
    t.service_date - y.tier_since AS dwell
FROM oracle.tier_day t
JOIN oracle.tier_day y ON y.account_id = t.account_id AND y.service_date = t.service_date - 1
JOIN oracle.policy_day d ON d.service_date = t.service_date
JOIN oracle.policy_day b ON b.service_date = y.service_date
WHERE t.tier <> y.tier;

CREATE OR REPLACE TABLE oracle.moved_pair AS
SELECT account_id, service_date FROM oracle.moved WHERE cause IS NULL;
