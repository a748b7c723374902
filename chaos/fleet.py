"""A fleet of a thousand nodes on one server: its cost, and the time in which it mends itself.

The nodes are light (``light_nodes.py``), some hundreds in a process. During all
measurements one node leaves and another joins each second.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from itertools import count, cycle, islice
from pathlib import Path
from statistics import median_high
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from uuid import uuid4

import redis

import pooltasks
from chaos.cluster import wait_until
from chaos.light_nodes import POOLS, ROOM
from chaos.server import MortalServer
from pooltasks import keys

if TYPE_CHECKING:
    from collections.abc import Iterator

IDLE_SHARE = 0.05
"""Of a core, the most that an idle fleet may take of its server."""
DEATH_SECONDS = 0.5
RESTART_SECONDS = 5.0
_IN_A_PROCESS = 250
_RESERVED = 500
"""Operations that the killed node holds."""
_OTHER_WRITES = 4000
"""Writes of other clients, each second."""
_OUTAGE = 1.0
_CHURN_SECONDS = 1.0
_SETTLE_SECONDS = 3.0
_GIVE_UP = 60.0
_ROOT = Path(__file__).parents[1]


class Report(NamedTuple):
    """The measurements."""

    nodes: int
    pools: int
    idle: float
    """Seconds of the server's processor that the idle fleet took each second."""
    idle_with_churn: float
    """The same while nodes came and went."""
    node: float
    """Processor seconds of a light node each second: the session, the intake and its samples."""
    commands: dict[str, tuple[float, float]]
    """Of an idle second: calls, and seconds of the server within them, by command."""
    deaths: list[float]
    """Seconds from SIGKILL until the last operation that the node had reserved ran elsewhere."""
    restart: float
    """Seconds after the server's return until every node had taken an operation."""
    joined: int
    left: int
    taken_for_dead: int

    @property
    def holds(self) -> bool:
        """Whether all targets are met."""
        return (
            self.idle <= IDLE_SHARE
            and max(self.deaths) <= DEATH_SECONDS
            and self.restart <= RESTART_SECONDS
            and not self.taken_for_dead
        )

    def lines(self) -> list[str]:
        """Return the results as text."""
        commands = sorted(self.commands.items(), key=lambda each: -each[1][1])
        return [
            f"{self.nodes} nodes in {self.pools} pools",
            f"idle: {self.idle:.1%} of a core of the server, target {IDLE_SHARE:.0%}",
            f"idle, nodes come and go: {self.idle_with_churn:.1%} of a core",
            f"a node: {1000 * self.node:.1f} ms of its processor a second",
            *(
                f"    {name:<20} {calls:8.0f} a second {1000 * used:8.2f} ms"
                for name, (calls, used) in commands
            ),
            (
                f"death of a node until all it had reserved runs again: median "
                f"{1000 * median_high(self.deaths):.0f} ms, longest "
                f"{1000 * max(self.deaths):.0f} ms, target {1000 * DEATH_SECONDS:.0f} ms"
            ),
            (
                f"restart of the server until every node consumes: {self.restart:.1f} s, "
                f"target {RESTART_SECONDS:g} s"
            ),
            (
                f"{self.joined} nodes joined, {self.left} left, "
                f"{self.taken_for_dead} were taken for dead"
            ),
        ]


class Nodes:
    """A process with some nodes."""

    def __init__(self, url: str, pools: int) -> None:
        path = os.pathsep.join([str(Path(pooltasks.__file__).parents[1]), str(_ROOT)])
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "chaos.light_nodes", url, str(pools)],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._lock = threading.Lock()

    def begin(self, command: str, *arguments: Any) -> None:
        """Send it a command; :meth:`answer` has to follow."""
        assert self._popen.stdin is not None  # noqa: S101  a pipe was asked for
        self._popen.stdin.write(json.dumps([command, *arguments]).encode() + b"\n")
        self._popen.stdin.flush()

    def answer(self) -> Any:
        """Return the answer to the command of :meth:`begin`."""
        assert self._popen.stdout is not None  # noqa: S101  as above
        return json.loads(self._popen.stdout.readline())

    def ask(self, command: str, *arguments: Any) -> Any:
        """Send it a command and return its answer."""
        with self._lock:
            self.begin(command, *arguments)
            return self.answer()

    def kill(self) -> None:
        """End it as a host that fails."""
        self._popen.kill()
        self._popen.communicate()


