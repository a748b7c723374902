"""Controller: one pool's turn, from samples to nodes that are told their size.

All that it remembers is in Redis, so that any process can take the next turn. A
turn that finds no new sample decides nothing: late, doubled and competing turns
do no harm.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger

from pooltasks import keys, telemetry
from pooltasks.app import settings_of
from pooltasks.broker.client import redis_client
from pooltasks.broker.queues import waiting_in
from pooltasks.counted import counted
from pooltasks.metrics.collector import STALE
from pooltasks.metrics.decisions import DecisionStore, PoolDecision, Turn
from pooltasks.metrics.sample import QUIET_SECONDS
from pooltasks.metrics.samples import SampleStore
from pooltasks.optimizer import allowances, observing
from pooltasks.optimizer.hosts import Hosts
from pooltasks.optimizer.policies import Decision, Limits, build
from pooltasks.optimizer.splitting import Capacity, split_by_share
from pooltasks.optimizer.staffing import Goal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery import Celery

    from pooltasks.metrics.announced import Announced
    from pooltasks.metrics.decisions import Sharing
    from pooltasks.metrics.samples import QueueState, Reading, StoredSample
    from pooltasks.optimizer.policies import Observation
    from pooltasks.pool_settings import PoolSettings

    Samples = Mapping[str, Sequence[StoredSample]]

_NONE: Mapping[str, float] = {}

logger = get_logger(__name__)

PATIENCE = 0.25
"""Seconds that a turn waits for samples that are due."""
_LOOK_AGAIN = 0.02
_UNLIMITED = 1_000_000
"""Slots: what the policy may want, so that hosts can be added for it."""


class Controller:
    """Decides the size of one pool, and has its nodes follow.

    Args:
        app: The application.
        pool: The pool's name.
    """

    def __init__(self, app: Celery, pool: str) -> None:
        self.app = app
        self.pool = pool
        self.settings = settings_of(app).pool_settings(pool)
        client = redis_client(app)
        self.decisions = DecisionStore(client, pool)
        lists = waiting_in(app, keys.queue(pool))
        self._samples = SampleStore(client, pool, lists, self.settings.objective)

    def tick(self, until: float | None = None) -> PoolDecision | None:
        """Take a turn.

        Args:
            until: Time on the monotonic clock up to which it may wait for samples
                that are due; by default a quarter of a second from now.

        Returns:
            The decision; None if there is nothing new to decide on, or another
            optimizer has the turn.

        Raises:
            redis.RedisError: The server does not answer; nothing was decided,
                or nothing but what a later turn finds and carries out.
        """
        turn = self.decisions.begin()
        if turn is None:
            return None
        memory, decision = self._decide(turn, until)
        if decision is None:
            self.decisions.release(turn)
            return None
        if not self.decisions.commit(turn, memory.snapshot(), decision):
            logger.warning("pool %s: an optimizer's turn took too long and is void", self.pool)
            return None
        if decision.acting:
            self._resize(turn, decision)
        self._emit(decision)
        return decision

    def dry_run(self) -> PoolDecision | None:
        """Return what :meth:`tick` would decide now, and change nothing.

        None if nothing is new since the last decision.
        """
        return self._decide(self.decisions.memory(), None)[1]

    def _decide(self, turn: Turn, until: float | None) -> tuple[Memory, PoolDecision | None]:
        memory = Memory.restored(turn.state, self.settings.policy)
        reading = self._read(memory, turn, until)
        acting = turn.paused is None
        return memory, decide(
            self.settings,
            memory,
            *reading,
            acting=acting,
            announced=turn.announced,
            sharing=turn.sharing,
        )

    def _read(self, memory: Memory, turn: Turn, until: float | None) -> Reading:
        """Read the samples since the last turn; wait a little for those that are due."""
        if until is None:
            until = time.monotonic() + PATIENCE
        interval = self.settings.metrics_interval
        # A node's last sample tells of it for as long as it may be late.
        late = STALE * max(1.0, interval) + QUIET_SECONDS
        seconds = turn.at - memory.watch.at + late
        seconds = min(seconds, observing.MISSED * max(1.0, interval) + late)
        while True:
            reading = self._samples.read(seconds)
            queue = reading.queue
            nodes = observing.live(reading.samples, queue.at).values()
            if time.monotonic() >= until or not observing.is_due(
                nodes, queue.at, interval, PATIENCE
            ):
                return reading
            time.sleep(_LOOK_AGAIN)

    def _resize(self, turn: Turn, decision: PoolDecision) -> None:
        """Tell nodes their size; without waiting, their next samples show whether they follow."""
        by_size: dict[int, list[str]] = {}
        for node in decision.told:
            by_size.setdefault(decision.nodes[node], []).append(node)
        overflow = {} if decision.overflow is None else {"overflow": decision.overflow}
        for size, nodes in by_size.items():
            self.app.control.broadcast(
                "pool_resize",
                arguments={"size": size, "token": turn.token, **overflow},
                destination=nodes,
            )

    def _emit(self, decision: PoolDecision) -> None:
        if decision.told and decision.acting:
            logger.info("pool %s: %s", self.pool, decision.reason)
        telemetry.execute(
            "optimizer.decision",
            {
                "target": decision.target,
                "before": decision.before,
                "wanted": decision.wanted,
                "hosts": decision.hosts,
            },
            {
                "pool": self.pool,
                "policy": decision.policy,
                "acting": decision.acting,
                "reason": decision.reason,
                "inputs": decision.inputs,
            },
        )


@dataclass
class Memory:
    """The state that a turn leaves to the next one."""

    policy: str
    state: dict[str, Any] | None
    """The policy's; None at its first decision."""
    watch: observing.Watch
    size: int | None = None
    """Slots that the policy was given; None if it has not decided yet."""
    hosts: Hosts = field(default_factory=Hosts)
    said: int = 1
    """Hosts that the last decision asked for."""
    decided: float = 0.0
    """Server time."""
    allowed: allowances.Told = field(default_factory=dict)
    """The overflow that nodes were told."""

    @classmethod
    def restored(cls, state: Any, policy: str) -> Memory:
        """Return what :meth:`snapshot` wrote; another policy starts without a past."""
        if state is None:
            return cls(policy, None, observing.Watch())
        try:
            watch, hosts = observing.Watch.restored(state["watch"]), Hosts(**state["hosts"])
            memory = cls(**{**state, "watch": watch, "hosts": hosts})
        except (KeyError, TypeError, ValueError):
            logger.warning("another version's memory is of no use: the optimizer begins anew")
            return cls(policy, None, observing.Watch())
        if memory.policy != policy:
            memory.policy, memory.state = policy, None
        return memory

    def snapshot(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**vars(self), "watch": self.watch.snapshot(), "hosts": vars(self.hosts)}


