-- definitions.md, "ABC classes": the cuts of the policy's own rule, one row per service day and scope.

-- An account is inside when its metric is above the amount, or equal to it with an id not after the boundary's.
CREATE OR REPLACE MACRO oracle.is_inside(metric, account, cut) AS
    metric > cut.amount OR (metric = cut.amount AND account <= cut.boundary);

CREATE OR REPLACE MACRO oracle.abc_class(class_before, metric, account, cuts) AS CASE
    WHEN class_before IS NULL THEN CASE
        WHEN oracle.is_inside(metric, account, cuts.a_cut) THEN 'A'
        WHEN oracle.is_inside(metric, account, cuts.b_cut) THEN 'B'
        ELSE 'C'
    END
    WHEN oracle.is_inside(metric, account, cuts.a_entry) THEN 'A'
    WHEN class_before = 'A' AND oracle.is_inside(metric, account, cuts.a_exit) THEN 'A'
    WHEN oracle.is_inside(metric, account, cuts.b_entry) THEN 'B'
    WHEN class_before IN ('A', 'B') AND oracle.is_inside(metric, account, cuts.b_exit) THEN 'B'
    ELSE 'C'
END;

CREATE OR REPLACE TABLE oracle.threshold AS
WITH cut AS (
    SELECT c.*, {'amount': c.amount, 'boundary': c.boundary_account_id} AS edge
    FROM oracle.cutoffs c
    JOIN oracle.policy_version p
        ON p.policy_version = c.policy_version AND p.metric = c.metric AND p.rule = c.rule
)
SELECT
    service_date,
    scope,
    {
        'a_cut': any_value(edge) FILTER (class = 'A' AND side = 'cut'),
        'a_entry': any_value(edge) FILTER (class = 'A' AND side = 'entry'),
        'a_exit': any_value(edge) FILTER (class = 'A' AND side = 'exit'),
        'b_cut': any_value(edge) FILTER (class = 'B' AND side = 'cut'),
        'b_entry': any_value(edge) FILTER (class = 'B' AND side = 'entry'),
        'b_exit': any_value(edge) FILTER (class = 'B' AND side = 'exit')
    } AS cuts
FROM cut
GROUP BY service_date, scope
ORDER BY service_date;

-- Who is on the abuse ladder on a day (step null: no longer), and the step taken on it, if any.
CREATE OR REPLACE TABLE oracle.abuse_day (
    service_date DATE,
    account_id VARCHAR,
    step VARCHAR,
    since DATE,
    step_taken VARCHAR,
    from_step VARCHAR,
    abuse_reason VARCHAR,
    policy_version VARCHAR
);

CREATE OR REPLACE VIEW oracle.abuse_steps AS
SELECT account_id, service_date, step_taken AS step, from_step, abuse_reason, policy_version
FROM oracle.abuse_day
WHERE abuse_reason IS NOT NULL;

-- Places of a limited resource by the day whose plan gives them out; `usual`: those of a working day. Python fills it.
CREATE OR REPLACE TABLE oracle.places (service_date DATE, resource VARCHAR, free BIGINT, usual BIGINT);

CREATE OR REPLACE TABLE oracle.planned_actions (
    account_id VARCHAR,
    service_date DATE,
    action VARCHAR,
    action_reason VARCHAR,
    due_date DATE,
    priority INTEGER,
    resource VARCHAR,
    value BIGINT,
    since DATE,
    rank INTEGER,
    policy_version VARCHAR
);

CREATE OR REPLACE TABLE oracle.plan_capacity (
    service_date DATE,
    resource VARCHAR,
    capacity BIGINT,
    candidates BIGINT,
    resting BIGINT,
    planned BIGINT,
    value_candidates BIGINT,
    value_planned BIGINT,
    cut_value BIGINT,
    policy_version VARCHAR
);

-- Where no version has a strategy it stays empty.
CREATE OR REPLACE TABLE oracle.service_actions (
    account_id VARCHAR,
    service_date DATE,
    action VARCHAR,
    action_reason VARCHAR,
    due_date DATE,
    priority INTEGER,
    resource VARCHAR,
    value BIGINT,
    planned BOOLEAN,
    not_planned_reason VARCHAR,
    since DATE,
    rank INTEGER,
    policy_version VARCHAR
);

CREATE OR REPLACE TABLE oracle.tier_day (
    service_date DATE,
    account_id VARCHAR,
    category VARCHAR,
    abc VARCHAR,
    credit_grade VARCHAR,
    credit_grade_before VARCHAR, -- that the grade was found by
    tier VARCHAR,
    tier_since DATE,
    rule VARCHAR,
    policy_version VARCHAR
);
