"""The interface between the benchmark and a queue: the only part that systems differ in.

A system runs in its own environment, so neither this module nor those of
``systems/`` import each other or, except for its own module, pooltasks.
"""

from __future__ import annotations

import os
import struct
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import redis

if TYPE_CHECKING:
    from collections.abc import Sequence

URL_VARIABLE = "BENCHMARK_REDIS_URL"
PROCESSES_VARIABLE = "BENCHMARK_PROCESSES"
LATENCIES_VARIABLE = "BENCHMARK_LATENCIES"
PROCESSES = int(os.environ.get(PROCESSES_VARIABLE, "2"))
"""Worker processes of every system."""

_BLOCK = 100  # results asked for at once; asking costs the server some 0.02 ms


def run_and_record(meant: float, seconds: float) -> int:
    """Sleep for some seconds; note how long after ``meant`` (``time.time()``) that was done.

    This is the operation of a load. Each process notes its latencies in a file of its own.
    """
    if seconds:
        time.sleep(seconds)
    latency = struct.pack("d", time.time() - meant)
    folder = os.environ[LATENCIES_VARIABLE]
    file = os.open(f"{folder}/{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(file, latency)
    os.close(file)
    return 0


def server_url() -> str:
    """Return the URL of the server that the benchmark started."""
    return os.environ[URL_VARIABLE]


def program(name: str) -> str:
    """Return the path of a program of this environment."""
    return str(Path(sys.executable).with_name(name))


class System(ABC):
    """A queue, seen from the process that sends to it.

    The operation is the same everywhere: no argument, no work, the result 0
    (huey stores no None).
    """

    workers: ClassVar[Sequence[list[str]]]
    """The commands that together run :data:`PROCESSES` workers."""
    distributions: ClassVar[tuple[str, ...]]
    """The measured packages: their names on PyPI, the system first."""

    def __init__(self) -> None:
        self._server = redis.Redis.from_url(server_url())
        self.asked = 0
        """Commands that :meth:`finished` has sent: not the system's own."""

    @abstractmethod
    def enqueue(self, count: int) -> None:
        """Send ``count`` operations, one after the other."""

    def enqueue_batch(self, count: int) -> None:
        """Send ``count`` operations in the way the system has for many at once.

        Raises:
            NotImplementedError: The system has no such way.
        """
        raise NotImplementedError

    def send(self, meant: float, seconds: float) -> None:
        """Send one operation that calls :func:`run_and_record` with these arguments.

        Raises:
            NotImplementedError: The system is not measured so.
        """
        raise NotImplementedError

    @abstractmethod
    def finished(self) -> int:
        """Return how many of the operations sent so far have their result on the server."""

    @abstractmethod
    def round_trip(self) -> None:
        """Send one operation and return once its result is here."""

    def ask(self, *command: object) -> int:
        """Ask the server for a number."""
        self.asked += 1
        answer = self._server.execute_command(*command)  # type: ignore[no-untyped-call]
        return int(answer)


class KeyedResults(System):
    """A system that stores each result under a key of its own.

    Results come about in the order of sending: the count is exact at its end
    and a little low before, which costs few questions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.keys: list[str] = []
        """The keys of the results of the operations that were sent, in that order."""
        self._complete = 0

    def finished(self) -> int:
        """Return the number of results that are there without a gap before them."""
        while block := self.keys[self._complete : self._complete + _BLOCK]:
            there = self.ask("EXISTS", *block)
            if there < len(block):
                return self._complete + there
            self._complete += there
        return self._complete
