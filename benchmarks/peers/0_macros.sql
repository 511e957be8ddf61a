-- definitions.md: integers only; `//` rounds down. DuckDB's own // rounds towards zero.
-- The service day being made is getvariable('day').
CREATE OR REPLACE TEMP MACRO today() AS getvariable('day')::DATE;
CREATE OR REPLACE TEMP MACRO ppm(a, b) AS a::BIGINT * 1000000 // nullif(b, 0);

-- a * 1000000 // b for a that may be negative or large, at most `cap`; null where b = 0 (least() alone would skip the null)
CREATE OR REPLACE TEMP MACRO wide_floor(a, b) AS a // b - CASE WHEN a % b < 0 THEN 1 ELSE 0 END;
CREATE OR REPLACE TEMP MACRO capped_ppm(a, b, cap) AS
    CASE WHEN b > 0 THEN least(wide_floor(a::HUGEINT * 1000000, b::HUGEINT), cap)::BIGINT END;

-- meter-days of an assignment (end_day exclusive, null: open) over from_day .. to_day
CREATE OR REPLACE TEMP MACRO days_assigned(first_day, end_day, from_day, to_day) AS
    greatest(0, least(coalesce(end_day - 1, to_day), to_day) - greatest(first_day, from_day) + 1);

-- inside a cut-off: above its amount, or equal to it with an id not after the boundary's
CREATE OR REPLACE TEMP MACRO is_inside(metric, account, cut) AS
    metric > cut.amount OR (metric = cut.amount AND account <= cut.boundary);
CREATE OR REPLACE TEMP MACRO abc_class(class_before, metric, account, cuts) AS CASE
    WHEN class_before IS NULL THEN CASE
        WHEN is_inside(metric, account, cuts.a_cut) THEN 'A'
        WHEN is_inside(metric, account, cuts.b_cut) THEN 'B'
        ELSE 'C'
    END
    WHEN is_inside(metric, account, cuts.a_entry) THEN 'A'
    WHEN class_before = 'A' AND is_inside(metric, account, cuts.a_exit) THEN 'A'
    WHEN is_inside(metric, account, cuts.b_entry) THEN 'B'
    WHEN class_before IN ('A', 'B') AND is_inside(metric, account, cuts.b_exit) THEN 'B'
    ELSE 'C'
END;
