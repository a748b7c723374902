"""A day of traffic on nodes that KEDA starts and ends, as it does in config/kubernetes.

A producer plays recorded arrivals. The optimizer writes how many nodes it wants into a list,
KEDA's arithmetic makes a number of replicas of its length, and nodes are started and ended as
Kubernetes starts and ends pods. Nothing may be lost, run twice, or be interrupted by that.
"""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

from chaos.accounting import Account, settle
from chaos.autoscaler import Keda
from chaos.cluster import QUEUE, Cluster, wait_until
from chaos.steady import Producer
from pooltasks import keys
from pooltasks.simulator.traces import MINUTE, trace
from pooltasks.simulator.workloads import Service, Workload, diurnal

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

    from chaos.cluster import Process
    from chaos.steady import Accepted
    from pooltasks.simulator.workloads import Arrivals, Rates

GRACE = 90.0
"""Seconds from SIGTERM to SIGKILL: terminationGracePeriodSeconds of config/kubernetes/nodes.yaml.
"""
MOST = 10
"""maxReplicaCount, and the rest of config/kubernetes/scaling.yaml."""
WINDOW = 60.0
SHARE = 0.5
PERIOD = 60.0
_LOOK = 15.0
"""Seconds between two looks of the autoscaler, as Kubernetes has it."""
_DAY = 86400.0
_WORKERS = 6
_PEAK = 90.0
"""Operations a second where the arrivals are most: about five nodes of six workers."""
_RUN = Service(mean=0.2)
_SHORTEST, _LONGEST = 0.02, 1.0
"""Seconds of an operation."""
_TRICKLE = 0.5
"""Seconds between two operations of the trickle: one node is more than enough for it."""
_PATIENCE = 60.0
_STEP = 0.02


class Plan(NamedTuple):
    """The size of a run."""

    trace_path: Path | None
    """A CSV file with a count for each minute; None: days that rise and fall as a sine."""
    seconds: float
    compression: float
    """How many times faster than their time the arrivals come."""
    haste: float
    """How many times sooner than usual the optimizer and the autoscaler act."""
    seed: int
    """Of the part of the file, the arrivals and their lengths."""

    def shape(self) -> Rates:
        """Return the rates, in time that is compressed."""
        if self.trace_path is None:
            return diurnal(period=_DAY / self.compression)
        return trace(self.trace_path, row=MINUTE / self.compression)


class Report(NamedTuple):
    """The results of a run."""

    account: Account
    refused: int
    interrupted: int
    """Starts of operations that came to no end."""
    killed: int
    """Nodes that had not ended when their grace period was over."""
    badly_ended: list[str]
    """Nodes that ended otherwise than they should."""
    restarts: int
    """Processes that ended though nobody had told them to."""
    grown: int
    """How often there were more replicas."""
    shrunk: int
    """How often there were fewer."""
    most: int
    nodes: list[tuple[float, int]]
    """Seconds since the first operation, and the replicas from then on."""
    ended: int
    """Nodes that were told to end."""
    running: int
    """Operations that ran in nodes when these were told to end."""
    longest_end: float
    """Seconds from SIGTERM until a node had ended."""
    longest_wait: float
    """Seconds from being accepted until the first start."""
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether each operation ran once and to its end, and each node ended in time."""
        account = self.account
        return account.accepted == account.done and not (
            account.lost
            or account.repeated
            or self.interrupted
            or self.killed
            or self.badly_ended
            or self.restarts
        )

    def lines(self) -> list[str]:
        """Return the results as text: the nodes over time, and the account."""
        its = self.account
        return [
            *(f"{since:6.1f} s  {nodes:2} {'#' * nodes}" for since, nodes in self.nodes),
            (
                f"{its.accepted} accepted: {its.done} done, {its.failed} failed, "
                f"{its.dead} dead letters, {self.interrupted} interrupted, {its.repeated} "
                f"run again, lost {len(its.lost)}; {self.refused} refused; longest wait "
                f"{self.longest_wait:.2f} s"
            ),
            (
                f"{self.grown} times more nodes, {self.shrunk} times fewer, "
                f"{self.most} at the most; {self.ended} nodes were told to end while "
                f"{self.running} operations ran in them: the longest took "
                f"{self.longest_end:.2f} s, {self.killed} had to be killed; "
                f"{self.restarts} processes ended untold; {self.seconds:.0f} s"
            ),
            *self.badly_ended,
        ]


@dataclass
class _Pod:
    """A node, as Kubernetes sees it."""

    node: Process
    told_at: float | None = None
    """Seconds since the epoch."""
    workers: frozenset[int] = frozenset()
    """Those that it had when it was told to end."""
    took: float | None = None
    """Seconds in which it ended."""


class _Replicas:
    """The nodes of a pool."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.pods: list[_Pod] = []
        self.killed = 0
        self.badly_ended: list[str] = []

    @property
    def serving(self) -> list[_Pod]:
        """Those that have not been told to end, the oldest first."""
        return [pod for pod in self.pods if pod.told_at is None]

    @property
    def ending(self) -> list[_Pod]:
        """Those that have been told to end, and have not yet."""
        return [pod for pod in self.pods if pod.told_at is not None and pod.took is None]

    def scale(self, replicas: int) -> None:
        """Start nodes, or have the newest ones end."""
        there = self.serving
        for _ in range(replicas - len(there)):
            node = self._cluster.add_node(f"pod-{len(self.pods)}", self._cluster.url)
            self.pods.append(_Pod(node))
        for pod in there[replicas:]:
            pod.workers = frozenset(pod.node.children())
            pod.node.give_up()
            pod.told_at = time.time()
            pod.node.send(signal.SIGTERM)

    def look_after(self) -> None:
        """Note which have ended, and kill those whose grace period is over."""
        for pod in self.ending:
            assert pod.told_at is not None  # noqa: S101  it is ending
            took = time.time() - pod.told_at
            if (code := pod.node.popen.poll()) is not None:
                pod.took = took
                # A process that is just starting has no handler yet, and nothing to finish.
                if code and (pod.workers or code != -signal.SIGTERM):
                    self.badly_ended.append(f"{pod.node.name} ended with {code}")
            elif took > GRACE:
                self.killed += 1
                pod.node.send(signal.SIGKILL)
                pod.node.popen.wait()


