-- Landed readings of the day: of one meter the highest revision, of its energies the smallest; summed per account.
CREATE OR REPLACE TEMP TABLE landed_day AS
WITH best AS (
    SELECT meter_id, service_date, min(energy_wh) AS energy_wh, min(energy_wh) <> max(energy_wh) AS is_conflict,
        arg_min(quality, energy_wh) AS quality
    FROM (
        SELECT meter_id, service_date, (energy_kwh * 1000)::BIGINT AS energy_wh, quality, revision,
            max(revision) OVER (PARTITION BY meter_id, service_date) AS highest
        FROM read_parquet({{file}})
    )
    WHERE revision = highest
    GROUP BY meter_id, service_date
)
SELECT a.slot, r.service_date, sum(r.energy_wh)::BIGINT AS energy_wh, count(*)::INTEGER AS received,
    count(*) FILTER (r.quality <> 'A')::INTEGER AS estimated, count(*) FILTER (r.is_conflict)::INTEGER AS conflict
FROM best r
JOIN assignment a
    ON a.meter_id = r.meter_id AND a.first_day <= r.service_date AND (a.end_day IS NULL OR r.service_date < a.end_day)
GROUP BY a.slot, r.service_date;

INSERT INTO daily SELECT slot, service_date, energy_wh, received FROM landed_day;
