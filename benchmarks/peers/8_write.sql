-- The same marts, as Parquet.
COPY (
    SELECT k.account_id, d.service_date, d.energy_wh, d.received AS meters_received, e.expected_1d AS meters_expected,
        d.estimated AS meters_estimated, d.conflict AS meters_conflict,
        NULL::BIGINT AS sharp_wh, NULL::BIGINT AS peak_wh, NULL::BIGINT AS flat_wh, NULL::BIGINT AS valley_wh,
        NULL::BIGINT AS reverse_wh, NULL::BIGINT AS max_demand_w,
        NULL::BIGINT AS as_read_wh, NULL::BIGINT AS provisional_wh -- all meters are read
    FROM landed_day d JOIN account_key k USING (slot) JOIN expected e USING (slot)
) TO {{daily_consumption}} {{options}};
COPY (SELECT * EXCLUDE (slot) FROM feature) TO {{features}} {{options}};
COPY cut_row TO {{cutoffs}} {{options}};
COPY score TO {{scores}} {{options}};
COPY ended TO {{customer_tiers}} {{options}};
COPY migration TO {{tier_migrations}} {{options}};
COPY (
    SELECT account_id, valid_from, category, tier, abc, credit_grade, tier_since, rule, policy_version FROM tier_day
) TO {{customer_tiers_current}} {{options}};
COPY (
    SELECT k.account_id, a.* EXCLUDE (slot, revision, valid_to, is_earliest), a.valid_to
    FROM account_row a JOIN account_key k USING (slot)
) TO {{accounts}} {{options}};
COPY service_days TO {{service_days}} {{options}};
COPY tier_migration_matrix TO {{tier_migration_matrix}} {{options}};
COPY to_do TO {{service_actions}} {{options}};
COPY place_taken TO {{planned_actions}} {{options}};
COPY plan_row TO {{plan_capacity}} {{options}};
COPY tier_share TO {{tier_shares}} {{options}};
COPY curve TO {{pareto}} {{options}};
