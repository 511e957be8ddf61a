-- Flink SQL: the 30-day window of every meter, over the topic that Wattier reads. over.py fills in what stands in braces.
CREATE TABLE readings (
  meter_id STRING,
  service_date DATE,
  energy_kwh DECIMAL(18, 3),
  energy_wh AS CAST(energy_kwh * 1000 AS BIGINT),
  closes AS CAST(service_date AS TIMESTAMP(3)),
  WATERMARK FOR closes AS closes - INTERVAL '1' DAY
) WITH (
  'connector' = 'kafka',
  'topic' = '${topic}',
  'properties.bootstrap.servers' = '${address}',
  'properties.group.id' = 'wattier-peer',
  'scan.startup.mode' = 'earliest-offset',
  'scan.bounded.mode' = 'latest-offset',
  'format' = 'json'
);

CREATE TABLE windows (
  meter_id STRING,
  service_date DATE,
  wh_30d BIGINT
) WITH (
  'connector' = 'filesystem',
  'path' = '${answers}',
  'format' = 'csv'
);

INSERT INTO windows
SELECT
  meter_id,
  service_date,
  SUM(energy_wh) OVER (
    PARTITION BY meter_id ORDER BY closes RANGE BETWEEN INTERVAL '29' DAY PRECEDING AND CURRENT ROW
  )
FROM readings;
