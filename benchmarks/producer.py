"""The process that sends to one system: ``python -m benchmarks.producer MODULE``.

It runs in that system's environment, reads one question a line from standard
input and answers each with a line of JSON. Its first line introduces the system.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.system import System

LOOK_EVERY = 0.005  # seconds between looks at how far a drain is
PAUSE = 0.005  # seconds in which a pool becomes idle again


def enqueue(system: System, count: int) -> float:
    """Return the seconds for sending ``count`` operations one by one."""
    started = time.perf_counter()
    system.enqueue(count)
    return time.perf_counter() - started


def enqueue_batch(system: System, count: int) -> float | None:
    """Return the seconds for sending ``count`` at once; None when the system cannot."""
    started = time.perf_counter()
    try:
        system.enqueue_batch(count)
    except NotImplementedError:
        return None
    return time.perf_counter() - started


def drain(system: System, count: int) -> tuple[float, int]:
    """Wait until at least ``count`` results are there; return when that was, and how many were."""
    while (done := system.finished()) < count:
        time.sleep(LOOK_EVERY)
    return time.perf_counter(), done


def round_trips(system: System, count: int) -> list[float]:
    """Return the seconds of each of ``count`` round trips on an idle pool."""
    seconds = []
    for _ in range(count):
        time.sleep(PAUSE)
        started = time.perf_counter()
        system.round_trip()
        seconds.append(time.perf_counter() - started)
    return seconds


QUESTIONS = {
    function.__name__: function for function in (enqueue, enqueue_batch, drain, round_trips)
}


def main() -> None:
    """Answer until there are no more questions."""
    # Text that a library prints is no answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(value: Any) -> None:
        print(json.dumps(value), file=answers, flush=True)

    system: System = importlib.import_module(f"benchmarks.systems.{sys.argv[1]}").SYSTEM()
    versions = {name: version(name) for name in system.distributions}
    answer({"workers": system.workers, "versions": versions})
    for line in sys.stdin:
        question, count = json.loads(line)
        value = QUESTIONS[question](system, count)
        answer({"value": value, "asked": system.asked})


if __name__ == "__main__":
    main()
