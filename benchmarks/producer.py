"""The process that sends to one system: ``python -m benchmarks.producer MODULE``.

It runs in that system's environment, reads one question a line from standard
input and answers each with a line of JSON. Its first line introduces the system.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import sys
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

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


def offer(system: System, load: list[float]) -> list[float]:
    """Send operations at the times of a Poisson process, whether earlier ones have ended or not.

    Args:
        system: Where to.
        load: Operations a second, seconds, how long each operation sleeps, a seed.

    Returns:
        How many were sent, the CPU time for it, and how late the latest was, in seconds.
    """
    rate, length, run, seed = load
    source = random.Random(seed)  # noqa: S311  arrivals
    sent, latest, cpu = 0, 0.0, time.process_time()
    start = time.time()
    due = start
    while (due := due + source.expovariate(rate)) < start + length:
        time.sleep(max(0.0, due - time.time()))  # the rate of arrivals
        latest = max(latest, time.time() - due)
        system.send(due, run)
        sent += 1
    return [sent, time.process_time() - cpu, latest]


def round_trips(system: System, count: int) -> list[float]:
    """Return the seconds of each of ``count`` round trips on an idle pool."""
    seconds = []
    for _ in range(count):
        time.sleep(PAUSE)
        started = time.perf_counter()
        system.round_trip()
        seconds.append(time.perf_counter() - started)
    return seconds


QUESTIONS: dict[str, Callable[[Any, Any], Any]] = {
    function.__name__: function for function in (enqueue, enqueue_batch, drain, round_trips, offer)
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
