"""A utility's folder for the tests of the whole run: files land in it by a tiny CSV writer, and its marts are compared."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb

from pipelines import oracle
from pipelines.config import Config, load_config
from pipelines.run import RunReport, run
from pipelines.status import check_files
from pipelines.templates import write_templates
from pipelines.verify import COMPARED, EVENTS, verify
from pipelines.warehouse import Warehouse
from schemas.marts import MARTS, RUN_METADATA
from tests.oracles.worlds import GRADED

Row = tuple[str, ...]
"""One row of a landed file, as text, in the order of `HEADERS`."""

HEADERS = {
    "meter_readings": "meter_id,service_date,energy_kwh,quality,revision,peak_kwh,valley_kwh,reverse_kwh,demand_kw",
    "register_readings": "meter_id,service_date,total_kwh,peak_kwh,valley_kwh,reverse_kwh,quality,revision,demand_kw,"
    "multiplier",
    "ledger_events": "account_id,event_id,event_type,event_date,due_date,amount_yuan,bill_id,ref_event_id,revision,"
    "priority,channel,period_from",
    "conduct_events": "account_id,event_id,event_type,event_date,revision",
    "accounts": "account_id,valid_from,category,region,voltage,tariff,preferential,capacity_kva,prepaid,opened_on,closed_on,"
    "revision",
    "meters": "meter_id,installed_on,account_id,removed_on,role,multiplier,modulus_kwh,installed_kwh,removed_kwh,revision",
    "tariffs": "tariff,valid_from,period,yuan_per_kwh,cost,revision",
}
FOLDERS = {
    "meter_readings": "readings", "register_readings": "registers", "ledger_events": "ledger",
    "conduct_events": "conduct", "accounts": "accounts", "meters": "meters", "tariffs": "tariffs",
}  # fmt: skip

REGISTERS = """  register_readings:
    files: "registers/registers-*"
    columns:
      meter_id: meter_id
      service_date: {column: service_date, format: "%Y-%m-%d"}
      index_total: {column: total_kwh, unit: kWh}
      index_peak: {column: peak_kwh, unit: kWh}
      index_valley: {column: valley_kwh, unit: kWh}
      index_reverse: {column: reverse_kwh, unit: kWh}
      max_demand: {column: demand_kw, unit: kW}
      multiplier: {column: multiplier, unit: times}
      quality: {column: quality, map: {A: actual, E: estimated, D: edited}}
    revision: {column: revision}
    known_at: {file_date: "%Y%m%d"}

"""
TARIFFS = """  tariffs:
    files: "tariffs/tariffs-*"
    columns:
      tariff: tariff
      valid_from: {column: valid_from, format: "%Y-%m-%d"}
      period: period
      price_nano: {column: yuan_per_kwh, unit: yuan}
      cost_nano: {column: cost, unit: yuan}
    revision: {column: revision}
    known_at: {file_date: "%Y%m%d"}

"""
PERIODS = """
      peak_wh: {column: peak_kwh, unit: kWh}
      valley_wh: {column: valley_kwh, unit: kWh}
      reverse_wh: {column: reverse_kwh, unit: kWh}
      max_demand_w: {column: demand_kw, unit: kW}
"""
LEDGER = """
      priority: priority
      channel: channel
      period_from: {column: period_from, format: "%Y-%m-%d"}
"""
METERS = """
      role: role
      multiplier: {column: multiplier, unit: times}
      modulus: {column: modulus_kwh, unit: kWh}
      installed_total: {column: installed_kwh, unit: kWh}
      removed_total: {column: removed_kwh, unit: kWh}
"""
"""What the template's sources have more of in these tests."""

DELIVERED = date(2025, 1, 1)
"""Day in the name of the first file that lands, later than every row in it; each file after it has the next day."""

POLICY = (
    """
day_close: {coverage_floor_ppm: 500000, below_floor: hold}
audit: {reject_share_limit_ppm: 1000000}
versions:
  - version: "1"
    effective_from: 2000-01-01
    abc:
      metric: wh_7d
      scope: all
      rule: cumulative_share
      cuts: {A: 50 %, B: 90 %}
      buffers: {A: {entry: 40 %, exit: 60 %}, B: {entry: 85 %, exit: 95 %}}
"""
    + GRADED
    + """    tiers:
      - {rule: thief, tier: abuse, immediate: true, when: [{column: days_since_theft, below: 730}]}
      - {rule: risky, tier: low_risk, immediate: true, when: [{column: credit_grade, equals: C}, {column: abc, equals: A}]}
      - {rule: unsteady, tier: mid_large, when: [{column: abc, equals: A}, {column: cv_90d_ppm, above: 500000}]}
      - {rule: big, tier: high, when: [{column: abc, equals: A}]}
      - {rule: middle, tier: mid_steady, when: [{column: abc, equals: B}]}
      - {rule: small, tier: low_small}
    min_stay_days: 2
    abuse_ladder: {warn_days: 2, restrict_days: 1, release: inspection_passed}
    vee:
      unit_mismatch: {tolerance_ppm: 300000, at_least_wh: 1000, like_days: 1}
      spike: {factor_ppm: 1200000, at_least_wh: 1000, like_days: 1}
      low: {factor_ppm: 800000, at_least_wh: 1000, like_days: 2}
      capacity: {factor_ppm: 1200000}
      frozen: {days: 3}
      zero_use: {days: 2}
      prolonged_estimation: {days: 2}
      inactive_use: {}
      sum_check: {tolerance_ppm: 5000, tolerance_wh: 10}
"""
)
"""A policy under which tiers move within days."""

