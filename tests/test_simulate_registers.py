"""The simulated meters' registers say what the same meters' interval energy says."""

from __future__ import annotations

from collections import Counter
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import duckdb
import numpy as np
import pytest

from pipelines.config import load_config
from pipelines.run import run
from pipelines.simulate import Settings, simulate
from pipelines.templates import write_templates
from pipelines.utility_registers import LARGE_MODULUS, MODULUS, SHOWN, split
from schemas.inbound import PERIODS
from schemas.marts import MARTS
from tests.test_simulate import landed

START = date(2026, 1, 1)


def test_the_parts_of_a_day_are_the_whole() -> None:
    energy = np.array([0, 1, 7, 1_023, 50_000_000_000])
    parts = split(energy, np.array([0, 1, 2, 3, 2]))
    assert parts.shape == (5, len(SHOWN))
    assert (parts >= 0).all()
    assert (parts[:, 1:].sum(axis=1) == energy).all()


def test_registers_rise_by_the_energy_of_the_same_days(tmp_path: Path) -> None:
    """Index difference x multiplier, meter by meter, with the turn-over worked out by hand."""
    for name, registers in (("plain", False), ("dials", True)):
        simulate(Settings(600, 30, 4, START, tmp_path / name, plain=True, registers=registers))
    used = {
        (row["meter_id"], row["service_date"]): Decimal(row["energy_kwh"])
        for row in landed(tmp_path / "plain", "readings")
    }
    meters = {row["meter_id"]: row for row in landed(tmp_path / "dials", "meters")}
    shown = {(row["meter_id"], row["read_at"]): row for row in landed(tmp_path / "dials", "registers")}
    seen: Counter[str] = Counter()
    for (meter, read_at), row in shown.items():
        before = shown.get((meter, str(date.fromisoformat(read_at) - timedelta(days=1))))
        if before is None:
            continue
        rise = {name: Decimal(row[f"{name}_kwh"]) - Decimal(before[f"{name}_kwh"]) for name in SHOWN}
        modulus, multiplier = Decimal(meters[meter]["modulus_kwh"]), int(meters[meter]["multiplier"])
        energy = {name: (step + modulus if step < 0 else step) * multiplier for name, step in rise.items()}
        assert energy["total"] == used[meter, str(date.fromisoformat(read_at) - timedelta(days=1))]
        assert energy["total"] == sum(energy[name] for name in PERIODS)
        assert all(Decimal(row[f"{name}_kwh"]) < modulus for name in SHOWN)
        seen["days"] += 1
        seen["large"] += multiplier > 1
    assert seen["days"] > 10_000
    assert seen["large"] > 100
    assert {Decimal(row["modulus_kwh"]) for row in meters.values()} <= {
        Decimal(m) / 10**6 for m in (MODULUS, LARGE_MODULUS)
    }


@pytest.mark.slow
def test_the_marts_of_registers_are_those_of_interval_energy(tmp_path: Path) -> None:
    """Meters that come, move and go, and two with each register's own turn-over: row by row but for the periods."""
    for name, registers in (("plain", False), ("dials", True)):
        home = tmp_path / name
        write_templates(home, registers=registers)
        simulate(Settings(400, 70, 5, START, home / "landing", "parquet", plain=True, registers=registers))
        run(load_config(home / "wattier.yaml"), audit=False)
    with duckdb.connect() as con:
        for name in ("plain", "dials"):
            con.execute(f"ATTACH '{tmp_path / name / 'warehouse' / 'marts.duckdb'}' AS {name} (READ_ONLY)")
        for mart in ("daily_consumption", "features", "cutoffs", "customer_tiers", "tier_migrations", "service_days"):
            names = [column.name for column in MARTS[mart].columns]
            both = ", ".join(n for n in names if not n.startswith((*(f"{period}_" for period in PERIODS), "period_")))
            one, other = f"SELECT {both} FROM plain.{mart}", f"SELECT {both} FROM dials.{mart}"
            assert con.execute(f"SELECT count(*) FROM dials.{mart}").fetchone() != (0,)
            for left, right in ((one, other), (other, one)):
                assert con.execute(f"({left}) EXCEPT ALL ({right}) LIMIT 3").fetchall() == []
        whole = (
            "SELECT count(*) FROM dials.daily_consumption WHERE energy_wh <> sharp_wh + peak_wh + flat_wh + valley_wh"
        )
        assert con.execute(whole).fetchone() == (0,)
