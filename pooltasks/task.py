"""Operation: the Celery task class behind ``@operation``.

Publishing adds two headers, ``published_at`` and ``deadline`` (seconds since the
epoch, by the server's clock); the worker refuses what waited too long and
retries what may be retried.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from celery import Task
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from kombu.exceptions import EncodeError

from pooltasks import coroutines, keys
from pooltasks.broker.clock import server_now
from pooltasks.broker.dead_letters import with_attempt
from pooltasks.broker.publishing import publish
from pooltasks.broker.serialization import encoding_error
from pooltasks.errors import (
    Category,
    CheckoutTimeout,
    DeadlineExceeded,
    OperationRefusedError,
    OperationTimeout,
    categorize,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pooltasks.settings import PoolSettings

RETRIES: Mapping[Category, int] = {
    Category.INITIALIZATION: 3,
    Category.CONNECTION: 5,
    Category.COMMUNICATION: 3,
    Category.TIMEOUT: 2,
    Category.RESOURCE: 1,
    Category.HEALTH_CHECK: 3,
    Category.SESSION: 2,
    Category.PYTHON: 1,
    Category.SYSTEM: 0,
}
"""How often ``retry=True`` retries an error of each category."""

_IMMEDIATE = {Category.COMMUNICATION, Category.SESSION, Category.PYTHON}
_BACKOFF_BASE = 0.1
_BACKOFF_CAP = 30.0
_NUMBER = (float, int)
_END_OF_TIME = 1e11  # seconds since the epoch: the year 5138


def retry_delay(category: Category, retries: int) -> float:
    """Return the seconds to wait before retry number ``retries`` (from 0).

    Categories whose cause does not pass with time are retried at once; the
    others after exponential backoff with full jitter: uniform on
    [0, min(30, 0.1 · 2^retries)] (Brooker, "Exponential Backoff And Jitter",
    AWS Architecture Blog, 2015).
    """
    if category in _IMMEDIATE:
        return 0.0
    return random.uniform(0.0, min(_BACKOFF_CAP, _BACKOFF_BASE * 2.0**retries))  # noqa: S311  no secret


def waited(request: Any, now: float) -> float | None:
    """Return the seconds since ``request`` was published or due; None if it does not say.

    Args:
        request: Celery's request of a task.
        now: Seconds since the epoch, by the server's clock.
    """
    return _since(request.get("published_at"), now)


def taken(request: Any, now: float) -> float | None:
    """Return the seconds since ``request`` was first published or due, before its retries.

    Args:
        request: Celery's request of a task.
        now: Seconds since the epoch, by the server's clock.

    Returns:
        None if the request does not say.
    """
    return _since(request.get("submitted_at", request.get("published_at")), now)


def _since(moment: Any, now: float) -> float | None:
    # A stock client sends none, and anyone may send nonsense.
    if not isinstance(moment, _NUMBER) or not 0 < moment < _END_OF_TIME:
        return None
    # Never negative: what two hosts know of the server's clock differs a little.
    return now - moment if now > moment else 0.0


class _Clocked(threading.local):
    run: float | None = None


clocked = _Clocked()
"""Seconds that the operation of this thread ran, for the worker that tells of it; None before."""


def _delay(options: Mapping[str, Any]) -> float:
    """Return the seconds until an operation is due, by the caller's clock, as Celery has it."""
    if options.get("countdown"):
        return float(options["countdown"])
    eta = options.get("eta")
    return max(0.0, eta.timestamp() - time.time()) if eta is not None else 0.0


