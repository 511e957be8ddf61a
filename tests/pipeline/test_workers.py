"""Shards and workers: however the work is spread, the rows are equal."""

from __future__ import annotations

import os
import random
from collections import defaultdict

import pytest

from tests.pipeline.bureau import Bureau, assert_equal_marts
from tests.pipeline.worlds import INGREDIENTS, a_world
from transforms.storage import Commit

TWO_PROCESSES = ("--direct_num_workers=2", "--direct_running_mode=multi_processing")
FOLDS = ("reference", "meters", "days", "features", "tiers")


@pytest.fixture(scope="module")
def world():
    return a_world(random.Random(20), accounts=30, days=12, has=frozenset(INGREDIENTS))


@pytest.fixture(scope="module")
def reference(tmp_path_factory, world):
    """The world taken in by one process, in one shard."""
    return taken_in(Bureau(tmp_path_factory.mktemp("one_shard") / "bureau", policy=world.policy, shards=1), world)


def taken_in(bureau, world, runs=1, beam_options=()):
    """Two deliveries, in one run or two."""
    half = len(world.events) // 2
    for number, some in enumerate((world.events[:half], world.events[half:])):
        bureau.land_all(some)
        if number or runs == 2:
            bureau.run(beam_options=beam_options)
    return bureau


@pytest.mark.slow
@pytest.mark.parametrize(("shards", "runs"), [(16, 2), (64, 1)])
def test_any_number_of_shards_gives_equal_rows(tmp_path, world, reference, shards, runs):
    bureau = taken_in(Bureau(tmp_path / "bureau", policy=world.policy, shards=shards), world, runs)
    assert_equal_marts(reference.marts, bureau.marts, same_deliveries=True)


@pytest.fixture
def at_work(monkeypatch):
    """Stage -> the processes that reported work of it."""
    seen = defaultdict(set)
    read_all = Commit.read_all

    def read(store, folder):
        for commit in read_all(store, folder):
            seen[commit.stage].add(commit.process)
            yield commit

    monkeypatch.setattr(Commit, "read_all", read)
    return seen


@pytest.mark.slow
def test_two_worker_processes_share_every_fold_and_give_equal_rows(tmp_path, monkeypatch, world, reference, at_work):
    bureau = Bureau(tmp_path / "bureau", policy=world.policy, shards=16)
    shadow = tmp_path / "transforms"
    shadow.mkdir()
    (shadow / "__init__.py").write_text("raise ImportError('the folder of this name in the working directory')\n")
    monkeypatch.chdir(tmp_path)  # a worker that looked for modules here would not start
    taken_in(bureau, world, beam_options=TWO_PROCESSES)
    assert_equal_marts(reference.marts, bureau.marts, same_deliveries=True)
    bureau.check()
    for stage in FOLDS:
        assert len(at_work[stage] - {os.getpid()}) == len(at_work[stage]) == 2, (stage, at_work)


def test_in_process_nothing_is_spread(tmp_path, at_work):
    bureau = Bureau(tmp_path / "bureau")
    bureau.land("accounts", [])
    bureau.run()
    assert set().union(*at_work.values()) == {os.getpid()}
