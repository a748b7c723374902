"""What the pages show of one pool, read from Redis."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pooltasks import keys
from pooltasks.broker.queues import lists_of
from pooltasks.dashboard import view
from pooltasks.dashboard.audit import AuditLog
from pooltasks.dashboard.decided import RecentDecisions
from pooltasks.dashboard.events import events_of
from pooltasks.dashboard.recent import RecentSamples
from pooltasks.metrics.collector import Collector
from pooltasks.pools import Pool

if TYPE_CHECKING:
    import redis
    from celery import Celery

    from pooltasks.dashboard.watch import NodeWatch
    from pooltasks.metrics.collector import HistoryPoint, PoolMetrics

STEPS = {60: 1, 300: 1, 900: 3, 3600: 12}
"""The windows of a page, in seconds, and how many seconds make one point of its charts."""
DEFAULT_WINDOW = 300
_OVERVIEW_WINDOW = 60
_SPARK_SECONDS, _SPARK_STEP = 300, 5
_RENEWED = 1 / 600
"""Share of a window after which it is added up again: 6 s of an hour, at once of 5 minutes."""
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

    Raises:
        ConfigurationError: There is no such pool.
    """

    def __init__(self, app: Celery, client: redis.Redis, name: str, watch: NodeWatch) -> None:
        self.pool = Pool(name, app)
        self._client = client
        self._watch = watch
        self._audit = AuditLog(client, name)
        self._decisions = RecentDecisions(client, name, self.pool.settings.slots)
        settings = self.pool.settings
        lists = lists_of(app, self.pool.queue)
        self._samples = RecentSamples(client, name, lists, settings.objective)
        self._collector = Collector(self._samples, settings.objective, settings.metrics_interval)
        self._long: dict[int, tuple[float, PoolMetrics]] = {}
        self._points: dict[int, dict[float, HistoryPoint]] = {}
        self.used_at = time.monotonic()

    def overview(self) -> dict[str, Any]:
        """Return the pool's line in the list of all pools.

        Raises:
            redis.RedisError: The server does not answer.
        """
        metrics = self._collector.metrics(_OVERVIEW_WINDOW)
        points = self._history(_SPARK_SECONDS, _SPARK_STEP, metrics.at)
        self._decisions.fetch(_OVERVIEW_WINDOW)
        return {
            **view.overview(self.pool, metrics, points, self._dead_letters()),
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
        metrics = self._metrics(window)
        step = STEPS[window]
        points = self._history(window, step, metrics.at)
        complete = [point.at for point in points if point.complete]
        cursor = complete[-_REVISED] if len(complete) >= _REVISED else None
        oldest_useful = points[0].at
        if since is not None and oldest_useful <= since:
            points = [point for point in points if point.at >= since]
        else:
            since = None
        _, samples = self._samples.read(window)
        restarts = {
            name: sum(one.sample.counts.recoveries for one in its) for name, its in samples.items()
        }
        self._decisions.fetch(window)
        series = view.series(points, step, whole=since is None)
        series["columns"]["target"] = self._decisions.targets(series["columns"]["at"], step)
        return {
            **view.metrics(self.pool, metrics),
            "nodes": view.nodes(metrics, self._watch.look(view.live_nodes(metrics)), restarts),
            "audit": self._audit.latest(_MOST_ACTIONS),
            "dead_letters": self._dead_letters(),
            "events": events_of(samples, metrics.at),
            "optimizer": {
                "enabled": self.pool.settings.enable_optimizer,
                **self._decisions.state(metrics.at),
            },
            "decisions": self._decisions.changes(metrics.at, window),
            "series": series,
            "cursor": cursor,
        }

    def _metrics(self, window: int) -> PoolMetrics:
        """Return the pool now, and what it did in the window.

        Of a long window all samples are added up only every few seconds, in which
        it hardly changes; how the pool stands is always of this moment.
        """
        last = self._long.get(window)
        now = time.monotonic()
        if last is None or now - last[0] >= window * _RENEWED:
            metrics = self._collector.metrics(window)
            self._long = {window: (now, metrics)}
            return metrics
        present = self._collector.metrics(_OVERVIEW_WINDOW)
        health = last[1].health if present.health else None
        work = last[1].work if present.health else present.work
        return replace(present, window=float(window), work=work, health=health)

    def _dead_letters(self) -> int:
        number: Any = self._client.hlen(keys.dead_letters(self.pool.queue))
        return int(number)

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
