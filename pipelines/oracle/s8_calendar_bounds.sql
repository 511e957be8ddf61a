-- definitions.md, "The calendar": the first service day, and the last closed day at or before `through` that has a
-- reading, be it of energy beside a total, or a ledger event where there are no readings at all. Null where there is none.
WITH read_day AS (
    SELECT service_date, count(*) FILTER (is_total) AS meters_received
    FROM (
        SELECT service_date, true AS is_total FROM oracle.counted_reading
        UNION ALL
        SELECT service_date, false FROM oracle.counted_apart WHERE register <> 'max_demand'
    )
    GROUP BY service_date
),
event_day AS (
    FROM read_day
    UNION ALL
    SELECT DISTINCT event_date, 0 FROM oracle.ledger_event WHERE NOT EXISTS (FROM read_day)
),
counted AS (
    SELECT
        d.service_date,
        d.meters_received,
        count(*) FILTER (k.account_id IS NOT NULL) AS meters_expected
    FROM event_day d
    LEFT JOIN oracle.assignment a
        ON a.is_main AND a.first_day <= d.service_date AND (a.end_day IS NULL OR d.service_date < a.end_day)
    LEFT JOIN oracle.known_account k ON k.account_id = a.account_id
    WHERE d.service_date <= getvariable('through')
    GROUP BY ALL
)
SELECT
    coalesce(
        (SELECT min(service_date) FROM read_day),
        (SELECT min(event_date) FROM oracle.ledger_event)
    ) AS first_day,
    max(service_date) FILTER (
        meters_expected = 0 OR oracle.ppm(meters_received, meters_expected) >= getvariable('coverage_floor_ppm')
    ) AS last_day
FROM counted;