def decide(
    settings: PoolSettings,
    memory: Memory,
    queue: QueueState,
    samples: Samples,
    unreadable: Mapping[str, float] = _NONE,
    *,
    acting: bool = True,
    announced: Announced | None = None,
    sharing: Sharing | None = None,
) -> PoolDecision | None:
    """Return the decision for a pool; None if there is nothing new to decide on.

    Args:
        settings: The pool's.
        memory: Of the turn before; what this one leaves is written into it.
        queue: The queue now.
        samples: Of each node, oldest first, those since the turn before at least.
        unreadable: Nodes whose last sample has the format of another version, and its
            server time. While there are any, nothing is decided: what they take from the
            queue and what they run is not known.
        acting: Whether it will be carried out.
        announced: The figures that applications recorded, as if they were of the last period.
        sharing: How two versions share the work, while a new one is rolled out.
    """
    interval, slots = settings.metrics_interval, settings.slots
    patience = STALE * max(1.0, interval) + QUIET_SECONDS
    foreign = [name for name, at in unreadable.items() if queue.at - at < patience]
    if foreign:
        # The samples of such a time show only a part of the pool, so nothing is learnt from them.
        memory.watch.pass_over(samples, interval)
        return _hold(settings, memory, queue.at, _of_another_version(foreign))
    nodes = observing.live(samples, queue.at)
    if not nodes:
        return _hold(settings, memory, queue.at, _silence(settings, samples, queue.at))
    newest = max(one.at for one in nodes.values())
    if newest - memory.decided < settings.optimization_interval - interval / 2:
        return None
    serving = {name: one for name, one in nodes.items() if one.sample.serves}
    if not serving:
        memory.watch.pass_over(samples, interval)
        return _hold(settings, memory, queue.at, "every live node is draining")
    before = sum(one.sample.size for one in serving.values()) * slots
    observations = memory.watch.observe(
        queue,
        samples,
        wait=settings.objective.wait_ms / 1000,
        size=memory.size if acting and memory.size is not None else before,
        interval=interval,
    )
    if not observations:
        return None
    if announced is not None:
        observations[-1] = observing.with_announced(observations[-1], announced)
    memory.decided = newest
    capacities = {
        name: Capacity(
            settings.min_pool_size,
            settings.max_pool_size,
            settings.max_pool_size if one.sample.room is None else one.sample.room,
            one.sample.size,
        )
        for name, one in serving.items()
    }
    asked = _ask(settings, memory, observations, len(serving))
    newer = [] if sharing is None else [n for n, one in serving.items() if sharing.has(one.sample)]
    share = None if sharing is None else sharing.share
    workers = split_by_share(asked.target, slots, capacities, newer, share)
    target = sum(workers.values()) * slots
    memory.size = min(asked.target, target) if acting else before
    memory.said = memory.hosts.want(
        newest,
        asked.lasting,
        slots,
        capacities.values(),
        drained=sum(one.sample.draining and not one.sample.stopping for one in nodes.values()),
        most=settings.max_hosts,
    )
    default, overflow = settings.max_overflow, settings.max_overflow
    if asked.overflow is not None:
        overflow = allowances.share(asked.overflow, slots, len(serving))
    told = allowances.to_tell(overflow, serving, memory.allowed, default=default, now=queue.at)
    if acting:
        memory.allowed = allowances.noted(
            overflow, serving, memory.allowed, default=default, now=queue.at
        )
    return PoolDecision(
        at=queue.at,
        policy=settings.policy,
        target=target,
        before=before,
        wanted=asked.target,
        hosts=memory.said,
        nodes=workers,
        told=[
            name
            for name, one in serving.items()
            if one.sample.size != workers[name] or name in told
        ],
        reason=_in_words(asked, target, memory.said, len(nodes), announced),
        acting=acting,
        inputs={**asked.inputs, **_recorded(announced)},
        overflow=None if asked.overflow is None and not told else overflow,
    )