class _Replay(Producer):
    """Publishes each operation of a sequence when it is due, however long others take.

    When it is over there is a trickle, so that the nodes that end then have something to do.
    """

    def __init__(self, cluster: Cluster, arrivals: Arrivals) -> None:
        super().__init__(cluster)
        self._arrivals = arrivals
        self._is_over = threading.Event()

    @property
    def is_over(self) -> bool:
        """Whether the last operation of the sequence has been published, or none will be."""
        return self._is_over.is_set() or not self.thread.is_alive()

    def run(self) -> None:
        """Publish the sequence, and then the trickle."""
        begun = time.monotonic()
        its = self._arrivals
        for due, run in zip(its.times, its.services, strict=True):
            if self.ends.wait(max(0.0, begun + due - time.monotonic())):
                return
            self.publish(min(_LONGEST, max(_SHORTEST, run)))
        self._is_over.set()
        while not self.ends.wait(_TRICKLE):
            self.publish(_LONGEST)


def keda(folder: Path, plan: Plan) -> Report:
    """Play arrivals on nodes that KEDA scales.

    Args:
        folder: An empty folder.
        plan: The arrivals to play, and their pace.

    Raises:
        ConfigurationError: The plan's file is no trace.
    """
    arrivals = Workload("keda", _to_peak(plan.shape()), _RUN).sequence(plan.seed, plan.seconds)
    # One counted delivery makes a message a dead letter at once.
    with Cluster(folder, nodes=0, workers=_WORKERS, max_deliveries=1, haste=plan.haste) as cluster:
        return _Run(cluster, plan.haste).play(arrivals)


def _to_peak(shape: Rates) -> Rates:
    """Return a shape whose highest rate is what about five nodes can do."""

    def rates(seconds: float, random: Random) -> list[float]:
        values = shape(seconds, random)
        highest = max(values)
        return [value * _PEAK / highest for value in values]

    return rates


class _Run:
    """One run on a deployment without nodes."""

    def __init__(self, cluster: Cluster, haste: float) -> None:
        self._cluster = cluster
        self._replicas = _Replicas(cluster)
        self._every = _LOOK / haste
        self._autoscaler = Keda(
            1, window=WINDOW / haste, most=MOST, share=SHARE, period=PERIOD / haste
        )
        self._nodes: list[tuple[float, int]] = [(0.0, 1)]

    def play(self, arrivals: Arrivals) -> Report:
        """Play the arrivals, then wait until one node is left."""
        cluster, replicas = self._cluster, self._replicas
        replicas.scale(1)
        wait_until(lambda: cluster.redis.hlen(keys.unacked_index(QUEUE)) == 1, "a node serves")
        wait_until(self._length, "the optimizer has decided")
        begun = time.monotonic()
        with _Replay(cluster, arrivals) as replay:
            self._scale(replay, begun)
        account = settle(cluster, set(replay.accepted), _PATIENCE)
        counts = [count for _, count in self._nodes]
        changes = [after - before for before, after in pairwise(counts)]
        ended = [pod for pod in replicas.pods if pod.told_at is not None]
        accepted = replay.accepted
        return Report(
            account,
            replay.refused,
            cluster.runs.count() - account.done,
            replicas.killed,
            replicas.badly_ended,
            cluster.restarts,
            sum(change > 0 for change in changes),
            sum(change < 0 for change in changes),
            max(counts),
            self._nodes,
            len(ended),
            self._running(ended, accepted),
            max((pod.took for pod in ended if pod.took is not None), default=0.0),
            max(replay.waits(cluster.runs), default=0.0),
            time.monotonic() - begun,
        )

    def _length(self) -> int:
        """Return what KEDA's Redis scaler reads."""
        length: Any = self._cluster.redis.llen(keys.hosts_wanted(QUEUE.removeprefix("pool.")))
        return int(length)

    def _scale(self, replay: _Replay, begun: float) -> None:
        """Scale until all arrivals have come and one node is left, or that takes too long."""
        replicas = self._replicas
        look_at = over_at = begun
        is_at_rest = False
        while not (replay.is_over and is_at_rest) and look_at < over_at + _PATIENCE:
            time.sleep(_STEP)
            replicas.look_after()
            now = time.monotonic()
            if not replay.is_over:
                over_at = now
            if now >= look_at:
                look_at = now + self._every
                wanted = self._autoscaler.look(now, self._length())
                if wanted != len(replicas.serving):
                    replicas.scale(wanted)
                    self._nodes.append((now - begun, wanted))
            is_at_rest = len(replicas.serving) == 1 and not replicas.ending

    def _running(self, ended: list[_Pod], accepted: dict[str, Accepted]) -> int:
        """Return how many operations ran in nodes at the moment that these were told to end."""
        told_at = {worker: pod.told_at or 0.0 for pod in ended for worker in pod.workers}
        return sum(
            start.at <= told_at[start.worker] < start.at + accepted[start.operation].seconds
            for start in self._cluster.runs
            if start.worker in told_at
        )
