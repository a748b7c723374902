"""Load: operations that are sent when they are due, whether or not earlier ones have ended.

A generator that waits for results sends less when the pool is slow, and so measures least
when it matters most. This one is open: arrivals are Poisson's, and a latency counts from
the moment at which its operation is due. The same seed sends at the same times.
"""

from __future__ import annotations

import math
import random
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import redis
from celery.states import READY_STATES, SUCCESS
from kombu.exceptions import OperationalError

from pooltasks.metrics.goals import Seen
from pooltasks.metrics.histogram import Histogram
from pooltasks.metrics.view import Quantiles

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pooltasks.cli.calls import Call
    from pooltasks.pools import Pool

_PATIENCE = 10.0
"""Seconds for which the last results are waited for."""
_LOOK = 0.05
_EARLY = 1000
"""Results that are remembered without a call: the call may still be on its way out."""
_TOGETHER = 200
"""Results that are dropped with one command."""


Tell = Callable[[float, float, str | None], None]
"""Takes when an operation was meant to be sent, when its result came (both by the monotonic
clock), and its error; None: it succeeded."""


class Listener(threading.Thread):
    """Hears of every result on the server, with one subscription, and drops those of the load."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(name="pooltasks-bench", daemon=True)
        self._backend = pool.app.backend
        prefix = self._key("*")[:-1]
        self._prefix = len(prefix)
        pattern = re.sub(r"([\[\]*?\\])", r"\\\1", prefix) + "*"
        self._pubsub = self._backend.client.pubsub(ignore_subscribe_messages=True)
        self._pubsub.psubscribe(pattern)
        self._lock = threading.Lock()
        self._sent: dict[str, tuple[float, Tell]] = {}
        self._early: OrderedDict[str, tuple[float, str | None]] = OrderedDict()
        self._done: list[str] = []
        self._closed = False
        self.error: redis.RedisError | None = None
        """The error that ended it."""

    def _key(self, task_id: str) -> str:
        return bytes(self._backend.get_key_for_task(task_id)).decode()

    def expect(self, task_id: str, meant: float, tell: Tell) -> None:
        """Have ``tell`` hear of an operation's result."""
        with self._lock:
            early = self._early.pop(task_id, None)
            if early is None:
                self._sent[task_id] = meant, tell
                return
        tell(meant, *early)
        self._done.append(task_id)

    @property
    def outstanding(self) -> int:
        """Number of operations without a result."""
        return len(self._sent)

    def run(self) -> None:
        """Listen until it is closed, or the connection fails."""
        try:
            while not self._closed:
                message = self._pubsub.get_message(timeout=_LOOK)
                if message is not None:
                    self._hear(message["channel"].decode()[self._prefix :], message["data"])
                if len(self._done) >= _TOGETHER:
                    self._drop()
            self._drop()
        except redis.RedisError as error:
            self.error = error
        finally:
            self._pubsub.close()

    def _hear(self, task_id: str, payload: bytes) -> None:
        now = time.monotonic()
        its_end = self._backend.decode_result(payload)
        if its_end["status"] not in READY_STATES:
            return
        raised = its_end["result"]
        failure = None if its_end["status"] == SUCCESS else f"{type(raised).__name__}: {raised}"
        with self._lock:
            its = self._sent.pop(task_id, None)
            if its is None:
                self._early[task_id] = now, failure
                if len(self._early) > _EARLY:
                    self._early.popitem(last=False)
                return
        meant, tell = its
        tell(meant, now, failure)
        self._done.append(task_id)

    def _drop(self) -> None:
        names, self._done = self._done, []
        if names:
            self._backend.client.unlink(*map(self._key, names))

    def close(self) -> None:
        """Stop listening, and drop the rest."""
        self._closed = True
        self.join()


@dataclass
class Span:
    """The fate of the operations that were meant to be sent in a span of time."""

    sent: int = 0
    answered: int = 0
    """Operations with a result, a failure included."""
    failed: int = 0
    """Operations whose result is an error."""
    latency: Histogram = field(default_factory=Histogram)

    def add(self, other: Span) -> None:
        """Count all of another."""
        self.sent += other.sent
        self.answered += other.answered
        self.failed += other.failed
        self.latency.merge(other.latency)


@dataclass
class Mark:
    """A moment of the load, as the death of a process."""

    at: float
    """Monotonic seconds."""
    longest: float = 0.0
    """Seconds until the last of the operations was answered that were on their way then."""


