-- Tiers as of the last published day, with the figures that a migration tells.
INSERT INTO tier_state
SELECT k.slot, t.category, abc, credit_grade, tier, valid_from, tier_since, rule, policy_version, f.{{metric}}, f.credit_score
FROM published.customer_tiers_current t
JOIN account_key k USING (account_id)
LEFT JOIN (FROM published.features WHERE service_date = today()) f USING (account_id);

-- Who is on the abuse ladder, and what was given out before.
CREATE OR REPLACE TABLE ladder_state AS
SELECT k.slot, s.step, s.service_date AS since
FROM (FROM published.abuse_steps QUALIFY row_number() OVER (PARTITION BY account_id ORDER BY service_date DESC) = 1) s
JOIN published.customer_tiers_current t USING (account_id)
JOIN account_key k USING (account_id)
WHERE t.tier = 'abuse';

CREATE OR REPLACE TABLE given AS
SELECT account_id, action, resource, any_value(since) FILTER (resource = 'managers') AS since,
    max(service_date) FILTER (resource <> 'managers') AS done_on
FROM published.planned_actions
WHERE resource <> 'managers' OR service_date = today()
GROUP BY ALL;
