-- Service actions of the day, and the plan of those whose places are few. Nothing is found or inspected in this world, so the abuse
-- ladder goes by time and tier alone.
CREATE OR REPLACE TEMP TABLE ladder_step AS
SELECT slot, t.tier IS NOT NULL AS is_abuse, y.step, y.since, CASE
        WHEN NOT is_abuse THEN CASE WHEN y.step <> 'release' THEN 'release' END
        WHEN y.step IS NULL THEN 'warn'
        WHEN y.step = 'warn' AND today() - y.since >= {{warn_days}} THEN 'restrict'
    END AS taken
FROM (SELECT slot, tier FROM tier_day WHERE tier = 'abuse') t FULL JOIN ladder_state y USING (slot);

CREATE OR REPLACE TABLE ladder_state AS
SELECT slot, coalesce(taken, step) AS step, CASE WHEN taken IS NULL THEN since ELSE today() END AS since FROM ladder_step WHERE is_abuse;

CREATE OR REPLACE TEMP TABLE fact AS
SELECT t.account_id, {{columns}} t.tier, t.abc, t.credit_grade, coalesce(l.taken, l.step) AS abuse_step, f.{{value}} AS value
FROM tier_day t JOIN feature f USING (slot) LEFT JOIN ladder_step l USING (slot);

CREATE OR REPLACE TEMP TABLE places AS SELECT * FROM (VALUES {{places}}) AS p(resource, free, usual);

CREATE OR REPLACE TEMP TABLE wish AS
SELECT c.*, p.free, p.usual, g.since AS kept_since, g.done_on
FROM (
    FROM ({{candidates}})
    QUALIFY row_number() OVER (PARTITION BY account_id, action ORDER BY rule_number) = 1
) c
LEFT JOIN places p USING (resource)
LEFT JOIN given g USING (account_id, action, resource);

CREATE OR REPLACE TEMP TABLE in_order AS
WITH counted AS (
    SELECT *, value + CASE WHEN kept_since IS NULL THEN 0 ELSE greatest(value, 0)::HUGEINT * {{bonus}} // 1000000 END AS counted
    FROM wish
    WHERE free IS NOT NULL AND (done_on IS NULL OR today() - done_on >= again_days)
),
first AS (FROM counted QUALIFY row_number() OVER (PARTITION BY resource, account_id ORDER BY {{order}}, rule_number) = 1)
SELECT *, row_number() OVER (PARTITION BY resource ORDER BY {{order}}, account_id) AS rank FROM first;

CREATE OR REPLACE TEMP TABLE resting AS
SELECT resource, count(DISTINCT account_id) AS resting
FROM given JOIN (SELECT * FROM (VALUES {{rests}}) AS r(action, resource, again_days)) r USING (action, resource)
WHERE today() - done_on < again_days
GROUP BY resource;

CREATE OR REPLACE TEMP TABLE place_taken AS
SELECT account_id, today() AS service_date, action, action_reason, coalesce(kept_since, today()) + due_days AS due_date, priority,
    resource, value, coalesce(kept_since, today()) AS since, rank, {{policy_version}} AS policy_version
FROM in_order WHERE rank <= free;

CREATE OR REPLACE TEMP TABLE plan_row AS
WITH wanted AS (
    SELECT resource, count(*) AS candidates, sum(value) AS value
    FROM (SELECT DISTINCT resource, account_id, value FROM wish WHERE free IS NOT NULL) GROUP BY resource
),
got AS (SELECT resource, count(*) AS planned, sum(value) AS value, arg_max(value, rank) AS cut FROM place_taken GROUP BY resource)
SELECT today() AS service_date, p.resource, p.free AS capacity, coalesce(w.candidates, 0) AS candidates,
    coalesce(r.resting, 0) AS resting, coalesce(g.planned, 0) AS planned, coalesce(w.value, 0)::BIGINT AS value_candidates,
    coalesce(g.value, 0)::BIGINT AS value_planned, g.cut AS cut_value, {{policy_version}} AS policy_version
FROM places p LEFT JOIN wanted w USING (resource) LEFT JOIN got g USING (resource) LEFT JOIN resting r USING (resource)
WHERE p.resource IN ({{resources}});

CREATE OR REPLACE TEMP TABLE to_do AS
SELECT account_id, today() AS service_date, action, action_reason,
    CASE WHEN rank <= free THEN coalesce(kept_since, today()) ELSE today() END + due_days AS due_date, priority, resource, value,
    rank <= free AS planned,
    CASE WHEN rank > free THEN CASE WHEN free = 0 AND usual > 0 THEN 'day_off' ELSE 'no_place' END END AS not_planned_reason,
    CASE WHEN rank <= free AND resource = 'managers' THEN coalesce(kept_since, today()) END AS since,
    rank, {{policy_version}} AS policy_version
FROM in_order WHERE rank <= free + usual
UNION ALL
SELECT account_id, today(), action, action_reason, today() + due_days, priority, resource, value, true, NULL, NULL, NULL,
    {{policy_version}}
FROM wish WHERE free IS NULL;

-- What tomorrow goes on from.
DELETE FROM given WHERE resource = 'managers' OR (account_id, action, resource) IN (SELECT (account_id, action, resource) FROM place_taken);
INSERT INTO given
SELECT account_id, action, resource, CASE WHEN resource = 'managers' THEN since END, CASE WHEN resource <> 'managers' THEN service_date END
FROM place_taken;
