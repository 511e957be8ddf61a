-- definitions.md, opening: integers only; `//` rounds down. DuckDB's own // rounds towards zero, hence the macro.
CREATE SCHEMA IF NOT EXISTS oracle;

-- a // b, rounded down; b > 0, null where b is null
CREATE OR REPLACE MACRO oracle.floor_div(a, b) AS
    a::HUGEINT // b::HUGEINT - CASE WHEN a::HUGEINT % b::HUGEINT < 0 THEN 1 ELSE 0 END;

-- a * 1000000 // b; null where b = 0
CREATE OR REPLACE MACRO oracle.ppm(a, b) AS oracle.floor_div(a::HUGEINT * 1000000, nullif(b, 0));
