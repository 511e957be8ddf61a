-- definitions.md, "The plan of service actions": one service day, from the days before, by s6_in_order.sql.
INSERT INTO oracle.planned_actions
WITH {{in_order}}
SELECT
    account_id, {{day}}, action, reason, coalesce(kept_since, {{day}}) + due_days, priority, resource, value,
    coalesce(kept_since, {{day}}), rank, {{policy_version}}
FROM in_order
WHERE rank <= free;
