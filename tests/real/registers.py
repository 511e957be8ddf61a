"""Cumulative registers made of the Tianchi days: what each enterprise's meter would have shown at every midnight.

Seeded. A meter has a multiplier that divides 1,000, a start somewhere on its dial, a modulus that it passes, and in one of three
cases it is exchanged on the way. One reading of twenty comes 1 to 60 days late.
"""

from __future__ import annotations

import random
from datetime import date, timedelta
from pathlib import Path

import duckdb
import numpy as np
import yaml

LATE_SHARE, LATE_DAYS = 0.05, 60
MULTIPLIERS = (1, 10, 20, 40, 100, 200, 500, 1_000)
METER_COLUMNS = {
    "multiplier": {"column": "multiplier", "unit": "times"},
    "modulus": {"column": "modulus_kwh", "unit": "kWh"},
    "installed_total": {"column": "installed_kwh", "unit": "kWh"},
    "removed_total": {"column": "removed_kwh", "unit": "kWh"},
    "removed_on": {"column": "removed_on", "format": "%Y-%m-%d"},
}
READINGS = {
    "files": "registers-*.csv",
    "columns": {
        "meter_id": "meter_id",
        "service_date": {"column": "read_at", "format": "%Y-%m-%d", "shift_days": -1},
        "index_total": {"column": "total_kwh", "unit": "kWh"},
    },
    "revision": "delivery",
}


def days_of(file: Path) -> tuple[list[str], date, np.ndarray]:
    """Users, first day, and kWh by user and day: (u, d)."""
    with duckdb.connect() as con:
        con.execute(
            "CREATE TABLE use AS SELECT user_id, strptime(record_date, '%Y/%m/%d')::DATE AS day, power_consumption::BIGINT AS kwh "
            "FROM read_csv(?, all_varchar = true)",
            [str(file)],
        )
        users = [user for (user,) in con.execute("SELECT DISTINCT user_id FROM use ORDER BY user_id").fetchall()]
        first = con.execute("SELECT min(day) FROM use").fetchall()[0][0]
        kwh = con.execute("SELECT kwh FROM use ORDER BY user_id, day").fetchnumpy()["kwh"]
    return users, first, np.asarray(kwh, np.int64).reshape(len(users), -1)


def text(milli: int) -> str:
    """Thousandths of a kWh as delivered."""
    return f"{milli // 1000}.{milli % 1000:03d}"


class Dials:
    """Meter rows, and readings by the day on which they arrive."""

    def __init__(self, file: Path, seed: int = 1) -> None:
        rng = random.Random(seed)
        users, self.first, kwh = days_of(file)
        self.days = kwh.shape[1]
        self.meters = ["meter_id,account_id,installed_on,removed_on,multiplier,modulus_kwh,installed_kwh,removed_kwh"]
        self.arrivals: dict[int, list[str]] = {}
        self.turned = self.exchanged = self.late = 0
        for user, used in zip(users, kwh.tolist(), strict=True):
            exchange = rng.randrange(1, self.days) if rng.random() < 1 / 3 else self.days
            self.exchanged += exchange < self.days
            for begin, end in ((0, exchange), (exchange, self.days)):
                if begin < end:
                    self._run(rng, user, used, begin, end)

    def _run(self, rng: random.Random, user: str, used: list[int], begin: int, end: int) -> None:
        """One meter's run over the days `begin .. end - 1`."""
        times = rng.choice(MULTIPLIERS)
        most = max(sum(used[n : n + LATE_DAYS + 5]) for n in range(begin, end)) // times
        modulus = 10 ** (len(str(8 * most)) + 3)  # thousandths; so far away that a gap passes no quarter of it
        shown = opening = rng.randrange(modulus)
        for n in range(begin, end):
            shown += used[n] * 1000 // times
            self.turned += shown >= modulus
            shown %= modulus
            late = rng.randrange(1, LATE_DAYS + 1) if rng.random() < LATE_SHARE else 0
            self.late += late > 0
            read_at = self.first + timedelta(days=n + 1)
            self.arrivals.setdefault(n + late, []).append(f"{user},{read_at},{text(shown)}")
        removed = [f"{self.first + timedelta(days=end)}", text(shown)] if end < self.days else ["", ""]
        self.meters.append(
            f"{user},E{int(user):04d},{self.first + timedelta(days=begin)},{removed[0]},{times},{modulus // 1000},{text(opening)},"
            f"{removed[1]}"
        )

    def configure(self, folder: Path) -> Path:
        """Make an example's folder read registers in place of interval energy; land the meters. Returns the configuration."""
        config = yaml.safe_load((folder / "wattier.yaml").read_text("utf-8"))
        del config["sources"]["meter_readings"]
        config["sources"]["register_readings"] = READINGS
        config["sources"]["meters"]["columns"] |= METER_COLUMNS
        (folder / "registers.yaml").write_text(
            yaml.safe_dump(config | {"warehouse": "registers"}, sort_keys=False), "utf-8"
        )
        (folder / "landing" / "meters.csv").write_text("\n".join(self.meters) + "\n")
        return folder / "registers.yaml"

    def land(self, folder: Path, first: int, last: int) -> None:
        """Let land what arrives on the days `first .. last`, as one file."""
        rows = [row for n in range(first, last + 1) for row in self.arrivals.get(n, [])]
        path = folder / "landing" / f"registers-{last:05d}.csv"
        path.write_text("\n".join(["meter_id,read_at,total_kwh", *rows]) + "\n")
