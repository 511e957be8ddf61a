-- Tiers of the day from yesterday's; then what ended and what moved. Why it moved is not looked for.
CREATE OR REPLACE TEMP TABLE threshold_today AS {{threshold}};

CREATE OR REPLACE TEMP TABLE tier_day AS
WITH classed AS (
    SELECT f.*, abc_class(if(y.tier = 'closed', NULL, y.abc), f.{{metric}}, f.account_id, t.cuts) AS abc,
        y.tier AS tier_before, y.abc AS abc_before, if(y.tier = 'closed', NULL, y.credit_grade) AS credit_grade_before,
        y.policy_version AS version_before, y.valid_from AS from_before, y.tier_since AS since_before, y.rule AS rule_before,
        y.metric AS metric_before, y.score AS score_before
    FROM scored f
    JOIN threshold_today t ON t.scope = {{scope}}
    LEFT JOIN tier_state y USING (slot)
),
graded AS (SELECT *, {{grade}} AS credit_grade FROM classed),
ruled AS (SELECT *, {{candidate_rule}} AS candidate_rule FROM graded),
chosen AS (SELECT *, {{tier}} AS candidate FROM ruled),
settled AS (
    SELECT *, CASE
        WHEN tier_before IS NULL OR tier_before = 'closed' OR {{immediate}} OR today() - since_before >= {{min_stay_days}} THEN candidate
        ELSE tier_before
    END AS tier
    FROM chosen
)
SELECT slot, account_id, category, abc, credit_grade, tier, tier_before, abc_before, credit_grade_before,
    {{metric}} AS metric, credit_score AS score, metric_before, score_before,
    CASE WHEN tier = tier_before AND abc = abc_before AND credit_grade = credit_grade_before THEN from_before ELSE today() END AS valid_from,
    CASE WHEN tier = tier_before THEN since_before ELSE today() END AS tier_since,
    CASE WHEN tier = candidate THEN candidate_rule ELSE 'stay' END AS rule_today,
    CASE WHEN tier = tier_before AND abc = abc_before AND credit_grade = credit_grade_before THEN rule_before ELSE rule_today END AS rule,
    CASE WHEN tier = tier_before AND abc = abc_before AND credit_grade = credit_grade_before THEN version_before ELSE {{policy_version}} END AS policy_version
FROM settled
UNION ALL BY NAME
SELECT slot, account_id, y.abc, y.credit_grade, 'closed' AS tier, y.tier AS tier_before, y.abc AS abc_before,
    y.credit_grade AS credit_grade_before, y.metric AS metric_before, y.score AS score_before,
    if(y.tier = 'closed', y.valid_from, today()) AS valid_from, if(y.tier = 'closed', y.tier_since, today()) AS tier_since,
    'closed' AS rule_today, 'closed' AS rule, if(y.tier = 'closed', y.policy_version, {{policy_version}}) AS policy_version
FROM tier_state y JOIN account_key USING (slot)
WHERE slot NOT IN (SELECT slot FROM scored);

CREATE OR REPLACE TEMP TABLE ended AS
SELECT t.account_id, y.valid_from, today() - 1 AS valid_to, y.tier, y.abc, y.credit_grade, y.tier_since, y.rule, y.policy_version
FROM tier_state y JOIN tier_day t USING (slot)
WHERE t.valid_from = today();

CREATE OR REPLACE TEMP TABLE migration AS
SELECT account_id, today() AS service_date, tier_before AS from_tier, t.tier AS to_tier, abc_before AS from_abc, t.abc AS to_abc,
    'not looked for' AS cause, rule_today AS rule, {{policy_version}} AS policy_version, y.credit_grade AS from_grade,
    t.credit_grade AS to_grade, {{policy_version}} AS from_policy_version, metric_before, t.metric AS metric_after, score_before,
    t.score AS score_after
FROM tier_day t JOIN tier_state y USING (slot)
WHERE t.tier <> t.tier_before;

