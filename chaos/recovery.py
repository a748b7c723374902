"""The time until operations of a killed or frozen process run again."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, NamedTuple

from chaos.cluster import QUEUE, Cluster, wait_until
from pooltasks import keys

if TYPE_CHECKING:
    from pathlib import Path

OPERATIONS = 8
_LONG = 3600.0
_SEEN = 0.3
"""Seconds in which two nodes that renew their leases have surely looked at each other."""


class Scenario(NamedTuple):
    """One kind of death, the bound it must keep, and the times that were measured."""

    name: str
    bound: float
    """Seconds, for every time."""
    median_bound: float
    times: list[float]
    """Seconds from the signal until the last operation runs again."""

    @property
    def holds(self) -> bool:
        """Whether all times are within the bounds."""
        return max(self.times) <= self.bound and self.median <= self.median_bound

    @property
    def median(self) -> float:
        """The median of the times."""
        return sorted(self.times)[len(self.times) // 2]


class Report(NamedTuple):
    """The kinds of death that were measured."""

    scenarios: list[Scenario]

    @property
    def holds(self) -> bool:
        """Whether all bounds were kept."""
        return all(scenario.holds for scenario in self.scenarios)

    def lines(self) -> list[str]:
        """Return the results as text: a table."""
        lines = ["what                        times  median ms  longest ms  bounds ms       holds"]
        for each in self.scenarios:
            bounds = f"{1000 * each.median_bound:.0f} / {1000 * each.bound:.0f}"
            lines.append(
                f"{each.name:<27} {len(each.times):5} {1000 * each.median:10.0f} "
                f"{1000 * max(each.times):11.0f}  {bounds:<15} {'yes' if each.holds else 'no'}"
            )
        return lines


def recovery(folder: Path, times: int, freezes: int) -> Report:
    """Kill nodes and workers ``times`` times each, freeze nodes ``freezes`` times.

    The same eight operations go from node to node: each death moves them to
    the other one, which was idle.
    """
    with Cluster(
        folder,
        nodes=1,
        workers=OPERATIONS,
        operation_timeout=_LONG,
        max_deliveries=1000,
        control=False,
    ) as cluster:
        bench = _Bench(cluster)
        bench.begin()
        kills = [bench.move(signal.SIGKILL) for _ in range(times)]
        frozen = [bench.move(signal.SIGSTOP) for _ in range(freezes)]
        workers = [bench.kill_worker() for _ in range(times)]
    return Report(
        [
            Scenario("node SIGKILL, 8 operations", 0.5, 0.3, kills),
            Scenario("node SIGSTOP, 8 operations", 5.5, 5.5, frozen),
            Scenario("worker SIGKILL", 0.15, 0.15, workers),
        ]
    )


class _Bench:
    """Two nodes; one of them runs the operations, the other one is idle."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def begin(self) -> None:
        """Start the operations on the only node, then the other node."""
        work = self._cluster.application(self._cluster.url).tasks["chaos.operations.work"]
        begun = time.time()
        for _ in range(OPERATIONS):
            work.apply_async(("finish", _LONG))
        self._wait_for_starts(begun, OPERATIONS)
        self._runner = self._cluster.nodes[0]
        self._idle = self._cluster.add_node("other", self._cluster.url)
        self._wait_for_both_nodes()

    def _wait_for_both_nodes(self) -> None:
        """Wait until both nodes are whole, and have looked at each other.

        A node takes its lease when it connects, before it has asked others what is
        revoked. Its first look at the others comes with its first renewal.
        """
        nodes = self._cluster.nodes
        wait_until(
            lambda: all(len(node.children()) == OPERATIONS for node in nodes),
            "two nodes with all their workers",
        )
        wait_until(lambda: len(self._leases()) == len(nodes), "two leases")
        before = self._leases()
        wait_until(
            lambda: all(end > before.get(node, end) for node, end in self._leases().items()),
            "both leases are renewed",
        )
        time.sleep(_SEEN)

    def _leases(self) -> dict[bytes, float]:
        return dict(self._cluster.redis.zrange(keys.leases(QUEUE), 0, -1, withscores=True))

    def _wait_for_starts(self, since: float, number: int) -> float:
        """Return when the last of so many starts since a moment was."""
        wait_until(
            lambda: len(self._cluster.runs.since(since)) >= number,
            f"{number} operations run again",
        )
        return self._cluster.runs.since(since)[-1].at

    def move(self, signal_number: int) -> float:
        """End the node that runs the operations; return the seconds until all run on the other."""
        victim = self._runner
        at = time.time()
        victim.send(signal_number)
        seconds = self._wait_for_starts(at, OPERATIONS) - at
        victim.send(signal.SIGKILL)  # a frozen one is not needed any more
        victim.popen.wait()
        self._runner, self._idle = self._idle, self._runner
        self._wait_for_both_nodes()
        return seconds

    def kill_worker(self) -> float:
        """Kill a worker that runs an operation; return the seconds until it runs again."""
        worker = self._cluster.runs.since(0)[-1].worker
        at = time.time()
        os.kill(worker, signal.SIGKILL)
        seconds = self._wait_for_starts(at, 1) - at
        self._wait_for_both_nodes()
        return seconds
