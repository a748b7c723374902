"""Failures on their way to their callers: by a worker, or in its place by the node."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from celery.states import FAILURE
from celery.utils.log import get_logger

from pooltasks.broker.client import redis_client
from pooltasks.broker.dead_letters import DeadLetters
from pooltasks.broker.protection import HIDDEN, hides_arguments
from pooltasks.broker.results import ResultBackend
from pooltasks.errors import MessageRefusedError
from pooltasks.metrics.error_text import told_arguments
from pooltasks.node.intake.failures import reported
from pooltasks.node.workforce.jobs import Call, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from pooltasks.broker.results import StoredResult
    from pooltasks.node.intake.failures import Failure
    from pooltasks.node.worker.outcome import Ending
    from pooltasks.node.workforce.jobs import Blame

logger = get_logger(__name__)

LONGEST = 30.0
"""Seconds that telling of a failure may take."""
_READABLE = 100_000
"""Characters of arguments that a node reads to tell of them."""


class FailureReport:
    """Has a worker tell of a failure; the message stays reserved until that is done.

    If the worker dies of it, or code that the message names raises, the node stores
    the failure for the caller, without any such code, and tries no second time.

    Args:
        app: The application.
        failure: The failure to tell of.
        headers: Of the message, and what Celery adds to them.
        body: Of the message.
        stores: Whether the caller gets failures at all.
        finish: Ends the reservation when all is told; takes the result that is to be stored
            in the same step, if there is one.
        give_up: Does the same when it could not be told; takes the reason and the result.
        buries: Whether ``finish`` stores the result itself.
        reason: Of the dead letter, if it becomes one.
    """

    def __init__(
        self,
        app: Celery,
        failure: Failure,
        headers: dict[str, Any],
        body: Any,
        *,
        stores: bool,
        finish: Callable[[StoredResult | None], None],
        give_up: Callable[[str, StoredResult | None], None],
        buries: bool,
        reason: str | None = None,
    ) -> None:
        self._app = app
        self._reason = reason
        self._failure = failure
        self._headers = headers
        self._body = body
        self._stores = stores
        self._finish = finish
        self._give_up = give_up
        self._buries = buries

    def send(self, pool: Any, limit: float) -> None:
        """Give it to a worker of ``pool``, which has ``limit`` seconds for it."""
        if self._failure.state == FAILURE:
            pool.errors.found(
                self._failure.exception(),
                self._headers,
                reason=self._reason,
                arguments=self._arguments(),
            )
        try:
            payload = reported(self._failure, self._headers, self._body)
        except ValueError as error:  # the headers are no plain data
            self._fall_back(repr(error))
            return
        call = Call(Kind.FAILURE, self._headers["task"], payload)
        limits = (None, min(limit, LONGEST))
        if pool.submit(call, self, limits=limits, correlation_id=None) is None:
            self._fall_back("the node stops")

    def _arguments(self) -> str | None:
        """Return the operation's arguments as they may be told; None if that is not possible."""
        if hides_arguments(self._app):
            return HIDDEN
        task, body = self._app.tasks.get(self._headers["task"]), self._body
        try:
            if isinstance(body, str | bytes):
                body = json.loads(body) if len(body) <= _READABLE else None
            args, kwargs, _ = body
            return None if task is None else told_arguments(task.run, args, kwargs)
        except (ValueError, TypeError, AttributeError, RecursionError):
            return None  # its sender wrote it in another way

    def buries(self, _: Ending) -> bool:
        """Return whether the result is stored with the dead letter."""
        return self._buries

    def on_accepted(self, pid: int, at: float) -> None:
        """Do nothing."""

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Store the failure here: telling of it took too long."""
        if not soft:
            self._fall_back(f"it was not done within {timeout:g} s")

    def on_ended(self, ending: Ending, stored: StoredResult | None) -> None:
        """End the reservation."""
        if ending.is_told:
            self._finish(stored)
        else:
            self._fall_back(ending.text or "the node stops")

    def on_lost(self, error: str, blame: Blame) -> None:  # noqa: ARG002  of no matter here
        """Store the failure here: the worker died of it."""
        self._fall_back(error)

    def on_terminated(self, signal: str) -> None:
        """Store the failure here: the worker was ended."""
        self._fall_back(f"its worker was ended with signal {signal}")

    def _fall_back(self, why: str) -> None:
        failure = self._failure
        result = None
        if self._stores:
            result = plain_result(
                self._app, self._headers["id"], failure.exception(), failure.state
            )
        self._give_up(f"nobody can be told that it failed: {why}", result)


def plain_result(
    app: Celery, identifier: str, error: Exception, state: str = FAILURE
) -> StoredResult | None:
    """Return the result of a failed operation, for its caller alone.

    Returns:
        None if the application has another result backend; then it is stored there.
    """
    backend = app.backend
    if isinstance(backend, ResultBackend):
        return backend.plain_failure(identifier, error, state)
    backend.store_result(identifier, error, state)
    return None


def refusal_text(app: Any, identifier: str, reason: str) -> str:
    """Return the text that the caller of a refused message gets."""
    return (
        f"the message of operation {identifier} was refused: {reason}. It is a dead letter; "
        f"see: pooltasks dead show {app.pooltasks.pool} {identifier}"
    )


def refused_result(app: Celery, identifier: str | None, reason: str) -> StoredResult | None:
    """Return the result of a message that cannot be run; None if its id cannot be read."""
    if identifier is None:
        return None
    error = MessageRefusedError(refusal_text(app, identifier, reason))
    return plain_result(app, identifier, error)


def bury(
    app: Any, message: Any, reason: str, *, history: Any = None, result: StoredResult | None = None
) -> None:
    """Make a message a dead letter and store the result of its operation, in one step.

    Where Celery's own transport has reserved the message, it takes three steps.
    """
    if hasattr(message, "bury"):
        message.bury(reason, history=history, result=result)
        return
    queue = message.delivery_info["routing_key"]
    letters = DeadLetters(redis_client(app), queue, app.pooltasks.settings.dead_letters_of(queue))
    original = json.dumps(message._raw).encode()  # noqa: SLF001  kombu's name; it keeps no bytes
    letters.add(original, reason, history=history, result=result)
    if not message.acknowledged:
        message.ack()