-- The month's row of the matrix; on the first of a month yesterday's tiers are those at the end of the month before.
{{new_month}}
DELETE FROM tier_migration_matrix WHERE month = date_trunc('month', today())::DATE;
INSERT INTO tier_migration_matrix
WITH move AS (
    SELECT coalesce(e.tier, 'none') AS from_tier, coalesce(t.tier, 'none') AS to_tier, count(*) AS accounts,
        sum(f.wh_365d) AS energy_wh, sum(f.billed_365d_minor) AS turnover_minor
    FROM month_end_tier e FULL JOIN tier_day t USING (slot) LEFT JOIN feature f USING (slot)
    WHERE EXISTS (FROM month_end_tier) AND NOT (coalesce(e.tier, '') = 'closed' AND coalesce(t.tier, '') = 'closed')
    GROUP BY ALL
),
running AS (
    SELECT *, sum(accounts) OVER (PARTITION BY from_tier) AS total,
        sum(accounts) OVER (PARTITION BY from_tier ORDER BY to_tier) AS upto
    FROM move
)
SELECT date_trunc('month', today())::DATE, from_tier, to_tier, accounts,
    upto * 1000000 // total - (upto - accounts) * 1000000 // total, energy_wh, turnover_minor
FROM running;
UPDATE tier_migration_matrix SET energy_wh = NULL, turnover_minor = NULL WHERE last_day(month) <= today() - {{features_kept}};

CREATE OR REPLACE TEMP TABLE tier_share AS
WITH summed AS (
    SELECT CASE WHEN f.category IS NULL THEN 'all' ELSE 'category=' || f.category END AS scope, t.tier, count(*) AS accounts,
        sum(f.wh_365d) AS energy_wh, sum(f.billed_365d_minor) AS turnover_minor
    FROM tier_day t JOIN feature f USING (slot)
    GROUP BY GROUPING SETS ((t.tier), (t.tier, f.category))
)
SELECT today() AS service_date, *, accounts * 1000000 // sum(accounts) OVER (PARTITION BY scope) AS accounts_ppm,
    energy_wh * 1000000 // nullif(sum(energy_wh) OVER (PARTITION BY scope), 0) AS energy_ppm,
    turnover_minor * 1000000 // nullif(sum(turnover_minor) OVER (PARTITION BY scope), 0) AS turnover_ppm
FROM summed;

CREATE OR REPLACE TEMP TABLE curve AS
WITH ranked AS (
    SELECT unnest({{scopes}}) AS scope, category, {{metric}} AS amount FROM feature WHERE {{metric}} > 0
),
placed AS (
    SELECT scope, amount, row_number() OVER (PARTITION BY scope ORDER BY amount DESC) AS place,
        count(*) OVER (PARTITION BY scope) AS n
    FROM ranked WHERE scope IN ('all', 'category=' || category)
),
part AS (SELECT scope, n, (place - 1) * 100 // n + 1 AS percent, sum(amount) AS amount FROM placed GROUP BY ALL),
grid AS (
    SELECT w.*, percent, sum(amount) OVER (PARTITION BY scope ORDER BY percent) AS amount_sum
    FROM (SELECT scope, n, sum(amount) AS total FROM part GROUP BY ALL) w
    CROSS JOIN (SELECT unnest(range(1, 101)) AS percent) LEFT JOIN part USING (scope, n, percent)
)
SELECT today() AS service_date, '{{metric}}' AS metric, scope, percent, (n * percent + 99) // 100 AS customers, amount_sum,
    amount_sum * 1000000 // total AS share_ppm
FROM grid;

INSERT INTO service_days
SELECT today(), e, r, ppm(r, e), CASE WHEN ppm(r, e) < {{floor}} THEN 'provisional' ELSE 'closed' END, {{policy_version}}
FROM (SELECT sum(expected_1d)::BIGINT AS e FROM expected), (SELECT sum(received)::BIGINT AS r FROM landed_day);

CREATE OR REPLACE TABLE tier_state AS
SELECT slot, category, abc, credit_grade, tier, valid_from, tier_since, rule, policy_version, metric, score FROM tier_day;
CREATE OR REPLACE TABLE threshold AS FROM threshold_today;
