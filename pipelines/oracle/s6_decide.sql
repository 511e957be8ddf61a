-- definitions.md, "ABC classes" and "Tiers": class, grade and tier of the rows of `remembered`, which has features, `cuts`, and what
-- each account was before: tier_before, abc_before, credit_grade_before (null where it was nothing), dwell. In double braces stand
-- what the policy version says.
classed AS (
    SELECT *, oracle.abc_class(abc_before, {{metric}}, account_id, cuts) AS abc FROM remembered
),
graded AS (
    SELECT *, {{grade}} AS credit_grade FROM classed
),
ruled AS (
    SELECT *, {{candidate_rule}} AS candidate_rule FROM graded
),
chosen AS (
    SELECT
        *,
        {{tier}} AS candidate,
        {{immediate}} AS immediate,
        nullif(list_position({{one_notch}}, tier_before), 0) AS step_before,
        nullif(list_position({{one_notch}}, candidate), 0) AS step_wanted
    FROM ruled
),
aimed AS (
    SELECT
        *,
        CASE WHEN NOT immediate AND step_wanted > step_before THEN {{one_notch}}[step_before + 1] ELSE candidate END AS aim
    FROM chosen
),
settled AS (
    SELECT
        *,
        CASE
            WHEN tier_before IS NULL OR tier_before = 'closed' OR immediate OR dwell >= greatest({{min_stay_days}}, 1) THEN aim
            ELSE tier_before
        END AS tier
    FROM aimed
)
