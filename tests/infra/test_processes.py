"""Processes are started, watched and stopped; nothing is left behind, and nobody else's process is touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra import supervisor
from infra.processes import Failed, Part, Run, accepts, free, started, wait_for
from tests.clusters import eventually

# A parent that ignores the polite signal, and its child in a session of its own.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
time.sleep(600)
"""
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def run(tmp_path):
    made = Run(tmp_path)
    yield made
    made.stop(0.0)


def supervise(run: Run, *parts: Part) -> int:
    run.save(parts, {})
    script = str(Path(supervisor.__file__))
    return run.start(Part(supervisor.NAME, [sys.executable, "-P", script, str(run.folder)]))


def test_a_part_runs_in_a_session_of_its_own_and_is_stopped(run):
    pid = run.start(Part("sleep", SLEEP, {"COLOUR": "green"}))

    assert run.pid("sleep") == pid
    assert os.getsid(pid) == pid
    assert b"COLOUR=green" in Path(f"/proc/{pid}/environ").read_bytes()
    run.stop(5.0)
    assert run.pid("sleep") is None
    assert run.members() == []


def test_stop_finds_children_in_other_sessions_and_those_that_ignore_it(run):
    run.start(Part("stubborn", [sys.executable, "-c", STUBBORN]))
    eventually(lambda: len(run.members()) == 2, 10, "the child")

    run.stop(0.3)

    assert run.members() == []


def test_a_pid_that_now_belongs_to_someone_else_is_left_alone(run):
    with subprocess.Popen(SLEEP) as other:
        record = {"pid": other.pid, "started": "some other boot 1"}
        run.path("pids", "sleep.json").write_text(json.dumps(record))

        assert run.pid("sleep") is None
        run.stop(0.0)
        assert started(other.pid)
        other.kill()


def test_one_command_at_a_time(run):
    with run.lock(), pytest.raises(Failed, match="another command is at work"), run.lock():
        pass


def test_what_is_waited_for_is_named():
    with pytest.raises(Failed, match="waited 0 s for the moon"):
        wait_for(lambda: False, 0.1, "the moon", every_s=0.01)


def test_ports():
    assert free(0)
    assert not accepts(1)


def test_the_supervisor_starts_again_what_was_killed_with_all_its_children(run):
    parent = [sys.executable, "-c", STUBBORN.replace(", start_new_session=True", "")]
    supervise(run, Part("sleep", SLEEP), Part("parent", parent))
    old = eventually(lambda: run.pid("parent"), 10, "the parent")
    eventually(lambda: len(run.members()) == 4, 10, "its child")
    before = set(run.members(session=old))

    os.kill(old, signal.SIGKILL)

    eventually(lambda: run.pid("parent") not in {None, old}, 10, "another parent")
    assert not before & set(run.members())
    eventually(lambda: run.counted().get("parent") == (1, 1), 5, "the count")
    assert "parent: ended (SIGKILL)" in run.log(supervisor.NAME).read_text()


def test_a_part_that_keeps_ending_is_tried_at_growing_distances(run):
    supervise(run, Part("short", [sys.executable, "-c", "raise SystemExit('no such flag')"]))

    eventually(lambda: run.counted().get("short", (0, 0))[1] >= 2, 15, "two failures in a row")

    said = run.log(supervisor.NAME).read_text()
    assert "short: ended (exit code 1) after 0 s, starts again in 1 s" in said
    assert "starts again in 2 s" in said
    assert "no such flag" in run.log("short").read_text()


def test_another_supervisor_takes_over_what_runs(run):
    first = supervise(run, Part("sleep", SLEEP))
    pid = eventually(lambda: run.pid("sleep"), 10, "the part")
    os.kill(first, signal.SIGKILL)
    eventually(lambda: run.pid(supervisor.NAME) is None, 5, "the supervisor to end")

    supervise(run, Part("sleep", SLEEP))

    time.sleep(3 * supervisor.TICK_S)
    assert run.pid("sleep") == pid


def test_a_supervisor_that_is_told_to_end_ends_its_parts(run):
    pid = supervise(run, Part("sleep", SLEEP), Part("stubborn", [sys.executable, "-c", STUBBORN]))
    eventually(lambda: run.pid("sleep") and run.pid("stubborn"), 10, "the parts")

    os.kill(pid, signal.SIGTERM)

    eventually(lambda: run.members() == [], 15, "all to end")
