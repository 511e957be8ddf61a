-- Landed ledger events.
CREATE OR REPLACE TEMP TABLE event AS
SELECT k.slot, event_id, event_type, event_date, due_date, (amount_yuan * 100)::BIGINT AS amount_minor, bill_id, ref_event_id
FROM read_parquet({{file}})
JOIN account_key k USING (account_id);
