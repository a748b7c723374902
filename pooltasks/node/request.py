"""What a node knows of one operation between reserving and completing it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionWithTraceback
from celery.exceptions import Ignore, InvalidTaskError, Reject, Retry, WorkerLostError
from celery.utils.log import get_logger
from celery.worker import state
from celery.worker.request import Request

from pooltasks import keys
from pooltasks.broker.client import redis_client
from pooltasks.broker.dead_letters import (
    DeadLetters,
    deliveries_of,
    give_reason,
    original_of,
    with_attempt,
)
from pooltasks.errors import PoisonedError
from pooltasks.node.jobs import Blame

if TYPE_CHECKING:
    from pooltasks.broker.dead_letters import Attempt
    from pooltasks.settings import PoolSettings

logger = get_logger(__name__)

_NO_FAILURE = (Ignore, Reject, Retry, WorkerLostError)
_LEAST_LIMIT = 0.1
"""The worker itself refuses what comes after its deadline, and says so; a shorter
limit would strike before it gets that far."""


class OperationRequest(Request):
    """Celery's request, with the operation's time limits.

    The soft limit is the caller's, else the operation's, else the pool's, and
    never more than what is left of the deadline. The hard limit follows it by
    a tenth, at least one second and at most ten, in which the operation can
    clean up before its worker is killed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._check_body()
        self._check_arguments()

    def _check_body(self) -> None:
        """Raise InvalidTaskError if the body is not arguments, keyword arguments and a table."""
        args, kwargs, embed = self._payload
        if not (
            isinstance(args, list | tuple)
            and isinstance(kwargs, dict)
            and isinstance(embed, dict | None)
        ):
            raise InvalidTaskError(
                f"the body is no list of arguments, table of keyword arguments and table: "
                f"{type(args).__name__}, {type(kwargs).__name__}, {type(embed).__name__}"
            )

    def _check_arguments(self) -> None:
        """Raise InvalidTaskError if the arguments do not fit the operation, and tell its caller.

        A publisher with the operation's code finds out before it publishes.
        """
        fits = self._task.__header__ if self._task.typing else None
        if fits is None:
            return
        try:
            fits(*self._args, **self._kwargs)
        except TypeError as error:
            self._task.backend.mark_as_failure(
                self.id, error, request=self._context, store_result=self.store_errors
            )
            raise InvalidTaskError(f"the arguments do not fit {self.name}: {error}") from error

    def on_failure(
        self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False
    ) -> None:
        """Count the death of a worker; what has killed too many becomes a dead letter."""
        error = exc_info.exception
        if isinstance(error, ExceptionWithTraceback):
            error = error.exc
        if isinstance(error, MemoryError):
            # Celery would end the node, for what its worker had too little of.
            exc_info.exception = error = RuntimeError(f"MemoryError: {error}")
        if isinstance(error, Reject):
            give_reason(self._message, f"rejected by the operation: {error.reason}")
        lost = isinstance(error, WorkerLostError | SystemExit)
        if lost and self._task.reject_on_worker_lost and self._is_ours():
            blame = self._blame()
            if blame is Blame.CERTAIN:
                deliveries = deliveries_of(self._message.headers) + 1
                if deliveries >= self._pool_settings().max_deliveries:
                    self._bury(deliveries)
                    return
                self._message.headers["deliveries"] = deliveries
            elif blame is Blame.SUSPECT:
                self._message.headers["suspect"] = True
            self._message.headers["attempts"] = self._attempts(error)
        if return_ok and self._context.retries and not isinstance(error, _NO_FAILURE):
            self._set_aside(f"failed after {self._context.retries} retries: {error!r}", error)
        try:
            super().on_failure(exc_info, send_failed_event, return_ok)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            # Celery has acknowledged it by now, and cannot read whom it is to tell.
            self._set_aside(f"nobody can be told that it failed: {error!r}")
            raise

    def revoked(self) -> bool:
        """Return whether it is not to be run; what has seen too many deaths is buried."""
        deliveries = deliveries_of(self._message.headers)
        if deliveries >= self._pool_settings().max_deliveries and not self.acknowledged:
            self._bury(deliveries)
            return True
        return bool(super().revoked())

    def _is_ours(self) -> bool:
        """Return whether this process, and not revoke or shutdown, is done with the operation."""
        return not (self._already_cancelled or self._already_revoked or self.acknowledged)

    def _blame(self) -> Blame:
        """Return what the end of its worker says about this operation."""
        job = self._apply_result() if self._apply_result is not None else None
        return Blame.CERTAIN if job is None else job.blame

    def _bury(self, deliveries: int) -> None:
        """Make the operation a dead letter, and tell its caller."""
        reason = f"{self.name} killed its worker or node at each of {deliveries} deliveries"
        self._set_aside(reason)
        state.task_ready(self)
        logger.error("%s; it is a dead letter now: %s", reason, self.id)
        self._task.backend.mark_as_failure(
            self.id,
            PoisonedError(
                f"{reason}. See: celery -A … pool dead show {self._app.pooltasks.pool} {self.id}"
            ),
            request=self._context,
            store_result=self.store_errors,
        )
        self.acknowledge()

    def _set_aside(self, reason: str, error: BaseException | None = None) -> None:
        """Keep the message as a dead letter; with its last ``error``, if that is not noted yet."""
        letters = DeadLetters(redis_client(self._app), self._delivery_info["routing_key"])
        history = self._attempts(error) if error else self._message.headers.get("attempts")
        letters.add(original_of(self._message), reason, history=history)

    def _attempts(self, error: BaseException) -> list[Attempt]:
        """Return the failed attempts, this one the last."""
        now = self._app.pooltasks.clock.now()
        return with_attempt(self._message.headers.get("attempts"), now, error)

    _asked: tuple[float | None, float | None] = (None, None)

    @property
    def time_limits(self) -> tuple[float | None, float | None]:
        """Hard and soft limit in seconds, as Celery orders them."""
        hard, soft = self._asked
        task: Any = self._task
        if soft is None:
            soft = task.timeout or task.soft_time_limit or self._pool_settings().operation_timeout
        deadline = self._request_dict.get("deadline")
        if isinstance(deadline, int | float):
            soft = max(_LEAST_LIMIT, min(soft, deadline - self._app.pooltasks.clock.now()))
        if hard is None:
            hard = task.time_limit or soft + min(10.0, max(1.0, soft / 10))
        return hard, min(soft, hard)

    @time_limits.setter
    def time_limits(self, asked: tuple[float | None, float | None]) -> None:
        hard, soft = asked
        self._asked = hard, soft

    def _pool_settings(self) -> PoolSettings:
        extension = self._app.pooltasks
        queue = self._delivery_info.get("routing_key") or ""
        pool = extension.pool or queue.removeprefix(keys.QUEUE_PREFIX)
        settings: PoolSettings = extension.settings.pool_settings(pool)
        return settings
