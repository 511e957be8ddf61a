"""What Ctrl-C, SIGTERM and SIGUSR1 do to `wattier stream`."""

from __future__ import annotations

import os
import signal
from threading import Event, Lock, Thread

ENDS = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """Until a job is submitted, SIGINT and SIGTERM end the process at once, with 128 + their number; from then on they set
    `stopped`. SIGUSR1 sets `asked`.

    Ending at once is no harm: what is written so far counts only once it is published, and the lock dies with its holder.
    Python's own handlers run when the main thread comes back from a library, which may wait ten seconds for a broker; so a
    thread is told of signals by the pipe that Python writes them to. To be made in the main thread, once.
    """

    def __init__(self) -> None:
        self.stopped, self.asked = Event(), Event()
        self._lock, self._submitted = Lock(), False
        self._numbers, into = os.pipe()
        os.set_blocking(into, False)
        signal.set_wakeup_fd(into, warn_on_full_buffer=False)
        for number in (*ENDS, signal.SIGUSR1):
            signal.signal(number, lambda *_: None)
        Thread(target=self._listen, name="signals", daemon=True).start()

    def submit(self) -> None:
        """From here on a signal ends nothing at once: a job may be left behind."""
        with self._lock:
            self._submitted = True

    def _listen(self) -> None:
        while True:
            number = os.read(self._numbers, 1)[0]
            with self._lock:
                if number in ENDS and not self._submitted:
                    os._exit(128 + number)
            (self.stopped if number in ENDS else self.asked).set()
