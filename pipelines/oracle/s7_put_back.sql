-- One input more is put back; c are the features on the day's clock, y those of the day before. The scores follow. Where the tier is then
-- that of the day before, it is the cause.
CREATE OR REPLACE TABLE oracle.put_back AS
SELECT p.* REPLACE ({{changes}})
FROM oracle.put_back p
JOIN oracle.features_clock c USING (account_id, service_date)
JOIN oracle.features y ON y.account_id = p.account_id AND y.service_date = p.service_date - 1;

UPDATE oracle.put_back SET credit_score = {{score}};

CREATE OR REPLACE VIEW oracle.as_cut AS SELECT * REPLACE (cut_day AS service_date) FROM oracle.put_back;

UPDATE oracle.put_back p SET {{scored}}
FROM ({{scores}}) s
WHERE s.account_id = p.account_id AND s.service_date = p.cut_day;

UPDATE oracle.moved m
SET cause = {{cause}}
FROM (
    WITH remembered AS (
        SELECT p.*, t.cuts
        FROM oracle.put_back p
        LEFT JOIN oracle.threshold t ON t.service_date = p.cut_day AND t.scope = {{scope_before}}
    ),
    {{decide}}
    SELECT account_id, service_date FROM settled WHERE tier = tier_before
) undone
WHERE m.cause IS NULL AND m.account_id = undone.account_id AND m.service_date = undone.service_date;
