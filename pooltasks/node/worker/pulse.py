"""Pulse: the sign that a worker's interpreter is alive, whatever its operation does."""

from __future__ import annotations

import mmap
import signal
import threading
import time


class Pulse:
    """A counter that one worker raises and its node reads.

    It beats in a thread of its own, which needs the interpreter's lock for it:
    it goes on through sleeping, waiting and computing, in Python and in C code
    that gives the lock back, and stops where code keeps it. It never stops a
    worker from being ended, and takes no signal: those are for the main thread.

    The node makes it before it forks the worker.
    """

    def __init__(self) -> None:
        self._words = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("q")

    @property
    def beats(self) -> int:
        """How often it has beaten."""
        return self._words[0]

    def start(self, interval: float) -> None:
        """Beat every ``interval`` seconds from now on, in this process, the worker."""
        threading.Thread(
            target=self._beat, args=(interval,), name="pooltasks-pulse", daemon=True
        ).start()

    def _beat(self, interval: float) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            self._words[0] += 1
            time.sleep(interval)
