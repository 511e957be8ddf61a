-- definitions.md, "Service actions": what is published of the last {{day}}: all that takes no limited place, those planned, and those
-- next in order. By s6_in_order.sql.
INSERT INTO oracle.service_actions
WITH {{in_order}}
SELECT
    account_id, {{day}} AS service_date, action, reason AS action_reason,
    CASE WHEN rank <= free THEN coalesce(kept_since, {{day}}) ELSE {{day}} END + due_days AS due_date,
    priority, resource, value, rank <= free AS planned,
    CASE WHEN rank <= free THEN NULL WHEN free = 0 AND usual > 0 THEN 'day_off' ELSE 'no_place' END AS not_planned_reason,
    CASE WHEN rank <= free AND resource = 'managers' THEN coalesce(kept_since, {{day}}) END AS since,
    rank, {{policy_version}} AS policy_version
FROM in_order
WHERE rank <= free + usual
UNION ALL
SELECT
    account_id, {{day}}, action, reason, {{day}} + due_days, priority, resource, value, true, NULL, NULL, NULL, {{policy_version}}
FROM candidate
WHERE service_date = {{day}} AND free IS NULL;
