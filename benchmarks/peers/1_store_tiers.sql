-- Tiers as of the last published day; the candidate, which no mart holds, follows from that day's features.
INSERT INTO tier_state
WITH graded AS (
    SELECT f.*, t.* EXCLUDE (account_id, category), k.slot
    FROM published.features f
    JOIN published.customer_tiers_current t USING (account_id)
    JOIN account_key k USING (account_id)
    WHERE f.service_date = today()
),
ruled AS (SELECT *, {{candidate_rule}} AS candidate_rule FROM graded)
SELECT slot, category, abc, credit_grade, {{tier}} AS candidate, tier, valid_from, tier_since, rule, policy_version
FROM ruled;
