-- definitions.md, "The plan of service actions": places by resource, of the days of `candidate`, when they are planned.
INSERT INTO oracle.plan_capacity
WITH wanted AS (
    SELECT service_date, resource, count(*) AS accounts, sum(value)::BIGINT AS value
    FROM (SELECT DISTINCT service_date, resource, account_id, value FROM candidate)
    GROUP BY ALL
),
resting AS (
    SELECT p.service_date, p.resource, count(DISTINCT d.account_id) AS accounts
    FROM oracle.places p
    JOIN (VALUES {{rests}}) AS r(action, resource, again_days) ON r.resource = p.resource
    JOIN oracle.planned_actions d
        ON d.resource = r.resource AND d.action = r.action
        AND d.service_date < p.service_date AND p.service_date - d.service_date < r.again_days
    WHERE p.service_date BETWEEN {{first}} AND {{last}}
    GROUP BY ALL
),
placed AS (
    SELECT service_date, resource, count(*) AS accounts, sum(value)::BIGINT AS value, arg_max(value, rank) AS cut_value
    FROM oracle.planned_actions
    WHERE service_date BETWEEN {{first}} AND {{last}}
    GROUP BY ALL
)
SELECT
    p.service_date, p.resource, p.free, coalesce(w.accounts, 0), coalesce(r.accounts, 0), coalesce(d.accounts, 0),
    coalesce(w.value, 0), coalesce(d.value, 0), d.cut_value, {{policy_version}}
FROM oracle.places p
LEFT JOIN wanted w USING (service_date, resource)
LEFT JOIN resting r USING (service_date, resource)
LEFT JOIN placed d USING (service_date, resource)
WHERE p.service_date BETWEEN {{first}} AND {{last}} AND p.resource IN ({{resources}});
