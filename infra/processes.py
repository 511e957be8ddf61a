"""Starts, watches and stops long-running processes that belong to one run folder.

Every process is started in a session of its own, and carries the run folder in its environment, which its children
inherit. That mark, not a remembered pid, says what belongs to a run: what a killed parent left behind is found too,
and a pid that the system gave to someone else is never touched.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

MARK = "WATTIER_INFRA_RUN"
LOG_BYTES = 64 << 20  # a log larger than this is set aside at the next start


class Failed(Exception):
    """A part did not start or stop as it should; the message is for a person."""


@dataclass(frozen=True)
class Part:
    """One process of a run: its name, its command and what it adds to the environment."""

    name: str
    command: list[str]
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A run folder: conf/, logs/, pids/ and whatever the parts keep there."""

    folder: Path

    def path(self, *names: str) -> Path:
        """A path in the run folder, its parent made."""
        path = self.folder.joinpath(*names)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def log(self, name: str) -> Path:
        """Where a part's output goes."""
        return self.path("logs", f"{name}.out")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One command at a time on a run folder."""
        with self.path("lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Failed(f"another command is at work on {self.folder}") from None
            os.set_inheritable(handle.fileno(), False)
            yield

    # ---- what runs --------------------------------------------------------------------------------------------------

    def start(self, part: Part) -> int:
        """Start a part, detached; its pid."""
        log = self.log(part.name)
        if log.exists() and log.stat().st_size > LOG_BYTES:
            log.replace(log.with_suffix(".out.1"))
        with log.open("ab") as out:
            process = subprocess.Popen(
                part.command,
                env=os.environ | part.env | {MARK: str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        record = {"pid": process.pid, "started": started(process.pid)}
        _write(self.path("pids", f"{part.name}.json"), record)
        process.returncode = 0  # it outlives us: no warning when this handle is dropped
        return process.pid

    def pid(self, name: str) -> int | None:
        """The pid of a part that runs, or None."""
        try:
            record = json.loads(self.path("pids", f"{name}.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None
        pid = int(record["pid"])
        return pid if record["started"] and started(pid) == record["started"] else None

    def members(self, session: int | None = None) -> list[int]:
        """Every process with this run's mark but ourselves; of one session where one is named."""
        mark = f"{MARK}={self.folder}".encode()
        return [
            pid for pid in _pids() if pid != os.getpid() and mark in _environ(pid) and session in (None, _session(pid))
        ]

    def stop(self, grace_s: float, session: int | None = None) -> None:
        """Terminate, wait, kill: every process of this run, or of one session of it."""
        for sign, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
            for pid in self.members(session):
                with suppress(ProcessLookupError):
                    os.kill(pid, sign)
            with suppress(Failed):
                wait_for(lambda: not self.members(session), wait_s, "processes to end", every_s=0.1)
        if left := self.members(session):
            raise Failed(f"these processes do not end: {left}")

    # ---- what is meant to run ---------------------------------------------------------------------------------------

    def save(self, parts: Sequence[Part], about: dict[str, Any]) -> None:
        """Remember what this run is made of."""
        _write(self.path("run.json"), {"parts": [asdict(part) for part in parts], "about": about})

    def saved(self) -> tuple[list[Part], dict[str, Any]]:
        """What `save` remembered; nothing where nothing was."""
        try:
            content = json.loads(self.path("run.json").read_text())
        except FileNotFoundError:
            return [], {}
        return [Part(**part) for part in content["parts"]], content["about"]

    def count(self, restarts: dict[str, tuple[int, int]]) -> None:
        """Remember how often each part was started again, and how often in a row without running for long."""
        _write(self.path("restarts.json"), restarts)

    def counted(self) -> dict[str, tuple[int, int]]:
        """What `count` remembered."""
        try:
            content = json.loads(self.path("restarts.json").read_text())
        except FileNotFoundError:
            return {}
        return {name: (int(all_), int(row)) for name, (all_, row) in content.items()}

    def forget(self) -> None:
        """Remove what says that something runs."""
        for path in (*self.folder.glob("pids/*.json"), self.folder / "run.json", self.folder / "restarts.json"):
            path.unlink(missing_ok=True)


# ---- health -----------------------------------------------------------------------------------------------------------


def wait_for(ready: Callable[[], object], timeout_s: float, what: str, every_s: float = 0.3) -> None:
    """Poll until `ready()` is true. Raises Failed naming `what`."""
    end = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > end:
            raise Failed(f"waited {timeout_s:.0f} s for {what}")
        time.sleep(every_s)


def accepts(port: int) -> bool:
    """Whether something on this machine accepts connections at the port."""
    with suppress(OSError), socket.create_connection(("localhost", port), timeout=1):
        return True
    return False


def free(port: int) -> bool:
    """Whether a server could bind the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):
            probe.bind(("localhost", port))
            return True
    return False


def get_json(url: str) -> dict[str, Any] | None:
    """A JSON object over HTTP, None while nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=3) as answer:
            content = json.load(answer)
    except (OSError, urllib.error.URLError, json.JSONDecodeError):
        return None
    return content if isinstance(content, dict) else None


# ---- /proc ------------------------------------------------------------------------------------------------------------


def started(pid: int) -> str | None:
    """When a process started, as the kernel counts, with the boot it belongs to; None for one that ended."""
    fields = _stat(pid)
    if not fields or fields[0] in "ZX":
        return None
    return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {fields[19]}"


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat after the name: state, parent, group, session, ..."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _session(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[3]) if fields else None


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _environ(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def ending(pid: int) -> str:
    """How a child that ended did so; it does not stay as a zombie."""
    try:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return "left by another supervisor"
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def _write(path: Path, content: object) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=1))
    part.replace(path)
