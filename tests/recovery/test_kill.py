"""Killed at any moment: the last publication can be read, and the rerun equals a run that never failed."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipelines.warehouse import COMMIT_POINTS
from tests.recovery.commands import Ended, cpu_seconds, wattier
from tests.recovery.utility import Rows, Utility

pytestmark = pytest.mark.slow

MOMENTS = 5 if os.environ.get("CI") else 50
BETWEEN = MOMENTS // 5
"""Of these so many between staging and pointer: while the audit runs and the generation is written."""
SEED = 20250301
KILLED = -9


@dataclass
class Watch:
    """Looks at a running command: how much CPU time it had had when all was staged, and when the pointer had moved."""

    warehouse: Path
    staged: float | None = None
    pointed: float | None = None
    _before: bytes = field(init=False)

    def __post_init__(self) -> None:
        self._before = (self.warehouse / "current.json").read_bytes()

    def __call__(self, pid: int) -> bool:
        if self.staged is None and self._all_staged():
            self.staged = cpu_seconds(pid)
        if self.pointed is None and (self.warehouse / "current.json").read_bytes() != self._before:
            self.pointed = cpu_seconds(pid)
        return False

    def _all_staged(self) -> bool:
        """Both shards have their tiers of the one tick there is to do."""
        return len(list(self.warehouse.glob("data/000002-*/*/commits/tiers-*.json"))) == 2


@dataclass(frozen=True)
class Unharmed:
    """A run that never failed: what it published, its CPU time, and when it had staged and moved the pointer."""

    rows: Rows
    whole: float
    staged: float
    pointed: float


@pytest.fixture(scope="module")
def unharmed(built: Utility) -> Unharmed:
    built.restore()
    built.land()
    watch = Watch(built.warehouse)
    ended = built.must(built("run", until=watch))
    assert watch.staged is not None
    assert watch.pointed is not None
    assert 0 < watch.staged < watch.pointed < ended.cpu_seconds
    return Unharmed(built.rows(), ended.cpu_seconds, watch.staged, watch.pointed)


def assert_recovers(utility: Utility, old: Rows, new: Rows) -> None:
    """Something can be read, the rerun publishes what it would have, and gc leaves what is needed and nothing else."""
    assert utility.rows() in (old, new)
    utility.must(utility("run"))
    assert utility.rows() == new
    utility.must(utility("gc"))
    assert utility.orphans() == []
    assert utility.rows() == new


def test_the_run_adds_days_and_corrects_published_ones(old: Rows, unharmed: Unharmed) -> None:
    new = unharmed.rows
    assert len(new["service_days"]) > len(old["service_days"])
    assert set(old["daily_consumption"]) - set(new["daily_consumption"])
    assert len(new["rejects"]) > len(old["rejects"])


@pytest.mark.parametrize("point", COMMIT_POINTS)
def test_killed_at_a_commit_point(point: str, utility: Utility, old: Rows, unharmed: Unharmed) -> None:
    utility.land()
    assert utility("run", WATTIER_CRASH_AT=point).code == KILLED
    moved = COMMIT_POINTS.index(point) >= COMMIT_POINTS.index("after_pointer")
    assert utility.generation() == (2 if moved else 1)
    assert_recovers(utility, old, unharmed.rows)


def test_killed_on_the_real_command_line(utility: Utility, old: Rows, unharmed: Unharmed) -> None:
    utility.land()
    assert wattier(utility.folder, "run", WATTIER_CRASH_AT="before_pointer").code == KILLED
    assert utility.rows() == old
    assert_recovers(utility, old, unharmed.rows)


def killed(utility: Utility, moment: Callable[[], Callable[[int], bool]], hit: Callable[[Ended], bool]) -> None:
    """Kill a run at a moment. On a busy machine a kill may come too late: then again, with a moment of its own."""
    for _ in range(8):
        utility.restore()
        utility.land()
        if hit(utility("run", until=moment())):
            return
    pytest.fail("no kill of eight hit")


@pytest.mark.parametrize("number", range(MOMENTS - BETWEEN))
def test_killed_at_a_random_moment(number: int, utility: Utility, old: Rows, unharmed: Unharmed) -> None:
    chance = random.Random(f"{SEED}-{number}")

    def moment() -> Callable[[int], bool]:
        at = chance.uniform(0, unharmed.whole)
        return lambda pid: cpu_seconds(pid) >= at

    killed(utility, moment, lambda ended: ended.code == KILLED)
    assert_recovers(utility, old, unharmed.rows)


@pytest.mark.parametrize("number", range(BETWEEN))
def test_killed_between_staging_and_pointer(number: int, utility: Utility, old: Rows, unharmed: Unharmed) -> None:
    chance = random.Random(f"{SEED}-between-{number}")

    def moment() -> Callable[[int], bool]:
        watch, wait = Watch(utility.warehouse), chance.uniform(0, unharmed.pointed - unharmed.staged)

        def until(pid: int) -> bool:
            watch(pid)
            return watch.staged is not None and cpu_seconds(pid) >= watch.staged + wait

        return until

    killed(utility, moment, lambda ended: ended.code == KILLED and utility.generation() == 1)
    assert utility.rows() == old
    assert_recovers(utility, old, unharmed.rows)


def test_gc_removes_what_a_write_left_that_was_stopped(utility: Utility) -> None:
    left = ("current.json.0a1b2c3d.tmp", "generations/000001/entries.arrow.0a1b2c3d.tmp", "data/000002-0/0001/x.arrow")
    for name in left:
        (utility.warehouse / name).parent.mkdir(parents=True, exist_ok=True)
        (utility.warehouse / name).write_bytes(b"half")
    utility.must(utility("gc"))
    assert utility.orphans() == []


def test_a_failed_audit_and_a_mended_input(utility: Utility, old: Rows, unharmed: Unharmed) -> None:
    utility.land()
    file = sorted(utility.folder.glob("landing/readings/*"))[-1]
    right = file.read_text()
    file.write_text(right.replace(",A,", ",?,"))
    failed = utility("run")
    assert failed.code == 4
    assert utility.rows() == old
    file.write_text(right)
    assert_recovers(utility, old, unharmed.rows)
