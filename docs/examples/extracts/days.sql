SELECT account_id, service_date, energy_wh, sharp_wh, peak_wh, flat_wh, valley_wh, reverse_wh, meters_estimated, max_demand_w
FROM daily_consumption
ORDER BY account_id, service_date
