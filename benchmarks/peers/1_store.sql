-- The peers' store, from the accepted log and the marts published through the day before: what a good hand keeps.
-- Numbers in place of ids; readings settled and summed per account and day, in order of days; credits resolved to the
-- bill they name. Not measured.
CREATE TABLE account_key AS
SELECT account_id, (row_number() OVER (ORDER BY account_id) - 1)::INTEGER AS slot
FROM (SELECT DISTINCT account_id FROM published.accepted_accounts);

CREATE TABLE account_row AS
SELECT k.slot, a.* EXCLUDE (account_id, delivery, "row"),
    lead(valid_from) OVER by_day - 1 AS valid_to,
    row_number() OVER by_day = 1 AS is_earliest
FROM (
    FROM published.accepted_accounts QUALIFY row_number() OVER (PARTITION BY account_id, valid_from ORDER BY revision DESC) = 1
) a
JOIN account_key k USING (account_id)
WINDOW by_day AS (PARTITION BY k.slot ORDER BY a.valid_from);

CREATE TABLE assignment AS
SELECT m.meter_id, k.slot, m.installed_on AS first_day, m.removed_on AS end_day, m.revision
FROM (
    FROM published.accepted_meters QUALIFY row_number() OVER (PARTITION BY meter_id, installed_on ORDER BY revision DESC) = 1
) m
JOIN account_key k USING (account_id);

CREATE TABLE daily (slot INTEGER, service_date DATE, energy_wh BIGINT, received INTEGER);  -- filled month by month

CREATE TABLE bill (slot INTEGER, bill_key INTEGER, issued_on DATE, due_date DATE, amount BIGINT);
CREATE TABLE bill_name (slot INTEGER, bill_number VARCHAR, bill_key INTEGER);
CREATE TABLE credit (slot INTEGER, credit_key INTEGER, event_date DATE, amount BIGINT, bill_key INTEGER, pays BOOLEAN);
CREATE TABLE credit_name (slot INTEGER, event_id VARCHAR, credit_key INTEGER);
CREATE TABLE reversal (credit_key INTEGER, taken_on DATE);

CREATE TEMP TABLE event AS
SELECT k.slot, e.* EXCLUDE (account_id, delivery, "row")
FROM published.accepted_ledger_events e
JOIN account_key k USING (account_id);

CREATE TABLE service_days AS FROM published.service_days;
CREATE TABLE tier_migration_matrix AS FROM published.tier_migration_matrix;

CREATE TABLE month_end_tier AS  -- tiers on the last day of the month before
SELECT k.slot, t.tier
FROM published.customer_tiers t
JOIN account_key k USING (account_id)
WHERE date_trunc('month', today())::DATE - 1 BETWEEN valid_from AND coalesce(valid_to, today());

CREATE TABLE tier_state (
    slot INTEGER, category VARCHAR, abc VARCHAR, credit_grade VARCHAR, tier VARCHAR, valid_from DATE, tier_since DATE,
    rule VARCHAR, policy_version VARCHAR, metric BIGINT, score INTEGER
);
CREATE TABLE threshold AS FROM ({{threshold}}) WHERE service_date = today();
