"""One table of equalities: a month of real days, run in process, on Prism and on Flink, bounded and as streams."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import duckdb
import pytest

from infra import fetch
from pipelines.warehouse import Warehouse
from schemas.marts import MARTS, RUN_METADATA
from tests.clusters import Flink, eventually
from tests.pipeline.bureau import assert_equal_marts
from tests.real.conftest import EXAMPLES, data_folder
from tests.streaming.job import Landed

pytestmark = pytest.mark.slow

MORE = """
    dimensions:
      - dimension: current_value
        parts:
          - {part: energy, column: wh_30d, weight: 100, top: [{share: 5 %, points: 100}, {share: 20 %, points: 60}, {points: 20}]}
      - dimension: stability
        parts:
          - part: evenness
            column: cv_90d_ppm
            weight: 100
            order: smallest_first
            top: [{share: 1/3, points: 100}, {points: 20}]
            if_null: 0

    strategy:
      keep_bonus_ppm: 200000
      actions:
        - {action: account_manager, reason: large, resource: managers, priority: 1, due_days: 5,
           when: [{column: tier, one_of: [high, mid_large]}]}
        - {action: follow_up_call, reason: steady, resource: calls, again_days: 10, priority: 2, due_days: 10,
           when: [{column: current_value_score, at_least: 60}, {column: stability_score, at_least: 20}]}
        - {action: credit_supervision, reason: risk, priority: 1, due_days: 3, when: [{column: tier, equals: low_risk}]}
"""
STAFF = """
versions:
  - effective_from: 2000-01-01
    managers: {staff: 2, accounts_each: 15}
    calls: 9
"""
"""What the example's policy has not: dimensions, and actions with scarce places. Without the stay, more migrates in a month."""

FIRST, DAYS = date(2015, 1, 1), 31
LAST = FIRST + timedelta(DAYS - 1)
COMPARED = sorted(MARTS.keys() - set(RUN_METADATA))


class RealMonth(Landed):
    """The Tianchi example over its first month, with a file a day: what is of a day lands on the next."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        shutil.copytree(EXAMPLES / "tianchi", folder)
        subprocess.run([sys.executable, "prepare.py", str(data_folder()), "whole"], cwd=folder, check=True)
        text = (folder / "wattier.yaml").read_text("utf-8").replace("Tianchi_power.csv.gz", "readings.csv")
        for source in ("readings", "ledger", "accounts", "meters"):
            text = text.replace(f'files: "{source}.csv"', f'files: "{source}/{source}-*"')
            (folder / "landing" / source).mkdir(parents=True)
        text = text.replace("policy: policy.yaml", "policy: policy.yaml\ncapacity: capacity.yaml")
        (folder / "wattier.yaml").write_text(text, "utf-8")
        policy = (folder / "policy.yaml").read_text("utf-8").replace("min_stay_days: 30", "min_stay_days: 3")
        (folder / "policy.yaml").write_text(policy + MORE, "utf-8")
        (folder / "capacity.yaml").write_text(STAFF, "utf-8")
        for source in ("accounts", "meters"):
            shutil.copy(folder / "whole" / f"{source}.csv", self.file(source, FIRST))
        with duckdb.connect() as con:
            con.execute(f"""CREATE TABLE readings AS SELECT user_id, record_date, power_consumption,
                strptime(record_date, '%Y/%m/%d')::DATE AS day
                FROM read_csv('{folder}/whole/Tianchi_power.csv.gz', all_varchar = true);
                CREATE TABLE ledger AS SELECT *, event_date::DATE AS day
                FROM read_csv('{folder}/whole/ledger.csv', all_varchar = true)""")
            for day in (FIRST + timedelta(n) for n in range(DAYS)):
                for source in ("readings", "ledger"):
                    rows = f"SELECT * EXCLUDE (day) FROM {source} WHERE day = DATE '{day}' ORDER BY ALL"
                    con.execute(f"COPY ({rows}) TO '{self.file(source, day + timedelta(1))}' (HEADER)")

    def file(self, source: str, day: date) -> Path:
        """Where what lands of a source on a day lies."""
        return self.folder / "landing" / source / f"{source}-{day:%Y%m%d}.csv"

    def config(self, name: str, landing: str = "landing") -> Path:
        """The configuration with another warehouse."""
        text = (self.folder / "wattier.yaml").read_text("utf-8")
        text = text.replace("warehouse: warehouse", f"warehouse: {name}").replace(
            "landing: landing", f"landing: {landing}"
        )
        path = self.folder / f"{name}.yaml"
        path.write_text(text, "utf-8")
        return path

    def start(self, name: str, command: str, *options: str, landing: str = "landing") -> subprocess.Popen[bytes]:
        """`wattier run` or `wattier stream` into a warehouse of that name; Beam's options stand after `--`."""
        call = [
            sys.executable,
            "-P",
            "-m",
            "pipelines",
            command,
            "--no-audit",
            "--config",
            str(self.config(name, landing)),
        ]
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen([*call, *options], stdout=log, stderr=subprocess.STDOUT)

    def finish(self, name: str, process: subprocess.Popen[bytes]) -> Path:
        """Wait until it has ended well; its marts."""
        try:
            assert process.wait(600) == 0, (self.folder / f"{name}.log").read_text()[-4000:]
        finally:
            process.kill()
            process.wait()
        return self.folder / name / "marts.duckdb"

    def bounded(self, name: str, *beam: str) -> Path:
        """The marts of a bounded run."""
        return self.finish(name, self.start(name, "run", "--", *beam))


