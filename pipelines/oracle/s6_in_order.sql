-- definitions.md, "The plan of service actions": who wants a limited place on a day, in order, from the plans of the days before. In
-- double braces stand the day, and what the strategy says.
wish AS (
    SELECT
        c.*,
        CASE WHEN c.resource = 'managers' THEN y.since END AS kept_since,
        CASE WHEN c.resource <> 'managers' THEN y.service_date END AS done_on
    FROM candidate c
    LEFT JOIN oracle.planned_actions y
        ON y.account_id = c.account_id AND y.action = c.action AND y.resource = c.resource
        AND y.service_date BETWEEN {{day}} - CASE WHEN c.resource = 'managers' THEN 1 ELSE 400 END AND {{day}} - 1
    WHERE c.service_date = {{day}} AND c.free IS NOT NULL
    -- Of what was done before the last time.
    QUALIFY row_number() OVER (PARTITION BY c.account_id, c.action ORDER BY y.service_date DESC) = 1
),
free_to_go AS (
    SELECT
        *,
        least(value, 2::HUGEINT ** 61) + CASE
            WHEN kept_since IS NOT NULL THEN greatest(least(value, 2::HUGEINT ** 61), 0)::HUGEINT * {{bonus}} // 1000000 ELSE 0
        END AS counted
    FROM wish
    WHERE done_on IS NULL OR {{day}} - done_on >= again_days
),
first_of_account AS (
    FROM free_to_go
    QUALIFY row_number() OVER (PARTITION BY resource, account_id ORDER BY {{order}}, rule_number) = 1
),
in_order AS (
    SELECT *, row_number() OVER (PARTITION BY resource ORDER BY {{order}}, account_id) AS rank
    FROM first_of_account
)