class Fleet:
    """The server, and all nodes.

    Args:
        folder: An empty folder.
        nodes: How many nodes.
        pools: In how many pools.
    """

    def __init__(self, folder: Path, nodes: int, pools: int) -> None:
        self.server = MortalServer(folder / "data", appendfsync="everysec")
        self.size, self.pools = nodes, pools
        self.joined = self.left = 0
        self._numbers = count()
        self._of_pools = cycle([POOLS.format(number) for number in range(pools)])
        self._churns = threading.Event()
        self._at_churn = threading.Lock()
        self._ends = threading.Event()
        self._stack = ExitStack()
        self._processes: list[Nodes] = []

    def __enter__(self) -> Self:
        self.server.start()
        self._stack.callback(self.server.stop)
        self.redis: Any = self._stack.enter_context(redis.Redis.from_url(self.server.url))
        for first in range(0, self.size, _IN_A_PROCESS):
            process = self.process()
            process.begin("join", self._new(min(_IN_A_PROCESS, self.size - first)), ROOM, True)
            self._processes.append(process)
        for process in self._processes:
            process.answer()
        wait_until(lambda: self.living() == self.size, "every node has its lease")
        churn = threading.Thread(target=self._churn)
        churn.start()
        self._stack.callback(churn.join)
        self._stack.callback(self._ends.set)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def process(self) -> Nodes:
        """Start a process without nodes."""
        process = Nodes(self.server.url, self.pools)
        self._stack.callback(process.kill)
        return process

    def _new(self, number: int) -> list[tuple[str, str]]:
        return [
            (pool, f"node-{next(self._numbers)}@fleet") for pool in islice(self._of_pools, number)
        ]

    def living(self) -> int:
        """Return how many nodes have a lease."""
        queues = [keys.queue(POOLS.format(number)) for number in range(self.pools)]
        return sum(self.redis.zcard(keys.leases(queue)) for queue in queues)

    def ask_all(self, command: str, *arguments: Any) -> list[Any]:
        """Ask every process."""
        return [process.ask(command, *arguments) for process in self._processes]

    @contextmanager
    def churn(self) -> Iterator[None]:
        """Have nodes come and go meanwhile."""
        self._churns.set()
        try:
            yield
        finally:
            self._churns.clear()

    def _churn(self) -> None:
        for process in cycle(self._processes):
            if self._ends.wait(_CHURN_SECONDS):
                return
            if self._churns.is_set():
                with self._at_churn:
                    process.ask("leave", 1)
                    self.left += 1
                    process.ask("join", self._new(1), ROOM, True)
                    self.joined += 1

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Have the server be away; no node comes or goes meanwhile."""
        with self._at_churn:
            self.server.kill()
            yield
            self.server.start()

    def publish(self, pool: str, number: int) -> list[str]:
        """Publish operations; return their ids."""
        identifiers = [str(uuid4()) for _ in range(number)]
        self.redis.lpush(keys.queue(pool), *map(_message, identifiers))
        return identifiers


def _message(identifier: str) -> str:
    return json.dumps(
        {
            "body": "W1tdLCB7fSwge31d",
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"lang": "py", "task": "fleet.operation", "id": identifier},
            "properties": {"body_encoding": "base64", "delivery_info": {}},
        }
    )


def fleet(folder: Path, nodes: int, pools: int, seconds: float, kills: int) -> Report:
    """Measure a fleet in ``folder``.

    Args:
        folder: An empty folder.
        nodes: How many nodes.
        pools: In how many pools.
        seconds: How long the idle fleet is looked at.
        kills: How often a node is killed.
    """
    with Fleet(folder, nodes, pools) as its:
        time.sleep(_SETTLE_SECONDS)
        cost = _Cost(its)
        time.sleep(seconds)
        idle, node, commands = cost.each_second()
        with its.churn():
            cost = _Cost(its)
            time.sleep(seconds)
            with_churn, _, _ = cost.each_second()
            with _other_writes(its.server.url):
                deaths = [_death(its) for _ in range(kills)]
            back = _restart(its)
        taken_for_dead = sum(its.ask_all("deaths"))
        return Report(
            nodes,
            pools,
            idle,
            with_churn,
            node,
            commands,
            deaths,
            back,
            its.joined,
            its.left,
            taken_for_dead,
        )


class _Cost:
    """The work of the server and the nodes since this was made."""

    def __init__(self, its: Fleet) -> None:
        self._fleet = its
        self._begun = time.monotonic()
        self._before = self._read()

    def _read(self) -> tuple[float, float, dict[str, tuple[float, float]]]:
        cpu = self._fleet.redis.info("cpu")
        commands = self._fleet.redis.info("commandstats")
        return (
            cpu["used_cpu_user"] + cpu["used_cpu_sys"],
            sum(self._fleet.ask_all("cpu")),
            {
                name.removeprefix("cmdstat_"): (its["calls"], its["usec"] / 1e6)
                for name, its in commands.items()
            },
        )

    def each_second(
        self,
    ) -> tuple[float, float, dict[str, tuple[float, float]]]:
        """Return processor seconds of the server and of a node, and the server's commands."""
        server, nodes, commands = self._read()
        seconds = time.monotonic() - self._begun
        old_server, old_nodes, old_commands = self._before
        by_command = {}
        for name, (calls, used) in commands.items():
            old_calls, old_used = old_commands.get(name, (0, 0.0))
            if calls - old_calls > seconds:
                by_command[name] = (calls - old_calls) / seconds, (used - old_used) / seconds
        return (
            (server - old_server) / seconds,
            (nodes - old_nodes) / seconds / self._fleet.size,
            by_command,
        )


