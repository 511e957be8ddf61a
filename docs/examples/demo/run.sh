#!/bin/bash
# The demo: a simulated utility (模拟供电企业), from landed files to tiers. `make demo` calls it; it writes ./demo only.
# Its size can be set: docs/examples/demo/run.sh [FOLDER [ACCOUNTS [DAYS]]]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../.."
wattier="${WATTIER:-.venv/bin/wattier}"
folder="${1:-demo}" accounts="${2:-2000}" days="${3:-90}"
config="$folder/wattier.yaml"

step() {
    printf '\n== %s\n' "$1"
    shift
    printf '$ wattier'
    printf ' %q' "$@"
    printf '\n'
    "$wattier" "$@"
}

table() {
    printf '\n== %s\n' "$1"
    "$wattier" query --config "$config" "$2"
}

echo "A simulated utility of about $accounts accounts over $days days. With 2,000 and 90 it takes 1 to 2 minutes on 2 cores."
if [[ -e "$folder" && ! -f "$config" ]]; then
    echo "$folder is there, and is not of an earlier demo: move it away first." >&2
    exit 1
fi
rm -rf "$folder"

step 'Configuration, policy and source mappings' init "$folder"
step "$days days of files land" simulate --accounts "$accounts" --days "$days" --out "$folder/landing"
step 'Take them in, classify, audit, publish' run --config "$config"
step 'One more day lands, with late and corrected readings of earlier days' \
    simulate --accounts "$accounts" --days $((days + 1)) --skip-days "$days" --out "$folder/landing"
step 'The daily run: takes in what is new, and restates what it changes' run --config "$config"
step 'Recompute everything in plain SQL and compare' verify --all --config "$config"
step 'What to do tomorrow, within the staff there is: whom to call' actions --config "$config" --resource calls

table 'Value tiers (价值分级) on the last service day' "
    SELECT tier, count(*) AS accounts, (sum(wh_365d) // 1000000)::BIGINT AS energy_mwh,
           round(100 * sum(wh_365d) / sum(sum(wh_365d)) OVER (), 1) AS energy_percent
    FROM customer_tiers_current JOIN features USING (account_id)
    WHERE service_date = (SELECT through FROM wattier_generation)
    GROUP BY tier ORDER BY energy_mwh DESC"
table 'Migrations (级别变动), the ten most frequent' "
    SELECT from_tier, to_tier, cause, count(*) AS migrations
    FROM tier_migrations GROUP BY ALL ORDER BY migrations DESC, from_tier, to_tier, cause LIMIT 10"
table 'Readings in the last file, by service day: late and corrected ones restate their days' "
    SELECT service_date, count(*) AS readings
    FROM accepted_readings WHERE delivery = (SELECT max(delivery) FROM accepted_readings)
    GROUP BY service_date ORDER BY service_date DESC"

cat <<END

Done in $SECONDS seconds. The marts are in $folder/warehouse/marts.duckdb, the audits in $folder/warehouse/data_docs/index.html.
Ask them something:
  $wattier query --config $config "FROM cutoffs ORDER BY service_date DESC LIMIT 10"
What each column means: docs/reference/marts.md
END
