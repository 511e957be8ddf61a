-- definitions.md, "Ledger, as of service day D".
-- Which bill is paid by which credit changes only on days with an event; so the allocation is written once for each
-- (account, as_of) where as_of is a day with an event, and a service day reads the latest one at or before it.

CREATE OR REPLACE TABLE oracle.ledger_as_of AS
SELECT account_id, event_date AS as_of
FROM oracle.ledger_event e
SEMI JOIN oracle.ledger_account k ON k.account_id = e.account_id
WHERE event_date <= getvariable('through')
GROUP BY ALL;

-- Only versions with event_date <= as_of exist; of one event the highest revision, then the content that comes first.
CREATE OR REPLACE TABLE oracle.existing_event AS
SELECT a.as_of, e.*
FROM oracle.ledger_as_of a
JOIN oracle.ledger_event e ON e.account_id = a.account_id AND e.event_date <= a.as_of
QUALIFY row_number() OVER (
    PARTITION BY e.account_id, a.as_of, e.event_id
    ORDER BY e.revision DESC, [
        e.event_type, e.event_date::VARCHAR, coalesce(e.due_date::VARCHAR, ''), e.amount_minor::VARCHAR,
        coalesce(e.bill_id, ''), coalesce(e.ref_event_id, ''), coalesce(e.priority::VARCHAR, '')
    ]
) = 1;

-- Of an account whose amounts pass int64, those events count up to which they do not. Reversals take nothing up.
CREATE OR REPLACE TABLE oracle.within_limit AS
SELECT *
FROM oracle.existing_event
QUALIFY event_type = 'reversal' OR coalesce(sum(abs(amount_minor)) FILTER (event_type <> 'reversal') OVER (
    PARTITION BY account_id, as_of ORDER BY event_date, event_id
), 0) < 9223372036854775808;

-- Debits: bills and refunds. Credits that name a number go to the bill that is first in (due_date, event_id) among those
-- of that number.
CREATE OR REPLACE TABLE oracle.debit AS
WITH issued AS (
    SELECT
        account_id,
        as_of,
        event_id,
        CASE WHEN event_type = 'charge' THEN coalesce(nullif(bill_id, ''), event_id) ELSE event_id END AS bill_number,
        event_date AS issued_on,
        CASE WHEN event_type = 'refund' THEN event_date ELSE coalesce(due_date, event_date) END AS due_date,
        amount_minor,
        event_type <> 'refund' AS is_bill,
        CASE WHEN getvariable('allocation') = 'priority' THEN coalesce(priority, 0) ELSE 0 END AS served
    FROM oracle.within_limit
    WHERE event_type IN ('charge', 'refund') OR (event_type = 'adjustment' AND amount_minor > 0)
)
SELECT
    *,
    is_bill AND row_number() OVER (
        PARTITION BY account_id, as_of, is_bill, bill_number ORDER BY due_date, event_id
    ) = 1 AS takes_directed
FROM issued;

-- Credits that no existing reversal names.
CREATE OR REPLACE TABLE oracle.credit AS
SELECT
    account_id,
    as_of,
    event_id,
    event_date,
    CASE WHEN event_type <> 'prepayment' THEN nullif(bill_id, '') END AS bill_number,
    abs(amount_minor) AS amount_minor
FROM oracle.within_limit c
WHERE (event_type IN ('payment', 'prepayment', 'write_off') OR (event_type = 'adjustment' AND amount_minor < 0))
    AND NOT EXISTS (
        FROM oracle.existing_event r
        WHERE r.account_id = c.account_id
            AND r.as_of = c.as_of
            AND r.event_type = 'reversal'
            AND r.ref_event_id = c.event_id
    );

-- Directed credits, in order of (event_date, event_id), until their bill is paid.
CREATE OR REPLACE TABLE oracle.directed AS
WITH queued AS (
    SELECT
        c.*,
        b.event_id AS bill_event_id,
        b.amount_minor AS bill_minor,
        coalesce(sum(c.amount_minor) OVER (
            PARTITION BY c.account_id, c.as_of, b.event_id
            ORDER BY c.event_date, c.event_id
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ), 0) AS before_minor
    FROM oracle.credit c
    JOIN oracle.debit b
        ON b.account_id = c.account_id
        AND b.as_of = c.as_of
        AND b.bill_number = c.bill_number
        AND b.takes_directed
)
SELECT
    account_id,
    as_of,
    event_id,
    event_date,
    bill_event_id,
    greatest(0, least(amount_minor, bill_minor - before_minor)) AS applied_minor,
    amount_minor - applied_minor AS left_minor
