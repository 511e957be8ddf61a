-- definitions.md, "Service actions" and "The plan of service actions": one service day, from the days before. Runs after
-- s6_abuse_day.sql of the {{day}}. {{candidates}} is one SELECT for each rule; {{value}}, {{bonus}} and {{order}} are what the strategy says.
CREATE OR REPLACE TEMP TABLE wish AS
WITH facts AS (
    SELECT f.*, t.tier, t.abc, t.credit_grade, coalesce(a.step_taken, a.step) AS abuse_step
    FROM (FROM oracle.features WHERE service_date = {{day}}) f
    JOIN (FROM oracle.tier_day WHERE service_date = {{day}}) t ON t.account_id = f.account_id
    LEFT JOIN (FROM oracle.abuse_day WHERE service_date = {{day}}) a ON a.account_id = f.account_id
),
candidate AS (
    {{candidates}}
)
SELECT
    c.*,
    p.free,
    p.usual,
    CASE WHEN c.resource = 'managers' THEN y.since END AS kept_since,
    CASE WHEN c.resource <> 'managers' THEN y.service_date END AS done_on
FROM candidate c
LEFT JOIN oracle.places p ON p.service_date = {{day}} AND p.resource = c.resource
LEFT JOIN oracle.planned_actions y
    ON y.account_id = c.account_id AND y.action = c.action AND y.resource = c.resource
    AND y.service_date BETWEEN {{day}} - CASE WHEN c.resource = 'managers' THEN 1 ELSE 400 END AND {{day}} - 1
-- Of one action the first rule; of what was done before the last time.
QUALIFY row_number() OVER (PARTITION BY c.account_id, c.action ORDER BY c.rule_number, y.service_date DESC) = 1;

CREATE OR REPLACE TEMP TABLE in_order AS
WITH free_to_go AS (
    SELECT
        *,
        least(value, 2::HUGEINT ** 61) + CASE
            WHEN kept_since IS NOT NULL THEN greatest(least(value, 2::HUGEINT ** 61), 0)::HUGEINT * {{bonus}} // 1000000 ELSE 0
        END AS counted
    FROM wish
    WHERE free IS NOT NULL AND (done_on IS NULL OR {{day}} - done_on >= again_days)
),
first_of_account AS (
    FROM free_to_go
    QUALIFY row_number() OVER (PARTITION BY resource, account_id ORDER BY {{order}}, rule_number) = 1
)
SELECT *, row_number() OVER (PARTITION BY resource ORDER BY {{order}}, account_id) AS rank
FROM first_of_account;

INSERT INTO oracle.planned_actions
SELECT
    account_id, {{day}}, action, reason, coalesce(kept_since, {{day}}) + due_days, priority, resource, value,
    coalesce(kept_since, {{day}}), rank, {{policy_version}}
FROM in_order
WHERE rank <= free;

INSERT INTO oracle.plan_capacity
SELECT
    {{day}}, p.resource, p.free,
    (SELECT count(DISTINCT account_id) FROM wish w WHERE w.resource = p.resource),
    (
        SELECT count(DISTINCT d.account_id) FROM oracle.planned_actions d
        JOIN (VALUES {{rests}}) AS r(action, resource, again_days) USING (action, resource)
        WHERE d.resource = p.resource AND d.service_date < {{day}} AND {{day}} - d.service_date < r.again_days
    ),
    (SELECT count(*) FROM in_order o WHERE o.resource = p.resource AND o.rank <= o.free),
    (SELECT coalesce(sum(value), 0) FROM (SELECT DISTINCT account_id, value FROM wish w WHERE w.resource = p.resource)),
    (SELECT coalesce(sum(value), 0) FROM in_order o WHERE o.resource = p.resource AND o.rank <= o.free),
    (SELECT arg_max(value, rank) FROM in_order o WHERE o.resource = p.resource AND o.rank <= o.free),
    {{policy_version}}
FROM oracle.places p
WHERE p.service_date = {{day}} AND p.resource IN ({{resources}});

-- What is published of the last day: all that takes no limited place, those planned, and those next in order.
CREATE OR REPLACE TABLE oracle.service_actions AS
SELECT
    account_id, {{day}} AS service_date, action, reason AS action_reason,
    CASE WHEN rank <= free THEN coalesce(kept_since, {{day}}) ELSE {{day}} END + due_days AS due_date,
    priority, resource, value, rank <= free AS planned,
    CASE WHEN rank <= free THEN NULL WHEN free = 0 AND usual > 0 THEN 'day_off' ELSE 'no_place' END AS not_planned_reason,
    CASE WHEN rank <= free AND resource = 'managers' THEN coalesce(kept_since, {{day}}) END AS since,
    rank, {{policy_version}} AS policy_version
FROM in_order
WHERE rank <= free + usual
UNION ALL
SELECT
    account_id, {{day}}, action, reason, {{day}} + due_days, priority, resource, value, true, NULL, NULL, NULL, {{policy_version}}
FROM wish
WHERE free IS NULL;
