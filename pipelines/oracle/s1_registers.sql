-- definitions.md, "Registers". Indexes are thousandths of a Wh, maximum demands of a W.

-- 1. One index per meter, service day and register: the highest revision, of its indexes the smallest.
CREATE OR REPLACE TABLE oracle.index_read AS
WITH cell AS (
    UNPIVOT (FROM accepted_registers WHERE delivery <= getvariable('as_known'))
    ON index_total AS total, index_sharp AS sharp, index_peak AS peak, index_flat AS flat, index_valley AS valley,
        index_reverse AS reverse, max_demand
    INTO NAME register VALUE idx
),
best AS (
    FROM cell
    QUALIFY rank() OVER (PARTITION BY meter_id, service_date, register ORDER BY revision DESC) = 1
)
SELECT
    meter_id,
    service_date,
    register,
    min(idx) AS idx,
    -- equal indexes: actual goes before estimated, and that before edited
    ['actual', 'estimated', 'edited'][
        min({'idx': idx, 'rank': list_position(['actual', 'estimated', 'edited'], quality)}).rank
    ] AS quality,
    min(idx) <> max(idx) AS is_conflict
FROM best
GROUP BY meter_id, service_date, register;

-- 2. Runs: a reference row while it holds. A segment begins where the registers do not run on.
CREATE OR REPLACE TABLE oracle.run AS
WITH bounded AS (
    SELECT
        *,
        installed_on AS first_day,
        least(removed_on, lead(installed_on) OVER (PARTITION BY meter_id ORDER BY installed_on)) AS end_day
    FROM oracle.meter
),
held AS (
    SELECT
        *,
        -- an index at the end counts where the row held up to its end
        end_day IS NOT NULL AND end_day = removed_on AS is_closed,
        coalesce(installed_total, installed_sharp, installed_peak, installed_flat, installed_valley, installed_reverse)
            IS NOT NULL AS has_opening,
        is_closed AND coalesce(removed_total, removed_sharp, removed_peak, removed_flat, removed_valley, removed_reverse)
            IS NOT NULL AS has_closing
    FROM bounded
    WHERE end_day IS NULL OR first_day < end_day
),
begun AS (
    SELECT
        *,
        lag(end_day) OVER of_meter IS DISTINCT FROM first_day
            OR has_opening
            OR coalesce(lag(has_closing) OVER of_meter, false) AS is_head
    FROM held
    WINDOW of_meter AS (PARTITION BY meter_id ORDER BY first_day)
)
SELECT
    *,
    coalesce(multiplier, 1) AS times,
    count(*) FILTER (is_head) OVER (PARTITION BY meter_id ORDER BY first_day) AS segment
FROM begun;

CREATE OR REPLACE TABLE oracle.run_index AS
SELECT
    meter_id,
    first_day,
    end_day,
    segment,
    is_head,
    modulus,
    unnest([
        {'register': 'total', 'opening': installed_total, 'closing': CASE WHEN is_closed THEN removed_total END},
        {'register': 'sharp', 'opening': installed_sharp, 'closing': CASE WHEN is_closed THEN removed_sharp END},
        {'register': 'peak', 'opening': installed_peak, 'closing': CASE WHEN is_closed THEN removed_peak END},
        {'register': 'flat', 'opening': installed_flat, 'closing': CASE WHEN is_closed THEN removed_flat END},
        {'register': 'valley', 'opening': installed_valley, 'closing': CASE WHEN is_closed THEN removed_valley END},
        {'register': 'reverse', 'opening': installed_reverse, 'closing': CASE WHEN is_closed THEN removed_reverse END}
    ], recursive := true)
FROM oracle.run;

-- 3. Points: indexes that energy is counted from. is_actual: read, not put in by somebody.
CREATE OR REPLACE TABLE oracle.index_used AS
SELECT c.meter_id, c.register, r.segment, c.service_date AS day, c.idx, c.quality = 'actual' AS is_actual, r.modulus
FROM oracle.index_read c
JOIN oracle.run_index r
    ON r.meter_id = c.meter_id
    AND r.register = c.register
    AND r.first_day <= c.service_date
    AND (r.end_day IS NULL OR c.service_date < r.end_day)
