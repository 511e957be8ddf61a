-- What the policy says, as tables; Python fills them. Days before the first version have the first.
CREATE OR REPLACE TABLE oracle.policy_version (
    policy_version VARCHAR,
    from_day DATE,
    end_day DATE, -- exclusive
    metric VARCHAR,
    rule VARCHAR, -- the version's own rule
    weights BIGINT[] -- of bills, by whole steps of 30 days since due
);

CREATE OR REPLACE TABLE oracle.policy_scope (
    policy_version VARCHAR,
    metric VARCHAR,
    scope VARCHAR,
    category VARCHAR -- null in the scope all
);

CREATE OR REPLACE TABLE oracle.policy_cut (
    policy_version VARCHAR,
    rule VARCHAR,
    class VARCHAR,
    side VARCHAR,
    kind VARCHAR,
    cut_num BIGINT,
    cut_den BIGINT
);

CREATE OR REPLACE TABLE oracle.policy_percentile (
    policy_version VARCHAR,
    metric VARCHAR,
    within VARCHAR, -- who is ranked together: all, or the accounts of a category, or of a region
    ranked VARCHAR, -- who comes first
    cut_num BIGINT,
    cut_den BIGINT
);

-- A row for each VEE rule that is on; a parameter that the rule does not have is null.
CREATE OR REPLACE TABLE oracle.policy_vee (
    policy_version VARCHAR,
    vee_rule VARCHAR,
    rule_number INTEGER, -- the first of several goes before the others
    severity VARCHAR,
    factor_ppm BIGINT,
    at_least_wh BIGINT,
    min_like_days BIGINT,
    run_days INTEGER,
    tolerance_ppm BIGINT,
    tolerance_wh BIGINT
);

CREATE OR REPLACE VIEW oracle.policy_day AS
SELECT d.service_date, p.policy_version, p.weights
FROM oracle.service_day d
JOIN oracle.policy_version p ON p.from_day <= d.service_date AND d.service_date < p.end_day;

-- What ABC goes by, beside scopes and cuts.
CREATE OR REPLACE VIEW oracle.policy_ranking AS
SELECT policy_version, metric, rule, weights FROM oracle.policy_version;