FROM queued;

-- The pool: every other credit, and what is left of directed ones; `upto_minor` is the pool filled so far.
CREATE OR REPLACE TABLE oracle.pooled AS
WITH pool AS (
    SELECT account_id, as_of, event_id, event_date, amount_minor
    FROM oracle.credit c
    ANTI JOIN oracle.directed d ON d.account_id = c.account_id AND d.as_of = c.as_of AND d.event_id = c.event_id
    WHERE amount_minor > 0
    UNION ALL
    SELECT account_id, as_of, event_id, event_date, left_minor FROM oracle.directed WHERE left_minor > 0
)
SELECT
    *,
    sum(amount_minor) OVER (PARTITION BY account_id, as_of ORDER BY event_date, event_id) AS upto_minor
FROM pool;

-- What each debit still needs after directed credits is filled from the pool, in order of (due_date, number, event_id), or
-- by priority first.
CREATE OR REPLACE TABLE oracle.debit_state AS
WITH by_bill AS (
    SELECT
        account_id,
        as_of,
        bill_event_id AS event_id,
        sum(applied_minor) AS applied_minor,
        max(event_date) FILTER (applied_minor > 0) AS directed_on
    FROM oracle.directed
    GROUP BY ALL
),
needy AS (
    SELECT
        b.*,
        d.directed_on,
        b.amount_minor - coalesce(d.applied_minor, 0) AS need_minor,
        sum(need_minor) OVER (
            PARTITION BY b.account_id, b.as_of
            ORDER BY b.served, b.due_date, b.bill_number, b.event_id
        ) AS need_upto_minor
    FROM oracle.debit b
    LEFT JOIN by_bill d USING (account_id, as_of, event_id)
),
pool AS (
    SELECT account_id, as_of, max(upto_minor) AS pool_minor FROM oracle.pooled GROUP BY ALL
),
filled AS (
    SELECT
        n.*,
        greatest(0, least(need_minor, need_upto_minor - coalesce(pool_minor, 0))) AS open_minor
    FROM needy n
    LEFT JOIN pool USING (account_id, as_of)
)
SELECT
    f.account_id,
    f.as_of,
    f.event_id,
    f.is_bill,
    f.issued_on,
    f.due_date,
    f.amount_minor,
    f.open_minor,
    -- The latest of its portions: the last directed one, or the pooled credit that fills its last unit.
    CASE
        WHEN f.open_minor > 0 THEN NULL
        WHEN f.need_minor = 0 THEN f.directed_on
        WHEN f.directed_on > p.event_date THEN f.directed_on
        ELSE p.event_date
    END AS settled_on
FROM filled f
ASOF LEFT JOIN oracle.pooled p
    ON p.account_id = f.account_id AND p.as_of = f.as_of AND p.upto_minor >= f.need_upto_minor;

CREATE OR REPLACE TABLE oracle.balance AS
WITH billed AS (
    SELECT account_id, as_of, sum(amount_minor) AS billed_minor, sum(open_minor) AS open_minor
    FROM oracle.debit_state
    GROUP BY ALL
),
credited AS (
    SELECT account_id, as_of, sum(amount_minor) AS credited_minor FROM oracle.credit GROUP BY ALL
)
SELECT
    a.account_id,
    a.as_of,
    coalesce(billed_minor, 0) - coalesce(credited_minor, 0) AS balance_minor,
    -- every credit is applied or left: what is applied is what is billed and no longer open
    coalesce(credited_minor, 0) - (coalesce(billed_minor, 0) - coalesce(open_minor, 0)) AS unallocated_minor
FROM oracle.ledger_as_of a
LEFT JOIN billed USING (account_id, as_of)
LEFT JOIN credited USING (account_id, as_of);

-- Payments and prepayments that stand, and those that were taken back, each once: on the first day of a reversal.
CREATE OR REPLACE TABLE oracle.payment AS
SELECT p.account_id, p.as_of, p.event_date AS paid_on, min(r.event_date) AS taken_on
FROM oracle.within_limit p
LEFT JOIN oracle.existing_event r
    ON r.account_id = p.account_id AND r.as_of = p.as_of AND r.event_type = 'reversal' AND r.ref_event_id = p.event_id
WHERE p.event_type IN ('payment', 'prepayment')
GROUP BY p.account_id, p.as_of, p.event_id, p.event_date;
