/* Tiers on the last service day: enterprises, and the energy of their last 365 days. */
SELECT
    tier,
    count(*) AS enterprises,
    (sum(wh_365d) // 1000000000)::BIGINT AS energy_gwh,
    (sum(wh_365d) * 1000000 // sum(sum(wh_365d)) OVER ())::BIGINT AS share_ppm
FROM customer_tiers_current
JOIN features USING (account_id)
WHERE service_date = (SELECT max(service_date) FROM features)
GROUP BY tier
ORDER BY energy_gwh DESC
