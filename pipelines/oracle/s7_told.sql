-- definitions.md, "Tiers": the mart of migrations, with the figures before and after, for the days of one policy version.
INSERT INTO oracle.tier_migrations
SELECT
    m.account_id,
    m.service_date,
    from_tier,
    to_tier,
    from_abc,
    to_abc,
    cause,
    rule,
    policy_version,
    from_grade,
    to_grade,
    from_policy_version,
    y.{{metric}} AS metric_before,
    f.{{metric}} AS metric_after,
    y.credit_score AS score_before,
    f.credit_score AS score_after
FROM oracle.moved m
LEFT JOIN oracle.features f ON f.account_id = m.account_id AND f.service_date = m.service_date
LEFT JOIN oracle.features y ON y.account_id = m.account_id AND y.service_date = m.service_date - 1
WHERE policy_version = {{policy_version}};
