-- definitions.md, "What energy is worth", in 10^-12 of a major unit: Wh times billionths for one kWh.

-- Each used period's energy of an account and day.
CREATE OR REPLACE TABLE oracle.used_period AS
SELECT account_id, service_date, register AS period, energy_wh::HUGEINT AS wh, meters
FROM oracle.counted_register
WHERE register IN ('sharp', 'peak', 'flat', 'valley');

-- The tariff of an account and day with energy, while the account is in the population.
CREATE OR REPLACE TABLE oracle.tariffed_day AS
SELECT account_id, service_date, a.tariff, coalesce(r.energy_wh, 0) AS wh, coalesce(r.meters_received, 0) AS meters
FROM (
    SELECT account_id, service_date FROM oracle.counted_day
    UNION
    SELECT account_id, service_date FROM oracle.used_period
)
JOIN oracle.account a USING (account_id)
LEFT JOIN oracle.counted_day r USING (account_id, service_date)
WHERE (a.is_earliest OR a.valid_from <= service_date)
    AND (a.valid_to IS NULL OR service_date <= a.valid_to)
    AND a.opened_on <= service_date
    AND (a.closed_on IS NULL OR service_date <= a.closed_on)
    AND a.tariff IN (SELECT tariff FROM oracle.price);

CREATE OR REPLACE TABLE oracle.worth_by_period AS
SELECT
    d.account_id,
    d.service_date,
    sum(u.wh)::HUGEINT AS wh,
    sum(u.wh * p.price_nano)::HUGEINT AS worth,
    sum(u.wh) FILTER (p.cost_nano IS NOT NULL)::HUGEINT AS costed_wh,
    sum(u.wh * (p.price_nano - p.cost_nano)) FILTER (p.cost_nano IS NOT NULL)::HUGEINT AS margin
FROM oracle.tariffed_day d
JOIN oracle.used_period u USING (account_id, service_date)
LEFT JOIN oracle.price p
    ON p.tariff = d.tariff AND p.period = u.period
    AND p.valid_from <= d.service_date AND (p.valid_to IS NULL OR d.service_date <= p.valid_to)
GROUP BY d.account_id, d.service_date
HAVING bool_and(u.meters >= d.meters AND (u.wh = 0 OR p.price_nano IS NOT NULL));

CREATE OR REPLACE TABLE oracle.worth AS
SELECT account_id, service_date, wh, coalesce(worth, 0) AS worth, costed_wh, margin
FROM oracle.worth_by_period
UNION ALL
SELECT
    d.account_id,
    d.service_date,
    d.wh,
    d.wh::HUGEINT * p.price_nano,
    CASE WHEN p.cost_nano IS NOT NULL THEN d.wh END,
    d.wh::HUGEINT * (p.price_nano - p.cost_nano)
FROM oracle.tariffed_day d
ANTI JOIN oracle.worth_by_period b ON b.account_id = d.account_id AND b.service_date = d.service_date
JOIN oracle.price p
    ON p.tariff = d.tariff AND p.period = 'total'
    AND p.valid_from <= d.service_date AND (p.valid_to IS NULL OR d.service_date <= p.valid_to)
WHERE d.meters > 0;

-- Every day of an account that has any worth, so that windows go by dates.
CREATE OR REPLACE VIEW oracle.valued_sums AS
WITH each_day AS (
    SELECT k.account_id, d.service_date, coalesce(w.wh, 0) AS wh, coalesce(w.worth, 0) AS worth, w.costed_wh, w.margin
    FROM (SELECT DISTINCT account_id FROM oracle.worth) k
    CROSS JOIN oracle.reached_day d
    LEFT JOIN oracle.worth w ON w.account_id = k.account_id AND w.service_date = d.service_date
),
summed AS (
    SELECT
        account_id,
        service_date,
        sum(wh) OVER last_30 AS valued_wh_30d,
        sum(worth) OVER last_30 AS worth_30d,
        sum(wh) OVER last_365 AS valued_wh_365d,
        sum(worth) OVER last_365 AS worth_365d,
        sum(costed_wh) OVER last_365 AS costed_wh_365d,
        sum(margin) OVER last_365 AS margin_365d
    FROM each_day
    WINDOW
        last_30 AS (
            PARTITION BY account_id ORDER BY service_date RANGE BETWEEN INTERVAL 29 DAYS PRECEDING AND CURRENT ROW
        ),
        last_365 AS (
            PARTITION BY account_id ORDER BY service_date RANGE BETWEEN INTERVAL 364 DAYS PRECEDING AND CURRENT ROW
        )
)
FROM summed WHERE service_date >= getvariable('first_day');