class Operation(Task):
    """A Celery task that belongs to a pool; made by :func:`pooltasks.operation`."""

    abstract = True
    Request = "pooltasks.node.request:OperationRequest"

    pool: str | None = None
    timeout: float | None = None
    checkout_timeout: float | None = None
    retries_by_category: Mapping[Category, int] = {}

    def apply_async(
        self,
        args: Any = None,
        kwargs: Any = None,
        *positional: Any,
        deadline: float | None = None,
        **options: Any,
    ) -> Any:
        """Publish the operation, as :meth:`celery.app.task.Task.apply_async` does.

        Args:
            args: Positional arguments of the operation.
            kwargs: Keyword arguments of the operation.
            *positional: As Celery's.
            deadline: Seconds from now (or from when it is due) within which
                waiting and running must end; by default the checkout timeout
                plus the operation timeout.
            **options: As Celery's; ``queue`` names the pool of an operation
                that any pool can run.

        Raises:
            OperationRefusedError: No pool is named.
            MessageTooLargeError: The arguments are too large for a message.
            kombu.exceptions.EncodeError: The arguments are not JSON.
            TypeError: The arguments do not fit the operation.
        """
        options = self.addressed(options, deadline)
        try:
            if not positional:
                result = publish(self, args, kwargs, options)
                if result is not None:
                    return result
            return super().apply_async(args, kwargs, *positional, **options)
        except EncodeError as error:
            raise encoding_error(error) from None

    def addressed(self, options: dict[str, Any], deadline: float | None) -> dict[str, Any]:
        """Return the options of a call with the queue it goes to, and its times as headers.

        Args:
            options: As those of :meth:`apply_async`.
            deadline: As that of :meth:`apply_async`.

        Raises:
            OperationRefusedError: No pool is named.
        """
        queue = options.get("queue")
        if not queue:
            queue = keys.queue(self.pool) if self.pool else self._queue_of_this_process()
        settings = self._pool_settings(queue)
        published_at = server_now(self.app) + _delay(options)
        budget = deadline
        if budget is None:
            budget = (self.checkout_timeout or settings.checkout_timeout) + (
                self.timeout or settings.operation_timeout
            )
        # A retry brings the deadline of its first attempt.
        headers = {"deadline": published_at + budget, **(options.get("headers") or {})}
        headers["published_at"] = published_at
        return {**options, "queue": queue, "headers": headers}

    def retry(self, *args: Any, exc: Any = None, **options: Any) -> Any:
        """Retry, as Celery does; the next attempt carries the error of this one along."""
        error = exc if isinstance(exc, BaseException) else sys.exception()
        if error is not None:
            now = self.app.pooltasks.clock.now()
            self.request.attempts = with_attempt(self.request.get("attempts"), now, error)
        return super().retry(*args, exc=exc, **options)

    def signature_from_request(self, request: Any = None, *args: Any, **options: Any) -> Any:
        """Return the signature of another attempt; it keeps the times of the first one."""
        request = self.request if request is None else request
        signature = super().signature_from_request(request, *args, **options)
        kept = {
            "deadline": request.get("deadline"),
            "attempts": request.get("attempts"),
            "submitted_at": request.get("submitted_at", request.get("published_at")),
        }
        signature.options["headers"] = {
            **(signature.options.get("headers") or {}),
            **{name: value for name, value in kept.items() if value is not None},
        }
        return signature

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the operation: here if called directly, with its checks in a worker.

        An ``async def`` that is called directly is an ordinary coroutine.
        """
        request = self.request
        # One that runs already has called itself.
        if request.called_directly or "run_started" in vars(request):
            return super().__call__(*args, **kwargs)
        self._start(request)
        try:
            try:
                return coroutines.run(self, self.run(*args, **kwargs))
            finally:
                request.run_seconds = run = time.perf_counter() - request.run_started
                if not request.is_eager:  # called by an operation, and a part of it
                    clocked.run = run
        except (Ignore, Reject, Retry):
            raise
        except SoftTimeLimitExceeded as error:
            timeout = OperationTimeout(
                f"{self.name} was stopped after running for {request.run_seconds:.3f} s."
            )
            self._retry_if_allowed(request, timeout)
            raise timeout from error
        except Exception as error:
            self._retry_if_allowed(request, error)
            raise

    def _start(self, request: Any) -> None:
        """Note the wait; raise if the operation came too late to be run."""
        request.run_started = time.perf_counter()
        now = self.app.pooltasks.clock.now()
        wait = request.wait_seconds = waited(request, now)
        if wait is None:
            return
        delivery = request.delivery_info or {}
        allowed = (
            self.checkout_timeout
            or self._pool_settings(delivery.get("routing_key")).checkout_timeout
        )
        # What comes back from a dead worker had been checked out in time.
        if wait > allowed and not delivery.get("redelivered"):
            raise CheckoutTimeout(
                f"{self.name} waited {wait:.3f} s for a worker, longer than its checkout "
                f"timeout of {allowed:g} s; it was not run."
            )
        deadline = request.get("deadline")
        if deadline is not None and now >= deadline:
            raise DeadlineExceeded(
                f"{self.name} reached a worker {now - deadline:.3f} s after its deadline; "
                "it was not run."
            )

    def _retry_if_allowed(self, request: Any, error: Exception) -> None:
        """Raise Celery's Retry if ``error`` may be retried before the deadline."""
        category = categorize(error)
        most = self.retries_by_category.get(category, 0)
        delay = retry_delay(category, request.retries)
        deadline = request.get("deadline")
        in_time = deadline is None or self.app.pooltasks.clock.now() + delay < deadline
        if request.retries < most and in_time:
            raise self.retry(exc=error, countdown=delay, max_retries=most)

    def _pool_settings(self, queue: str | None) -> PoolSettings:
        settings = self.app.pooltasks.settings
        name = queue.removeprefix(keys.QUEUE_PREFIX) if queue else self.pool
        pool: PoolSettings = settings.pool_settings(name)
        return pool

    def _queue_of_this_process(self) -> str:
        """Return the queue of an operation without a pool, published by a node's worker."""
        extension = self.app.pooltasks
        if extension.pool is not None:
            return keys.queue(extension.pool)
        pools = list(extension.settings.pools)
        if len(pools) == 1:
            return keys.queue(pools[0])
        raise OperationRefusedError(
            f"{self.name} can run in any pool, and none is named. Say which: "
            f"Pool(NAME).execute(…) or apply_async(queue='pool.NAME'). "
            f"Pools: {', '.join(pools) or 'none configured'}."
        )
