-- definitions.md, "Dimensions of value", for the days of one policy version: {{scores}} is the query of its scores.
UPDATE oracle.features f SET
    current_value_score = s.current_value_score,
    potential_score = s.potential_score,
    credit_dimension_score = s.credit_dimension_score,
    stability_score = s.stability_score,
    loyalty_score = s.loyalty_score,
    scale_score = s.scale_score
FROM ({{scores}}) s
WHERE s.account_id = f.account_id AND s.service_date = f.service_date;
