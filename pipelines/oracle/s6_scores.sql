-- definitions.md, "Dimensions of value", for the days of one policy version: {{scores}} is the query of its scores, {{scored}} sets them.
UPDATE oracle.features f SET {{scored}}
FROM ({{scores}}) s
WHERE s.account_id = f.account_id AND s.service_date = f.service_date;