@contextmanager
def _other_writes(url: str) -> Iterator[None]:
    """Have another client write all the while."""
    ends = threading.Event()
    step = 0.01

    def write() -> None:
        with redis.Redis.from_url(url) as client:
            due = time.monotonic()
            while not ends.wait(max(0.0, due - time.monotonic())):
                due += step
                with client.pipeline(transaction=False) as pipeline:
                    for number in range(int(_OTHER_WRITES * step)):
                        pipeline.set(f"other:{number}", "x" * 200)
                    pipeline.execute()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()


def _death(its: Fleet) -> float:
    """Kill a node with its reservations; return when the last of its operations runs again."""
    pool = POOLS.format(0)
    its.ask_all("open", False)
    its.ask_all("taken")
    victim = its.process()
    victim.ask("join", [(pool, f"victim-{uuid4()}@fleet")], _RESERVED, False)
    identifiers = set(its.publish(pool, _RESERVED))
    wait_until(lambda: victim.ask("held") == _RESERVED, "the node has reserved everything")
    time.sleep(1.0)  # the others have seen it alive by now
    its.ask_all("open", True)
    killed_at = time.time()
    victim.kill()
    runs: dict[str, float] = {}

    def all_run() -> bool:
        for found in its.ask_all("taken"):
            runs.update({identifier: at for _, identifier, at in found})
        return identifiers <= runs.keys()

    wait_until(all_run, "everything runs again", _GIVE_UP)
    return max(runs[identifier] for identifier in identifiers) - killed_at


def _restart(its: Fleet) -> float:
    """Kill the server and start it again; return when the last node has taken an operation."""
    with its.outage():
        time.sleep(_OUTAGE)
    back_at = time.time()
    # One node comes or goes at any moment.
    wait_until(
        lambda: its.redis.info("clients")["blocked_clients"] >= its.size - 1,
        "every node waits for operations",
        _GIVE_UP,
    )
    # The server gives each waiting node one operation.
    expected = its.size - 1
    for number in range(its.pools):
        its.publish(POOLS.format(number), -(-its.size // its.pools))
    first: dict[str, float] = {}

    def all_consume() -> bool:
        for found in its.ask_all("taken"):
            for name, _, at in found:
                if at > back_at:
                    first.setdefault(name, at)
        return len(first) >= expected

    wait_until(all_consume, "every node takes something", _GIVE_UP)
    return max(first.values()) - back_at
