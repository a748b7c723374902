"""Telemetry: what happens in a pool, as events that anyone may listen to.

An event has a name, measurements (numbers) and metadata. It is emitted in the
process where the thing happens, and its handlers run there and then. Handlers
belong to the process, as receivers of Celery's signals do: two applications in
one process share them, and a fork inherits them. A module that a pool imports
is therefore the place to attach handlers for its workers.

Measurements that are not known are None, never 0. Seconds are measured with a
monotonic clock; ``wait`` compares the clocks of two hosts and is never negative.

| event                 | measurements                        | metadata                         |
|-----------------------|-------------------------------------|----------------------------------|
| *in a worker*         |                                     |                                  |
| operation.start       | wait (s, None if not known)         | pool, operation, id, worker,     |
|                       |                                     | retries, redelivered             |
| operation.stop        | wait (s), run (s), busy (s),        | the same, outcome; category and  |
|                       | latency (s)                         | exception (None)                 |
| operation.exception   | the same                            | the same, outcome, category,     |
|                       |                                     | exception                        |
| worker.checkout       | as operation.start                  | as operation.start               |
| worker.checkin        | as operation.stop                   | as operation.stop or .exception  |
| *in a worker or node* |                                     |                                  |
| error                 | count (1)                           | pool, category, operation (None  |
|                       |                                     | if not known), exception         |
| *in a node*           |                                     |                                  |
| pool.init             | size (workers)                      | pool                             |
| pool.terminate        | age (s)                             | pool                             |
| pool.warmup           | duration (s), workers (count),      | pool, strategy, round (0 at the  |
|                       | success_rate (ratio 0–1)            | start, then those of pool warm)  |
| worker.init           | duration (s, fork until it is warm) | pool, worker                     |
| worker.terminate      | age (s, since the fork)             | pool, worker, exitcode,          |
|                       |                                     | expected, cause (None if it was) |
| worker.health_check   | failures (checks in a row), memory  | pool, worker, healthy, problems  |
|                       | (bytes, resident), cpu (s, used)    |                                  |
| warmup                | duration (s), commands (count)      | pool, worker, error (traceback   |
|                       |                                     | or None)                         |
| queue.depth           | depth (operations in the queue),    | pool, node                       |
|                       | reserved (taken by this node and    |                                  |
|                       | not started), oldest_age (s: 0 of   |                                  |
|                       | an empty queue, None if not known)  |                                  |
| utilization           | utilization (ratio 0–1, None        | pool, node                       |
|                       | without a warm worker), busy (s),   |                                  |
|                       | process (s since the last event,    |                                  |
|                       | both of all slots)                  |                                  |
| recovery              | duration (s, death until the        | pool, worker (the replacement),  |
|                       | replacement takes operations)       | exitcode and cause (of the dead  |
|                       |                                     | one)                             |
| *where it decides*    |                                     |                                  |
| optimizer.decision    | target, before, wanted (slots),     | pool, policy, reason, inputs (by |
|                       | hosts (nodes that this takes)       | name), acting (False if it only  |
|                       |                                     | watches)                         |
| rollout               | share, before (0-1: of the          | pool, version, version_before,   |
|                       | operations, for the new version)    | state (live, done or aborted),   |
|                       |                                     | reason                           |

``worker`` is a process id, ``id`` the operation's (Celery's task id),
``operation`` its name, ``category`` a :class:`pooltasks.errors.Category`.
``outcome`` is an :class:`Outcome`: ``retry`` is a failure after which it is run again,
``client_error`` a failure for which its caller is to blame, ``ignored`` and
``rejected`` are the operation's own word, by Celery's exceptions.
``cause`` is ``segfault``, ``abort``, ``out of memory``, ``killed``, ``signal``, ``exit`` or
``unhealthy``; ``problems`` are any of ``unresponsive``, ``stalled``, ``overdue``, ``memory``.
``pool.warmup`` tells of a node when all of its workers are warm for the first time (not of a
lazy pool), and when each has warmed up again on demand. A worker that ended before it was
warm counts in its ``success_rate`` as a failure; the one that took its place counts too.
``run`` is the operation's own code; ``busy`` adds Celery's work around it, in
which its slot cannot do anything else either. ``latency`` goes from when the
operation was published, before any retry, until its worker has given the result away (the
node stores it with its next step, within milliseconds); None if it is run again.

The interface is that of Erlang's ``telemetry`` library.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Protocol

from celery.exceptions import SoftTimeLimitExceeded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType

    Function = Callable[[str, Mapping[str, Any], Mapping[str, Any], Any], object]

logger = logging.getLogger(__name__)

EVENTS: tuple[str, ...] = (
    "operation.start",
    "operation.stop",
    "operation.exception",
    "worker.checkout",
    "worker.checkin",
    "worker.init",
    "worker.terminate",
    "worker.health_check",
    "pool.init",
    "pool.terminate",
    "pool.warmup",
    "warmup",
    "recovery",
    "queue.depth",
    "utilization",
    "error",
    "optimizer.decision",
    "rollout",
)
"""The events of pooltasks. Applications may emit others under names of their own."""


class Outcome(StrEnum):
    """How an operation left its worker."""

    SUCCESS = "success"
    FAILURE = "failure"
    CLIENT_ERROR = "client_error"
    """It failed because of what its caller asked for: the pool did what it should."""
    RETRY = "retry"
    IGNORED = "ignored"
    REJECTED = "rejected"
    LOST = "lost"
    """Its worker died in the middle: counted by the node, never in an event of the worker."""

    __hash__ = str.__hash__  # that of Enum is no C: counting by outcome took twice the time


_NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")
_OWN_PREFIXES = {event.partition(".")[0] for event in EVENTS}


@dataclass(frozen=True)
class Handler:
    """One attachment of a function to an event."""

    id: str
    event: str
    function: Function
    config: Any


# Replaced as a whole, never changed: execute() reads it without a lock.
_handlers: dict[str, tuple[Handler, ...]] = {}
_lock = threading.Lock()


def _renew_lock() -> None:
    # Another thread may have held it at the moment of the fork.
    global _lock  # noqa: PLW0603  the registry belongs to the process
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def attach(handler_id: str, event: str, function: Function, config: Any = None) -> None:
    """Have ``function(event, measurements, metadata, config)`` called at each ``event``.

    It runs in the middle of what it observes: it should take microseconds. If
    it raises, it is detached and its traceback logged.

    Raises:
        ValueError: The id is taken, or there is no such event.
    """
    attach_many(handler_id, [event], function, config)


def attach_many(
    handler_id: str, events: Iterable[str], function: Function, config: Any = None
) -> None:
    """Attach ``function`` to several events under one id; see :func:`attach`.

    Raises:
        ValueError: The id is taken, or there is no such event. Then nothing is attached.
    """
    global _handlers  # noqa: PLW0603  the registry belongs to the process
    names = list(dict.fromkeys(events))
    for event in names:
        _check(event)
    with _lock:
        if any(handler.id == handler_id for its in _handlers.values() for handler in its):
            raise ValueError(f"A handler {handler_id!r} is attached already; detach it first.")
        changed = dict(_handlers)
        for event in names:
            new = Handler(handler_id, event, function, config)
            changed[event] = (*changed.get(event, ()), new)
        _handlers = changed


def detach(handler_id: str) -> bool:
    """Detach a handler from all its events; return whether it was attached."""
    global _handlers  # noqa: PLW0603  the registry belongs to the process
    with _lock:
        left = {
            event: tuple(handler for handler in its if handler.id != handler_id)
            for event, its in _handlers.items()
        }
        changed = {event: its for event, its in left.items() if its}
        was_attached = sum(map(len, changed.values())) < sum(map(len, _handlers.values()))
        _handlers = changed
    return was_attached


def list_handlers(prefix: str = "") -> list[Handler]:
    """Return the handlers of this process whose event begins with ``prefix``."""
    current = _handlers
    return [
        handler for event, its in current.items() if event.startswith(prefix) for handler in its
    ]


def has_listener(events: Iterable[str]) -> bool:
    """Return whether any of ``events`` has a handler in this process.

    A caller that emits many events leaves them out if there is none.
    """
    current = _handlers
    return bool(current) and any(event in current for event in events)


def execute(
    event: str, measurements: Mapping[str, Any], metadata: Mapping[str, Any] | None = None
) -> None:
    """Call the handlers of ``event``, in the order in which they were attached.

    Measurements and metadata are shared by all handlers, which may not change them.
    """
    handlers = _handlers.get(event)
    if handlers is None:
        return
    metadata = {} if metadata is None else metadata
    for handler in handlers:
        try:
            handler.function(event, measurements, metadata, handler.config)
        except SoftTimeLimitExceeded:
            raise  # aimed at the operation; the handler only stood in its way
        except Exception:
            # A handler must not break what it observes, whatever it raises. Only
            # the thread that detaches it logs: once, however many hit the error.
            if detach(handler.id):
                logger.exception("telemetry handler %r raised and is detached", handler.id)


class span:  # noqa: N801  used like a function
    """Emit ``<event>.start``, then ``<event>.stop`` or ``<event>.exception``, around a block.

    ``start`` measures ``system_time`` (seconds since the epoch), the others
    ``duration`` (seconds). ``exception`` adds the error as ``exception`` to the
    metadata; it goes on with its traceback.

    Args:
        event: The prefix.
        metadata: Of all three events.
    """

    def __init__(self, event: str, metadata: Mapping[str, Any] | None = None) -> None:
        self.event = event
        self.metadata = dict(metadata or {})

    def __enter__(self) -> None:
        """Emit ``start``."""
        execute(f"{self.event}.start", {"system_time": time.time()}, self.metadata)
        self._started = time.perf_counter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Literal[False]:
        """Emit ``stop`` or ``exception``."""
        measurements = {"duration": time.perf_counter() - self._started}
        if error is None:
            execute(f"{self.event}.stop", measurements, self.metadata)
        else:
            execute(f"{self.event}.exception", measurements, {**self.metadata, "exception": error})
        return False


_FAULTS = {"error", "operation.exception"}


def log_event(
    event: str, measurements: Mapping[str, Any], metadata: Mapping[str, Any], level: Any
) -> None:
    """Handler: write the event to this module's logger; ``config`` is the level.

    An error is a warning, whatever the level of the others.
    """
    if event in _FAULTS:
        level = max(level, logging.WARNING)
    if logger.isEnabledFor(level):
        fields = " ".join(f"{key}={value!r}" for key, value in {**metadata, **measurements}.items())
        logger.log(level, "%s %s", event, fields)


def attach_default_logger(
    events: Iterable[str] = EVENTS, level: int = logging.INFO, handler_id: str = "pooltasks.logger"
) -> None:
    """Log ``events`` as ``name key=value …``, one line each.

    Raises:
        ValueError: The id is taken, or there is no such event.
    """
    attach_many(handler_id, events, log_event, level)


class Reporter(Protocol):
    """Takes events elsewhere: to StatsD, a log of one's own, a data base."""

    def report(
        self, event: str, measurements: Mapping[str, Any], metadata: Mapping[str, Any]
    ) -> object:
        """Take an event; what it raises detaches the reporter."""


