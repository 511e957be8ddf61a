-- What the features need of the bills in `{{bills}}` and the credits in `{{credits}}`, as of today. Days beyond terms of bills not
-- settled grow by one a day: their number and the sum of their due days say by how much.
CREATE OR REPLACE TEMP TABLE aged AS
WITH in_window AS (
    SELECT slot,
        coalesce(sum(amount) FILTER (issued_on BETWEEN today() - 364 AND today()), 0)::BIGINT AS billed_365d_minor,
        count(*) FILTER (due_365d)::INTEGER AS bills_due_365d,
        count(*) FILTER (due_365d AND on_time)::INTEGER AS bills_on_time_365d,
        coalesce(sum(greatest(0, settled_on - due_date)) FILTER (due_365d AND settled_on IS NOT NULL), 0)::BIGINT AS beyond_settled,
        count(*) FILTER (due_365d AND settled_on IS NULL)::INTEGER AS unsettled,
        coalesce(sum(due_date - DATE '1970-01-01') FILTER (due_365d AND settled_on IS NULL), 0)::BIGINT AS unsettled_due,
        count(*) FILTER (due_90d)::INTEGER AS bills_due_90d,
        count(*) FILTER (due_90d AND on_time)::INTEGER AS bills_on_time_90d,
        coalesce(sum(amount) FILTER (due_90d), 0)::BIGINT AS due_90d_minor,
        coalesce(sum(amount) FILTER (due_90d AND on_time), 0)::BIGINT AS on_time_90d_minor,
        coalesce(sum(amount) FILTER (due_365d), 0)::BIGINT AS due_365d_minor,
        coalesce(sum(amount) FILTER (due_365d AND on_time), 0)::BIGINT AS on_time_365d_minor,
        coalesce(sum(weight), 0)::BIGINT AS weight_due,
        coalesce(sum(weight) FILTER (on_time), 0)::BIGINT AS weight_on_time
    FROM (
        SELECT *, due_date BETWEEN today() - 365 AND today() - 1 AS due_365d, due_date BETWEEN today() - 90 AND today() - 1 AS due_90d,
            coalesce(settled_on <= due_date, false) AS on_time,
            CASE WHEN due_365d THEN getvariable('weights')[(today() - due_date) // 30 + 1] END AS weight
        FROM {{bills}}
    )
    WHERE issued_on >= today() - 364 OR due_date >= today() - 365
    GROUP BY slot
),
still_open AS (
    SELECT slot,
        coalesce(sum(open) FILTER (today() - due_date <= 0), 0)::BIGINT AS current_minor,
        coalesce(sum(open) FILTER (today() - due_date BETWEEN 1 AND 30), 0)::BIGINT AS overdue_1_30_minor,
        coalesce(sum(open) FILTER (today() - due_date BETWEEN 31 AND 60), 0)::BIGINT AS overdue_31_60_minor,
        coalesce(sum(open) FILTER (today() - due_date BETWEEN 61 AND 90), 0)::BIGINT AS overdue_61_90_minor,
        coalesce(sum(open) FILTER (today() - due_date >= 91), 0)::BIGINT AS overdue_91_minor,
        min(due_date) FILTER (due_date < today()) AS oldest_due
    FROM {{bills}} WHERE open > 0 GROUP BY slot
),
month_end AS (SELECT k, (date_trunc('month', today()) - to_months((k - 1)::INTEGER))::DATE - 1 AS ends FROM range(1, 12) months (k)),
arrears AS (
    SELECT slot, (coalesce(min(k) FILTER (NOT past_due), 12) - 1)::INTEGER AS months_before
    FROM (
        SELECT slot, k, bool_or(issued_on <= ends AND due_date < ends AND (settled_on IS NULL OR settled_on > ends)) AS past_due
        FROM (
            FROM {{bills}} SEMI JOIN (SELECT slot FROM still_open WHERE oldest_due IS NOT NULL) USING (slot)
            WHERE settled_on IS NULL OR settled_on > due_date
        ), month_end
        GROUP BY slot, k
    )
    GROUP BY slot
),
paid AS (
    SELECT slot,
        count(*) FILTER (taken_on > today() - 90)::INTEGER AS bounced_90d,
        count(*) FILTER (taken_on > today() - 365)::INTEGER AS bounced_365d,
        count(*) FILTER (stands AND event_date > today() - 365)::INTEGER AS payments_365d,
        count(DISTINCT event_date) FILTER (stands AND event_date > today() - 365)::INTEGER AS paid_days,
        min(event_date) FILTER (stands AND event_date > today() - 365) AS first_paid,
        max(event_date) FILTER (stands) AS last_paid
    FROM (
        SELECT c.slot, c.event_date, r.taken_on, r.taken_on IS NULL AS stands
        FROM {{credits}} c LEFT JOIN reversal r USING (credit_key) WHERE c.pays
    )
    GROUP BY slot
)
FROM in_window FULL JOIN still_open USING (slot) FULL JOIN arrears USING (slot) FULL JOIN paid USING (slot);
