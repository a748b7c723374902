"""Acceptance: where a message enters Celery, and the end of a message that cannot be run.

An error while a message's request is made concerns that one message: the message
becomes a dead letter with its reason, and its caller is told. The error is never
taken for a failure of the connection, as kombu takes a ``KeyError`` and every
``OSError``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.exceptions import InvalidTaskError
from celery.utils.log import get_logger
from kombu.exceptions import ContentDisallowed, DecodeError

from pooltasks import keys
from pooltasks.broker.protection import JSON
from pooltasks.broker.validation import check_operation
from pooltasks.errors import MessageRefusedError, UntrustedMessageError
from pooltasks.node.intake.failures import Failure
from pooltasks.node.intake.message import Message
from pooltasks.node.intake.reports import (
    LONGEST,
    FailureReport,
    bury,
    plain_result,
    refusal_text,
    refused_result,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

logger = get_logger(__name__)


class Refusal(Exception):  # noqa: N818  as Celery's Reject
    """A message cannot be run.

    Args:
        reason: Why, in words.
        failure: The failure that its caller gets; by default a MessageRefusedError.
    """

    def __init__(self, reason: str, failure: Failure | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.failure = failure


class Acceptance:
    """Hands messages to Celery; called with one.

    Args:
        consumer: The node's, with a strategy for each task; its pool's workers tell of refused
            messages.
        handler: Celery's own, for what its own transport brings.
    """

    def __init__(self, consumer: Any, handler: Callable[[Any], Any]) -> None:
        self._consumer = consumer
        self._app: Celery = consumer.app
        self._pool = consumer.pool
        self._handler = handler

    def __call__(self, message: Any) -> None:
        """Hand ``message``, a kombu message, to Celery, or refuse it."""
        try:
            if isinstance(message, Message):
                self._hand_on(message)
            else:
                self._open(message)
                if "task" in message.headers:
                    check_operation(_parts(message))
                self._handler(message)
        except MemoryError:
            raise  # it is the node's
        except Refusal as refusal:
            self._refuse(message, refusal)
        except UntrustedMessageError as error:
            self._refuse(message, Refusal(f"untrusted: {error}"))
        except Exception as error:  # noqa: BLE001  nobody knows all that a hostile one can raise
            self._refuse(message, Refusal(f"unreadable: {type(error).__name__}: {error}"))

    def _hand_on(self, message: Message) -> None:
        """Do as Celery's handler does, but acknowledge without promises and at once."""
        consumer = self._consumer
        try:
            strategy = consumer.strategies[message.headers["task"]]
        except KeyError as error:
            consumer.on_unknown_task(None, message, error)
            return
        try:
            strategy(
                message,
                None,
                message.ack_log_error,
                message.reject_log_error,
                consumer.on_task_message,
            )
        except (InvalidTaskError, ContentDisallowed) as error:
            consumer.on_invalid_task(None, message, error)
        except DecodeError as error:
            consumer.on_decode_error(message, error)

    def _open(self, message: Any) -> None:
        """Check and decrypt a message that Celery's own transport has brought."""
        extension = self._app.pooltasks
        protection, body = extension.protection, message.body
        if protection is None:
            return
        if isinstance(body, str):
            body = body.encode()
        queue = keys.queue(extension.pool)
        text = protection.open(queue, message.headers, message.content_type, body)
        if text is not body:
            message.body, message.content_type = text, JSON

    def _refuse(self, message: Any, refusal: Refusal) -> None:
        headers, reason = message.headers, refusal.reason
        identifier = headers.get("id")
        logger.error(
            "a message of queue %s becomes a dead letter: %s: %s",
            message.delivery_info.get("routing_key"),
            identifier,
            reason,
        )
        if message.acknowledged:  # it was run, or is about to
            return
        body = _body(message)
        if body is None or not (headers.get("task") in self._app.tasks or _tells_others(body)):
            error = refusal.failure.exception() if refusal.failure else MessageRefusedError(reason)
            self._pool.errors.found(error, headers, reason=reason)
            result = None if headers.get("ignore_result") else self._result(identifier, refusal)
            bury(self._app, message, reason, result=result)
            return
        failure = refusal.failure or Failure(
            "MessageRefusedError", refusal_text(self._app, identifier, reason)
        )
        FailureReport(
            self._app,
            failure,
            _plain_headers(message),
            message.body,
            stores=not headers.get("ignore_result"),
            finish=lambda stored: bury(self._app, message, reason, result=stored),
            give_up=lambda why, stored: bury(self._app, message, f"{reason}; {why}", result=stored),
            buries=True,
            reason=reason,
        ).send(self._pool, LONGEST)

    def _result(self, identifier: Any, refusal: Refusal) -> Any:
        if refusal.failure is None or not isinstance(identifier, str):
            known = identifier if isinstance(identifier, str) else None
            return refused_result(self._app, known, refusal.reason)
        return plain_result(self._app, identifier, refusal.failure.exception())


def _parts(message: Any) -> dict[str, Any]:
    """Return a message of Celery's own transport as ``check_operation`` reads it."""
    return {
        "headers": message.headers,
        "properties": message.properties,
        "content-encoding": message.content_encoding,
    }


def _plain_headers(message: Any) -> dict[str, Any]:
    """Return the headers as a request has them for an errback."""
    properties = message.properties
    return {
        **message.headers,
        "reply_to": properties.get("reply_to"),
        "correlation_id": properties.get("correlation_id"),
        "delivery_info": {
            "exchange": "",
            "routing_key": message.delivery_info.get("routing_key"),
            "priority": properties.get("priority"),
            "redelivered": bool(message.delivery_info.get("redelivered")),
        },
    }


def _body(message: Any) -> Any:
    """Return arguments, keyword arguments and the embedded part; None if they are not readable."""
    try:
        args, kwargs, embed = message.payload
    except Exception:  # noqa: BLE001  its reader raises what it likes
        return None
    is_one = isinstance(args, list) and isinstance(kwargs, dict) and isinstance(embed, dict | None)
    return (args, kwargs, embed or {}) if is_one else None


def _tells_others(body: Any) -> bool:
    return any(body[2].get(name) for name in ("errbacks", "chord", "chain"))
