"""Keeps the parts of a run running: `python infra/supervisor.py RUN_FOLDER`. Started by `up`, ended by `down`.

A part that ended is started again at once, after what its session left behind is killed; one that keeps ending is
tried at growing distances, 15 s at most. A part that already runs, left by a supervisor that was killed, is taken over.
"""

from __future__ import annotations

import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from infra.processes import Part, Run, ending

NAME = "supervisor"
TICK_S = 0.25
STEADY_S = 30.0  # one that ran this long starts again at once
LONGEST_WAIT_S = 15.0


class Watch:
    """One part under supervision."""

    def __init__(self, run: Run, part: Part) -> None:
        self.run, self.part = run, part
        self.pid = run.pid(part.name)
        self.since = time.monotonic()
        self.not_before = 0.0
        self.restarts = 0
        self.failures = 0  # in a row, each soon after its start

    def tick(self) -> bool:
        """Start the part when it should run and does not; whether it just ended."""
        if self.pid and self.run.pid(self.part.name):
            return False
        ended = self.pid is not None
        if self.pid:
            self._ended(self.pid)
        if time.monotonic() >= self.not_before:
            self.pid, self.since = self.run.start(self.part), time.monotonic()
            say(f"{self.part.name}: started, pid {self.pid}")
        return ended

    def _ended(self, pid: int) -> None:
        self.run.stop(0.0, session=pid)
        how, lived = ending(pid), time.monotonic() - self.since
        self.restarts += 1
        self.failures = 0 if lived > STEADY_S else self.failures + 1
        wait = min(LONGEST_WAIT_S, 2.0 ** (self.failures - 1)) if self.failures else 0.0
        self.pid, self.not_before = None, time.monotonic() + wait
        say(f"{self.part.name}: ended ({how}) after {lived:.0f} s, starts again in {wait:.0f} s")


def say(line: str) -> None:
    """One line in the supervisor's log."""
    print(datetime.now(UTC).isoformat(timespec="seconds"), line, flush=True)


def main() -> None:
    """Watch until told to end; then end every part, too."""
    run = Run(Path(sys.argv[1]))
    watches = [Watch(run, part) for part in run.saved()[0]]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        while True:
            ended = [watch.tick() for watch in watches]
            if any(ended):
                run.count({watch.part.name: (watch.restarts, watch.failures) for watch in watches})
            time.sleep(TICK_S)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        say("told to end")
        run.stop(grace_s=10.0)


if __name__ == "__main__":
    main()
