-- Landed assignments: a key delivered again replaces the row held.
CREATE OR REPLACE TEMP TABLE landed_meter AS
SELECT m.meter_id, k.slot, m.installed_on AS first_day, m.removed_on AS end_day, m.revision
FROM read_parquet({{file}}) m
JOIN account_key k USING (account_id)
QUALIFY row_number() OVER (PARTITION BY meter_id, installed_on ORDER BY revision DESC) = 1;

DELETE FROM assignment a USING landed_meter l
WHERE a.meter_id = l.meter_id AND a.first_day = l.first_day AND a.revision < l.revision;
INSERT INTO assignment FROM landed_meter;
