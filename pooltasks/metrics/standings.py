"""Standings: how all pools of an application stand, read together.

A scrape shows the standings. They are made of the last sample of each node and of
the totals, so their cost does not grow with the history that is kept.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pooltasks import keys
from pooltasks.broker import limited
from pooltasks.broker.queues import waiting_in
from pooltasks.keys import CONTROL_POOL
from pooltasks.metrics.collector import LEASE, PRESENT, health_of, load_of, state_of
from pooltasks.metrics.decisions import last_decision, last_turn
from pooltasks.metrics.error_groups import failures_by_class
from pooltasks.metrics.samples import SampleStore, read_last
from pooltasks.metrics.surroundings import ServerMemory, is_silent
from pooltasks.metrics.totals import Totals, by_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import redis
    from celery import Celery

    from pooltasks.broker.limited import LimitedOperation
    from pooltasks.metrics.counts import Counts
    from pooltasks.metrics.decisions import PoolDecision
    from pooltasks.metrics.health import Health
    from pooltasks.metrics.samples import QueueState, StoredSample
    from pooltasks.metrics.view import Load, NodeState
    from pooltasks.pool_settings import PoolSettings
    from pooltasks.telemetry import Outcome

WINDOW = 60.0
"""Seconds of which the health score speaks; longer if standings are read less often."""
_STEP = 5.0
"""Seconds between the totals that are kept for it."""


@dataclass(frozen=True)
class Standing:
    """One pool now; None where something is not known."""

    load: Load
    nodes: Counter[NodeState]
    utilization: float | None
    """Busy seconds ÷ process seconds (0–1) of the live nodes' last samples."""
    health: Health | None
    """None until standings were read twice."""
    totals: Totals | None
    by_name: dict[str, Counter[Outcome]]
    """Totals by operation and outcome, the operation that was seen first first."""
    dead_letters: int
    failures: dict[tuple[str, str], int]
    """Failures by operation and class of error, those that were seen first first."""
    limited: list[LimitedOperation]
    """The operations with limits, by name."""
    decision: PoolDecision | None
    """The optimizer's last; None if it has stopped, or made none for as long as a node is shown."""
    versions: Counter[str]
    """The live nodes by the version of their code."""
    rollout: tuple[str, str, float] | None
    """The new version of the last rollout, ``live``, ``done`` or ``aborted``, and its share (0–1);
    None if there was none lately."""


class Standings:
    """Reads how the pools stand; made for one thread.

    Args:
        app: The application. Its configured pools are read, and the control pool if one of
            them has an optimizer; those without metrics are left out.
        client: A client of its own, with ``decode_responses=False``.
    """

    def __init__(self, app: Celery, client: redis.Redis) -> None:
        settings = app.pooltasks.settings
        # Without an optimizer nobody needs the control pool: it would only seem to lack a node.
        optimized = any(its.enable_optimizer for its in settings.pools.values())
        control = [CONTROL_POOL] if optimized else []
        named = {
            pool: settings.pool_settings(pool)
            for pool in dict.fromkeys([*settings.pools, *control])
        }
        self.pools: dict[str, PoolSettings] = {
            pool: its for pool, its in named.items() if its.enable_metrics
        }
        self._client = client
        self._stores = [
            SampleStore(client, pool, waiting_in(app, keys.queue(pool)), its.objective)
            for pool, its in self.pools.items()
        ]
        self._earlier: deque[tuple[float, dict[str, Totals | None]]] = deque()

    def read(self) -> dict[str, Standing]:
        """Return the standing of each pool.

        Raises:
            redis.RedisError: The server does not answer.
        """
        readings = dict(zip(self.pools, self._readings(), strict=True))
        now = max((its.queue.at for its in readings.values()), default=0.0)
        before = self._a_window_before(now, {pool: its.totals for pool, its in readings.items()})
        return {
            pool: its.standing(before.get(pool), self.pools[pool]) for pool, its in readings.items()
        }

    def server_memory(self) -> ServerMemory:
        """Return how much memory the server uses.

        Raises:
            redis.RedisError: The server does not answer.
        """
        return ServerMemory.read(self._client)

    def _readings(self) -> Iterator[_Reading]:
        last = read_last(self._client, self._stores)
        pipeline = self._client.pipeline(transaction=False)
        for pool in self.pools:
            pipeline.hgetall(keys.pool_totals(pool))
            pipeline.hgetall(keys.pool_totals_by_name(pool))
            pipeline.hlen(keys.dead_letters(keys.queue(pool)))
            pipeline.hgetall(keys.error_classes(pool))
            limited.ask(pipeline, pool, 0)
            pipeline.xrevrange(keys.decisions(pool), count=1)
            pipeline.hget(keys.optimizer(pool), "token")
            pipeline.hmget(keys.rollout(keys.queue(pool)), "to", "state", "share")
        replies = iter(pipeline.execute())
        for reading in last:
            totals, named = Totals.of(next(replies)), by_name(next(replies))
            dead, failures = next(replies), failures_by_class(next(replies))
            its_limited = limited.operations(next(replies))
            decision, turn = last_decision(next(replies)), last_turn(next(replies))
            rollout = _rollout(next(replies))
            yield _Reading(
                *reading, totals, named, dead, failures, its_limited, decision, turn, rollout
            )

    def _a_window_before(
        self, now: float, totals: dict[str, Totals | None]
    ) -> dict[str, Totals | None]:
        """Return the totals of a window ago, or the oldest that there are; keep these for later."""
        earlier = self._earlier
        while len(earlier) > 1 and earlier[1][0] <= now - WINDOW:
            earlier.popleft()
        before = earlier[0][1] if earlier else {}
        if not earlier or now - earlier[-1][0] >= _STEP:
            earlier.append((now, totals))
        return before


