"""Sampler: a node writes one sample a second."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import redis
from celery.utils.log import get_logger
from celery.worker import state

from pooltasks import keys, telemetry
from pooltasks.broker.client import impatient_client
from pooltasks.broker.queues import lists_of
from pooltasks.metrics.counts import Counts
from pooltasks.metrics.sample import OperationRecord, Resources, Sample, operation_bytes
from pooltasks.metrics.samples import SampleStore
from pooltasks.node.resources import Meter
from pooltasks.task import waited

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from pooltasks.node.scoreboard import Scoreboard
    from pooltasks.telemetry import Outcome

logger = get_logger(__name__)

OPERATION_BYTES = 448
"""Bytes a second that a node stores of what it did by operation. Where that is not
enough for a record each second, records cover more seconds."""


_FIRST_SECONDS = 60.0
"""Seconds of which a node may use the bytes at once when it starts."""


class Workforce(NamedTuple):
    """The workers of a node at one moment."""

    size: int
    """How many there should be, without spares."""
    warm: int
    """How many are given operations."""
    warming: int
    """How many are not warm yet."""
    spares: int
    """How many warm ones are kept in reserve."""
    overflow: int
    """How many of those that are given operations are temporary."""
    pids: tuple[int, ...]


class Sampler:
    """Writes the samples of one node, from its event loop.

    It samples in the middle of each interval of the server's clock, so that a
    second of history has one sample of each node, not two or none.

    Args:
        app: The application.
        pool: The pool that the node serves.
        name: The node's name.
        scoreboard: The node's.
        workforce: Returns the node's workers as they are.
        room: Returns how many the host has room for, given the seconds in which
            workers were busy since it was asked last; None if that is not known.
    """

    def __init__(
        self,
        app: Celery,
        pool: str,
        name: str,
        scoreboard: Scoreboard,
        workforce: Callable[[], Workforce],
        *,
        room: Callable[[float], int | None],
    ) -> None:
        self.pool = pool
        # Names of nodes need not be unique, and one that starts again begins anew.
        self.node = f"{name}/{secrets.token_hex(4)}"
        settings = app.pooltasks.settings.pool_settings(pool)
        self._interval = settings.metrics_interval
        self._slots = settings.slots
        lists = lists_of(app, keys.queue(pool))
        self._store = SampleStore(impatient_client(app), pool, lists, settings.objective)
        self._scoreboard = scoreboard
        self._workforce = workforce
        self._room = room
        self._meter = Meter()
        self._used = self._meter.read(())
        # What no sample has told that has arrived, and no record of operations.
        self._counts = Counts()
        self._outcomes: dict[str, dict[Outcome, int]] = {}
        self._operations: dict[str, Counts] = {}
        self._operations_since = time.monotonic()
        self._operation_bytes = _FIRST_SECONDS * OPERATION_BYTES
        self._record_may_have_arrived = False
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
        activity, busy, running = self._scoreboard.collect()
        self._counts.add(activity.counts)
        for name, counts in activity.operations.items():
            if name in self._operations:
                self._operations[name].add(counts)
            else:
                self._operations[name] = counts
            if counts.outcomes:
                ended = self._outcomes.setdefault(name, {})
                for outcome, count in counts.outcomes.items():
                    ended[outcome] = ended.get(outcome, 0) + count
        its = self._workforce()
        usage = self._meter.read(its.pids)
        reserved = [
            request for request in state.reserved_requests if request not in state.active_requests
        ]
        now = self._clock.now()
        ages = [waited(request.request_dict, now) or 0.0 for request in reserved]
        sample = Sample(
            number=self._number,
            interval=self._interval,
            size=0 if stopped else its.size,
            warm=0 if stopped else its.warm,
            warming=0 if stopped else its.warming,
            spares=0 if stopped else its.spares,
            overflow=0 if stopped else its.overflow,
            busy=busy,
            slots=self._slots,
            running=running,
            reserved=len(reserved),
            reserved_age=max(ages, default=0.0),
            stopped=stopped,
            room=None if stopped else self._room(activity.counts.busy),
            counts=self._counts,
            resources=Resources(
                node_cpu=usage.node_cpu - self._used.node_cpu,
                # Of one that is about to be waited for, nobody tells for a moment.
                workers_cpu=max(0.0, usage.workers_cpu - self._used.workers_cpu),
                node_rss=usage.node_rss,
                workers_rss=usage.workers_rss,
                pss=usage.pss,
            ),
        )
        operations = self._due_operations(last=stopped)
        try:
            queue = self._store.write(self.node, sample, operations, self._outcomes)
        except redis.RedisError as error:
            # Nothing is lost: the next sample holds what this one held.
            if not self._silent:
                logger.warning("pool %s: samples cannot be written: %s", self.pool, error)
            self._silent = True
            self._record_may_have_arrived |= operations is not None
            return
        self._silent = False
        self._counts, self._outcomes, self._used = Counts(), {}, usage
        self._number += 1
        if operations is not None:
            self._operations = {}
            self._operations_since = time.monotonic()
            self._record_may_have_arrived = False
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
            {
                "utilization": sample.counts.utilization,
                "busy": sample.counts.busy,
                "process": sample.counts.process,
            },
            metadata,
        )

    def _due_operations(self, *, last: bool) -> OperationRecord | None:
        """Return what was done by operation, unless that would store too many bytes a second."""
        self._operation_bytes += OPERATION_BYTES * self._interval
        size = operation_bytes(self._operations)
        # One that may have arrived has to be replaced, under the same number.
        is_due = last or self._record_may_have_arrived or size <= self._operation_bytes
        if not self._operations or not is_due:
            return None
        self._operation_bytes -= size
        seconds = time.monotonic() - self._operations_since
        return OperationRecord(self._number, seconds, self._operations)