WHERE c.quality <> 'estimated' AND (r.closing IS NULL OR c.service_date <> r.end_day - 1)
UNION ALL
-- the index of the day before a segment that has no index of its own, where no other run holds that day
SELECT c.meter_id, c.register, r.segment, c.service_date, c.idx, c.quality = 'actual', r.modulus
FROM oracle.index_read c
JOIN oracle.run_index r
    ON r.meter_id = c.meter_id
    AND r.register = c.register
    AND r.is_head
    AND r.opening IS NULL
    AND r.first_day = c.service_date + 1
ANTI JOIN oracle.run_index o
    ON o.meter_id = c.meter_id
    AND o.register = c.register
    AND o.first_day <= c.service_date
    AND (o.end_day IS NULL OR c.service_date < o.end_day)
WHERE c.quality <> 'estimated';

CREATE OR REPLACE TABLE oracle.point AS
FROM oracle.index_used
WHERE modulus IS NULL OR idx < modulus
UNION ALL
SELECT meter_id, register, segment, end_day - 1, closing, true, modulus
FROM oracle.run_index
WHERE closing IS NOT NULL
UNION ALL
SELECT meter_id, register, segment, first_day - 1, opening, true, modulus
FROM oracle.run_index
WHERE opening IS NOT NULL;

-- 4. Steps from point to point. A step back turned over where, with the modulus, it is at most a quarter of it.
CREATE OR REPLACE TABLE oracle.step AS
WITH pair AS (
    SELECT
        meter_id,
        register,
        lag(day) OVER of_segment AS opened_on,
        day AS closed_on,
        lag(idx) OVER of_segment AS opened_at,
        idx - opened_at AS step,
        is_actual AND lag(is_actual) OVER of_segment AS is_actual,
        modulus
    FROM oracle.point
    WINDOW of_segment AS (PARTITION BY meter_id, register, segment ORDER BY day)
),
risen AS (
    SELECT
        p.*,
        CASE
            WHEN step < 0 AND step + p.modulus <= oracle.floor_div(p.modulus::HUGEINT * 250000, 1000000)
            THEN step + p.modulus
            ELSE step
        END AS rise,
        max(r.times) AS times
    FROM pair p
    JOIN oracle.run r
        ON r.meter_id = p.meter_id
        AND r.first_day <= p.closed_on
        AND (r.end_day IS NULL OR p.opened_on + 1 < r.end_day)
    WHERE opened_on IS NOT NULL
    GROUP BY ALL
)
SELECT
    *,
    CASE
        WHEN rise < 0 THEN 'register_decrease'
        WHEN rise::HUGEINT * times // 1000 > (1::HUGEINT << 38) * least(closed_on - opened_on, 32) THEN 'implausible_step'
        WHEN closed_on - opened_on > 800 THEN 'gap_too_long'
    END AS reason
FROM risen;

-- 8. Maximum demands, in W, of the days that a run holds.
CREATE OR REPLACE TABLE oracle.demand_shown AS
SELECT c.*, idx::HUGEINT * r.times // 1000 AS watts, watts > 1::HUGEINT << 37 AS is_too_high
FROM oracle.index_read c
JOIN oracle.run r
    ON r.meter_id = c.meter_id
    AND r.first_day <= c.service_date
    AND (r.end_day IS NULL OR c.service_date < r.end_day)
WHERE c.register = 'max_demand' AND c.quality <> 'estimated';

-- 9. Multipliers told: one per meter and service day, as of indexes, whatever the quality.
CREATE OR REPLACE TABLE oracle.multiplier_told AS
SELECT meter_id, service_date, min(multiplier) AS times_told
FROM (
    FROM accepted_registers
    WHERE delivery <= getvariable('as_known') AND multiplier IS NOT NULL
    QUALIFY rank() OVER (PARTITION BY meter_id, service_date ORDER BY revision DESC) = 1
)
GROUP BY meter_id, service_date;

