-- definitions.md, "Tiers": migrations and their cause, for the days of one policy version. In double braces stand what
-- that version says ({{metric}}, {{scope}}, {{grade}}, {{candidate_rule}}, {{tier}}, {{policy_version}}).
INSERT INTO oracle.tier_migrations
WITH moved AS (
    SELECT
        t.*,
        y.tier AS tier_yesterday,
        y.abc AS abc_yesterday,
        y.credit_grade AS grade_yesterday,
        y.candidate AS candidate_yesterday,
        y.policy_version AS version_yesterday
    FROM oracle.tier_day t
    JOIN oracle.tier_day y ON y.account_id = t.account_id AND y.service_date = t.service_date - 1
    WHERE t.tier <> y.tier AND t.policy_version = {{policy_version}}
),
-- "with yesterday's conduct, and the grade that follows"
with_conduct AS (
    SELECT
        f.* REPLACE (
            y.days_since_theft AS days_since_theft,
            y.days_since_tampering AS days_since_tampering,
            y.days_since_violation AS days_since_violation,
            y.days_since_inspection AS days_since_inspection,
            y.thefts_730d AS thefts_730d,
            y.violations_365d AS violations_365d,
            y.disconnected AS disconnected
        ),
        m.abc,
        m.grade_yesterday AS credit_grade_before
    FROM moved m
    JOIN oracle.features f ON f.account_id = m.account_id AND f.service_date = m.service_date
    JOIN oracle.features y ON y.account_id = m.account_id AND y.service_date = m.service_date - 1
),
by_conduct AS (
    SELECT account_id, service_date, {{tier}} AS candidate_by_conduct
    FROM (SELECT *, {{candidate_rule}} AS candidate_rule FROM (SELECT *, {{grade}} AS credit_grade FROM with_conduct))
),
-- "with yesterday's credit grade"
with_grade AS (
    SELECT f.*, m.abc, m.grade_yesterday AS credit_grade
    FROM moved m
    JOIN oracle.features f ON f.account_id = m.account_id AND f.service_date = m.service_date
),
by_grade AS (
    SELECT account_id, service_date, {{tier}} AS candidate_by_grade
    FROM (SELECT *, {{candidate_rule}} AS candidate_rule FROM with_grade)
),
-- "with today's metric but yesterday's cut-offs, from yesterday's class" and "with that class"
with_class AS (
    SELECT
        f.*,
        m.abc_yesterday AS abc,
        m.credit_grade,
        oracle.abc_class(m.abc_yesterday, f.{{metric}}, f.account_id, t.cuts) AS class_by_cutoffs
    FROM moved m
    JOIN oracle.features f ON f.account_id = m.account_id AND f.service_date = m.service_date
    LEFT JOIN oracle.threshold t ON t.service_date = m.service_date - 1 AND t.scope = {{scope}}
),
by_class AS (
    SELECT account_id, service_date, class_by_cutoffs, {{tier}} AS candidate_by_class
    FROM (SELECT *, {{candidate_rule}} AS candidate_rule FROM with_class)
)
SELECT
    account_id,
    service_date,
    tier_yesterday AS from_tier,
    tier AS to_tier,
    abc_yesterday AS from_abc,
    abc AS to_abc,
    CASE
        WHEN policy_version <> version_yesterday THEN 'policy_changed'
        WHEN candidate = candidate_yesterday THEN 'stay_ended'
        WHEN 'abuse' IN (tier, tier_yesterday) OR candidate_by_conduct = candidate_yesterday THEN 'conduct'
        WHEN candidate_by_grade = candidate_yesterday THEN 'payment'
        WHEN class_by_cutoffs = abc_yesterday AND candidate_by_class = candidate_yesterday THEN 'cutoff_moved'
        ELSE 'own_use'
    END AS cause,
    rule,
    policy_version
FROM moved
JOIN by_conduct USING (account_id, service_date)
JOIN by_grade USING (account_id, service_date)
JOIN by_class USING (account_id, service_date);
