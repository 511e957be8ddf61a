-- (b) Bills that changed, then the figures of the accounts that have one, or a bill that passes an edge today.
UPDATE bill_state SET open = s.open, settled_on = s.settled_on
FROM some_state s
WHERE bill_state.bill_key = s.bill_key
    AND (bill_state.open <> s.open OR bill_state.settled_on IS DISTINCT FROM s.settled_on);
INSERT INTO bill_state SELECT * FROM some_state WHERE bill_key > (SELECT max(bill_key) FROM bill_state);

CREATE OR REPLACE TEMP TABLE changed_slot AS
SELECT slot FROM touched_slot
UNION
SELECT slot FROM bill_state
WHERE issued_on = today() - 365 OR due_date IN (today() - 1, today() - 91, today() - 366)
    OR due_date IN (SELECT today() - age::INTEGER FROM range(30, 366, 30) steps (age))
    OR (open > 0 AND due_date IN (today() - 31, today() - 61))
UNION
SELECT slot FROM credit WHERE event_date = today() - 365
UNION
SELECT slot FROM credit JOIN reversal USING (credit_key) WHERE taken_on IN (today() - 90, today() - 365)
UNION
SELECT slot FROM ledger_row WHERE oldest_due IS NOT NULL AND day(today()) = 1;
CREATE OR REPLACE TEMP TABLE changed_bill AS SELECT * FROM bill_state SEMI JOIN changed_slot USING (slot);
CREATE OR REPLACE TEMP TABLE changed_credit AS SELECT * FROM credit SEMI JOIN changed_slot USING (slot);
