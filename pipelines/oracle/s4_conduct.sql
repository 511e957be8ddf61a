-- definitions.md, "Conduct, as of service day D", for accounts in the population that have an event.
CREATE OR REPLACE TABLE oracle.conduct{{clock}} AS
WITH known AS (
    SELECT p.service_date AS d, e.*
    FROM oracle.{{population}} p
    SEMI JOIN oracle.compared_account k ON k.account_id = p.account_id
    JOIN oracle.conduct_event e ON e.account_id = p.account_id AND e.event_date {{up_to}} p.service_date
),
-- Only versions dated up to the day ({{up_to}}) exist: of one event the highest revision, then the content that comes first.
in_force AS (
    FROM known
    QUALIFY row_number() OVER (
        PARTITION BY account_id, d, event_id ORDER BY revision DESC, event_type = 'withdrawn' DESC, [event_type, event_date::VARCHAR]
    ) = 1
)
SELECT
    account_id,
    d AS service_date,
    (d - max(event_date) FILTER (event_type = 'theft_confirmed'))::INTEGER AS days_since_theft,
    (d - max(event_date) FILTER (event_type = 'tampering'))::INTEGER AS days_since_tampering,
    (d - max(event_date) FILTER (event_type = 'usage_violation'))::INTEGER AS days_since_violation,
    (d - max(event_date) FILTER (event_type = 'inspection_passed'))::INTEGER AS days_since_inspection,
    count(*) FILTER (event_type = 'theft_confirmed' AND event_date >= d - 729) AS thefts_730d,
    count(*) FILTER (event_type = 'usage_violation' AND event_date >= d - 364) AS violations_365d,
    coalesce(
        max(event_date) FILTER (event_type = 'disconnection')
        > coalesce(max(event_date) FILTER (event_type = 'reconnection'), DATE '0001-01-01'),
        false
    )::INTEGER AS disconnected
FROM in_force
GROUP BY account_id, d;
