-- Bills and credits to open amounts: of the accounts in `some_bill` and `some_credit`, from their first event on.
-- Most credits go to one bill and fit; only overpaid bills need a queue, and only what is left needs the pool.
CREATE OR REPLACE TEMP TABLE some_directed AS
SELECT bill_key, sum(amount)::BIGINT AS given, max(event_date) AS last_on
FROM some_credit WHERE bill_key IS NOT NULL GROUP BY bill_key;

CREATE OR REPLACE TEMP TABLE some_queue AS
SELECT slot, credit_key, event_date, bill_key, greatest(0, least(amount, bill_amount - before))::BIGINT AS applied,
    amount - applied AS rest
FROM (
    SELECT c.*, b.amount AS bill_amount,
        coalesce(sum(c.amount) OVER (
            PARTITION BY c.bill_key ORDER BY c.credit_key ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ), 0) AS before
    FROM some_credit c
    JOIN some_directed d ON d.bill_key = c.bill_key
    JOIN some_bill b ON b.bill_key = c.bill_key
    WHERE d.given > b.amount
);

CREATE OR REPLACE TEMP TABLE some_pool AS
SELECT slot, event_date, sum(amount) OVER (PARTITION BY slot ORDER BY credit_key) AS upto
FROM (
    SELECT slot, credit_key, event_date, amount FROM some_credit WHERE bill_key IS NULL
    UNION ALL
    SELECT slot, credit_key, event_date, rest FROM some_queue WHERE rest > 0
);

CREATE OR REPLACE TEMP TABLE some_need AS
SELECT b.slot, b.bill_key, d.last_on, b.amount - coalesce(d.given, 0) AS need,
    sum(b.amount - coalesce(d.given, 0)) OVER (PARTITION BY b.slot ORDER BY b.due_date, b.bill_key) AS need_upto
FROM some_bill b
LEFT JOIN some_directed d USING (bill_key)
WHERE d.given IS NULL OR d.given < b.amount;

CREATE OR REPLACE TEMP TABLE some_state AS
WITH pool AS (SELECT slot, max(upto) AS pool FROM some_pool GROUP BY slot),
needy AS (
    SELECT n.*, greatest(0, least(need, need_upto - coalesce(pool, 0)))::BIGINT AS open, p.event_date
    FROM some_need n
    LEFT JOIN pool USING (slot)
    ASOF LEFT JOIN some_pool p ON p.slot = n.slot AND p.upto >= n.need_upto
),
queued AS (SELECT bill_key, max(event_date) FILTER (applied > 0) AS last_on FROM some_queue GROUP BY bill_key)
SELECT b.slot, b.bill_key, b.issued_on, b.due_date, b.amount, coalesce(n.open, 0) AS open,
    CASE
        WHEN n.bill_key IS NULL THEN coalesce(q.last_on, d.last_on)
        WHEN n.open = 0 THEN greatest(coalesce(n.last_on, n.event_date), n.event_date)
    END AS settled_on
FROM some_bill b
LEFT JOIN needy n USING (bill_key)
LEFT JOIN some_directed d USING (bill_key)
LEFT JOIN queued q USING (bill_key);

CREATE OR REPLACE TEMP TABLE some_balance AS
SELECT slot, sum(billed)::BIGINT AS billed, sum(opened)::BIGINT AS opened, sum(credited)::BIGINT AS credited
FROM (
    SELECT slot, sum(amount) AS billed, sum(open) AS opened, 0 AS credited FROM some_state GROUP BY slot
    UNION ALL
    SELECT slot, 0, 0, sum(amount) FROM some_credit GROUP BY slot
)
GROUP BY slot;
