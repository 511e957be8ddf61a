"""Registers in wide rows and two-rate days, as Kafka JSON by mapping alone, through a stream on Flink: twelve days.

Of two-rate meters `r1` to `r3` one day comes late and one is corrected. `turn` turns over at 10,000 kWh and is corrected; `old` is
exchanged for `new` on day 5; of `late` days 3 to 5 are not read, and one of them comes days later.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest

from pipelines.config import load_config
from pipelines.verify import verify
from tests.pipeline.bureau import POLICY, assert_equal_marts
from tests.streaming.job import Landed

pytestmark = pytest.mark.slow

FIRST, DAYS = date(2025, 1, 25), 12
LAST = FIRST + timedelta(DAYS - 1)
CONFIG = """
landing: landing
warehouse: warehouse
policy: policy.yaml
shards: 4

sources:
  meter_readings:
    files: "readings/readings-*"
    columns:
      meter_id: meterID
      service_date: {columns: [year, month, day], format: "%Y-%m-%d"}
      peak_wh: {column: high, unit: kWh, round: half_up}
      valley_wh: {column: low, unit: kWh, round: half_up}
      max_demand_w: {column: MD, unit: kW}
    revision: {column: VERSION}

  register_readings:
    files: "registers/registers-*"
    columns:
      meter_id: METER_ID
      service_date: {column: COLLTIME, format: "%Y-%m-%d %H:%M:%S", time_of_day: {within_minutes: 30}, shift_days: -1}
      index_total: {column: R, unit: kWh}
      index_peak: {column: R2, unit: kWh}
      index_valley: {column: R4, unit: kWh}
      max_demand: {column: MD, unit: kW}
      quality: {column: STATUS, map: {"0": actual, "1": estimated}}
    revision: {column: VERSION}

  accounts:
    files: "accounts/accounts-*"
    columns:
      account_id: account_id
      valid_from: {column: opened, format: "%Y-%m-%d"}
      opened_on: {column: opened, format: "%Y-%m-%d"}
      category: {constant: industrial}

  meters:
    files: "meters/meters-*"
    columns:
      meter_id: METER_ID
      account_id: account_id
      installed_on: {column: installed, format: "%Y-%m-%d"}
      removed_on: {column: removed, format: "%Y-%m-%d"}
      multiplier: {column: T_FACTOR, unit: times}
      modulus: {column: MODULUS, unit: kWh}
      installed_total: {column: at_start, unit: kWh}
      removed_total: {column: at_end, unit: kWh}
    revision: {column: VERSION}
