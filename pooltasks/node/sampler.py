"""Sampler: a node writes one sample a second."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import redis
from celery.utils.log import get_logger
from celery.worker import state

from pooltasks import keys, telemetry
from pooltasks.broker.client import impatient_client
from pooltasks.broker.queues import lists_of
from pooltasks.metrics.samples import Sample, SampleStore
from pooltasks.node.scoreboard import Reading
from pooltasks.task import waited

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from pooltasks.node.scoreboard import Scoreboard

logger = get_logger(__name__)


class Sampler:
    """Writes the samples of one node, from its event loop.

    It samples in the middle of each interval of the server's clock, so that a
    second of history has one sample of each node, not two or none.

    Args:
        app: The application.
        pool: The pool that the node serves.
        name: The node's name.
        scoreboard: The node's.
        sizes: Returns how many workers there should be and how many are warm.
        room: Returns how many the host has room for, given the seconds in which
            workers were busy since it was asked last; None if that is not known.
    """

    def __init__(
        self,
        app: Celery,
        pool: str,
        name: str,
        scoreboard: Scoreboard,
        sizes: Callable[[], tuple[int, int]],
        *,
        room: Callable[[float], int | None],
    ) -> None:
        self.pool = pool
        # Names of nodes need not be unique, and one that starts again begins anew.
        self.node = f"{name}/{secrets.token_hex(4)}"
        settings = app.pooltasks.settings.pool_settings(pool)
        self._interval = settings.metrics_interval
        lists = lists_of(app, keys.queue(pool))
        self._store = SampleStore(impatient_client(app), pool, lists, settings.objective)
        self._scoreboard = scoreboard
        self._sizes = sizes
        self._room = room
        self._baseline = Reading.zero()
        self._number = 0
        self._clock = app.pooltasks.clock
        self._timer: Any = None
        self._silent = False

    def start(self, hub: Any) -> None:
        """Sample at once and from now on; called again when the loop starts anew."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = hub.call_later(0, self._tick, hub)

    def _tick(self, hub: Any) -> None:
        try:
            self.sample()
        finally:
            since = (self._clock.now() - self._interval / 2) % self._interval
            delay = self._interval - since
            if delay < self._interval / 2:  # this one was late, or the first
                delay += self._interval
            self._timer = hub.call_later(delay, self._tick, hub)

    def sample(self, *, stopped: bool = False) -> None:
        """Write what went on since the last sample that arrived."""
        if stopped and self._timer is not None:
            self._timer.cancel()
        reading, busy = self._scoreboard.collect()
        counts = reading.since(self._baseline)
        size, warm = self._sizes()
        reserved = [
            request for request in state.reserved_requests if request not in state.active_requests
        ]
        now = self._clock.now()
        ages = [waited(request.request_dict, now) or 0.0 for request in reserved]
        sample = Sample(
            number=self._number,
            interval=self._interval,
            size=0 if stopped else size,
            warm=0 if stopped else warm,
            busy=busy,
            reserved=len(reserved),
            reserved_age=max(ages, default=0.0),
            stopped=stopped,
            room=None if stopped else self._room(counts.busy),
            counts=counts,
        )
        try:
            queue = self._store.write(self.node, sample)
        except redis.RedisError as error:
            # Nothing is lost: the next sample holds what this one held.
            if not self._silent:
                logger.warning("pool %s: samples cannot be written: %s", self.pool, error)
            self._silent = True
            return
        self._silent = False
        self._baseline = reading
        self._number += 1
        metadata = {"pool": self.pool, "node": self.node}
        telemetry.execute(
            "queue.depth",
            {
                "depth": queue.depth,
                "reserved": len(reserved),
                "oldest_age": queue.oldest_age,
            },
            metadata,
        )
        telemetry.execute(
            "utilization",
            {"utilization": counts.utilization, "busy": counts.busy, "process": counts.process},
            metadata,
        )