@dataclass
class Load:
    """One load, and its sender's measurements. The lead does not count.

    Args:
        pool: The pool that it goes to.
        call: The call to send.
        rate: Operations a second.
        seconds: Seconds of the load that count.
        lead: Seconds of the load before those.
        factors: Of the rate, one after the other, in equal parts of the seconds that
            count; the lead has the first. Each above 0.
    """

    pool: Pool
    call: Call
    rate: float
    seconds: float
    lead: float
    factors: Sequence[float] = (1.0,)
    whole: Span = field(default_factory=Span)
    """The operations of all the seconds that count."""
    failure: str = ""
    """The error of the first that failed."""
    late: Histogram = field(default_factory=Histogram)
    """How much later than meant operations were sent: the sender's own delay."""
    spans: list[Span] = field(init=False)
    """The operations of each second that counts."""
    marks: list[Mark] = field(default_factory=list)
    _start: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.spans = [Span() for _ in range(math.ceil(self.seconds))]

    def run(self, *, at: Sequence[tuple[float, Callable[[], None]]] = (), seed: int = 1) -> None:
        """Send the load and wait for its results.

        Args:
            at: Actions to run meanwhile, each after so many of the seconds that count.
            seed: Seed of the times at which operations are sent.

        Raises:
            redis.RedisError: The server does not answer the listener for results.
        """
        listener = Listener(self.pool)
        listener.start()
        try:
            self._send(listener, sorted(at, key=lambda its: its[0]), random.Random(seed))  # noqa: S311  arrivals
            deadline = time.monotonic() + _PATIENCE
            while listener.outstanding and not listener.error and time.monotonic() < deadline:
                time.sleep(_LOOK)  # until the next look
        finally:
            listener.close()
        if listener.error:
            raise listener.error

    def mark(self) -> None:
        """Note this moment, to see how soon what is on its way now is answered."""
        self.marks.append(Mark(time.monotonic()))

    def passed(self, at: float) -> float:
        """Return the seconds that count until a moment of the monotonic clock; before, negative."""
        return at - self._start - self.lead

    def part(self, number: int, of: int) -> Span:
        """Return what became of one of ``of`` equal parts, counted from 0."""
        first, end = (round(len(self.spans) * edge / of) for edge in (number, number + 1))
        its = Span()
        for span in self.spans[first:end]:
            its.add(span)
        return its

    def _send(
        self,
        listener: Listener,
        actions: list[tuple[float, Callable[[], None]]],
        source: random.Random,
    ) -> None:
        start = self._start = time.monotonic()
        for due in self._arrivals(source):
            if listener.error:
                return
            while actions and self.lead + actions[0][0] <= due:
                at, action = actions.pop(0)
                time.sleep(max(0.0, start + self.lead + at - time.monotonic()))
                action()
            time.sleep(max(0.0, start + due - time.monotonic()))  # the rate of arrivals
            self._one(listener, start + due, counts=due >= self.lead)
        for _, action in actions:
            action()

    def _arrivals(self, source: random.Random) -> Iterator[float]:
        """Yield the seconds after the start at which operations are due."""
        part = self.seconds / len(self.factors)
        due = 0.0
        for number, factor in enumerate(self.factors, start=1):
            end = self.lead + number * part
            while (due := due + source.expovariate(self.rate * factor)) < end:
                yield due
            due = end  # Poisson arrivals have no memory

    def _one(self, listener: Listener, meant: float, *, counts: bool) -> None:
        if counts:
            for span in self._spans(meant):
                span.sent += 1
            self.late.add(time.monotonic() - meant)
        try:
            result = self._submit()
        except OperationalError:
            return  # it has no answer
        listener.expect(result.id, meant, self._tell if counts else _ignore)

    def _submit(self) -> Any:
        return self.pool.submit(self.call.operation, self.call.args, self.call.kwargs)

    def _spans(self, meant: float) -> tuple[Span, Span]:
        second = min(int(self.passed(meant)), len(self.spans) - 1)
        return self.whole, self.spans[second]

    def _tell(self, meant: float, ended: float, failure: str | None) -> None:
        with self._lock:  # the sender tells of results that were faster than itself
            for span in self._spans(meant):
                span.answered += 1
                span.failed += failure is not None
                span.latency.add(ended - meant)
            self.failure = self.failure or failure or ""
            for mark in reversed(self.marks):
                if mark.at < meant:
                    break
                if mark.at < ended:
                    mark.longest = max(mark.longest, ended - mark.at)

    def seen(self) -> Seen:
        """Return the callers' measurements."""
        its = self.whole
        return Seen(
            latency=Quantiles.of(its.latency),
            throughput=its.answered / self.seconds,
            unanswered=1 - its.answered / its.sent if its.sent else 0.0,
        )


def _ignore(meant: float, ended: float, failure: str | None) -> None:
    """Do nothing: the operation belongs to the lead."""