CREATE OR REPLACE VIEW oracle.reading_exceptions AS
SELECT meter_id, closed_on AS service_date, register, reason, opened_on, step
FROM oracle.step
WHERE reason IS NOT NULL
UNION ALL
SELECT meter_id, day, register, 'index_beyond_modulus', NULL, idx - modulus
FROM oracle.index_used
WHERE idx >= modulus
UNION ALL
SELECT meter_id, service_date, register, 'implausible_demand', NULL, idx
FROM oracle.demand_shown
WHERE is_too_high
UNION ALL
SELECT t.meter_id, t.service_date, 'multiplier', 'multiplier_mismatch', NULL, times_told - r.times
FROM oracle.multiplier_told t
JOIN oracle.run r
    ON r.meter_id = t.meter_id
    AND r.first_day <= t.service_date
    AND (r.end_day IS NULL OR t.service_date < r.end_day)
WHERE times_told <> r.times;

-- 5. Days of a step, each weighed like the latest same weekday up to the step that lies between two neighbouring points.
CREATE OR REPLACE TABLE oracle.single AS
SELECT
    meter_id,
    register,
    closed_on AS day,
    (opened_at + rise)::HUGEINT * times // 1000 - opened_at::HUGEINT * times // 1000 AS energy_wh
FROM oracle.step
WHERE reason IS NULL AND closed_on = opened_on + 1;

CREATE OR REPLACE TABLE oracle.register_day AS
WITH by_day AS (
    SELECT
        *,
        unnest(generate_series(opened_on + 1, closed_on, INTERVAL 1 DAY))::DATE AS day
    FROM oracle.step
    WHERE reason IS NULL
),
liked AS (
    SELECT
        d.*,
        first(s.energy_wh ORDER BY s.day DESC) FILTER (s.day IS NOT NULL) AS like_wh
    FROM by_day d
    LEFT JOIN oracle.single s
        ON s.meter_id = d.meter_id
        AND s.register = d.register
        AND s.day <= d.opened_on
        AND s.day IN (d.day - 7, d.day - 14, d.day - 21, d.day - 28)
    GROUP BY ALL
),
weighed AS (
    SELECT
        * EXCLUDE (like_wh),
        bool_or(like_wh IS NULL) OVER of_step OR sum(like_wh) OVER of_step = 0 AS is_flat,
        CASE WHEN is_flat THEN 1 ELSE like_wh END AS weight
    FROM liked
    WINDOW of_step AS (PARTITION BY meter_id, register, closed_on)
),
at_midnight AS (
    SELECT
        *,
        opened_at + rise::HUGEINT * sum(weight) OVER so_far // sum(weight) OVER of_step AS reached
    FROM weighed
    WINDOW
        of_step AS (PARTITION BY meter_id, register, closed_on),
        so_far AS (PARTITION BY meter_id, register, closed_on ORDER BY day ROWS UNBOUNDED PRECEDING)
)
SELECT
    m.meter_id,
    m.day AS service_date,
    m.register,
    (
        reached::HUGEINT * r.times // 1000
        - coalesce(lag(reached) OVER (PARTITION BY m.meter_id, m.register, closed_on ORDER BY m.day), opened_at)::HUGEINT
            * r.times // 1000
    )::BIGINT AS energy_wh,
    is_actual AND opened_on + 1 = closed_on AS is_actual,
    coalesce(c.is_conflict AND c.quality <> 'estimated', false) AS is_conflict
FROM at_midnight m
JOIN oracle.run r
    ON r.meter_id = m.meter_id AND r.first_day <= m.day AND (r.end_day IS NULL OR m.day < r.end_day)
LEFT JOIN oracle.index_read c
    ON c.meter_id = m.meter_id AND c.register = m.register AND c.service_date = m.day
UNION ALL
SELECT meter_id, service_date, register, watts::BIGINT, quality = 'actual', is_conflict
FROM oracle.demand_shown
WHERE NOT is_too_high;
