CREATE OR REPLACE TEMP TABLE new_row AS
SELECT slot, coalesce(n.billed, o.billed) AS billed, coalesce(n.opened, o.opened) AS opened,
    coalesce(n.credited, o.credited) AS credited, aged.* EXCLUDE (slot)
FROM changed_slot
LEFT JOIN some_balance n USING (slot)
LEFT JOIN ledger_row o USING (slot)
LEFT JOIN aged USING (slot);
DELETE FROM ledger_row WHERE slot IN (SELECT slot FROM changed_slot);
INSERT INTO ledger_row BY NAME FROM new_row;
