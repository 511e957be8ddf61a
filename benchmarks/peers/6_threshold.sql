SELECT service_date, scope, {
    'a_cut': any_value(edge) FILTER (class = 'A' AND side = 'cut'),
    'a_entry': any_value(edge) FILTER (class = 'A' AND side = 'entry'),
    'a_exit': any_value(edge) FILTER (class = 'A' AND side = 'exit'),
    'b_cut': any_value(edge) FILTER (class = 'B' AND side = 'cut'),
    'b_entry': any_value(edge) FILTER (class = 'B' AND side = 'entry'),
    'b_exit': any_value(edge) FILTER (class = 'B' AND side = 'exit')
} AS cuts
FROM (SELECT *, {'amount': amount, 'boundary': boundary_account_id} AS edge FROM {{cutoffs}} WHERE rule = {{rule}})
GROUP BY service_date, scope
