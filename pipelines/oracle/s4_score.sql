-- definitions.md, "Credit score", for the days of one policy version: {{score}} of {{policy_version}}.
UPDATE oracle.features f SET credit_score = {{score}}
FROM oracle.policy_day d
WHERE d.service_date = f.service_date AND d.policy_version = {{policy_version}};
