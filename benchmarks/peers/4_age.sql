-- What the features need of the bills in `{{bills}}`, as of today. Days beyond terms of bills not settled grow by one a day:
-- their number and the sum of their due days say by how much.
CREATE OR REPLACE TEMP TABLE aged AS
WITH in_window AS (
    SELECT slot,
        coalesce(sum(amount) FILTER (issued_on BETWEEN today() - 364 AND today()), 0)::BIGINT AS billed_365d_minor,
        count(*) FILTER (due_365d)::INTEGER AS bills_due_365d,
        count(*) FILTER (due_365d AND settled_on <= due_date)::INTEGER AS bills_on_time_365d,
        coalesce(sum(greatest(0, settled_on - due_date)) FILTER (due_365d AND settled_on IS NOT NULL), 0)::BIGINT AS beyond_settled,
        count(*) FILTER (due_365d AND settled_on IS NULL)::INTEGER AS unsettled,
        coalesce(sum(due_date - DATE '1970-01-01') FILTER (due_365d AND settled_on IS NULL), 0)::BIGINT AS unsettled_due
    FROM (SELECT *, due_date BETWEEN today() - 365 AND today() - 1 AS due_365d FROM {{bills}})
    WHERE issued_on >= today() - 364 OR due_date >= today() - 365
    GROUP BY slot
),
still_open AS (
    SELECT slot,
        coalesce(sum(open) FILTER (today() - due_date <= 0), 0)::BIGINT AS current_minor,
        coalesce(sum(open) FILTER (today() - due_date BETWEEN 1 AND 30), 0)::BIGINT AS overdue_1_30_minor,
        coalesce(sum(open) FILTER (today() - due_date BETWEEN 31 AND 60), 0)::BIGINT AS overdue_31_60_minor,
        coalesce(sum(open) FILTER (today() - due_date BETWEEN 61 AND 90), 0)::BIGINT AS overdue_61_90_minor,
        coalesce(sum(open) FILTER (today() - due_date >= 91), 0)::BIGINT AS overdue_91_minor
    FROM {{bills}} WHERE open > 0 GROUP BY slot
)
SELECT * FROM in_window FULL JOIN still_open USING (slot);
