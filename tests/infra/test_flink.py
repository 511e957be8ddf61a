"""A real Flink cluster: it runs bounded and streaming jobs, comes back from kills, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from infra import fetch
from infra.flink import parts
from infra.processes import Run
from tests.clusters import CLUSTER, Flink, call, command, eventually, port_base, skip_unless_possible

pytestmark = pytest.mark.slow

STREAM = Path(__file__).with_name("counting_job.py")


@contextmanager
def streaming(flink: Flink, folder: Path) -> Iterator[tuple[str, Path, int]]:
    """A job that runs, until it is cancelled: its id, its output and its submitter's pid."""
    out = folder / "ticks"
    job = [sys.executable, str(STREAM), f"--out={out}", "--ticks=100000", "--every=0.05"]
    options = [*flink.options(streaming=True), "--checkpointing_interval=2000"]

    def running() -> list[str]:
        return [
            each["id"]
            for each in flink.rest("/jobs")["jobs"]
            if each["status"] not in {"CANCELED", "FAILED", "FINISHED"}
        ]

    with (folder / "submitter").open("w") as log, subprocess.Popen([*job, *options], stderr=log) as submitter:
        try:
            [name] = eventually(running, 60, "the job to run")
            yield name, out, submitter.pid
            cancel = urllib.request.Request(f"{flink.about['page']}/jobs/{name}?mode=cancel", method="PATCH")
            urllib.request.urlopen(cancel, timeout=10).close()
            eventually(lambda: not running(), 60, "the job to end")
        finally:
            submitter.kill()


@pytest.fixture
def stream(flink_cluster: Flink, tmp_path):
    """A streaming job that has taken a checkpoint."""
    with streaming(flink_cluster, tmp_path) as (name, out, submitter):
        eventually(lambda: flink_cluster.checkpoints(name)["completed"] > 1, 60, "a checkpoint")
        yield name, out, submitter


def counts(out: Path) -> list[tuple[int, ...]]:
    """(key, tick, count) of each line that is whole."""
    return [tuple(map(int, line.split())) for line in out.read_text().splitlines(keepends=True) if line.endswith("\n")]


def assert_each_tick_counted_once(out: Path) -> None:
    """Lines may come twice after a restore; what they say may not differ."""
    seen = sorted(set(counts(out)))
    for key in {key for key, _, _ in seen}:
        ticks = [tick for of, tick, _ in seen if of == key]
        assert [count for of, _, count in seen if of == key] == list(range(1, len(ticks) + 1))
        assert len(ticks) == len(set(ticks))


def resumes(flink: Flink, name: str, out: Path, restored: int) -> None:
    """The job was restored from a checkpoint, and its output goes on."""
    eventually(lambda: flink.checkpoints(name)["restored"] > restored, 90, "a checkpoint to be restored")
    last = max(tick for _, tick, _ in counts(out))
    eventually(lambda: max(tick for _, tick, _ in counts(out)) > last + 50, 90, "new output")
    assert_each_tick_counted_once(out)


def sums(flink: Flink, folder: Path) -> list[str]:
    """What a small bounded job writes, and whether its workers have the installed package."""
    with beam.Pipeline(options=PipelineOptions(flink.options())) as pipeline:
        numbers = pipeline | beam.Create(range(100)) | beam.Map(lambda number: (number % 3, number))
        by_key = numbers | beam.CombinePerKey(sum) | beam.Map(str)
        imported = (
            pipeline | "One" >> beam.Create([1]) | beam.Map(lambda _: __import__("transforms.blocks").blocks.__name__)
        )
        _ = (by_key, imported) | beam.Flatten() | beam.io.WriteToText(str(folder / "sums"))
    return sorted("".join(path.read_text() for path in folder.glob("sums*")).splitlines())


SUMS = ["(0, 1683)", "(1, 1617)", "(2, 1650)", "transforms.blocks"]


def test_a_bounded_job_in_workers_that_have_the_package(flink_cluster, tmp_path):
    assert sums(flink_cluster, tmp_path) == SUMS


@pytest.mark.parametrize("part", ["task-manager-1", "worker-pool"])
def test_a_killed_part_is_back_and_the_job_resumes_from_its_checkpoint(flink_cluster, stream, part):
    name, out, _ = stream
    restored = flink_cluster.checkpoints(name)["restored"]

    old = flink_cluster.kill(part)

    seconds = flink_cluster.restarted(part, old)
    print(f"{part} was back after {seconds:.1f} s")
    resumes(flink_cluster, name, out, restored)


