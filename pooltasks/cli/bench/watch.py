"""Watch: looks at a pool's nodes, their processes and the server while a load goes on."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import redis
from kombu.exceptions import OperationalError

from pooltasks import remote
from pooltasks.broker.client import redis_client
from pooltasks.cli.bench.footprint import Footprint, children_of, footprint
from pooltasks.cli.bench.victims import parent_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pooltasks.cli.bench.victims import Nodes
    from pooltasks.pools import Pool


_COMES_BACK = 10.0
"""Seconds after which a node that does not answer is not waited for."""


@dataclass(frozen=True)
class Server:
    """The contents of the server."""

    memory: int
    """Bytes."""
    keys: int


@dataclass(frozen=True)
class Look:
    """One look at the pool."""

    at: float
    """Monotonic seconds."""
    size: int
    """Workers that there should be."""
    warm: int
    """Workers that are given operations."""
    nodes: tuple[Footprint, ...] = ()
    """Processes of nodes on this host; empty, as the workers, if only sizes were looked at."""
    workers: tuple[Footprint, ...] = ()
    strays: int = 0
    """Processes that nodes have beside their workers."""
    beside: Mapping[str, Footprint] = field(default_factory=dict)
    """Other processes, by name."""
    server: Server | None = None


class Watch(threading.Thread):
    """Looks at a pool again and again, in a thread of its own.

    Args:
        pool: The pool.
        nodes: The status of each node now.
        every: Seconds between looks.
        processes: Whether to look at processes and at the server, too.
        beside: Ids of other processes to look at, by name.
    """

    def __init__(
        self,
        pool: Pool,
        nodes: Nodes,
        every: float,
        *,
        processes: bool = False,
        beside: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(name="pooltasks-bench-watch", daemon=True)
        self._pool = pool
        self._every = every
        self._processes = processes
        self._beside = beside or {}
        self._closing = threading.Event()
        self._error: Exception | None = None
        self._known = dict.fromkeys(nodes, time.monotonic())
        self.nodes = nodes
        """The status of each node, as of the last look."""
        self.looks: list[Look] = []

    def run(self) -> None:
        """Look until it is closed, or the server fails."""
        due = time.monotonic()
        try:
            while not self._closing.is_set():
                self.nodes = self._ask()
                self.looks.append(look(self._pool, self.nodes, self._beside, self._processes))
                due = max(due + self._every, time.monotonic())
                self._closing.wait(due - time.monotonic())
        except (redis.RedisError, OperationalError) as error:
            self._error = error

    def close(self) -> None:
        """Look no more.

        Raises:
            redis.RedisError: The server failed.
            kombu.exceptions.OperationalError: The same.
        """
        self._closing.set()
        self.join()
        if self._error:
            raise self._error

    def _ask(self) -> Nodes:
        """Return the nodes. Those that are known answer at once; others have a second."""
        answers = remote.ask(self._pool.app, "pool_status", list(self._known))
        now = time.monotonic()
        self._known |= dict.fromkeys(answers, now)
        if len(answers) < len(self._known):
            answers = remote.ask(self._pool.app, "pool_status")
            self._known |= dict.fromkeys(nodes_of(self._pool, answers), now)
        # One that died may come back; one that left does not.
        self._known = {
            name: at for name, at in self._known.items() if now - at < _COMES_BACK
        } or self._known
        return nodes_of(self._pool, answers) or self.nodes


def nodes_of(pool: Pool, answers: Nodes) -> Nodes:
    """Return those that serve the pool."""
    return {name: its for name, its in answers.items() if its["pool"] == pool.name}


def look(pool: Pool, nodes: Nodes, beside: Mapping[str, int], processes: bool = True) -> Look:
    """Return how the pool is now.

    Args:
        pool: The pool.
        nodes: The status of each node.
        beside: Ids of other processes to look at, by name.
        processes: Whether to look at processes and at the server, too.
    """
    sizes: dict[str, Any] = {
        "at": time.monotonic(),
        "size": sum(its["size"] for its in nodes.values()),
        "warm": sum(its["warm"] for its in nodes.values()),
    }
    if not processes:
        return Look(**sizes)
    here = {
        its["pid"]: {worker["pid"] for worker in its["workers"]}
        for its in nodes.values()
        if any(parent_of(worker["pid"]) == its["pid"] for worker in its["workers"])
    }
    client = redis_client(pool.app)
    return Look(
        **sizes,
        nodes=_footprints(here),
        workers=_footprints(pid for workers in here.values() for pid in workers),
        strays=sum(len(children_of(node) - workers) for node, workers in here.items()),
        beside={name: its for name, pid in beside.items() if (its := footprint(pid))},
        server=Server(int(client.info("memory")["used_memory"]), int(client.dbsize())),
    )


def _footprints(pids: Any) -> tuple[Footprint, ...]:
    return tuple(its for pid in pids if (its := footprint(pid)) is not None)