@pytest.fixture(scope="module")
def days(tmp_path_factory) -> RealMonth:
    return RealMonth(tmp_path_factory.mktemp("real") / "tianchi")


@pytest.fixture(scope="module")
def once(days) -> Path:
    """The marts of one bounded run in process, which all others are held against."""
    return days.bounded("once")


@pytest.fixture(scope="module")
def prism() -> str:
    """Beam's options for Prism; skipped, with the reason, where Go cannot build it."""
    try:
        return f"--prism_location={fetch.prism(fetch.cache_dir())}"
    except fetch.Missing as missing:
        pytest.skip(f"Prism: {missing}")


@pytest.fixture
def equal(once, record_property) -> Callable[[str, Path], None]:
    """Compares marts row for row, and enters their numbers of rows into the table that the terminal shows."""

    def compare(runner: str, marts: Path) -> None:
        assert_equal_marts(marts, once, same_deliveries=False)
        with duckdb.connect(str(marts), read_only=True) as con:
            rows = {mart: con.sql(f"SELECT count(*) FROM {mart}").fetchall()[0][0] for mart in COMPARED}
        assert all(
            rows[mart] for mart in ("features", "scores", "tier_migrations", "service_actions", "planned_actions")
        )
        record_property("equalities", (runner, rows))

    return compare


def test_in_process(once, equal):
    with duckdb.connect(str(once), read_only=True) as con:
        found = con.sql("SELECT count(DISTINCT service_date), max(service_date) FROM features").fetchall()
        causes = con.sql("SELECT count(DISTINCT cause), count(*) FROM tier_migrations").fetchall()
        calls = con.sql("SELECT max(planned), max(candidates) FROM plan_capacity WHERE resource = 'calls'").fetchall()
    assert found == [(DAYS, LAST)]
    assert causes[0][0] >= 3
    assert causes[0][1] > 50
    assert calls[0][0] == 9
    assert calls[0][1] > 9
    equal("in process", once)


def test_prism(days, equal, prism):
    equal("Prism", days.bounded("prism", "--runner=PrismRunner", prism))


def test_prism_as_a_stream_of_landing_files(days, equal, prism):
    landing, name = days.folder / "landing-stream", "prism-stream"
    files = sorted(days.folder.glob("landing/*/*.csv"), key=lambda path: path.stem.rsplit("-", 1)[1])
    landing.mkdir()
    process = days.start(
        name, "stream", f"--until={LAST}", "--cut-seconds=1", "--", "--runner=PrismRunner", prism,
        "--experiments=prism_disable_sdf_split", landing=landing.name,
    )  # fmt: skip
    try:
        for part in (files[: len(files) // 2], files[len(files) // 2 :]):
            for path in part:
                (landing / path.parent.name).mkdir(exist_ok=True)
                shutil.copy(path, landing / "part").rename(landing / path.parent.name / path.name)
            warehouse = Warehouse(str(days.folder / name))
            eventually(lambda: warehouse.load().through or process.poll() is not None, 600, "the first days")  # noqa: B023
        marts = days.finish(name, process)
    finally:
        process.kill()
        process.wait()
    equal("Prism, stream of files", marts)


def test_flink(days, equal, flink_cluster: Flink):
    equal("Flink", days.bounded("flink", *flink_cluster.options()))


def test_flink_as_a_stream_of_topics(days, equal, streams):
    stream = streams(days)
    stream.start()
    for paths in days.days.values():
        stream.feed(paths)
    stream.wait(600)
    stream.wait_through(LAST, 600)
    stream.stop()
    equal("Flink, stream of topics", stream.marts)
