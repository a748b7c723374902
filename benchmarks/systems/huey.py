"""huey: two worker processes; waits for a result by looking every millisecond."""

from __future__ import annotations

import time

from huey import RedisHuey

from benchmarks.system import PROCESSES, System, program, run_and_record, server_url

huey = RedisHuey("benchmark", url=server_url())


@huey.task()
def noop() -> int:
    """Do nothing."""
    return 0


@huey.task()
def load(meant: float, seconds: float) -> int:
    """Sleep, and note the latency."""
    return run_and_record(meant, seconds)


class Huey(System):
    """huey; takes an operation off its list before it runs it, so a crash loses the operation."""

    workers = (
        [
            program("huey_consumer"),
            "benchmarks.systems.huey.huey",
            *("-k", "process", "-w", str(PROCESSES), "-q"),
        ],
    )
    distributions = ("huey", "redis")

    def enqueue(self, count: int) -> None:
        """Call the task."""
        for _ in range(count):
            noop()

    def finished(self) -> int:
        """Count the entries of the hash of results."""
        return self.ask("HLEN", huey.storage.result_key)

    def send(self, meant: float, seconds: float) -> None:
        """Call the task."""
        load(meant, seconds)

    def round_trip(self) -> None:
        """Look each ms: huey's own wait looks first after 50 ms."""
        result = noop()
        while result.get() is None:
            time.sleep(0.001)


SYSTEM = Huey
