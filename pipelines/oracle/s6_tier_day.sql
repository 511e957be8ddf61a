-- definitions.md, "ABC classes" and "Tiers": one service day, from the day before. In double braces stand what the
-- policy version in force says ({{metric}}, {{scope}}, {{grade}}, {{candidate_rule}}, {{tier}}, {{immediate}},
-- {{min_stay_days}}, {{policy_version}}) and the {{day}}.
INSERT INTO oracle.tier_day
WITH yesterday AS (
    SELECT * FROM oracle.tier_day WHERE service_date = {{day}} - 1
),
classed AS (
    SELECT
        f.*,
        oracle.abc_class(y.abc, f.{{metric}}, f.account_id, t.cuts) AS abc,
        y.tier AS tier_yesterday,
        y.credit_grade AS credit_grade_before,
        y.tier_since AS since_yesterday
    FROM oracle.features f
    JOIN oracle.threshold t ON t.service_date = f.service_date AND t.scope = {{scope}}
    LEFT JOIN yesterday y ON y.account_id = f.account_id
    WHERE f.service_date = {{day}} AND t.service_date = {{day}}
),
graded AS (
    SELECT *, {{grade}} AS credit_grade FROM classed
),
ruled AS (
    SELECT *, {{candidate_rule}} AS candidate_rule FROM graded
),
chosen AS (
    SELECT *, {{tier}} AS candidate FROM ruled
),
settled AS (
    SELECT
        *,
        CASE
            WHEN tier_yesterday IS NULL THEN candidate
            WHEN {{immediate}} THEN candidate
            WHEN service_date - since_yesterday >= {{min_stay_days}} THEN candidate
            ELSE tier_yesterday
        END AS tier
    FROM chosen
)
SELECT
    service_date,
    account_id,
    category,
    abc,
    credit_grade,
    candidate,
    tier,
    CASE WHEN tier = tier_yesterday THEN since_yesterday ELSE service_date END AS tier_since,
    CASE WHEN tier = candidate THEN candidate_rule ELSE 'stay' END AS rule,
    {{policy_version}} AS policy_version
FROM settled;
