"""Sampler: a node writes one sample a second."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import redis
from celery.utils.log import get_logger
from celery.worker import state

from pooltasks import keys, telemetry
from pooltasks.ages import waited
from pooltasks.broker.client import impatient_client
from pooltasks.broker.queues import lists_of
from pooltasks.metrics.counts import Counts
from pooltasks.metrics.sample import OperationRecord, Resources, Sample, operation_bytes
from pooltasks.metrics.samples import SampleStore, queue_state
from pooltasks.node.intake.controls import limited_operations
from pooltasks.node.scoreboard.resources import Meter, Usage

if TYPE_CHECKING:
    from celery import Celery

    from pooltasks.node.scoreboard.error_log import ErrorLog
    from pooltasks.node.scoreboard.scoreboard import Scoreboard
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
    draining: bool = False
    """Whether the node was told to reserve nothing more."""


class Sent(NamedTuple):
    """A sample whose answer has not come, and what it holds."""

    sample: Sample
    counts: Counts
    outcomes: dict[str, dict[Outcome, int]]
    operations: dict[str, Counts] | None
    since: float
    """When what was done by operation began to be counted, in monotonic seconds."""
    usage: Usage


Send = Callable[
    [Sequence[str], Sequence[Any], Callable[[Any], None], Callable[[Exception], None]], None
]
"""Sends a sample: keys and arguments of the script, who takes the answer, who a refusal."""


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
        send: Sends samples from an event loop, which must not wait for the answer. By
            default each is waited for.
        errors: The node's errors, told with its samples.
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
        send: Send | None = None,
        errors: ErrorLog | None = None,
    ) -> None:
        self._errors = errors
        self.pool = pool
        # Names of nodes need not be unique, and one that starts again begins anew.
        self.node = f"{name}/{secrets.token_hex(4)}"
        settings = app.pooltasks.settings.pool_settings(pool)
        self._version = app.pooltasks.settings.version
        self._interval = settings.metrics_interval
        self._slots = settings.slots
        lists = lists_of(app, keys.queue(pool))
        self._store = SampleStore(impatient_client(app), pool, lists, settings.objective)
        self._scoreboard = scoreboard
        self._workforce = workforce
        self._room = room
        self._limited = limited_operations(app, keys.queue(pool))
        self._meter = Meter()
        self._used = self._meter.read(())
        # Counts that are in no sample, and in no record of operations, that has arrived.
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
        self._send = send or self._write
        self._sent: Sent | None = None
        self._told: Sample | None = None
        """The last sample, if it is known to have arrived."""
        self._left_out = 0
        """Samples that were left out since."""

    def start(self, hub: Any) -> None:
        """Sample at once and from now on; called again when the loop starts anew."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = hub.call_later(0, self._tick, hub)

    def _tick(self, hub: Any) -> None:
        try:
            self.sample()
        finally:
            delay = seconds_to_next(self._clock.now(), self._interval)
            self._timer = hub.call_later(delay, self._tick, hub)

    def sample(self, *, stopped: bool = False) -> None:
        """Write what went on since the last sample that arrived."""
        if stopped and self._timer is not None:
            self._timer.cancel()
        if self._errors is not None:
            self._errors.flush()
        activity, busy, running = self._scoreboard.collect()
        its = self._workforce()
        stopping = state.should_stop is not None and not stopped
        if its.draining or stopping:
            # Nothing else could have been run: what is idle is no spare capacity.
            activity.counts.process = activity.counts.busy
        for name in self._limited.keys() & activity.operations.keys():
            activity.counts.limited.merge(activity.operations[name].wait)
        if self._sent is not None:
            self._take_back(self._sent)
        self._counts.add(activity.counts)
        for name, counts in activity.operations.items():
            _add(self._operations, name, counts)
            for outcome, count in (counts.outcomes or {}).items():
                ended = self._outcomes.setdefault(name, {})
                ended[outcome] = ended.get(outcome, 0) + count
        reserved = [
            request for request in state.reserved_requests if request not in state.active_requests
        ]
        now = self._clock.now()
        ages = [waited(request.request_dict, now) or 0.0 for request in reserved]
        sample = Sample(
            number=self._number,
            interval=self._interval * (1 + self._left_out),
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
            draining=its.draining and not stopped,
            stopping=stopping,
            version=self._version,
            counts=self._counts,
        )
        if self._may_be_left_out(sample):
            self._left_out += 1
            return
        usage = self._meter.read(its.pids)
        sample = replace(
            sample,
            room=None if stopped else self._room(activity.counts.busy),
            resources=Resources(
                node_cpu=usage.node_cpu - self._used.node_cpu,
                # Of one that is about to be waited for, nobody tells for a moment.
                workers_cpu=max(0.0, usage.workers_cpu - self._used.workers_cpu),
                node_rss=usage.node_rss,
                workers_rss=usage.workers_rss,
                pss=usage.pss,
            ),
        )
        self._told = None
        record = self._due_operations(last=stopped)
        call = self._store.write_call(self.node, sample, record, self._outcomes)
        sent = self._sent = Sent(
            sample,
            self._counts,
            self._outcomes,
            None if record is None else self._operations,
            self._operations_since,
            usage,
        )
        self._counts, self._outcomes = Counts(), {}
        if record is not None:
            self._operations, self._operations_since = {}, time.monotonic()
        self._send(*call, lambda answer: self._arrived(sent, answer), self._refused)

    def _write(
        self,
        names: Sequence[str],
        arguments: Sequence[Any],
        on_answer: Callable[[Any], None],
        on_refusal: Callable[[Exception], None],
    ) -> None:
        try:
            answer = self._store.ask_to_write(names, arguments)
        except redis.RedisError as error:
            on_refusal(error)
        else:
            on_answer(answer)

    def _refused(self, error: Exception) -> None:
        # Nothing is lost: the next sample holds what this one held.
        if not self._silent:
            logger.warning("pool %s: samples cannot be written: %s", self.pool, error)
        self._silent = True

    def _take_back(self, sent: Sent) -> None:
        """Have the next sample hold what one held that may not have arrived.

        It goes under the same number, and so replaces it.
        """
        self._sent = None
        sent.counts.add(self._counts)
        self._counts = sent.counts
        for name, outcomes in self._outcomes.items():
            ended = sent.outcomes.setdefault(name, {})
            for outcome, count in outcomes.items():
                ended[outcome] = ended.get(outcome, 0) + count
        self._outcomes = sent.outcomes
        if sent.operations is not None:
            for name, counts in self._operations.items():
                _add(sent.operations, name, counts)
            self._operations, self._operations_since = sent.operations, sent.since
            self._record_may_have_arrived = True

    def _arrived(self, sent: Sent, answer: Any) -> None:
        if sent is not self._sent:
            return  # another one has replaced it
        self._sent = None
        self._silent = False
        self._used = sent.usage
        self._number += 1
        self._told, self._left_out = sent.sample, 0
        if sent.operations is not None:
            self._record_may_have_arrived = False
        sample, queue = sent.sample, queue_state(answer)
        metadata = {"pool": self.pool, "node": self.node}
        telemetry.execute(
            "queue.depth",
            {
                "depth": queue.depth,
                "reserved": sample.reserved,
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

    def _may_be_left_out(self, sample: Sample) -> bool:
        """Return whether the last sample said the same, and another one is due soon enough.

        A fleet that has nothing to do costs its server a fraction so.
        """
        told = self._told
        return (
            told is not None
            and told.is_quiet
            and sample.is_quiet
            and sample.interval + self._interval <= told.next_within
            and (told.size, told.spares, told.draining)
            == (sample.size, sample.spares, sample.draining)
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


def _add(sums: dict[str, Counts], name: str, counts: Counts) -> None:
    if name in sums:
        sums[name].add(counts)
    else:
        sums[name] = counts


def seconds_to_next(now: float, interval: float) -> float:
    """Return the seconds until the next sample: it is due in the middle of an interval.

    Args:
        now: The server's time in seconds.
        interval: Seconds between two samples.
    """
    delay = interval - (now - interval / 2) % interval
    return delay if delay >= interval / 2 else delay + interval  # this one was late, or the first
