"""inline(): operations run in this process when they are submitted."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celery._state import get_current_worker_task
from celery.app.trace import build_tracer
from celery.exceptions import Reject, SoftTimeLimitExceeded
from kombu.serialization import loads

from pooltasks import coroutines, keys
from pooltasks.task import Operation
from pooltasks.testing.diversion import diverted
from pooltasks.time_limits import time_limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery import Celery

    from pooltasks.testing.diversion import Sent


@contextmanager
def inline(app: Celery) -> Iterator[None]:
    """Run the application's operations and tasks in this process, when they are submitted.

    As live are: arguments and results, which are encoded and decoded; results
    by their id; errors, which are rebuilt; retries, their number and their
    state; links, chains, groups and chords; checkout timeouts, deadlines, and
    in the main thread timeouts, soft ones only.

    Different are: delays (a countdown, an ETA and the pause before a retry are
    0 s), and that everything is over when ``delay()`` returns. Operations that
    a coroutine submits run when it has ended.

    Args:
        app: The application; no server is asked for anything.
    """
    with diverted(app, _Runner(app).deliver):
        yield


class _Running:
    """An operation under way, and the messages to run when it has ended."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.after: deque[Sent] = deque()


class _Runner:
    """Runs messages as a worker would."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._tracers: dict[str, Callable[..., Any]] = {}
        self._running: dict[str, _Running] = {}

    def deliver(self, sent: Sent) -> None:
        """Run a message, now or when the operation that sent it has ended."""
        sender = get_current_worker_task()
        running = self._running.get(sender.request.id) if sender else None
        if running is not None and (
            sender.request.id == sent.id  # it is tried again
            or "run_seconds" in vars(sender.request)  # it has run: this is what follows it
            or running.thread != threading.get_ident()  # a coroutine's loop cannot wait
        ):
            running.after.append(sent)
            return
        waiting = deque([sent])
        while waiting:
            waiting.extendleft(reversed(self._run(waiting.popleft())))

    def _run(self, sent: Sent) -> deque[Sent]:
        """Run a message; return those that are to run next."""
        task = self._app.tasks[sent.name]
        tracer = self._tracers.get(sent.name)
        if tracer is None:
            tracer = self._tracers[sent.name] = build_tracer(sent.name, task, app=self._app)
        args, kwargs, embed = loads(sent.text, sent.content_type, sent.content_encoding)
        request = {
            **sent.headers,
            "args": args,
            "delivery_info": {"routing_key": sent.queue, "redelivered": False},
            "hostname": "inline",
            "is_eager": False,
            "kwargs": kwargs,
            **(embed or {}),
        }
        running = self._running[sent.id] = _Running()
        try:
            with _limited(self._limit(task, sent)):
                tracer(sent.id, args, kwargs, request)
        except Reject:
            pass  # as in a worker: it has no result
        finally:
            del self._running[sent.id]
        return running.after

    def _limit(self, task: Any, sent: Sent) -> float | None:
        """Return the seconds that an operation may run, as a node has it."""
        hard, soft = sent.headers.get("timelimit") or (None, None)
        if not isinstance(task, Operation):
            return soft or hard or task.soft_time_limit  # type: ignore[no-any-return]
        of_pool = None
        if sent.queue.startswith(keys.QUEUE_PREFIX):
            pool = sent.queue.removeprefix(keys.QUEUE_PREFIX)
            of_pool = self._app.pooltasks.settings.pool_settings(pool).operation_timeout
        deadline = sent.headers.get("deadline")
        left = None if deadline is None else deadline - time.time()
        hard, soft = time_limits((hard, soft), task, of_pool, left)
        return soft or hard


@contextmanager
def _limited(seconds: float | None) -> Iterator[None]:
    """Raise SoftTimeLimitExceeded in the block after so many seconds; in the main thread only."""
    is_main = threading.current_thread() is threading.main_thread()
    outer = signal.getitimer(signal.ITIMER_REAL)[0] if is_main else 0.0
    if seconds is None or not is_main or 0.0 < outer <= seconds:
        # A limit that strikes earlier, such as that of the test, stays in force.
        yield
        return

    def strike(*_: Any) -> None:
        if not coroutines.interrupt(threading.get_ident()):
            raise SoftTimeLimitExceeded

    begun = time.monotonic()
    handler = signal.signal(signal.SIGALRM, strike)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, handler)
        if outer:
            left = outer - (time.monotonic() - begun)
            signal.setitimer(signal.ITIMER_REAL, max(left, 0.001))