@dataclass(frozen=True)
class _Reading:
    """The server's data of one pool."""

    queue: QueueState
    samples: dict[str, list[StoredSample]]
    unreadable: dict[str, float]
    totals: Totals | None
    by_name: dict[str, Counter[Outcome]]
    dead_letters: int
    failures: dict[tuple[str, str], int]
    limited: list[LimitedOperation]
    decision: PoolDecision | None
    turn: float | None
    """Server time of the optimizer's last turn."""
    rollout: tuple[str, str, float] | None

    def standing(self, before: Totals | None, settings: PoolSettings) -> Standing:
        """Return how the pool stands, its health since the totals ``before``."""
        last = [one for its in self.samples.values() for one in its]
        nodes = [(state_of(one, self.queue.at), one.sample) for one in last]
        present = [sample for state, sample in nodes if state in PRESENT]
        silence = self.queue.at - LEASE * max(1.0, settings.metrics_interval)
        unreadable = sum(at > silence for at in self.unreadable.values())
        states = Counter(state for state, _ in nodes)
        states["unreadable"] = unreadable
        load = load_of(self.queue, last, unreadable=unreadable > 0)
        lately = self._since(before)
        lease = LEASE * max(1.0, settings.optimization_interval)
        is_decided = (
            self.decision is not None
            and self.queue.at - self.decision.at < lease
            and not is_silent(self.turn, self.queue.at, settings)
        )
        wanted = sum(sample.size for state, sample in nodes if state in {"live", "stale"})
        return Standing(
            load=load,
            nodes=states,
            utilization=_utilization([sample.counts for sample in present]),
            health=health_of(settings.objective, lately, load, wanted)
            if present and lately
            else None,
            totals=self.totals,
            by_name=self.by_name,
            dead_letters=self.dead_letters,
            failures=self.failures,
            limited=self.limited,
            decision=self.decision if is_decided else None,
            versions=Counter(sample.version for state, sample in nodes if state in PRESENT),
            rollout=self.rollout,
        )

    def _since(self, before: Totals | None) -> Counts | None:
        """Return what was counted after ``before``; None if the totals have begun anew."""
        if self.totals is None or before is None:
            return None
        counts = self.totals.counts.since(before.counts)
        return counts if counts.process >= 0 else None


def _rollout(fields: Sequence[bytes | None]) -> tuple[str, str, float] | None:
    version, state, share = fields
    if version is None or state is None or share is None:
        return None
    # One that was rolled back has nothing, whatever it had.
    part = {b"live": int(share) / 100, b"done": 1.0}.get(state, 0.0)
    return version.decode(), state.decode(), part


def _utilization(several: list[Counts]) -> float | None:
    process = sum(counts.process for counts in several)
    return sum(counts.busy for counts in several) / process if process else None
