"""The Tianchi example, start to end: published, verified, equal however it is run, and no change goes unseen."""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import dataclass, replace
from datetime import date, timedelta

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.config import load_config
from pipelines.publish import Publisher
from pipelines.report import write_report
from pipelines.run import run
from pipelines.verify import verify
from pipelines.warehouse import Warehouse
from schemas.labels import label
from schemas.marts import MARTS, RUN_METADATA
from tests.browser import CHROMIUM, opened
from tests.real.conftest import FIXTURE, REAL
from tests.real.fixture import make

pytestmark = pytest.mark.slow

FIRST_DAY = date(2015, 1, 1)


@dataclass(frozen=True)
class Size:
    """What is in the data: enterprises, days, ledger events."""

    enterprises: int
    days: int
    events: int

    def day(self, number: int) -> date:
        """The `number`th service day."""
        return FIRST_DAY + timedelta(number - 1)


SMALL = Size(make.ENTERPRISES, make.DAYS, 2 * make.CUSTOMERS * make.INVOICES)
SIZE = Size(1454, 547, 4932) if REAL else SMALL


@pytest.fixture(scope="module")
def published(tianchi):
    """The example after `wattier run`: one backfill of every day, with the audit."""
    done = tianchi.wattier("run", "--json")
    assert done.returncode == 0, done.stderr
    return tianchi, json.loads(done.stdout)


def test_the_fixture_is_what_its_script_makes(tmp_path):
    make.main(tmp_path)
    for name in make.texts():
        read = gzip.decompress if name.endswith(".gz") else bytes
        assert read((FIXTURE / name).read_bytes()) == read((tmp_path / name).read_bytes())


@pytest.fixture(scope="module")
def small(small_tianchi):
    """The small example, published without the audit."""
    run(load_config(small_tianchi.folder / "wattier.yaml"), audit=False)
    return small_tianchi


def test_every_row_is_accepted_and_every_day_published(published):
    example, report = published
    rows = SIZE.enterprises * SIZE.days
    wanted = {
        "meter_readings": rows, "ledger_events": SIZE.events, "accounts": SIZE.enterprises, "meters": SIZE.enterprises,
    }  # fmt: skip
    assert {source: c["read"] for source, c in report["counts"].items()} == wanted
    assert {source: c["accepted"] for source, c in report["counts"].items()} == wanted
    assert (report["days"], report["through"]) == (SIZE.days, str(SIZE.day(SIZE.days)))
    with duckdb.connect(str(example.marts()), read_only=True) as con:
        for mart in ("features", "daily_consumption"):
            assert con.sql(f"SELECT count(*), min(service_date) FROM {mart}").fetchall() == [(rows, FIRST_DAY)]


def test_verify_compares_every_day_and_finds_nothing(published):
    example, _ = published
    done = example.wattier("verify", "--all", "--json")
    report = json.loads(done.stdout)
    assert (done.returncode, report["mismatches"], report["differences"]) == (0, 0, [])
    days = {mart["mart"]: mart["days"] for mart in report["marts"] if mart["days"] is not None}
    told = ("service_days", "daily_consumption", "features", "cutoffs", "scores", "tier_shares")
    assert days == dict.fromkeys(told, SIZE.days)
    rows = {mart["mart"]: mart["rows"] for mart in report["marts"]}
    assert rows["features"] == SIZE.enterprises * SIZE.days
    assert min(rows["customer_tiers"], rows["tier_migrations"], rows["tier_migration_matrix"]) > 0


@pytest.mark.parametrize("query", ["classes.sql", "months.sql", "tiers.sql"])
def test_the_readme_shows_what_the_query_gives(published, query):
    lacking = published[0].not_shown(query)
    assert not (REAL and lacking)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_report_opens_in_a_browser_asks_for_nothing_and_tells_what_sql_tells(published, lang):
    example, _ = published
    path = write_report(example.marts(), None, lang=lang)
    with duckdb.connect(str(example.marts()), read_only=True) as con:

        def asked(sql):
            return [["" if v is None else str(v) for v in row] for row in con.execute(sql).fetchall()]

        (month,) = con.execute("SELECT strftime(max(month), '%Y-%m') FROM tier_migration_matrix").fetchall()[0]
        page = opened(path, choose=month)
        assert (page.logged, page.asked_for) == ([], [path.as_uri()])
        assert page.title == label("report", "title", lang)
        assert page.drawn == {"today", "by_month", "by_day", "flow", "heat", "causes", "pareto", "stability"}
        last = SIZE.day(SIZE.days)
        told = {
            "today": f"""SELECT s.tier, s.accounts, accounts_ppm, energy_wh, energy_ppm, turnover_minor, turnover_ppm,
                mean_tenure_days FROM tier_shares s JOIN tier_tenure t USING (scope, tier)
                WHERE scope = 'all' AND service_date = '{last}' AND month = '{last.replace(day=1)}'""",
            "month_moves": "SELECT month, from_tier, to_tier, accounts FROM tier_migration_matrix",
            "stability": """SELECT month, migrations, upgrades, downgrades, upgrade_ratio_ppm, flaps, flap_rate_ppm, mobility_ppm,
                psi_month_micro, psi_year_micro FROM tier_stability WHERE scope = 'all'""",
            "concentration": """SELECT date_trunc('month', service_date)::DATE, scope, any_value(top20_share_ppm),
                any_value(gini_ppm) FROM cutoffs SEMI JOIN (SELECT max(service_date) AS service_date FROM service_days
                GROUP BY date_trunc('month', service_date)) USING (service_date) SEMI JOIN pareto USING (metric) GROUP BY ALL""",
        }
        for table, sql in told.items():
            assert sorted(page.cells[table]) == sorted(asked(sql)), table


