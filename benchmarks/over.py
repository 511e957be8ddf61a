"""The peer of a stream: Flink SQL's own `SUM() OVER` on the same topic, on the same cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from string import Template

import duckdb

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.append(str(CHECKOUT))

from infra import fetch  # noqa: E402
from infra.flink.parts import MODULES  # noqa: E402

PEERS = Path(__file__).resolve().parent / "peers"
STATEMENT, RUNNER = PEERS / "over_30d.sql", PEERS / "SubmitSql.java"


def submit(cluster: Path, folder: Path, config: dict[str, object], **names: str) -> None:
    """Hand the statement to the cluster. cluster: its run folder; folder: for what it writes; names: to fill in."""
    folder.mkdir(parents=True)
    script = folder / "statement.sql"
    script.write_text(Template(STATEMENT.read_text()).substitute(answers=(folder / "answers").as_uri(), **names))
    cache = fetch.cache_dir()
    connector = fetch.sql_connector(cache)
    config = {
        "execution.target": "remote",
        "execution.runtime-mode": "STREAMING",
        "execution.checkpointing.interval": "5s",
        "pipeline.jars": connector.as_uri(),
        "pipeline.object-reuse": "true",
        "table.local-time-zone": "UTC",
        **config,
    }
    classes = os.pathsep.join([f"{fetch.flink_libraries(cache)}/lib/*", str(connector)])
    command = [fetch.java(), *MODULES, "-cp", classes, str(RUNNER), str(cluster / "conf"), str(script)]
    command += [f"{key}={value}" for key, value in config.items()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        raise SystemExit(f"Flink SQL did not take {script}:\n{done.stderr[-3000:]}")


def compare(marts: Path, answers: Path, readings: Path, meters: Path, last: str) -> dict[str, int]:
    """Rows of `features` whose `wh_30d` is not the sum of the windows of the account's meters, and rows compared.

    Flink SQL has no row for a meter on a day without a reading, and does not know whose a meter is. So accounts that share
    a meter with the one before or after them, and days on which an account has a meter that is not read any more, are
    counted as `left_out`, and not compared. last: the last day of both.
    """
    with duckdb.connect(str(marts), read_only=True) as con:
        con.execute(
            f"""
            CREATE TEMP TABLE owner AS
                SELECT meter_id, min(account_id) AS account_id FROM '{meters}/*.parquet' GROUP BY meter_id;
            CREATE TEMP TABLE moved AS
                SELECT DISTINCT account_id FROM '{meters}/*.parquet' WHERE meter_id IN
                (SELECT meter_id FROM '{meters}/*.parquet' GROUP BY meter_id HAVING min(account_id) <> max(account_id));
            CREATE TEMP TABLE given AS
                SELECT account_id, day AS service_date, sum(wh)::BIGINT AS wh, count(*) AS meters
                FROM read_csv('{answers}/*', header = false, columns = {{meter_id: 'VARCHAR', day: 'DATE', wh: 'BIGINT'}})
                JOIN owner USING (meter_id) GROUP BY ALL;
            CREATE TEMP TABLE read AS
                SELECT account_id, meter_id, min(service_date) AS first, max(service_date) AS last
                FROM '{readings}/*.parquet' JOIN owner USING (meter_id) GROUP BY ALL;
            CREATE TEMP TABLE both_sides AS
                SELECT f.account_id, f.service_date, f.wh_30d, g.wh, coalesce(g.meters, 0) AS given,
                    (SELECT count(*) FROM read r WHERE r.account_id = f.account_id
                     AND r.first <= f.service_date AND r.last >= f.service_date - 29) AS due
                FROM features f LEFT JOIN given g USING (account_id, service_date) ANTI JOIN moved USING (account_id)
                WHERE f.service_date <= DATE '{last}';
            CREATE TEMP TABLE missing AS
                FROM given ANTI JOIN features USING (account_id, service_date) ANTI JOIN moved USING (account_id)
                WHERE service_date BETWEEN (SELECT min(service_date) FROM features) AND DATE '{last}'
            """
        )
        row = con.execute(
            """
            SELECT count(*) FILTER (given = due),
                (SELECT count(*) FROM features WHERE service_date <= (SELECT max(service_date) FROM both_sides))
                    - count(*) FILTER (given >= due),
                count(*) FILTER (given > due OR (given = due AND given > 0 AND wh_30d IS DISTINCT FROM wh))
                    + (SELECT count(*) FROM missing),
                count(DISTINCT service_date)
            FROM both_sides
            """
        ).fetchone()
    assert row is not None
    return dict(zip(("rows", "left_out", "differing", "days"), row, strict=True))