def _ask(
    settings: PoolSettings,
    memory: Memory,
    observations: Sequence[Observation],
    nodes: int,
) -> Decision:
    """Have the policy see every period; return its last word."""
    slots = nodes * settings.slots
    policy = build(
        settings.policy,
        Limits(settings.min_pool_size * slots, _UNLIMITED),
        Goal(settings.objective.wait_ms / 1000, settings.objective.quantile),
        settings.pool_size * slots,
        settings.slots,
        settings.max_overflow * slots,
    )
    if memory.state is not None:
        try:
            policy.restore(memory.state)
        except (KeyError, TypeError, ValueError):
            logger.warning("another version's memory is of no use: %s begins anew", memory.policy)
    *missed, last = observations
    for observation in missed:
        policy.observe(observation)
    asked = policy.observe(last)
    memory.state = policy.snapshot()
    return asked


def _of_another_version(nodes: Sequence[str]) -> str:
    who = "a node writes" if len(nodes) == 1 else f"{len(nodes)} nodes write"
    return f"{who} samples in the format of another version"


def _silence(settings: PoolSettings, samples: Samples, now: float) -> str:
    if not settings.enable_metrics:
        return "enable_metrics is false, so its nodes write no samples to decide on"
    if samples:
        silent = now - max(its[-1].at for its in samples.values())
        return f"no live node has written a sample for {silent:.0f} s"
    return "no node has written a sample lately"


def _hold(settings: PoolSettings, memory: Memory, now: float, why: str) -> PoolDecision | None:
    """Decide nothing, and say so once in each interval."""
    if now - memory.decided < settings.optimization_interval:
        return None
    memory.decided = now
    size = memory.size
    what = "the size" if size is None else counted(size, "slot")
    return PoolDecision(
        at=now,
        policy=settings.policy,
        target=size,
        before=size,
        wanted=size,
        hosts=memory.said,
        nodes={},
        told=[],
        reason=f"Hold {what}: {why}.",
        acting=False,
    )


def _recorded(announced: Announced | None) -> dict[str, float]:
    figures = {} if announced is None else announced.figures()
    return {f"recorded_{name}": value for name, value in figures.items()}


def _in_words(
    asked: Decision, target: int, hosts: int, nodes: int, announced: Announced | None
) -> str:
    recorded = "" if announced is None else f" An application recorded {announced}."
    if target >= asked.target:
        return asked.reason + recorded
    hold = "The live node holds" if nodes == 1 else f"The {nodes} live nodes hold"
    more = f" {hosts} nodes are wanted." if hosts > nodes else ""
    return f"{asked.reason}{recorded} {hold} {target} at most.{more}"
