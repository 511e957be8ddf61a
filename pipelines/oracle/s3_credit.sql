-- definitions.md, "Ledger, as of service day D" and "Credit, as of service day D": figures move with D also between events.
-- {{up_to}}: events up to a service day; or, {{clock}}, those of before it alone.

CREATE OR REPLACE TABLE oracle.ledger_day{{clock}} AS
SELECT p.service_date AS d, p.account_id, b.as_of, b.balance_minor, b.unallocated_minor
FROM oracle.{{population}} p
ASOF JOIN oracle.balance b ON b.account_id = p.account_id AND b.as_of {{up_to}} p.service_date;

CREATE OR REPLACE TABLE oracle.paid{{clock}} AS
SELECT
    d,
    account_id,
    count(*) FILTER (taken_on > d - 90) AS bounced_90d,
    count(*) FILTER (taken_on > d - 365) AS bounced_365d,
    count(*) FILTER (taken_on IS NULL AND paid_on > d - 365) AS payments_365d,
    d - max(paid_on) FILTER (taken_on IS NULL) AS days_since_payment,
    count(DISTINCT paid_on) FILTER (taken_on IS NULL AND paid_on > d - 365) AS paid_days,
    oracle.floor_div(
        (max(paid_on) FILTER (taken_on IS NULL) - min(paid_on) FILTER (taken_on IS NULL AND paid_on > d - 365)) * 1000,
        nullif(paid_days, 1) - 1
    ) AS payment_interval_365d_milli
FROM oracle.ledger_day{{clock}}
JOIN oracle.payment USING (account_id, as_of)
GROUP BY account_id, d;