"""
HEADERS = {
    "accounts": "account_id,opened",
    "meters": "METER_ID,account_id,installed,removed,T_FACTOR,MODULUS,at_start,at_end,VERSION",
    "readings": "meterID,year,month,day,high,low,MD,VERSION",
    "registers": "METER_ID,COLLTIME,R,R2,R4,MD,STATUS,VERSION",
}
ACCOUNTS = ("r1", "r2", "r3", "turn", "swap", "late")
LONG_AGO = "2024-06-01"


def on(n: int) -> date:
    """Day n of the story."""
    return FIRST + timedelta(n)


def shown(
    meter: str, n: int, total: float, used: float, md: str = "1.5", version: int = 1, status: str = "0"
) -> tuple[int, str, str]:
    """What a meter shows at the end of day n, of what it counted six tenths in the peak; it comes the day after."""
    values = f"{total:.2f},{10 + used * 0.6:.2f},{10 + used * 0.4:.2f},{md},{status},{version}"
    return n + 1, "registers", f"{meter},{on(n + 1)} 00:0{n % 10}:00,{values}"


def two_rates(meter: str, n: int, high: str, low: str, version: int = 1) -> tuple[int, str, str]:
    day = on(n)
    return n + 1, "readings", f"{meter},{day.year},{day.month},{day.day},{high},{low},{float(high) / 4:.3f},{version}"


def reference(
    meter: str, account: str, installed: str, removed: str = "", start: str = "", end: str = "", version: int = 1
) -> str:
    modulus = "10000" if meter == "turn" else ""
    return f"{meter},{account},{installed},{removed},{20 if account != 'late' else 1},{modulus},{start},{end},{version}"


def deliveries() -> Iterator[tuple[int, str, str]]:
    """(day on which it comes, source, row)."""
    yield from ((0, "accounts", f"{name},{LONG_AGO}") for name in ACCOUNTS)
    for name in ACCOUNTS[:4] + ACCOUNTS[5:]:
        yield 0, "meters", reference(name, name, LONG_AGO)
    yield 0, "meters", reference("old", "swap", LONG_AGO)
    yield 5, "meters", reference("old", "swap", LONG_AGO, f"{on(5)}", end="525", version=2)
    yield 5, "meters", reference("new", "swap", f"{on(5)}", start="0")
    for n in range(DAYS):
        for number, meter in enumerate(ACCOUNTS[:3], 1):
            row = two_rates(meter, n, f"{number * 2}.64000000000001", f"{number}.{n:02d}")
            yield (8 if (meter, n) == ("r2", 3) else row[0]), *row[1:]
    yield 9, *two_rates("r3", 4, "1", "1.5", version=2)[1:]
    for n in range(-1, DAYS):
        used = 1.5 * (n + 1)
        yield shown("turn", n, (9_990 + used) % 10_000, used, f"{2 + n % 3 / 10}")
        if n < 5:
            yield shown("old", n, 500 + 5 * (n + 1), 5 * (n + 1))
        else:
            yield shown("new", n, 4 * (n - 4), 4 * (n - 4), md="")
        if n not in (3, 4, 5):
            yield shown("late", n, 80 + 10 * n + n % 2, 10 * n + 10)
    yield 10, *shown("late", 4, 119.5, 49)[1:]
    yield 9, *shown("turn", 3, 9_996.25, 6, version=2)[1:]
    yield 6, *shown("late", 3, 99, 0, status="1")[1:]


class Metered(Landed):
    """The utility of the story."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        rows: dict[tuple[str, int], list[str]] = {}
        for day, source, row in deliveries():
            rows.setdefault((source, day), []).append(row)
        for (source, day), some in rows.items():
            path = folder / "landing" / source / f"{source}-{on(day):%Y%m%d}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join([HEADERS[source], *some]) + "\n")
        (folder / "wattier.yaml").write_text(CONFIG)
        (folder / "policy.yaml").write_text(POLICY)


def test_registers_and_two_rate_days_through_flink(tmp_path, streams):
    utility = Metered(tmp_path / "bounded")
    stream = streams(utility, writes=False)
    stream.start()
    landed = list(utility.days.values())
    stream.feed([path for paths in landed[:6] for path in paths])
    stream.wait_through(on(4), 600)
    for paths in landed[6:]:
        stream.feed(paths)
    stream.wait(600)
    stream.wait_through(LAST, 600)
    stream.stop()
    assert_equal_marts(stream.marts, utility.run(), same_deliveries=False)
    report = verify(str(stream.marts), load_config(stream.folder / "wattier.yaml").policy, all_days=True)
    assert report.ok, str(report)

    # Worked out by hand: what the registers rose by, times the multiplier; and the last day's two rates.
    energy = dict(stream.query("SELECT account_id, sum(energy_wh)::BIGINT FROM daily_consumption GROUP BY ALL"))
    assert (energy["turn"], energy["late"]) == (12 * 30_000, 120_000)
    assert energy["swap"] == 20 * (25_000 + 28_000)
    assert stream.query(
        "SELECT energy_wh, peak_wh, valley_wh FROM daily_consumption "
        f"WHERE account_id = 'r3' AND service_date IN ('{on(4)}', '{LAST}') ORDER BY service_date"
    ) == [(2_500, 1_000, 1_500), (9_750, 6_640, 3_110)]
    assert stream.query(
        "SELECT max_demand_w_mtd, demand_days_mtd, load_factor_mtd_ppm, max_demand_w_last_month FROM features "
        f"WHERE account_id = 'turn' AND service_date = '{LAST}'"
    ) == [(44_000, 5, 30_000 * 1_000_000 // (44_000 * 24), 44_000)]
    assert stream.query("SELECT count(*) FROM rejects UNION ALL SELECT count(*) FROM reading_exceptions") == [
        (0,),
        (0,),
    ]
