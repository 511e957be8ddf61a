-- (b) The ledger of the accounts that have a new event, from their first event on.
CREATE OR REPLACE TEMP TABLE touched_slot AS SELECT DISTINCT slot FROM event;
CREATE OR REPLACE TEMP TABLE some_bill AS SELECT * FROM bill SEMI JOIN touched_slot USING (slot);
CREATE OR REPLACE TEMP TABLE some_credit AS
FROM (SELECT * FROM credit SEMI JOIN touched_slot USING (slot)) ANTI JOIN reversal USING (credit_key);
