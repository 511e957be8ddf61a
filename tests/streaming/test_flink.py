"""A utility's week through Kafka and Flink gives what a bounded run gives, whatever dies on the way."""

from __future__ import annotations

import time
import urllib.request
from collections import Counter
from datetime import date

import pytest

from schemas.metrics import NAMESPACE
from tests.clusters import Flink, Kafka, eventually
from tests.payers import LAST, BadPayers, assert_badly_paid
from tests.pipeline.bureau import WITH_ACTIONS, assert_equal_marts
from tests.streaming.job import Stream, Utility

pytestmark = pytest.mark.slow


def test_a_week_of_20_000_accounts(tmp_path, streams):
    utility = Utility(tmp_path / "bounded", 20_000, 7)
    stream = streams(utility)
    stream.start()
    for paths in utility.days.values():
        stream.feed(paths)
    stream.wait()
    stream.wait_through(date(2025, 1, 7))
    stream.stop()
    assert_equal_marts(stream.marts, utility.run(), same_deliveries=False)
    assert stream.jobs == []


def assert_told(stream: Stream) -> None:
    """Of each migration the topic holds one message for the publication that made its day last, with the same tiers."""
    last: dict[tuple[str, str], tuple[int, str, str]] = {}
    for change in stream.changes().values():
        if change["status"] == "final":
            of, told = (str(change["account_id"]), str(change["service_date"])), int(str(change["generation"]))
            last[of] = max(last.get(of, (0, "", "")), (told, str(change["from_tier"]), str(change["to_tier"])))
    made = stream.query("SELECT account_id, service_date::VARCHAR, from_tier, to_tier FROM tier_migrations")
    assert made
    for account, day, before, after in made:
        assert last[account, day][1:] == (before, after)


def test_whatever_dies_the_marts_are_the_same(tmp_path, streams, flink_cluster: Flink):
    utility = Utility(tmp_path / "bounded", 2_000, 8, WITH_ACTIONS)
    stream = streams(utility)
    stream.start()
    landed = list(utility.days.values())
    stream.feed([path for paths in landed[:2] for path in paths])
    stream.wait_through(date(2025, 1, 1))
    (job,) = stream.jobs

    for number, part in enumerate(("task-manager-1", "worker-pool"), 2):
        stream.feed(landed[number])
        eventually(lambda: flink_cluster.checkpoints(job)["completed"] > 0, 120, "a checkpoint")
        before = flink_cluster.checkpoints(job)["restored"]
        flink_cluster.restarted(part, flink_cluster.kill(part))
        stream.feed(landed[number + 2])
        stream.wait()
        restored = lambda before=before: flink_cluster.checkpoints(job)["restored"] > before  # noqa: E731
        eventually(restored, 120, f"a checkpoint to be restored after {part} died")

    stream.feed(landed[6])
    stream.kill()
    stream.feed(landed[7])
    stream.start("--attach")
    stream.wait()
    stream.wait_through(date(2025, 1, 8))
    assert stream.jobs == [job]
    stream.stop()
    assert_equal_marts(stream.marts, utility.run(), same_deliveries=False)
    assert_told(stream)


def shown_by_rest(flink: Flink, job: str) -> set[str]:
    """Names of our metrics as Flink's REST gives them; Flink fetches them from its workers when asked."""
    vertices = [vertex["id"] for vertex in flink.rest(f"/jobs/{job}")["vertices"]]
    listed = [one["id"] for vertex in vertices for one in flink.rest(f"/jobs/{job}/vertices/{vertex}/metrics")]
    return {name.rpartition(f".{NAMESPACE}_")[2] for name in listed if f".{NAMESPACE}_" in name}


def shown_to_prometheus(flink: Flink) -> dict[str, float]:
    """Our metrics as Prometheus text has them, summed over all subtasks."""
    found: Counter[str] = Counter()
    for address in flink.about["metrics"]:
        with urllib.request.urlopen(address, timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        for line in lines:
            name, _, rest = line.partition("{")
            if name.startswith(prefix := f"flink_taskmanager_job_task_operator_{NAMESPACE}_"):
                found[name.removeprefix(prefix)] += float(rest.rpartition(" ")[2])
    return found


def test_a_month_with_bad_payers_and_the_metrics_of_it(streams, tmp_path, flink_cluster: Flink):
    """Bills, payments, thefts and what is told in the wrong order go through topics: every score and grade is a bounded run's."""
    utility = BadPayers(tmp_path / "bounded")
    stream = streams(utility)
    stream.start()
    for paths in utility.days.values():
        stream.feed(paths)
    stream.wait()
    stream.wait_through(LAST)
    (job,) = stream.jobs
    assert_metrics_are_shown(stream, flink_cluster, job)
    stream.stop()
    bounded = utility.run()
    for marts in (stream.marts, bounded):
        assert_badly_paid(marts)
    assert_equal_marts(stream.marts, bounded, same_deliveries=False)


def assert_metrics_are_shown(stream: Stream, flink_cluster: Flink, job: str) -> None:
    """By Flink's page, and to Prometheus, with the numbers that the marts tell."""
    stages = {f"fold_ms_{stage}" for stage in ("meters", "features", "tiers")} | {"state_bytes_days", "epochs_tiers"}
    rows = {f"events_{what}_meter_readings" for what in ("in", "accepted", "rejected", "superseded")}
    wanted = (
        stages | rows | {"rows_taken", "watermark_day", "held_open_seconds", "epochs_cut", "days_made", "append_lag_ms"}
    )
    lacking = wanted
    for _ in range(60):  # Flink asks its workers every ten seconds
        lacking = wanted - (shown_by_rest(flink_cluster, job) & shown_to_prometheus(flink_cluster).keys())
        if not lacking:
            break
        time.sleep(2)
    assert lacking == set()
    shown = shown_to_prometheus(flink_cluster)
    (row,) = stream.query(
        "SELECT sum(rows_read), sum(rows_accepted) FROM pipeline_runs WHERE source = 'meter_readings'"
    )
    assert (shown["events_in_meter_readings"], shown["events_accepted_meter_readings"]) == row
    assert shown["days_made"] >= 3
    assert shown["fold_ms_features"] > 0


def test_a_broker_that_goes_away_for_a_minute(streams, tmp_path, kafka_broker: Kafka):
    utility = Utility(tmp_path / "bounded", 2_000, 4)
    stream = streams(utility)
    stream.start()
    landed = list(utility.days.values())
    stream.feed([path for paths in landed[:2] for path in paths])
    stream.wait()
    kafka_broker.stop()
    time.sleep(60)
    kafka_broker.start()
    for paths in landed[2:]:
        stream.feed(paths)
    stream.wait()
    stream.wait_through(date(2025, 1, 4))
    stream.stop()
    assert_equal_marts(stream.marts, utility.run(), same_deliveries=False)
