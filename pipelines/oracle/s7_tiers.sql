-- definitions.md, "Tiers": the history, one row per account and maximal run of days with the same (tier, abc, credit_grade).
CREATE OR REPLACE TABLE oracle.customer_tiers AS
WITH marked AS (
    SELECT
        *,
        lag(service_date) OVER by_day IS DISTINCT FROM service_date - 1
            OR lag(tier) OVER by_day IS DISTINCT FROM tier
            OR lag(abc) OVER by_day IS DISTINCT FROM abc
            OR lag(credit_grade) OVER by_day IS DISTINCT FROM credit_grade AS starts
    FROM oracle.tier_day
    WINDOW by_day AS (PARTITION BY account_id ORDER BY service_date)
),
numbered AS (
    SELECT *, count(*) FILTER (starts) OVER (PARTITION BY account_id ORDER BY service_date) AS run FROM marked
)
SELECT
    account_id,
    min(service_date) AS valid_from,
    nullif(max(service_date), getvariable('through')) AS valid_to,
    any_value(tier) AS tier,
    any_value(abc) AS abc,
    any_value(credit_grade) AS credit_grade,
    arg_min(tier_since, service_date) AS tier_since,
    arg_min(rule, service_date) AS rule,
    arg_min(policy_version, service_date) AS policy_version
FROM numbered
GROUP BY account_id, run;

CREATE OR REPLACE VIEW oracle.customer_tiers_current AS
SELECT c.* EXCLUDE (valid_to), d.category
FROM oracle.customer_tiers c
JOIN oracle.tier_day d ON d.account_id = c.account_id AND d.service_date = getvariable('through')
WHERE c.valid_to IS NULL;

CREATE OR REPLACE TABLE oracle.tier_migrations (
    account_id VARCHAR,
    service_date DATE,
    from_tier VARCHAR,
    to_tier VARCHAR,
    from_abc VARCHAR,
    to_abc VARCHAR,
    cause VARCHAR,
    rule VARCHAR,
    policy_version VARCHAR,
    from_grade VARCHAR,
    to_grade VARCHAR,
    from_policy_version VARCHAR,
    metric_before BIGINT,
    metric_after BIGINT,
    score_before INTEGER,
    score_after INTEGER
);
