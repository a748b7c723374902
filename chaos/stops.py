"""Stop nodes in every way under load, and check that no operation runs twice without need."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from chaos.accounting import Account, settle
from chaos.cluster import QUEUE, Cluster, wait_until
from chaos.steady import Steady
from pooltasks import keys

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from chaos.cluster import Process

WAIT_BOUND = 0.5
"""Seconds that an operation waits at the most for a node that ends while another one is free."""
_SOFT_SECONDS = 1
_GRACE = 2.0
"""Seconds from SIGTERM to SIGKILL, as an orchestrator that is impatient gives."""
_PATIENCE = 20.0
_JUST = 0.2
"""Seconds that an operation's end needs to get from its worker to its node."""

PLAIN, REMAPPED, SOFT = "plain", "remapped", "soft"
"""Kinds of nodes: unchanged, with REMAP_SIGTERM=SIGQUIT, with a soft shutdown timeout."""


class Stop(NamedTuple):
    """One way to stop a node."""

    name: str
    kind: str
    signals: tuple[tuple[float, int], ...]
    """Seconds after the signal before, and the signal."""
    interrupts: int | None
    """The number of the signal that may interrupt operations; None: none is interrupted."""


TERM, QUIT, INT, KILL = signal.SIGTERM, signal.SIGQUIT, signal.SIGINT, signal.SIGKILL
STOPS = (
    Stop("SIGTERM", PLAIN, ((0, TERM),), None),
    Stop("SIGTERM twice", PLAIN, ((0, TERM), (0.1, TERM)), None),
    Stop("Ctrl-C", PLAIN, ((0, INT),), None),
    Stop("Ctrl-C twice", PLAIN, ((0, INT), (0.2, INT)), 1),
    Stop("SIGQUIT", PLAIN, ((0, QUIT),), 0),
    Stop("SIGTERM, then SIGKILL", PLAIN, ((0, TERM), (_GRACE, KILL)), 1),
    Stop("SIGTERM as SIGQUIT", REMAPPED, ((0, TERM),), 0),
    Stop("soft", SOFT, ((0, QUIT),), 0),
)


class Report(NamedTuple):
    """The results of a run."""

    stops: Counter[str]
    account: Account
    unjustified: list[str]
    """Operations that ran twice although nothing had interrupted them."""
    longest_wait: float
    """Seconds from being accepted until the first start, of all operations."""
    late: int
    """Operations that waited longer than the bound."""
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether nothing was lost, counted as a delivery, or run twice without need."""
        return self.account.is_whole and not self.account.dead and not self.unjustified

    def lines(self) -> list[str]:
        """Return the results as text."""
        its = self.account
        return [
            ", ".join(f"{name}: {count}" for name, count in self.stops.items()),
            (
                f"{its.accepted} accepted: {its.done} done, {its.dead} dead letters, "
                f"{its.repeated} interrupted and run again, {len(self.unjustified)} run again "
                f"without need, lost {len(its.lost)}; longest wait {self.longest_wait:.2f} s, "
                f"{self.late} longer than {WAIT_BOUND:g} s; {self.seconds:.0f} s"
            ),
        ]


class _Done(NamedTuple):
    """A stop that is over."""

    name: str
    workers: set[int]
    interrupted_at: float | None
    ended_at: float


def stops(folder: Path, times: int, seed: int) -> Report:
    """Stop nodes ``times`` times."""
    begun = time.monotonic()
    chance = random.Random(seed)  # noqa: S311  repeatable
    counted: Counter[str] = Counter()
    done: list[_Done] = []
    index = keys.unacked_index(QUEUE)
    # One counted delivery makes a message a dead letter at once.
    with Cluster(folder, nodes=0, workers=4, max_deliveries=1, control=False) as cluster:
        nodes = {
            PLAIN: cluster.add_node("plain", cluster.url),
            REMAPPED: cluster.add_node("remapped", cluster.url, REMAP_SIGTERM="SIGQUIT"),
            SOFT: cluster.add_node(
                "soft", cluster.url, "--", f".soft_shutdown_timeout={_SOFT_SECONDS}"
            ),
        }
        wait_until(lambda: cluster.redis.hlen(index) == len(nodes), "all nodes serve")
        with Steady(cluster, chance) as load:
            for number in range(times):
                # Each in its turn, then at random.
                stop = STOPS[number] if number < len(STOPS) else chance.choice(STOPS)
                _wait_until_all_work(cluster, nodes.values())
                time.sleep(chance.uniform(0, 0.5))
                done.append(_stop(nodes[stop.kind], stop))
                counted[stop.name] += 1
            _wait_until_all_work(cluster, nodes.values())
        account = settle(cluster, set(load.accepted), _PATIENCE)
        waits = load.waits(cluster.runs)
        unjustified = _unjustified(cluster, load, done)
    return Report(
        counted,
        account,
        unjustified,
        max(waits),
        sum(wait > WAIT_BOUND for wait in waits),
        time.monotonic() - begun,
    )


def _wait_until_all_work(cluster: Cluster, nodes: Collection[Process]) -> None:
    """Return when each node has its workers, and has begun an operation since."""
    since = time.time()

    def all_work() -> bool:
        begun = {start.worker for start in cluster.runs.since(since)}
        return all(begun & {*node.children()} for node in nodes)

    wait_until(all_work, "all nodes run something")


def _stop(node: Process, stop: Stop) -> _Done:
    workers = {*node.children()}
    popen = node.popen
    interrupted_at = None
    for number, (pause, name) in enumerate(stop.signals):
        time.sleep(pause)
        if number == stop.interrupts:
            interrupted_at = time.time()
        if popen.poll() is None:
            popen.send_signal(name)
    wait_until(lambda: popen.poll() is not None, f"{node.name} ends after {stop.name}")
    return _Done(stop.name, workers, interrupted_at, time.time())


def _unjustified(cluster: Cluster, load: Steady, done: list[_Done]) -> list[str]:
    """Return the operations that ran again though they had ended, or nothing ended them."""
    by_operation: dict[str, list[tuple[float, int]]] = {}
    for start in sorted(cluster.runs, key=lambda each: each.at):
        by_operation.setdefault(start.operation, []).append((start.at, start.worker))
    found = []
    for operation, its in by_operation.items():
        seconds = load.accepted[operation].seconds
        for at, worker in its[:-1]:
            of_it = [each for each in done if worker in each.workers]
            if not any(
                each.interrupted_at is not None
                and at <= each.ended_at
                and at + seconds + _JUST >= each.interrupted_at
                for each in of_it
            ):
                when = ", ".join(
                    f"{each.name} at {at - (each.interrupted_at or each.ended_at):+.2f} s"
                    for each in of_it
                )
                found.append(f"{operation} of {seconds:.2f} s, its worker's node: {when or 'none'}")
    return found
