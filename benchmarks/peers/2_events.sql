-- New ledger events, in the table `event`, take their numbers in order of (event_date, event_id).
INSERT INTO bill_name
SELECT slot, CASE WHEN event_type = 'charge' THEN coalesce(nullif(bill_id, ''), event_id) ELSE event_id END,
    (SELECT coalesce(max(bill_key) + 1, 0) FROM bill) + row_number() OVER (ORDER BY event_date, slot, event_id) - 1
FROM event WHERE event_type = 'charge' OR (event_type = 'adjustment' AND amount_minor > 0);

INSERT INTO bill
SELECT slot, (SELECT coalesce(max(bill_key) + 1, 0) FROM bill) + row_number() OVER (ORDER BY event_date, slot, event_id) - 1,
    event_date, CASE WHEN event_type = 'charge' THEN due_date ELSE event_date END, amount_minor
FROM event WHERE event_type = 'charge' OR (event_type = 'adjustment' AND amount_minor > 0);

INSERT INTO credit_name
SELECT slot, event_id,
    (SELECT coalesce(max(credit_key) + 1, 0) FROM credit) + row_number() OVER (ORDER BY event_date, slot, event_id) - 1
FROM event WHERE event_type IN ('payment', 'prepayment', 'write_off') OR (event_type = 'adjustment' AND amount_minor < 0);

INSERT INTO credit
WITH numbered AS (
    SELECT slot, event_date, abs(amount_minor) AS amount, nullif(bill_id, '') AS bill_number, event_type IN ('payment', 'prepayment') AS pays,
        (SELECT coalesce(max(credit_key) + 1, 0) FROM credit) + row_number() OVER (ORDER BY event_date, slot, event_id) - 1
            AS credit_key
    FROM event WHERE event_type IN ('payment', 'prepayment', 'write_off') OR (event_type = 'adjustment' AND amount_minor < 0)
)
SELECT c.slot, c.credit_key, c.event_date, c.amount, b.bill_key, c.pays
FROM numbered c
LEFT JOIN bill_name b ON b.slot = c.slot AND b.bill_number = c.bill_number
ORDER BY c.credit_key;

INSERT INTO reversal
SELECT c.credit_key, e.event_date
FROM event e
JOIN credit_name c ON c.slot = e.slot AND c.event_id = e.ref_event_id
WHERE e.event_type = 'reversal';
