-- definitions.md, "Tiers": one service day, from the day before. In double braces stand what the policy version in force says, the
-- day, and s6_decide.sql.
INSERT INTO oracle.tier_day
WITH yesterday AS (
    SELECT *, CASE WHEN tier <> 'closed' THEN abc END AS abc_held, CASE WHEN tier <> 'closed' THEN credit_grade END AS grade_held
    FROM oracle.tier_day
    WHERE service_date = {{day}} - 1
),
remembered AS (
    SELECT
        f.*,
        t.cuts,
        y.tier AS tier_before,
        y.abc_held AS abc_before,
        y.grade_held AS credit_grade_before,
        y.tier_since AS since_before,
        f.service_date - y.tier_since AS dwell
    FROM oracle.features f
    JOIN oracle.threshold t ON t.service_date = f.service_date AND t.scope = {{scope}}
    LEFT JOIN yesterday y ON y.account_id = f.account_id
    WHERE f.service_date = {{day}} AND t.service_date = {{day}}
),
{{decide}}
SELECT
    service_date,
    account_id,
    category,
    abc,
    credit_grade,
    credit_grade_before,
    tier,
    CASE WHEN tier = tier_before THEN since_before ELSE service_date END AS tier_since,
    CASE WHEN tier = candidate THEN candidate_rule WHEN tier = tier_before THEN 'stay' ELSE 'one_notch' END AS rule,
    {{policy_version}} AS policy_version
FROM settled
UNION ALL
SELECT
    {{day}},
    account_id,
    NULL,
    abc,
    credit_grade,
    NULL,
    'closed',
    CASE WHEN tier = 'closed' THEN tier_since ELSE {{day}} END,
    'closed',
    {{policy_version}}
FROM yesterday
WHERE account_id NOT IN (SELECT account_id FROM oracle.features WHERE service_date = {{day}});
