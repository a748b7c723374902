"""The data that the pages show of one pool, read from Redis."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pooltasks.broker.queues import waiting_in
from pooltasks.dashboard import view
from pooltasks.dashboard.audit import AuditLog
from pooltasks.dashboard.by_operation import RecentOperations
from pooltasks.dashboard.circumstances import last_reason, unseen
from pooltasks.dashboard.decided import RecentDecisions
from pooltasks.dashboard.errors import RecentErrors, listed
from pooltasks.dashboard.events import MOST, EventLog, deaths
from pooltasks.dashboard.letters import RecentLetters
from pooltasks.dashboard.limits import RecentLimits
from pooltasks.dashboard.recent import RecentSamples, RecentThroughput, RunningCounts
from pooltasks.dashboard.rollouts import shown
from pooltasks.dashboard.verdict import (
    Evidence,
    draining_nodes,
    lost_nodes,
    warm_up_failure,
)
from pooltasks.dashboard.watch import silent_nodes
from pooltasks.metrics.collector import LEASE, PRESENT, Collector, covered, health_of, wanted_of
from pooltasks.metrics.rollout_store import RolloutStore
from pooltasks.metrics.surroundings import look_around
from pooltasks.metrics.view import PoolWork
from pooltasks.pools import Pool
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Executor

    import redis
    from celery import Celery

    from pooltasks.broker.dead_letters import DeadLetter
    from pooltasks.dashboard.watch import Answer, NodeWatch
    from pooltasks.metrics.counts import Counts
    from pooltasks.metrics.view import HistoryPoint, PoolMetrics

STEPS = {60: 1, 300: 1, 900: 3, 3600: 12}
"""The windows of a page, in seconds, and how many seconds make one point of its charts."""
DEFAULT_WINDOW = 300
_OVERVIEW_WINDOW = 60
_SPARK_SECONDS, _SPARK_STEP = 300, 5
_PRESENT = 1.0
"""Seconds: what a pool did in them is not used, only how it stands."""
_MOST_ACTIONS = 50
_REVISED = 2
"""Complete points that are sent again: a late sample may have changed them."""


class PoolReader:
    """Reads one pool, for one thread.

    Args:
        app: The application.
        client: A client of its server.
        name: The pool's name.
        watch: Asks its nodes.
        beside: Reads what takes long.

    Raises:
        ConfigurationError: There is no such pool.
    """

    def __init__(
        self, app: Celery, client: redis.Redis, name: str, watch: NodeWatch, beside: Executor
    ) -> None:
        self.pool = Pool(name, app)
        self._client = client
        self._watch = watch
        self._audit = AuditLog(client, name)
        settings = self.pool.settings
        self._decisions = RecentDecisions(
            client, name, settings.slots, settings.optimization_interval
        )
        self._lists = waiting_in(app, self.pool.queue)
        self._samples = RecentSamples(client, name, self._lists, settings.objective)
        self._collector = Collector(self._samples, settings.objective, settings.metrics_interval)
        self._counts: defaultdict[int, RunningCounts] = defaultdict(RunningCounts)
        self._counted: dict[int, Counts] = {}
        """The counts of each window when its metrics were made."""
        self._rollouts = RolloutStore(client, name)
        self._letters = RecentLetters(client, self.pool.queue)
        self._errors = RecentErrors(client, name)
        self._limits = RecentLimits(client, name)
        self._events: defaultdict[int, EventLog] = defaultdict(EventLog)
        self._operations: dict[int, RecentOperations] = {}
        self._beside = beside
        self._spark = RecentThroughput(_SPARK_SECONDS, _SPARK_STEP)
        self._points: dict[int, dict[float, HistoryPoint]] = {}
        self.used_at = time.monotonic()

    def overview(self) -> dict[str, Any]:
        """Return the pool's line in the list of all pools.

        Raises:
            redis.RedisError: The server does not answer.
        """
        self._fetch(_SPARK_SECONDS, _SPARK_STEP)
        metrics = self._metrics(_OVERVIEW_WINDOW)
        spark = self._spark.update(self._samples.read(_SPARK_SECONDS).samples, metrics.at)
        self._decisions.fetch(_OVERVIEW_WINDOW, metrics.at)
        answers = self._watch.look(view.live_nodes(metrics))
        number = self._letters.number()
        lately = self._letters.since(metrics.at - _OVERVIEW_WINDOW, number)
        its = self._evidence(_OVERVIEW_WINDOW, metrics, answers, lately)
        return {
            **view.overview(its, spark, number),
            "target": self._decisions.state(metrics.at)["target"],
        }

    def page(self, window: int, since: float | None) -> dict[str, Any]:
        """Return everything that the pool's page shows.

        Args:
            window: Seconds; one of :data:`STEPS`.
            since: The ``cursor`` of an earlier answer: points of the charts from
                there on are enough. None: all.

        Raises:
            redis.RedisError: The server does not answer.
        """
        step = STEPS[window]
        self._fetch(window, step)
        metrics = self._metrics(window)
        points = self._history(window, step, metrics.at)
        complete = [point.at for point in points if point.complete]
        cursor = complete[-_REVISED] if len(complete) >= _REVISED else None
        oldest_useful = points[0].at
        if since is not None and oldest_useful <= since:
            points = [point for point in points if point.at >= since]
        else:
            since = None
        events = self._events[window].update(self._samples.read(window).samples, metrics.at)
        self._decisions.fetch(window, metrics.at)
        series = view.series(points, step, whole=since is None)
        series["columns"]["target"] = self._decisions.targets(series["columns"]["at"], step)
        answers = self._watch.look(view.live_nodes(metrics))
        number = self._letters.number()
        lately = self._letters.since(metrics.at - window, number)
        its = self._evidence(window, metrics, answers, lately)
        return {
            **view.metrics(its),
            "rollout": shown(its.rollout, metrics.nodes),
            "nodes": view.nodes(its, answers, deaths(events)),
            "audit": self._audit.latest(_MOST_ACTIONS),
            "dead_letters": number,
            "errors": listed(self._errors.latest()),
            "limits": self._limits.latest(metrics.at),
            "events": events[:MOST],
            "optimizer": {
                "enabled": self.pool.settings.enable_optimizer,
                **self._decisions.state(metrics.at),
            },
            "decisions": self._decisions.changes(metrics.at, window),
            "series": series,
            "cursor": cursor,
            # The last: where they are not known yet, reading them delays what comes after it.
            "operations": self._by_operation(window, metrics, lately),
        }

    def _fetch(self, window: int, step: int) -> None:
        """Fetch once what all parts of an answer are made of: they agree with each other."""
        interval = self.pool.settings.metrics_interval
        self._samples.fetch(
            max(window, _SPARK_SECONDS) + max(step, interval) + LEASE * max(1.0, interval)
        )

    def _metrics(self, window: int) -> PoolMetrics:
        """Return what ``Pool.metrics(window)`` would, without adding up the whole window."""
        present = self._collector.metrics(_PRESENT, by_operation=False)
        samples = self._samples.read(window).samples
        counts = self._counted[window] = self._counts[window].update(samples)
        live = any(node.state in PRESENT for node in present.nodes)
        known = counts if live and samples else None
        spans = [
            (one.at, one.sample.interval) for its in samples.values() for one in (its[0], its[-1])
        ]
        objective, size = self.pool.settings.objective, wanted_of(present.nodes)
        return replace(
            present,
            window=float(window),
            work=PoolWork.of(known, covered(spans, window)),
            health=health_of(objective, known, present.load, size) if known else None,
        )

    def _evidence(
        self,
        window: int,
        metrics: PoolMetrics,
        answers: Mapping[str, Answer],
        letters: Sequence[DeadLetter],
    ) -> Evidence:
        """Return what the verdict on the pool is made of."""
        # Of the longer of both: a node that died a minute ago is still missing.
        samples = self._samples.read(max(window, _SPARK_SECONDS)).samples
        said = {name: answer.status for name, answer in answers.items() if not answer.missed}
        return Evidence(
            self.pool.name,
            self.pool.settings,
            metrics,
            waits=self._counted[window].wait if metrics.work.operations is not None else None,
            lost=lost_nodes(samples, metrics.at) | silent_nodes(metrics.nodes, self._watch.mute()),
            draining=draining_nodes(metrics.nodes, said),
            set_aside=len(letters),
            last_reason=last_reason(letters),
            unseen_failures=unseen(letters),
            warm_up_failure=warm_up_failure(said.values()),
            cause=self._errors.cause() if _has_failures(metrics) or letters else None,
            around=look_around(
                self._client,
                self._lists,
                self.pool.name,
                self.pool.settings,
                now=metrics.at,
                load=metrics.load,
                samples=samples,
                decision=self._decisions.latest(),
            ),
            rollout=self._rollouts.read(),
            application=self.pool.app.main or "pooltasks",
        )

    def _by_operation(
        self, window: int, metrics: PoolMetrics, letters: Sequence[DeadLetter]
    ) -> list[dict[str, Any]] | None:
        """Return what each operation did; None if nothing is known, or not yet."""
        if metrics.work.operations is None:
            return None
        if window not in self._operations:
            self._operations[window] = RecentOperations(self._samples, window, self._beside)
        nodes = list(self._samples.read(window).samples)
        by_operation = self._operations[window].update(nodes, metrics.at)
        return None if by_operation is None else view.operations(by_operation, letters)

    def _history(self, seconds: int, step: int, now: float) -> list[HistoryPoint]:
        """Return the history, of which only the newest points are made anew."""
        first = (math.floor(now / step) - math.ceil(seconds / step) + 1) * step
        known = self._points.get(step, {})
        complete = [at for at in known if known[at].complete]
        missing: float = seconds
        if known and min(known) <= first and complete:
            missing = min(seconds, now - max(complete) + (_REVISED + 1) * step)
        known.update((point.at, point) for point in self._collector.history(missing, step))
        self._points[step] = {at: known[at] for at in sorted(known) if at >= first}
        return list(self._points[step].values())


def _has_failures(metrics: PoolMetrics) -> bool:
    counted = metrics.work.operations
    return counted is not None and any(
        number for outcome, number in counted.items() if outcome == Outcome.FAILURE
    )