WITH_ACTIONS = POLICY.replace(
    "    vee:\n",
    """\
    strategy:
      keep_bonus_ppm: 300000
      actions:
        - {action: account_manager, reason: large, resource: managers, priority: 2, due_days: 3,
           when: [{column: tier, one_of: [high, mid_large]}]}
        - {action: account_manager, reason: medium, resource: managers, priority: 3, due_days: 4,
           when: [{column: tier, equals: mid_steady}]}
        - {action: visit, reason: seen, resource: visits, again_days: 4, priority: 1, due_days: 2,
           when: [{column: abc, one_of: [A, B]}]}
        - {action: follow_up_call, reason: called, resource: calls, again_days: 3, priority: 2, due_days: 2,
           when: [{column: abc, one_of: [A, B]}]}
        - {action: valley_tariff_offer, reason: offered, resource: calls, again_days: 5, priority: 2, due_days: 5,
           when: [{column: valley_share_30d_ppm, below: 500000, or_null: true}]}
        - {action: dunning_notice, reason: owes, resource: calls, again_days: 2, priority: 1, due_days: 1,
           when: [{column: overdue_minor, above: 0}]}
        - {action: meter_inspection, reason: inspected, resource: inspectors, again_days: 2, priority: 1, due_days: 1,
           when: [{column: abuse_step, one_of: [warn, restrict]}]}
        - {action: release, reason: released, priority: 1, due_days: 1, when: [{column: abuse_step, equals: release}]}
        - {action: hotline, reason: small, priority: 9, due_days: 9, when: [{column: tier, not_one_of: [high]}]}
    vee:
""",
)
"""The same with service actions for everybody, some of them scarce: for tests that are about them, as each day then has a plan."""

CAPACITY = """
versions:
  - effective_from: 2000-01-01
    managers: {staff: 1, accounts_each: 2, visits_each: 1}
    inspectors: {staff: 1, inspections_each: 1}
    calls: 2
"""
"""Staff for a few accounts: places are scarce."""


class Bureau:
    """A folder that `wattier init` set up, with the test's policy, and settings changed by pairs of texts."""

    def __init__(self, folder: Path, *changes: tuple[str, str], policy: str = POLICY, shards: int = 2) -> None:
        self.folder = folder
        write_templates(folder)
        self.set_policy(policy)
        self.set_capacity(CAPACITY)
        self.configure(
            ("shards: 4", f"shards: {shards}"),
            ("features: 35", "features: 4000"),
            ("daily_consumption: 400", "daily_consumption: 4000"),
            (
                "      energy_wh: {column: energy_kwh, unit: kWh}\n",
                f"      energy_wh: {{column: energy_kwh, unit: kWh}}{PERIODS}",
            ),
            ("  ledger_events:", f"{REGISTERS}{TARIFFS}  ledger_events:"),
            ("      ref_event_id: ref_event_id\n", f"      ref_event_id: ref_event_id{LEDGER}"),
            (
                '      removed_on: {column: removed_on, format: "%Y-%m-%d"}\n',
                f'      removed_on: {{column: removed_on, format: "%Y-%m-%d"}}{METERS}',
            ),
            *changes,
        )
        self.landed = 0

    def copy(self, folder: Path) -> Bureau:
        """The same in another folder. Until its next run the marts name the files of this one, which must stay."""
        shutil.copytree(self.folder, folder)
        other = copy.copy(self)
        other.folder = folder
        return other

    # --- configuration
    def configure(self, *changes: tuple[str, str]) -> None:
        """Replace texts in wattier.yaml, each wherever it stands."""
        path = self.folder / "wattier.yaml"
        text = path.read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path.write_text(text)

    def set_policy(self, text: str) -> None:
        (self.folder / "policy.yaml").write_text(text)

    def set_capacity(self, text: str) -> None:
        (self.folder / "capacity.yaml").write_text(text)

    @property
    def config(self) -> Config:
        return load_config(self.folder / "wattier.yaml")

    # --- landing
    def land(self, source: str, rows: Iterable[Row], name: str | None = None) -> Path:
        """Land one file; unless named, its name says a day after that of the file before."""
        if name is None:
            name = f"{FOLDERS[source]}-{DELIVERED + timedelta(days=self.landed):%Y%m%d}.csv"
            self.landed += 1
        path = self.folder / "landing" / FOLDERS[source] / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join([HEADERS[source], *(",".join(row) for row in rows)]) + "\n")
        return path

    def land_all(self, events: Iterable[tuple[str, Row]]) -> None:
        """Land rows of any sources, one file for each source that occurs."""
        by_source: dict[str, list[Row]] = {}
        for source, row in events:
            by_source.setdefault(source, []).append(row)
        for source, rows in by_source.items():
            self.land(source, rows)

    # --- running and reading
    def run(
        self, through: date | None = None, beam_options: Sequence[str] = (), *, audit: bool = False, **more: Any
    ) -> RunReport:
        return run(self.config, through=through, beam_options=beam_options, audit=audit, **more)

    @property
    def marts(self) -> Path:
        return self.folder / "warehouse" / "marts.duckdb"

    def query(self, sql: str) -> list[tuple]:
        with duckdb.connect(str(self.marts), read_only=True) as con:
            return con.execute(sql).fetchall()

    def keep_marts(self, name: str) -> Path:
        """A copy of the marts as they are now; the files they name are immutable."""
        return Path(shutil.copy(self.marts, self.folder / f"{name}.duckdb"))

    def check(self) -> None:
        """Every file is as it was written, and every mart on every service day as the oracle says."""
        config = self.config
        assert check_files(Warehouse(config.warehouse)) == []
        report = verify(str(self.marts), config.policy, all_days=True)
        assert report.ok, str(report)


