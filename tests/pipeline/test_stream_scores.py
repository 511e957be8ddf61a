"""A month with bad payers, message by message against the clock: every score and grade is that of a bounded run."""

from __future__ import annotations

import shutil

import pytest

from pipelines.verify import verify
from tests.feeding import FOLDERS, message, rows_of
from tests.payers import LAST, BadPayers, assert_badly_paid
from tests.pipeline.bureau import assert_equal_marts
from tests.pipeline.test_stream_clock import Clock
from tests.streaming.job import Landed
from transforms.kafka_partitions import Partition

pytestmark = pytest.mark.slow

SOURCES = {
    "accounts": "accounts", "meters": "meters", "ledger": "ledger_events", "conduct": "conduct_events",
    "readings": "meter_readings",
}  # fmt: skip
PARTITIONS = {
    folder: Partition(source, FOLDERS[folder], 0, 0, index) for index, (folder, source) in enumerate(SOURCES.items())
}


def test_a_month_with_bad_payers(tmp_path, monkeypatch):
    utility = BadPayers(tmp_path / "bounded")
    (tmp_path / "stream").mkdir()
    for name in ("wattier.yaml", "policy.yaml", "capacity.yaml"):
        shutil.copy(utility.folder / name, tmp_path / "stream")
    config = tmp_path / "stream" / "wattier.yaml"
    # One shard: the runner is slow, and results do not depend on it.
    config.write_text(config.read_text().replace("shards: 4", "shards: 1"))
    clock = Clock(Landed(tmp_path / "stream"), monkeypatch, tuple(PARTITIONS.values()))
    landed = list(utility.days.values())
    for first in range(0, len(landed), 7):
        some = [path for paths in landed[first : first + 7] for path in paths]
        for folder, partition in PARTITIONS.items():
            rows = [row for path in some if path.parent.name == folder for row in rows_of(path)]
            days = [row["service_date"] for row in rows if "service_date" in row]
            clock.send_messages(partition, [message(row) for row in rows], days)
        clock.cut()
    published = clock.run()
    assert len(published) >= 5
    assert published[-1][-1] == LAST
    marts = tmp_path / "stream" / "warehouse" / "marts.duckdb"
    bounded = utility.run()
    for one in (marts, bounded):
        assert_badly_paid(one)
    assert_equal_marts(marts, bounded, same_deliveries=False)
    report = verify(str(marts), clock.config.policy, all_days=True)
    assert report.ok, str(report)