def test_a_backfill_and_single_days_publish_the_same(small):
    example, size = small, SMALL
    config = load_config(example.config("by_day"))
    first, last = 82, 105
    for number in sorted({*range(first - 1, last + 1), size.days}):
        report = run(config, through=size.day(number), audit=number == size.days)
        assert report.through == size.day(number)
    assert report.generation >= last - first + 2
    assert_equal_marts(example, "by_day")
    with duckdb.connect(str(example.marts()), read_only=True) as con:
        days = [size.day(first), size.day(last)]
        causes = con.execute("SELECT DISTINCT cause FROM tier_migrations WHERE service_date BETWEEN ? AND ?", days)
        # Each of these needs something of the day before, which a single-day run has to find in what the last one left.
        assert {"cutoff_moved", "due_date", "stay_ended", "own_use"} <= {cause for (cause,) in causes.fetchall()}


def test_two_worker_processes_and_sixteen_shards_publish_the_same(small):
    config = small.config("two_processes", shards=16)
    beam = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")
    done = small.wattier("run", "--no-audit", "--config", str(config), "--", *beam)
    assert done.returncode == 0, done.stderr
    assert_equal_marts(small, "two_processes")


def test_one_shard_publishes_the_same(small):
    run(load_config(small.config("one_shard", shards=1)), audit=False)
    assert_equal_marts(small, "one_shard")


def test_what_is_changed_in_published_files_is_found_and_named(small):
    example = small
    config = example.config("doctored")
    shutil.copytree(example.folder / "warehouse", example.folder / "doctored")
    warehouse = Warehouse(str(example.folder / "doctored"))
    changed, lines = doctor(warehouse, SMALL)

    damaged = example.wattier("verify", "--config", str(config))
    assert damaged.returncode == 8
    assert all(f"{path}: damaged: its checksum is not the one" in damaged.stderr for path in changed)

    standing = warehouse.load()
    entries = [replace(entry, sha256=changed.get(entry.path, entry.sha256)) for entry in standing.entries]
    forged = replace(standing, number=standing.number + 1, entries=tuple(entries))
    warehouse.point(forged.number, warehouse.write(forged))
    Publisher(warehouse).derive(forged)
    found = example.wattier("verify", "--all", "--config", str(config))
    assert found.returncode == 6, found.stderr
    assert [line for line in found.stdout.splitlines() if ", expected " in line] == sorted(lines)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_each_change_alone_is_found_and_named(small, tmp_path, number):
    shutil.copytree(small.folder / "warehouse", tmp_path / "doctored")
    warehouse = Warehouse(str(tmp_path / "doctored"))
    _, lines = doctor(warehouse, SMALL, only=number)
    Publisher(warehouse).derive(warehouse.load())
    report = verify(str(warehouse.marts), load_config(small.folder / "wattier.yaml").policy, all_days=True)
    assert (report.mismatches, [str(difference) for difference in report.differences]) == (1, lines)


def doctor(warehouse, size, only=None):
    """Change one Wh in features, one tier and one cut-off. Returns (path -> new checksum, what verify should say)."""
    standing = warehouse.load()
    half = size.day(size.days // 2)
    changes = [
        ("features", "wh_30d", lambda r: r["service_date"] == half and r["wh_30d"] > 0, lambda value: value + 1),
        ("customer_tiers", "tier", lambda r: r["tier"] == "mid_large", lambda _: "high"),
        ("cutoffs", "amount", lambda r: (r["service_date"], r["side"]) == (half, "exit"), lambda value: value - 1),
    ]
    digests, lines = {}, []
    for mart, column, wanted, change in [c for n, c in enumerate(changes) if only in (None, n)]:
        entry, table, at = next(
            (entry, table, at)
            for entry in standing.of(f"mart:{mart}")
            for table in [warehouse.store.read_parquet(entry)]
            for at, row in enumerate(table.select([*MARTS[mart].keys, column]).to_pylist())
            if wanted(row)
        )
        row = table.slice(at, 1).to_pylist()[0]
        values = table[column].to_pylist()
        values[at] = change(row[column])
        place = table.schema.get_field_index(column)
        field = table.schema.field(place)
        pq.write_table(table.set_column(place, field, pa.array(values, field.type)), warehouse.store.full(entry.path))
        digests[entry.path] = warehouse.store.digest(entry.path)
        lines.append(f"{mart} {named(mart, row)}: {column} is {values[at]}, expected {row[column]}")
    return digests, lines


def named(mart, row):
    """A row as verify names it."""
    keys = sorted(MARTS[mart].keys, key=lambda key: (key != "service_date", key != "account_id"))
    return " ".join(str(row[key]) if key == "service_date" else f"{key.removesuffix('_id')} {row[key]}" for key in keys)


def assert_equal_marts(example, other):
    """Every mart that tells of customers has the same rows in both warehouses, each as often."""
    with duckdb.connect() as con:
        con.execute(
            f"ATTACH '{example.marts()}' AS one (READ_ONLY); ATTACH '{example.marts(other)}' AS two (READ_ONLY)"
        )
        for mart in (name for name in MARTS if name not in RUN_METADATA):
            for a, b in (("one", "two"), ("two", "one")):
                only = con.sql(f"FROM (FROM {a}.{mart} EXCEPT ALL FROM {b}.{mart}) LIMIT 3").fetchall()
                assert not only, f"{mart}: rows that only {a} has"
