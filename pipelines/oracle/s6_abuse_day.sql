-- definitions.md, "The abuse ladder": one service day, from the day before. Runs after s6_tier_day.sql of the {{day}}. In double
-- braces stands what the policy version in force says; {{has_ladder}} is false where it has none.
INSERT INTO oracle.abuse_day
WITH climber AS (
    SELECT
        coalesce(t.account_id, y.account_id) AS account_id,
        coalesce(t.tier <> 'closed', false) AS in_population,
        coalesce(t.tier = 'abuse', false) AS is_abuse,
        y.step AS step_yesterday,
        y.since AS since_yesterday,
        {{day}} - least(f.days_since_theft, f.days_since_tampering) AS found_on,
        {{day}} - f.days_since_inspection AS inspected_on
    FROM (FROM oracle.tier_day WHERE service_date = {{day}}) t
    FULL JOIN (FROM oracle.abuse_day WHERE service_date = {{day}} - 1 AND step IS NOT NULL) y ON y.account_id = t.account_id
    LEFT JOIN (FROM oracle.features WHERE service_date = {{day}}) f ON f.account_id = t.account_id
    WHERE t.tier = 'abuse' OR y.account_id IS NOT NULL
),
reasoned AS (
    SELECT
        *,
        CASE
            WHEN NOT is_abuse OR NOT {{has_ladder}} THEN CASE
                WHEN step_yesterday NOT IN ('warn', 'restrict') OR step_yesterday IS NULL THEN NULL
                WHEN NOT in_population THEN 'account_closed'
                WHEN is_abuse THEN 'no_ladder'
                ELSE 'tier_left'
            END
            WHEN step_yesterday IS NULL THEN 'tier_abuse'
            WHEN step_yesterday = 'warn' AND {{day}} - since_yesterday >= {{warn_days}} THEN 'warning_ended'
            WHEN step_yesterday = 'restrict' AND {{inspection_releases}}
                AND {{day}} - since_yesterday >= {{restrict_days}}
                AND inspected_on > since_yesterday
                AND inspected_on > found_on
                THEN 'inspection_passed'
            WHEN step_yesterday = 'release' AND found_on > since_yesterday THEN 'new_finding'
        END AS abuse_reason
    FROM climber
),
stepped AS (
    SELECT
        *,
        CASE abuse_reason
            WHEN 'tier_abuse' THEN 'warn'
            WHEN 'new_finding' THEN 'warn'
            WHEN 'warning_ended' THEN 'restrict'
            ELSE 'release'
        END AS step_taken
    FROM reasoned
)
SELECT
    {{day}} AS service_date,
    account_id,
    CASE
        WHEN NOT is_abuse OR NOT {{has_ladder}} THEN NULL
        WHEN abuse_reason IS NULL THEN step_yesterday
        ELSE step_taken
    END AS step,
    CASE WHEN abuse_reason IS NULL THEN since_yesterday ELSE {{day}} END AS since,
    CASE WHEN abuse_reason IS NOT NULL THEN step_taken END AS step_taken,
    step_yesterday AS from_step,
    abuse_reason,
    {{policy_version}} AS policy_version
FROM stepped;