def report_event(
    event: str, measurements: Mapping[str, Any], metadata: Mapping[str, Any], reporter: Any
) -> None:
    """Handler: give the event to ``config``, a :class:`Reporter`."""
    reporter.report(event, measurements, metadata)


def attach_reporter(
    reporter: Reporter, events: Iterable[str] = EVENTS, handler_id: str = "pooltasks.reporter"
) -> None:
    """Have ``reporter`` told of ``events``.

    Raises:
        ValueError: The id is taken, or there is no such event.
    """
    attach_many(handler_id, events, report_event, reporter)


def attach_default_handlers(reporter: Reporter | None = None) -> None:
    """Log when workers begin and end and what fails; tell ``reporter`` of operations that ended.

    Metrics need no handler: workers count by themselves.

    Args:
        reporter: Is told of ``operation.stop`` and ``operation.exception``. None: nobody is.

    Raises:
        ValueError: The default logger or a reporter is attached already. Then nothing is attached.
    """
    attach_default_logger(("worker.init", "worker.terminate", "error"))
    if reporter is None:
        return
    try:
        attach_reporter(reporter, ("operation.stop", "operation.exception"))
    except ValueError:
        detach("pooltasks.logger")
        raise


def _check(event: str) -> None:
    if event in EVENTS:
        return
    if event.partition(".")[0] in _OWN_PREFIXES or not _NAME.fullmatch(event):
        # A misspelt name would silently never be called.
        raise ValueError(f"There is no event {event!r}; pooltasks has {', '.join(EVENTS)}.")
