"""`wattier` as a process of its own that can be killed or fail, and what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORKSERVER = Path(__file__).with_name("forkserver.py")


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code (-9: killed), what it printed, and the CPU time it took."""

    code: int
    out: str
    err: str
    cpu_seconds: float


class Commands:
    """Runs `wattier` commands, each in a process of its own that is forked from one with the libraries loaded."""

    def __init__(self, server: subprocess.Popen[str], folder: Path) -> None:
        self._server, self._folder, self._number = server, folder, 0

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(request), file=self._server.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self._server.stdout.readline())
        return answer

    def __call__(
        self,
        folder: Path,
        *arguments: str,
        until: Callable[[int], bool] | None = None,
        fault: str = "",
        **environment: str,
    ) -> Ended:
        """Run a command in a folder to its end.

        until: asked again and again with the pid; once it says so the process is killed. fault: see forkserver.py.
        """
        self._number += 1
        output = self._folder / f"command-{self._number}"
        where = {"folder": str(folder), "output": str(output)}
        pid = self._ask(start={"arguments": arguments, "environment": environment, "fault": fault, **where})["pid"]
        while until is not None and running(pid):
            if until(pid):
                os.kill(pid, signal.SIGKILL)
                break
            time.sleep(0.002)
        end = self._ask(wait=pid)
        texts = [output.with_suffix(suffix).read_text() for suffix in (".out", ".err")]
        return Ended(end["code"], *texts, end["cpu_seconds"])


def running(pid: int) -> bool:
    """Whether a process has not ended; one that has stays a zombie until it is waited for."""
    state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return state != "Z"


def cpu_seconds(pid: int) -> float:
    """CPU time a process has had: a clock that other processes on the machine do not move."""
    return time.clock_gettime((~pid << 3) | 2)  # CPUCLOCK_SCHED of the process, see clock_getcpuclockid(3)


@contextmanager
def commands(folder: Path) -> Iterator[Commands]:
    """Start the server for as long as the block lasts."""
    arguments = [sys.executable, "-P", "-W", "ignore", str(FORKSERVER)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder) as server:
        try:
            yield Commands(server, folder)
        finally:
            assert server.stdin is not None
            server.stdin.close()


def wattier(folder: Path, *arguments: str, **environment: str) -> Ended:
    """Run a command by the real command line, from interpreter start to exit."""
    command = [sys.executable, "-P", "-m", "pipelines", *arguments]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    return Ended(done.returncode, done.stdout, done.stderr, 0.0)
