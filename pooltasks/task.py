"""Operation: the Celery task class behind ``@operation``.

Publishing adds two headers, ``published_at`` and ``deadline`` (seconds since the
epoch, by the server's clock), and ``deadline_given`` if the caller set the
deadline. The worker refuses what waited too long and retries what may be
retried. A retry has a deadline of its own, unless the caller gave one: that
bounds all attempts together.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from celery import Task
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from celery.utils.time import maybe_iso8601, maybe_make_aware
from kombu.exceptions import EncodeError

from pooltasks import batching, coroutines, keys
from pooltasks.ages import waited
from pooltasks.broker.arguments import arguments_of
from pooltasks.broker.clock import server_now
from pooltasks.broker.controlled_call import send
from pooltasks.broker.publishing import publish
from pooltasks.broker.serialization import encoding_error
from pooltasks.errors import (
    Category,
    CheckoutTimeout,
    ConfigurationError,
    DeadlineExceeded,
    OperationRefusedError,
    OperationTimeout,
    categorize,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pooltasks.batching import Batching, Part
    from pooltasks.broker.limiting import Limits
    from pooltasks.broker.uniqueness import Unique
    from pooltasks.pool_settings import PoolSettings

RETRIES: Mapping[Category, int] = {
    Category.INITIALIZATION: 3,
    Category.CONNECTION: 5,
    Category.COMMUNICATION: 3,
    Category.TIMEOUT: 2,
    Category.RESOURCE: 1,
    Category.HEALTH_CHECK: 3,
    Category.SESSION: 2,
    Category.PYTHON: 1,
    Category.CLIENT: 0,
    Category.SYSTEM: 0,
}
"""How often ``retry=True`` retries an error of each category."""

_IMMEDIATE = {Category.COMMUNICATION, Category.SESSION, Category.PYTHON}
_BACKOFF_BASE = 0.1
_BACKOFF_CAP = 30.0
_DOUBLINGS = 9
"""After so many, the longest delay is reached."""


def retry_delay(category: Category, retries: int) -> float:
    """Return the seconds to wait before retry number ``retries`` (from 0).

    Categories whose cause does not pass with time are retried at once; the
    others after exponential backoff with full jitter: uniform on
    [0, min(30, 0.1 · 2^retries)] (Brooker, "Exponential Backoff And Jitter",
    AWS Architecture Blog, 2015).
    """
    if category in _IMMEDIATE:
        return 0.0
    return random.uniform(0.0, _longest_delay(retries))  # noqa: S311  no secret


def _longest_delay(retries: int) -> float:
    return min(_BACKOFF_CAP, _BACKOFF_BASE * 2.0 ** min(retries, _DOUBLINGS))


def _given_deadline(request: Any) -> float | None:
    """Return the deadline of all attempts together; None if the caller gave none."""
    given: float | None = request.get("deadline") if request.get("deadline_given") else None
    return given


class _Clocked(threading.local):
    run: float | None = None
    """Seconds; None before it has ended."""
    blames_caller: bool = False
    """Whether its error is the fault of its caller."""


clocked = _Clocked()
"""How the operation of this thread ran, for the worker that tells of it."""


def _delay(options: Mapping[str, Any]) -> float:
    """Return the seconds until an operation is due, by the caller's clock, as Celery has it.

    An ``eta`` is a time or its ISO 8601 text; without an offset it is UTC.
    """
    if options.get("countdown"):
        return float(options["countdown"])
    eta = options.get("eta")
    if not eta:
        return 0.0
    due: float = maybe_make_aware(maybe_iso8601(eta)).timestamp()
    return max(0.0, due - time.time())


class Operation(Task):
    """A Celery task that belongs to a pool; made by :func:`pooltasks.operation`."""

    abstract = True
    Request = "pooltasks.node.intake.request:OperationRequest"

    pool: str | None = None
    timeout: float | None = None
    checkout_timeout: float | None = None
    plain_queue: str | None = None
    """The queue, if it is none of a pool. Celery's own name for it is deprecated."""
    retries_by_category: Mapping[Category, int] = {}
    client_errors: tuple[type[BaseException], ...] = ()
    unique: Unique | None = None
    """The rule by which calls are the same: one of these waits or runs at a time; None: no rule."""
    limits: Limits | None = None
    batching: Batching | None = None
    own_publisher: str | None = None
    """The class of an extension that decides itself whether a call is published."""

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
                waiting and running must end, of all attempts together. By
                default each attempt has the checkout timeout plus the
                operation timeout.
            **options: As Celery's; ``queue`` names the pool of an operation
                that any pool can run.

        Returns:
            Celery's result. That of a unique operation has the attribute ``is_duplicate``:
            whether it belongs to an earlier call with the same key.

        Raises:
            PoolSaturated: The pool is full; it is raised at once.
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
            celerys = super().apply_async
            return send(self, args, kwargs, *positional, celerys=celerys, **options)
        except EncodeError as error:
            raise encoding_error(error) from None

    async def aapply_async(
        self,
        args: Any = None,
        kwargs: Any = None,
        *,
        deadline: float | None = None,
        **options: Any,
    ) -> Any:
        """Publish the operation from an event loop, without blocking it.

        Args:
            args: As those of :meth:`apply_async`, and so are the others.
            kwargs: As above.
            deadline: As above.
            **options: As above.

        Returns:
            A result that can be awaited: that gives the value, or raises.
        """
        self.check_awaitable()
        from pooltasks import asynchronous  # noqa: PLC0415  who uses no event loop never loads it

        return await asynchronous.apply_async(self, args, kwargs, {**options, "deadline": deadline})

    async def adelay(self, *args: Any, **kwargs: Any) -> Any:
        """Publish the operation from an event loop with these arguments; as ``delay()``."""
        return await self.aapply_async(args, kwargs)

    def check_awaitable(self) -> None:
        """Raise if the operation cannot be published from an event loop.

        Raises:
            ConfigurationError: A class of an extension has to publish it, and would block the loop.
        """
        if self.own_publisher:
            raise ConfigurationError(
                f"{self.name} is published by its base class {self.own_publisher}, which blocks "
                "an event loop. Call it in a thread: await asyncio.to_thread(task.delay, …)."
            )

    def addressed(self, options: dict[str, Any], deadline: float | None) -> dict[str, Any]:
        """Return the options of a call with the queue it goes to, and its times as headers.

        Args:
            options: As those of :meth:`apply_async`.
            deadline: As that of :meth:`apply_async`.

        Raises:
            OperationRefusedError: No pool is named.
            ConfigurationError: There is no such pool, or the application has no broker.
        """
        extension = self.app.pooltasks
        if not extension.has_server:
            extension.check_broker(self.app)
        queue = options.get("queue")
        if not queue:
            queue = keys.queue(self.pool) if self.pool else self.plain_queue
            queue = queue or self._queue_of_this_process()
        published_at = server_now(self.app) + _delay(options)
        budget = self._budget(queue) if deadline is None else deadline
        headers = dict(options.get("headers") or {})
        if budget is not None:
            # A retry brings the deadline that the caller gave to its first attempt.
            headers.setdefault("deadline", published_at + budget)
        headers["published_at"] = published_at
        if deadline is not None:
            headers["deadline_given"] = True
        return {**options, "queue": queue, "headers": headers}

    def _budget(self, queue: str) -> float | None:
        """Return the seconds in which waiting and running must end; None: it may take any time."""
        settings = self._pool_settings(queue)
        wait = self.checkout_timeout or (settings and settings.checkout_timeout)
        run = self.timeout or (settings and settings.operation_timeout)
        return wait + run if wait and run else None

    def retry(self, *args: Any, exc: Any = None, **options: Any) -> Any:
        """Retry, as Celery does; the next attempt carries the error of this one along."""
        error = exc if isinstance(exc, BaseException) else sys.exception()
        if error is not None:
            # Only what runs an operation needs it, and that has the module.
            from pooltasks.broker.dead_letters import with_attempt  # noqa: PLC0415

            now = self.app.pooltasks.clock.now()
            self.request.attempts = with_attempt(self.request.get("attempts"), now, repr(error))
        return super().retry(*args, exc=exc, **options)

    def signature_from_request(self, request: Any = None, *args: Any, **options: Any) -> Any:
        """Return the signature of another attempt; it keeps what holds for all of them."""
        request = self.request if request is None else request
        signature = super().signature_from_request(request, *args, **options)
        kept = {
            "deadline": _given_deadline(request),
            "deadline_given": request.get("deadline_given"),
            "attempts": request.get("attempts"),
            "submitted_at": request.get("submitted_at", request.get("published_at")),
        }
        headers = dict(signature.options.get("headers") or {})
        headers.pop("deadline", None)  # Celery hands on all headers that are not its own
        signature.options["headers"] = {
            **headers,
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
        part = None if self.batching is None else batching.parts.pop(request.id, None)
        self._start(request, part)
        try:
            try:
                if self.batching is not None:
                    return batching.outcome(self, part, (args, kwargs))
                return coroutines.run(self, self.perform(*args, **kwargs))
            finally:
                request.run_seconds = run = time.perf_counter() - request.run_started
                if not request.is_eager:  # called by an operation, and a part of it
                    clocked.run = run if part is None else part.share
        except (Ignore, Reject, Retry):
            raise
        except OperationTimeout as error:  # of another operation, for which this one waited
            self._retry_if_allowed(request, error, categorize(error))
            raise
        except SoftTimeLimitExceeded as error:
            timeout = OperationTimeout(
                f"{self.name} was stopped after running for {request.run_seconds:.3f} s."
            )
            self._retry_if_allowed(request, timeout, Category.TIMEOUT)
            raise timeout from error
        except Exception as error:
            is_clients = self._blames_caller(error, args, kwargs)
            if not request.is_eager:
                clocked.blames_caller = is_clients
            category = Category.CLIENT if is_clients else categorize(error)
            self._retry_if_allowed(request, error, category)
            raise

    def perform(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function; a class of the application may do more around it."""
        return self.run(*args, **kwargs)

    def _blames_caller(
        self, error: Exception, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> bool:
        """Return whether an error is one of ``client_errors``, or the arguments do not fit."""
        if isinstance(error, self.client_errors):
            return True
        if not isinstance(error, TypeError):
            return False
        try:
            arguments_of(self.run, args, kwargs)
        except TypeError:
            return True
        return False

    def _start(self, request: Any, part: Part | None) -> None:
        """Note when it began; raise if that was too late for it to be run."""
        request.run_started = time.perf_counter() - (part.seconds if part else 0.0)
        self.check_in_time(request, part.began if part else self.app.pooltasks.clock.now())

    def check_in_time(self, request: Any, now: float) -> None:
        """Note the wait of what begins ``now``, by the server's clock; raise if it is too late."""
        wait = request.wait_seconds = waited(request, now)
        if wait is None:
            return
        delivery = request.delivery_info or {}
        settings = self._pool_settings(delivery.get("routing_key"))
        allowed = self.checkout_timeout or (settings and settings.checkout_timeout)
        # An operation that comes back from a dead worker had been checked out in time.
        if allowed and wait > allowed and not delivery.get("redelivered"):
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

    def _retry_if_allowed(self, request: Any, error: Exception, category: Category) -> None:
        """Raise Celery's Retry if ``error`` may be retried, and in time for a given deadline."""
        most = self.retries_by_category.get(category, 0)
        delay = retry_delay(category, request.retries)
        deadline = _given_deadline(request)
        in_time = deadline is None or self.app.pooltasks.clock.now() + delay < deadline
        if request.retries < most and in_time:
            raise self.retry(exc=error, countdown=delay, max_retries=most)

    def _pool_settings(self, queue: Any) -> PoolSettings | None:
        """Return the settings of a queue's pool; None if the queue is a plain one of Celery's."""
        queue = getattr(queue, "name", queue)
        if queue and not queue.startswith(keys.QUEUE_PREFIX):
            return None
        name = queue.removeprefix(keys.QUEUE_PREFIX) if queue else self.pool
        pool: PoolSettings = self.app.pooltasks.settings.pool_settings(name)
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