def test_a_killed_submitter_does_not_matter(flink_cluster, stream):
    name, out, submitter = stream
    os.kill(submitter, signal.SIGKILL)

    last = max(tick for _, tick, _ in counts(out))
    eventually(lambda: max(tick for _, tick, _ in counts(out)) > last + 50, 60, "new output")
    assert flink_cluster.rest(f"/jobs/{name}")["state"] == "RUNNING"


def test_flinks_metrics_are_prometheus_text(flink_cluster):
    for url in flink_cluster.about["metrics"]:
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert b"flink_" in answer.read()


@pytest.mark.parametrize("part", ["job-manager", "job-server"])
def test_the_other_parts_are_back_too(flink_cluster, part):
    old = flink_cluster.kill(part)
    flink_cluster.restarted(part, old, within_s=60)


def test_up_is_idempotent_and_down_leaves_nothing_even_without_its_supervisor(tmp_path):
    skip_unless_possible()
    own = ["--run-dir", tmp_path, "--port-base", port_base(20), "--task-managers", 2, "--slots", 1]
    began = time.monotonic()
    first = call(CLUSTER, "up", *own)
    print(f"up after {time.monotonic() - began:.1f} s")
    try:
        again = call(CLUSTER, "up", *own)
        assert (first["already_up"], again["already_up"]) == (False, True)
        assert command(CLUSTER, "up", *own, "--state-cache-mb", 1).returncode == 1

        cluster = Flink(tmp_path, first)
        assert cluster.rest("/overview")["slots-total"] == 2
        pids = cluster.status()["pids"]
        os.kill(pids["supervisor"], signal.SIGKILL)
        assert not cluster.status()["up"]
        assert call(CLUSTER, "up", *own)["already_up"] is False
        kept = {name: pid for name, pid in pids.items() if name != "supervisor"}
        assert kept.items() <= cluster.status()["pids"].items()

        cluster.kill("supervisor")
        assert len(Run(tmp_path).members()) >= 5
    finally:
        assert call(CLUSTER, "down", "--run-dir", tmp_path) == {"stopped": True}
    assert Run(tmp_path).members() == []
    assert call(CLUSTER, "down", "--run-dir", tmp_path) == {"stopped": False}


def test_the_one_file_form_of_the_job_server(tmp_path):
    skip_unless_possible()
    jars = fetch.job_server_jars(fetch.cache_dir()).glob("*.jar")
    manifest = ["Manifest-Version: 1.0", "Class-Path: " + " ".join(jar.as_uri() for jar in jars)]
    with zipfile.ZipFile(tmp_path / "server.jar", "w") as archive:
        archive.writestr("META-INF/MANIFEST.MF", "".join(map(parts.manifest_line, manifest)))
    own = ["--run-dir", tmp_path / "run", "--port-base", port_base(30), "--job-server-jar", tmp_path / "server.jar"]
    try:
        assert sums(Flink(tmp_path / "run", call(CLUSTER, "up", *own)), tmp_path) == SUMS
    finally:
        command(CLUSTER, "down", "--run-dir", tmp_path / "run")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_in_the_checkpoint_folder_loses_nothing(small_disk, tmp_path):
    skip_unless_possible()
    run = tmp_path / "run"
    own = ["--run-dir", run, "--port-base", port_base(40), "--checkpoints", small_disk.as_uri()]
    try:
        flink = Flink(run, call(CLUSTER, "up", *own))
        with streaming(flink, tmp_path) as (name, out, _):
            eventually(lambda: flink.checkpoints(name)["completed"] > 0, 60, "a checkpoint")
            eventually(lambda: flink.checkpoints(name)["restored"] > 0, 90, "a checkpoint that failed")
            assert "No space left on device" in (run / "logs" / "job-manager.log").read_text()

            subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)

            completed = flink.checkpoints(name)["completed"]
            eventually(lambda: flink.checkpoints(name)["completed"] > completed + 2, 90, "more checkpoints")
            assert_each_tick_counted_once(out)
    finally:
        command(CLUSTER, "down", "--run-dir", run)
