"""The runs of operations with keys, by their own notes, while nodes and workers are killed."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter, defaultdict
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple, Self

from chaos.cluster import QUEUE, Cluster, wait_until
from chaos.keyed_operations import FOLDER
from pooltasks import keys

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from chaos.cluster import Process

_FIELDS = 5
_START_SECONDS = 90.0
_DELIVERIES = 100  # no operation is to become a dead letter because of many deaths


class KeyedRun(NamedTuple):
    """One run of an operation. Times are seconds of the machine's monotonic clock."""

    operation: str
    key: str
    start: float
    end: float
    """When it ended, or when its worker or the node of that was killed."""


def read(folder: Path, deaths: Mapping[int, float]) -> list[KeyedRun]:
    """Return all runs, the first to start first.

    Args:
        folder: Of the notes.
        deaths: Of the nodes and workers that were killed: process id to the moment before.
    """
    runs = []
    for path in folder.iterdir():
        death = deaths.get(int(path.name), float("inf"))
        begun: dict[str, tuple[str, float, float]] = {}
        for line in path.read_text().splitlines():
            fields = line.split()
            if len(fields) < _FIELDS:
                continue  # its process was killed while it wrote
            what, identifier, key, at, node = fields
            last = min(death, deaths.get(int(node), float("inf")))
            if what == "start":
                begun[identifier] = key, float(at), last
            else:
                key, start, last = begun.pop(identifier)
                runs.append(KeyedRun(identifier, key, start, max(start, min(float(at), last))))
        runs += [
            KeyedRun(identifier, key, start, max(start, last))
            for identifier, (key, start, last) in begun.items()
        ]
    return sorted(runs, key=lambda run: run.start)


def by_key(runs: Sequence[KeyedRun]) -> dict[str, list[KeyedRun]]:
    """Return the runs of each key, in their order."""
    found = defaultdict(list)
    for run in runs:
        found[run.key].append(run)
    return dict(found)


def most_at_once(runs: Sequence[KeyedRun]) -> int:
    """Return how many went on at the same moment at the most."""
    # An end comes before a start at the same moment.
    changes = sorted(change for run in runs for change in ((run.start, 1), (run.end, -1)))
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def too_early(starts: Sequence[float], per_second: float, burst: int) -> float:
    """Return by how many seconds a start came before the rate allowed it, at the most.

    That is the generic cell rate algorithm over the starts.
    """
    worst, until = 0.0, float("-inf")
    for at in starts:
        worst = max(worst, until - (burst - 1) / per_second - at)
        until = max(at, until) + 1 / per_second
    return worst


@contextmanager
def cluster_with_notes(
    folder: Path, *, nodes: int = 4, workers: int = 2
) -> Iterator[tuple[Cluster, Path]]:
    """Run nodes of the keyed operations; yield them, once each serves, and the folder of notes.

    Args:
        folder: For all files.
        nodes: How many.
        workers: Of each node.
    """
    notes = folder / FOLDER
    notes.mkdir()
    with Cluster(
        folder,
        nodes=nodes,
        workers=workers,
        max_deliveries=_DELIVERIES,
        control=False,
        module="chaos.keyed_operations",
    ) as cluster:

        def all_serve() -> bool:
            joined = cluster.redis.hlen(keys.unacked_index(QUEUE)) == len(cluster.nodes)
            return joined and all(len(node.children()) > 1 for node in cluster.nodes)

        wait_until(all_serve, "all nodes have workers", _START_SECONDS)
        yield cluster, notes


class Killer:
    """Kills nodes and workers at random while it is entered, and notes when.

    Args:
        cluster: The deployment.
        nodes: How many nodes to kill.
        workers: How many workers to kill.
        seconds: Over which time.
        seed: Of the order.
    """

    def __init__(
        self, cluster: Cluster, *, nodes: int, workers: int, seconds: float, seed: int
    ) -> None:
        self._cluster = cluster
        self._random = random.Random(seed)  # noqa: S311  repeatable
        self._left = ["node"] * nodes + ["worker"] * workers
        self._random.shuffle(self._left)
        self._pause = seconds / (len(self._left) + 1)
        self.deaths: dict[int, float] = {}
        """Process id → monotonic seconds just before it was killed."""
        self.happened: Counter[str] = Counter()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while self._left and not self._stopping.wait(self._pause):
            what = self._left[-1]
            node = self._random.choice(self._cluster.nodes)
            if self._kill_node(node) if what == "node" else self._kill_worker(node):
                self.happened[f"{self._left.pop()} kills"] += 1

    def _kill_node(self, node: Process) -> bool:
        process = node.popen.pid
        # One that has no workers yet was just started again.
        if len(node.children()) <= 1:
            return False
        at = time.monotonic()
        if not node.send(signal.SIGKILL):
            return False
        self.deaths[process] = at
        return True

    def _kill_worker(self, node: Process) -> bool:
        workers = node.children()
        if not workers:
            return False
        worker = self._random.choice(workers)
        at = time.monotonic()
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
            self.deaths[worker] = at
            return True
        return False
