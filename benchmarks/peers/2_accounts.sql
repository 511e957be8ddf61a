-- Landed account rows: a key delivered again replaces the row held; then the stretches of the accounts touched.
CREATE OR REPLACE TEMP TABLE landed_account AS FROM read_parquet({{file}});

INSERT INTO account_key
SELECT account_id, (SELECT max(slot) + 1 FROM account_key) + (row_number() OVER (ORDER BY account_id) - 1)
FROM (SELECT DISTINCT account_id FROM landed_account l ANTI JOIN account_key k USING (account_id));

CREATE OR REPLACE TEMP TABLE touched_account AS
WITH new AS (
    SELECT k.slot, valid_from, category, region, voltage, tariff, preferential, capacity_kva * 1000 AS capacity_va, prepaid,
        opened_on, closed_on, revision
    FROM landed_account JOIN account_key k USING (account_id)
),
merged AS (
    SELECT * FROM (
        FROM new
        UNION ALL BY NAME
        SELECT * EXCLUDE (valid_to, is_earliest) FROM account_row WHERE slot IN (SELECT slot FROM new)
    )
    QUALIFY row_number() OVER (PARTITION BY slot, valid_from ORDER BY revision DESC) = 1
)
SELECT *, lead(valid_from) OVER by_day - 1 AS valid_to, row_number() OVER by_day = 1 AS is_earliest
FROM merged
WINDOW by_day AS (PARTITION BY slot ORDER BY valid_from);

DELETE FROM account_row WHERE slot IN (SELECT slot FROM touched_account);
INSERT INTO account_row BY NAME FROM touched_account;
