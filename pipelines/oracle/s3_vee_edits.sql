-- definitions.md, "VEE": what counts where rules say otherwise. One verdict of an account and day decides.
CREATE OR REPLACE TABLE oracle.decision AS
FROM oracle.tripped
WHERE severity IN ('estimate', 'reject')
QUALIFY row_number() OVER (PARTITION BY account_id, service_date ORDER BY severity = 'reject' DESC, rule_number) = 1;

-- Of an account and day, the latest like day that is complete, and of which no rule decided.
CREATE OR REPLACE TABLE oracle.latest_like_day AS
SELECT d.account_id, d.service_date, max(r.service_date) AS like_date
FROM oracle.due d
CROSS JOIN (VALUES (7), (14), (21), (28)) w (days_back)
JOIN oracle.received r ON r.account_id = d.account_id AND r.service_date = d.service_date - days_back
JOIN oracle.due b ON b.account_id = r.account_id AND b.service_date = r.service_date
ANTI JOIN oracle.decision e ON e.account_id = r.account_id AND e.service_date = r.service_date
WHERE r.meters_received >= b.meters_due
GROUP BY d.account_id, d.service_date;

CREATE OR REPLACE TABLE oracle.counted_day AS
SELECT *, NULL::BIGINT AS as_read_wh
FROM oracle.received
ANTI JOIN oracle.decision USING (account_id, service_date)
UNION ALL BY NAME
SELECT
    account_id,
    d.service_date,
    CASE WHEN d.severity = 'reject' THEN 0 ELSE coalesce(b.energy_wh, d.limit_wh) END AS energy_wh,
    CASE WHEN d.severity = 'reject' THEN 0 ELSE r.meters_received END AS meters_received,
    CASE WHEN d.severity = 'reject' THEN 0 ELSE r.meters_received END AS meters_estimated,
    CASE WHEN d.severity = 'reject' THEN 0 ELSE r.meters_conflict END AS meters_conflict,
    d.as_read_wh
FROM oracle.decision d
JOIN oracle.received r USING (account_id, service_date)
LEFT JOIN oracle.latest_like_day l USING (account_id, service_date)
LEFT JOIN oracle.received b ON b.account_id = d.account_id AND b.service_date = l.like_date;

CREATE OR REPLACE TABLE oracle.counted_register AS
SELECT a.*
FROM oracle.received_apart a
LEFT JOIN oracle.decision d USING (account_id, service_date)
WHERE d.severity IS NULL OR a.register = 'reverse' OR (a.register = 'max_demand' AND d.severity = 'estimate')
UNION ALL BY NAME
SELECT a.account_id, d.service_date, a.register, a.energy_wh, a.meters
FROM oracle.decision d
JOIN oracle.latest_like_day l USING (account_id, service_date)
JOIN oracle.received_apart a ON a.account_id = d.account_id AND a.service_date = l.like_date
WHERE d.severity = 'estimate' AND a.register IN ('sharp', 'peak', 'flat', 'valley');

CREATE OR REPLACE TABLE oracle.provisional AS
SELECT p.account_id, p.service_date, b.energy_wh AS provisional_wh
FROM oracle.population p
JOIN oracle.latest_like_day l USING (account_id, service_date)
JOIN oracle.received b ON b.account_id = p.account_id AND b.service_date = l.like_date
ANTI JOIN (FROM oracle.counted_day WHERE meters_received > 0) r
    ON r.account_id = p.account_id AND r.service_date = p.service_date;

CREATE OR REPLACE VIEW oracle.vee_results AS
SELECT t.* EXCLUDE (rule_number), c.energy_wh AS after_wh
FROM oracle.tripped t
LEFT JOIN oracle.decision d USING (account_id, service_date, vee_rule)
LEFT JOIN oracle.counted_day c ON c.account_id = d.account_id AND c.service_date = d.service_date;
