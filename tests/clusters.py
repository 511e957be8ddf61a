"""A real Flink cluster and a real Kafka broker for tests, started from nothing: import the fixtures into a conftest.

They take ports of their own for each xdist worker, and are skipped, with the reason, where Java or Maven is missing.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
CLUSTER = ROOT / "infra" / "flink" / "cluster.py"
BROKER = ROOT / "infra" / "kafka" / "broker.py"


def command(script: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run one of infra's scripts with this interpreter."""
    # Other tests of this process may have run worker processes, and these are started with safe paths.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    call = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.run(call, capture_output=True, text=True, check=False, env=environment)


def call(script: Path, *arguments: object) -> dict[str, Any]:
    """The same, with --json, which must do well."""
    done = command(script, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


def eventually(ready: Callable[[], Any], within_s: float, what: str) -> Any:
    """Poll until `ready()` gives something true, and give that."""
    end = time.monotonic() + within_s
    while not (found := ready()):
        assert time.monotonic() < end, f"waited {within_s:.0f} s for {what}"
        time.sleep(0.2)
    return found


def port_base(offset: int) -> int:
    """Ports that no other xdist worker uses."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    return 21000 + 100 * int(worker) + offset


def skip_unless_possible() -> None:
    """Skip, naming what is missing."""
    missing = [tool for tool in ("java", "mvn") if not shutil.which(tool)]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}: apt-get install openjdk-17-jre-headless maven")


@dataclass(frozen=True)
class Flink:
    """A cluster that is up."""

    folder: Path
    about: dict[str, Any]

    def options(self, *, streaming: bool = False) -> list[str]:
        """What to pass to a Beam pipeline."""
        return self.about["options"] + (self.about["streaming_options"] if streaming else [])

    def rest(self, path: str) -> dict[str, Any]:
        """What Flink says, by its REST interface; asked again while it is too busy to say."""

        def asked() -> dict[str, Any] | None:
            with suppress(OSError), urllib.request.urlopen(self.about["page"] + path, timeout=10) as answer:
                said: dict[str, Any] = json.load(answer)
                return said
            return None

        found: dict[str, Any] = eventually(asked, 60, f"an answer of {path}")
        return found

    def status(self) -> dict[str, Any]:
        """Pids of the parts, restarts, Flink's overview."""
        said: dict[str, Any] = json.loads(command(CLUSTER, "status", "--run-dir", self.folder).stdout)
        return said

    def kill(self, part: str) -> int:
        """`kill -9` a part; the pid it had."""
        pid: int = self.status()["pids"][part]
        os.kill(pid, signal.SIGKILL)
        return pid

    def restarted(self, part: str, old: int, within_s: float = 30.0) -> float:
        """Seconds until the part runs again with another pid, and all is up."""
        began = time.monotonic()

        def back() -> bool:
            said = self.status()
            return said["pids"][part] not in {None, old} and said["up"] and said["flink"]["slots-total"] > 0

        eventually(back, within_s, f"{part} to be back")
        return time.monotonic() - began

    def checkpoints(self, job: str) -> dict[str, int]:
        """How many checkpoints of a job were completed, failed, restored."""
        counts: dict[str, int] = self.rest(f"/jobs/{job}/checkpoints")["counts"]
        return counts


@dataclass
class Kafka:
    """A broker that is up, and may be stopped and started again on its data."""

    folder: Path
    port: int
    about: dict[str, Any]

    @property
    def address(self) -> str:
        """For `bootstrap.servers`."""
        return str(self.about["address"])

    def start(self) -> None:
        """Start it again."""
        self.about = call(BROKER, "up", "--run-dir", self.folder, "--port", self.port)

    def stop(self) -> None:
        """Stop it; the data stays."""
        call(BROKER, "down", "--run-dir", self.folder)


@pytest.fixture(scope="session")
def flink_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flink]:
    """One Flink cluster for all tests of a process."""
    skip_unless_possible()
    folder = tmp_path_factory.mktemp("flink")
    try:
        yield Flink(folder, call(CLUSTER, "up", "--run-dir", folder, "--port-base", port_base(0)))
    finally:
        command(CLUSTER, "down", "--run-dir", folder)


@pytest.fixture(scope="session")
def kafka_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """One Kafka broker for all tests of a process."""
    skip_unless_possible()
    folder, port = tmp_path_factory.mktemp("kafka"), port_base(50)
    try:
        yield Kafka(folder, port, call(BROKER, "up", "--run-dir", folder, "--port", port))
    finally:
        command(BROKER, "down", "--run-dir", folder, "--wipe")