CREATE OR REPLACE TABLE oracle.aged{{clock}} AS
SELECT
    day.d,
    day.account_id,
    day.balance_minor,
    day.unallocated_minor,
    b.*,
    day.d - b.due_date AS overdue_days,
    b.is_bill AND b.issued_on BETWEEN day.d - 364 AND day.d AS billed_365d,
    b.is_bill AND b.due_date BETWEEN day.d - 365 AND day.d - 1 AS due_365d,
    b.is_bill AND b.due_date BETWEEN day.d - 90 AND day.d - 1 AS due_90d,
    b.settled_on IS NOT NULL AND b.settled_on <= b.due_date AS on_time,
    CASE WHEN due_365d THEN p.weights[(day.d - b.due_date) // 30 + 1] END AS weight
FROM oracle.ledger_day{{clock}} day
JOIN oracle.policy_day p ON p.service_date = day.d
LEFT JOIN oracle.debit_state b
    ON b.account_id = day.account_id
    AND b.as_of = day.as_of
    AND (b.open_minor > 0 OR b.issued_on >= day.d - 364 OR b.due_date >= day.d - 365);

-- Month-ends back from D, D itself the first: how many have a bill or refund past due, until one has none.
CREATE OR REPLACE TABLE oracle.in_arrears{{clock}} AS
WITH month_end AS (
    SELECT d, k, CASE k WHEN 0 THEN d ELSE last_day((d - to_months(k::INTEGER))::DATE) END AS month_end
    FROM (SELECT DISTINCT d FROM oracle.ledger_day{{clock}}), range(12) months (k)
),
behind AS (SELECT DISTINCT account_id, d, as_of FROM oracle.aged{{clock}} WHERE open_minor > 0 AND overdue_days >= 1),
told AS (
    SELECT
        account_id,
        d,
        k,
        bool_or(issued_on <= month_end AND due_date < month_end AND (settled_on IS NULL OR settled_on > month_end)) AS past_due
    FROM behind
    JOIN month_end USING (d)
    JOIN oracle.debit_state USING (account_id, as_of)
    GROUP BY ALL
)
SELECT account_id, d, coalesce(min(k) FILTER (NOT past_due), 12) AS months_in_arrears FROM told GROUP BY ALL;

CREATE OR REPLACE TABLE oracle.ledger{{clock}} AS
WITH summed AS (
    SELECT
        account_id,
        d,
        coalesce(sum(amount_minor) FILTER (billed_365d), 0) AS billed_365d_minor,
        any_value(balance_minor) AS balance_minor,
        coalesce(sum(open_minor) FILTER (overdue_days <= 0), 0) AS current_minor,
        coalesce(sum(open_minor) FILTER (overdue_days BETWEEN 1 AND 30), 0) AS overdue_1_30_minor,
        coalesce(sum(open_minor) FILTER (overdue_days BETWEEN 31 AND 60), 0) AS overdue_31_60_minor,
        coalesce(sum(open_minor) FILTER (overdue_days BETWEEN 61 AND 90), 0) AS overdue_61_90_minor,
        coalesce(sum(open_minor) FILTER (overdue_days >= 91), 0) AS overdue_91_minor,
        coalesce(sum(open_minor) FILTER (overdue_days >= 1), 0) AS overdue_minor,
        any_value(unallocated_minor) AS unallocated_minor,
        count(*) FILTER (due_365d) AS bills_due_365d,
        count(*) FILTER (due_365d AND on_time) AS bills_on_time_365d,
        coalesce(sum(greatest(0, coalesce(settled_on, d) - due_date)) FILTER (due_365d), 0) AS beyond_terms_365d_days,
        coalesce(max(overdue_days) FILTER (open_minor > 0 AND overdue_days >= 1), 0) AS oldest_overdue_days,
        count(*) FILTER (due_365d AND NOT on_time) AS late_bills_365d,
        count(*) FILTER (is_bill AND due_date = d - 1) AS bills_due_1d,
        count(*) FILTER (due_90d) AS bills_due_90d,
        count(*) FILTER (due_90d AND on_time) AS bills_on_time_90d,
        oracle.ppm(coalesce(sum(amount_minor) FILTER (due_90d AND on_time), 0), sum(amount_minor) FILTER (due_90d))
            AS on_time_amount_90d_ppm,
        oracle.ppm(coalesce(sum(amount_minor) FILTER (due_365d AND on_time), 0), sum(amount_minor) FILTER (due_365d))
            AS on_time_amount_365d_ppm,
        oracle.ppm(coalesce(sum(weight) FILTER (on_time), 0), sum(weight)) AS on_time_decayed_ppm
    FROM oracle.aged{{clock}}
    GROUP BY account_id, d
)
SELECT
    s.account_id,
    s.d AS service_date,
    s.* EXCLUDE (account_id, d),
    oracle.ppm(bills_on_time_365d, bills_due_365d) AS on_time_365d_ppm,
    oracle.floor_div(beyond_terms_365d_days * 1000, nullif(bills_due_365d, 0)) AS mean_beyond_terms_365d_milli,
    oracle.floor_div(beyond_terms_365d_days * 1000, nullif(late_bills_365d, 0)) AS mean_late_365d_milli,
    oracle.ppm(bills_on_time_90d, bills_due_90d) AS on_time_90d_ppm,
    coalesce(bounced_90d, 0) AS bounced_90d,
    coalesce(bounced_365d, 0) AS bounced_365d,
    coalesce(payments_365d, 0) AS payments_365d,
    days_since_payment,
    payment_interval_365d_milli,
    -- at most 10^12; least() alone would skip the null
    CASE WHEN billed_365d_minor > 0
        THEN least(oracle.floor_div(unallocated_minor::HUGEINT * 365, billed_365d_minor), 1000000000000)
    END AS prepayment_cover_days,
    CASE WHEN billed_365d_minor > 0
        THEN least(oracle.floor_div(overdue_minor::HUGEINT * 12000, billed_365d_minor), 1000000000000)
    END AS arrears_months_milli,
    coalesce(months_in_arrears, 0) AS months_in_arrears
FROM summed s
LEFT JOIN oracle.paid{{clock}} USING (account_id, d)
LEFT JOIN oracle.in_arrears{{clock}} USING (account_id, d);
