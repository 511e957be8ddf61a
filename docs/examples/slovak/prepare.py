"""Land the two-rate readings as they are, and beside them an account and a meter for each.

    python prepare.py DATA [LANDING]

DATA holds slovak_meters/daily.csv.gz; LANDING is `landing` here. The readings are linked, not converted.
"""

from __future__ import annotations

import sys
from pathlib import Path

import duckdb

READINGS = "slovak_meters/daily.csv.gz"
METERS = """
CREATE TABLE meter AS
SELECT DISTINCT meterID AS meter_id, format('S{:04d}', meterID::INTEGER) AS account_id
FROM read_csv(getvariable('readings'), all_varchar = true)
"""
FILES = {
    "accounts.csv": """SELECT account_id, DATE '2016-01-01' AS valid_from, 'commercial' AS category, 40 AS capacity_kva
        FROM meter ORDER BY account_id""",
    "meters.csv": "SELECT meter_id, DATE '2016-01-01' AS installed_on, account_id FROM meter ORDER BY account_id",
}


def main(data: Path, landing: Path) -> None:
    """Link the readings into `landing` and write the two other files there."""
    landing.mkdir(parents=True, exist_ok=True)
    link = landing / Path(READINGS).name
    link.unlink(missing_ok=True)
    link.symlink_to((data / READINGS).absolute())
    with duckdb.connect() as con:
        con.execute("SET VARIABLE readings = ?", [str(data / READINGS)])
        con.execute(METERS)
        for name, query in FILES.items():
            con.execute(f"COPY ({query}) TO '{landing / name}' (HEADER)")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2] if len(sys.argv) == 3 else "landing"))
