CREATE OR REPLACE {{kind}} TABLE ledger_row AS SELECT * FROM some_balance LEFT JOIN aged USING (slot);