WITHOUT_DELIVERY = {
    "pending": "DISTINCT source, name, event_date, reason",
    "rejects": 'DISTINCT source, "column", value, reason',
}
"""What rejected and pending rows say apart from the file and row they came with."""


@contextmanager
def _both(one: Path, other: Path):
    with duckdb.connect() as con:
        for name, path in (("one", one), ("other", other)):
            con.execute(f"ATTACH '{path}' AS {name} (READ_ONLY)")
        yield con


def assert_equal_marts(one: Path, other: Path, *, same_deliveries: bool) -> None:
    """Every mart but run metadata holds the same rows, by EXCEPT ALL both ways."""
    with _both(one, other) as con:
        found = {}
        for mart in MARTS.keys() - set(RUN_METADATA):
            columns = "*" if same_deliveries else WITHOUT_DELIVERY.get(mart, "*")
            if mart == "rejects" and same_deliveries:
                columns = "* EXCLUDE (file)"
            rows = con.execute(
                f"SELECT * FROM (SELECT {columns} FROM one.{mart} EXCEPT ALL SELECT {columns} FROM other.{mart}) UNION ALL BY NAME"
                f" SELECT * FROM (SELECT {columns} FROM other.{mart} EXCEPT ALL SELECT {columns} FROM one.{mart})"
            ).fetchall()
            if rows:
                found[mart] = rows[:6]
        assert not found, f"{one} and {other} differ: {found}"


def assert_as_known(marts: Path, final: Path, config: Config, deliveries: int, through: date | None) -> None:
    """The publication `marts` equals the oracle over the events of the first so many deliveries, as `final` logs them."""
    with duckdb.connect() as con:
        con.execute(f"ATTACH '{marts}' AS published (READ_ONLY)")
        con.execute(f"ATTACH '{final}' AS final (READ_ONLY)")
        for name in EVENTS:
            con.execute(f"CREATE VIEW {name} AS FROM final.{name}")
        first, last = oracle.calendar(con, config.policy, through or DELIVERED, as_known=deliveries)
        if first is None or last is None:
            assert con.execute("SELECT count(*) FROM published.service_days").fetchone() == (0,)
            return
        oracle.recompute(con, config.policy, first, last, as_known=deliveries)
        found = {}
        for mart in COMPARED:
            columns = ", ".join(f'"{c.name}"' for c in MARTS[mart].columns)
            sides = [f"SELECT {columns} FROM {schema}.{mart}" for schema in ("published", "oracle")]
            for which, (a, b) in (("extra", sides), ("missing", reversed(sides))):
                if rows := con.execute(f"{a} EXCEPT ALL {b}").fetchall():
                    found[mart, which] = rows[:4]
        assert not found, f"as of delivery {deliveries}: {found}"


def balance(row: Mapping[str, int]) -> bool:
    """Whether a row of `pipeline_runs` accounts for every row that came."""
    went = ("rows_accepted", "rows_superseded", "rows_rejected", "rows_pending")
    return row["rows_read"] + row["rows_redriven"] == sum(row[name] for name in went)


def assert_balanced(bureau: Bureau) -> None:
    """Every row of every source and run is accounted for, and what waits is what the next run drives again."""
    with duckdb.connect(str(bureau.marts), read_only=True) as con:
        runs = con.sql("FROM pipeline_runs ORDER BY generation").to_arrow_table().to_pylist()
        waiting = dict(con.execute("SELECT source, count(*) FROM pending GROUP BY source").fetchall())
    assert runs
    last: dict[str, int] = {}
    for row in runs:
        assert balance(row), row
        last[row["source"]] = row["rows_pending"]
    for source, rows in waiting.items():
        assert last[source] == rows, source
