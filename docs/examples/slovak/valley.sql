/* Tiers on the last service day, and the part of the last 90 days' energy at the low rate. */
SELECT
    tier,
    count(*) AS meters,
    (sum(wh_90d) // 1000)::BIGINT AS energy_kwh,
    (sum(valley_share_90d_ppm::HUGEINT * period_wh_90d) // sum(period_wh_90d))::BIGINT AS valley_share_ppm
FROM customer_tiers_current
JOIN features USING (account_id)
WHERE service_date = (SELECT max(service_date) FROM features)
GROUP BY tier
ORDER BY energy_kwh DESC
