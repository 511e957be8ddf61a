"""The benchmarks run, and both peers give Wattier's answers. No time is asserted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
WORLD = ["--accounts=2000", "--days=40", "--shards=2", "--measured=1", "--memory=1GB"]
CONTENDERS = ("full", "incremental", "command", "warm")

pytestmark = pytest.mark.slow


def run(script, *options):
    # Other tests of this process may have run worker processes, and these are started with safe paths.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, str(BENCHMARKS / script), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a world that has been measured once; what was printed is in `printed`."""
    folder = tmp_path_factory.mktemp("benchmark")
    code, printed, errors = run(
        "tick.py", *WORLD, f"--work={folder}", "--json", *(f"--only={name}" for name in CONTENDERS)
    )
    assert code == 0, errors
    (folder / "printed").write_text(printed)
    return folder


def test_every_contender_ran_and_both_peers_gave_the_published_marts(work):
    printed = json.loads((work / "printed").read_text())
    assert set(printed["outcomes"]) == set(CONTENDERS)
    for outcome in printed["outcomes"].values():
        assert len(outcome["stages"]) == len(outcome["cpu"]) == 1
        assert outcome["peak"] > 0
    for marts in printed["compared"].values():
        assert {mart: found["differing"] for mart, found in marts.items()} == dict.fromkeys(marts, 0)
        assert all(found["rows"] for found in marts.values())


def test_one_changed_wh_of_a_peer_is_found(work):
    file = next(work.glob("*/peer-full/*/features.parquet"))
    with duckdb.connect() as con:
        con.execute(f"CREATE TABLE f AS FROM '{file}'")
        con.execute("UPDATE f SET wh_7d = wh_7d + 1 WHERE account_id = (SELECT min(account_id) FROM f)")
        con.execute(f"COPY f TO '{file}'")
    code, printed, errors = run("tick.py", *WORLD, f"--work={work}", "--contender=compare-full")
    assert code == 0, errors
    (marts,) = json.loads(printed)["stages"]
    assert {mart for mart, found in marts.items() if found["differing"]} == {"features"}
    assert marts["features"]["differing"] == 2


@pytest.mark.parametrize("allocation", ["fifo", "priority"])
def test_credit_carried_on_equals_summed_up_anew(allocation):
    sizes = ("--accounts=500", "--months=15", "--times=1")
    code, printed, errors = run("credit.py", *sizes, f"--allocation={allocation}", "--json")
    assert code == 0, errors
    said = json.loads(printed)
    assert said["equal"]
    for day in said["found"].values():
        assert all(day[contender]["allocated"] > 0 for contender in ("summed up anew", "carried on"))


def test_registers_give_the_marts_of_interval_energy_and_a_ratio(tmp_path):
    options = ["--accounts=500", "--days=12", "--shards=2", "--measured=2", f"--work={tmp_path}", "--json"]
    code, printed, errors = run("registers.py", *options)
    assert code == 0, errors
    said = json.loads(printed)
    assert all(ratio > 0 for ratio in said["ratios"].values())
    assert {found["differing"] for found in said["compared"].values()} == {0}
    assert said["compared"]["features"]["rows"] > 900


def test_late_readings_cost_something_and_give_what_the_oracle_gives(tmp_path):
    options = ["--accounts=500", "--days=12", "--shards=2", "--measured=2", f"--work={tmp_path}", "--json"]
    code, printed, errors = run("late.py", *options)
    assert code == 0, errors
    said = json.loads(printed)
    assert said["mismatches"] == 0
    assert all(ratio > 0 for ratio in said["ratios"].values())


def test_growth_runs_and_gives_a_ratio(tmp_path):
    options = ["--accounts=300", "--early=10", "--late=20", "--measured=1", "--rounds=1", "--shards=1"]
    code, printed, errors = run("growth.py", *options, f"--work={tmp_path}")
    assert code == 0, errors
    assert printed.splitlines()[-1].startswith("ratio: ")


def test_a_stream_and_flink_sql_give_the_same_windows(tmp_path, flink_cluster, kafka_broker):
    infra = [f"--flink={flink_cluster.folder}", f"--kafka={kafka_broker.folder}"]
    world = ["--accounts=300", "--days=5", "--shards=2", "--parallelism=2", "--only=sql-heap", "--only=wattier"]
    code, printed, errors = run("stream.py", *world, *infra, f"--work={tmp_path}", "--json")
    assert code == 0, errors
    said = json.loads(printed)
    assert [outcome["contender"] for outcome in said["outcomes"]] == ["sql-heap", "wattier"]
    assert all(outcome["readings"] > 0 for outcome in said["outcomes"])
    ((_, found),) = said["compared"].items()
    assert (found["differing"], found["days"]) == (0, 5)
    assert found["rows"] > 1_000


def test_a_policy_that_is_tried_gives_what_recomputing_gives():
    code, printed, errors = run(
        "what_if.py", "--accounts=300", "--days=8", "--tried=4", "--shards=2", "--without-run", "--json"
    )
    assert code == 0, errors
    found = json.loads(printed)
    assert found["differ"] == []
    assert set(found["outcomes"]) == {"what-if", "with --out", "events"}
    assert all(found["rows"].values())
