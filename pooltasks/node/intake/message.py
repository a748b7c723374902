"""A reserved message, as Celery handles it."""

from __future__ import annotations

import json
from base64 import b64decode
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger
from celery.utils.time import maybe_make_aware
from kombu import message as kombu_message
from kombu.serialization import prepare_accept_content

from pooltasks.broker.dead_letters import deliveries_of
from pooltasks.broker.protection import JSON
from pooltasks.broker.validation import read_operation
from pooltasks.errors import UntrustedMessageError

if TYPE_CHECKING:
    from celery import Celery

    from pooltasks.broker.results import StoredResult
    from pooltasks.node.intake.intake import Intake

logger = get_logger(__name__)

_ACCEPT = prepare_accept_content(["json"])
_END_OF_TIME = 1e11
"""Seconds since the epoch: the year 5138."""
_NOTED = ("attempts", "interrupted", "suspect")
"""Headers that a node adds, besides those of a redelivery."""
_ENCODINGS = {"base64": b64decode}
TYPED = "__type__"
"""How kombu names a table that stands for something else, such as a date."""


class Message(kombu_message.Message):
    """A message that this node has reserved.

    Args:
        raw: The message as it lay in its list.
        payload: The same, decoded.
        reservation: Its reservation.
        intake: Where it came in.
    """

    def __init__(
        self, raw: bytes, payload: dict[str, Any], reservation: str, intake: Intake
    ) -> None:
        self.raw = raw
        properties = payload["properties"]
        properties["delivery_tag"] = reservation
        # Its queue is known; the sender's word for it is not needed.
        properties["delivery_info"] = {
            "exchange": "",
            "routing_key": intake.queue,
            "redelivered": payload["headers"].get("redelivered") is True,
        }
        body, encoding = payload["body"], properties.get("body_encoding")
        super().__init__(
            body=_ENCODINGS[encoding](body) if encoding else body,
            channel=intake,
            delivery_tag=reservation,
            content_type=payload.get("content-type"),
            content_encoding=payload.get("content-encoding"),
            headers=payload["headers"],
            properties=properties,
            delivery_info=properties["delivery_info"],
            accept=_ACCEPT,
        )

    def _decode(self) -> Any:
        """Return what the body says; kombu calls a function for each table in it."""
        if self.content_type == JSON:
            with suppress(ValueError):  # kombu's error says what is wrong
                text = self.body.decode() if isinstance(self.body, bytes) else self.body
                if TYPED not in text:
                    return json.loads(text)
        return super()._decode()

    def ack(self, multiple: bool = False) -> None:
        """Acknowledge it; one that was buried or put back meanwhile has its end already."""
        if not self.acknowledged:
            super().ack(multiple)

    def reject(self, requeue: bool = False) -> None:
        """Make it a dead letter, or put it back at the head of its list."""
        if requeue:
            self.give_back()
        else:
            self.bury("rejected: it cannot be run")

    def requeue(self) -> None:
        """Put it back at the head of its list."""
        self.give_back()

    def give_back(
        self, deliveries: int | None = None, *, attempts: Any = None, suspect: bool = False
    ) -> None:
        """Put it back at the head of its list, with the node's notes on it.

        Args:
            deliveries: How many workers or nodes have died while they had it; None: as many
                as before.
            attempts: Those that failed, if there are more than before.
            suspect: Whether it was running beside others when its worker died.
        """
        self._state = "REQUEUED"
        if attempts is not None:
            self.headers["attempts"] = attempts
        if suspect:
            self.headers["suspect"] = True
        payload = json.loads(self.raw)
        payload.pop("deliveries", None)
        # All else stays as it was sent: the body still is, and both may be signed together.
        payload["headers"].update(
            (name, self.headers[name]) for name in _NOTED if name in self.headers
        )
        count = deliveries_of(self.headers) if deliveries is None else deliveries
        self.channel.reservations.give_back([(self.delivery_tag, redelivered(payload, count))])

    def bury(self, reason: str, *, history: Any = None, result: StoredResult | None = None) -> None:
        """Make it a dead letter.

        Args:
            reason: Why.
            history: Its failed attempts, by default those of its header.
            result: The result that its caller gets.
        """
        self._state = "REJECTED"
        self.channel.bury(self, reason, history, result)


def read(raw: bytes, reservation: str, intake: Intake) -> Message | None:
    """Return a reserved message; None if it was unreadable, and is a dead letter now."""
    try:
        payload = read_operation(raw, intake.protection, intake.queue)
        headers = payload["headers"]
        # Scripts put these fields before all others when the message went back to its list.
        deliveries = payload.pop("deliveries", None)
        if deliveries is not None:
            headers["redelivered"] = True
            headers["deliveries"] = deliveries
        if payload.pop("interrupted", None):
            headers["interrupted"] = True
        return Message(raw, payload, reservation, intake)
    except Exception as error:  # noqa: BLE001  nobody knows all that a hostile one can raise
        logger.error(  # noqa: TRY400  a traceback of somebody's garbage says no more
            "queue %s: an unreadable message of %d bytes becomes a dead letter: %s: %s",
            intake.queue,
            len(raw),
            type(error).__name__,
            error,
        )
        reason = f"unreadable: {type(error).__name__}: {error}"
        if isinstance(error, UntrustedMessageError):
            reason = f"untrusted: {error}"
        intake.bury_unreadable(raw, reservation, reason)
        return None


def redelivered(payload: dict[str, Any], deliveries: int) -> bytes:
    """Return a message that goes back to its list.

    Args:
        payload: The message; it is changed.
        deliveries: How many workers or nodes have died while they had it. It becomes
            the first key, where scripts see it without reading the message.
    """
    payload["headers"]["redelivered"] = True
    payload["headers"]["deliveries"] = deliveries
    return json.dumps({"deliveries": deliveries, **payload}).encode()


def due_time(headers: dict[str, Any], app: Celery) -> float | None:
    """Return when an operation is due, in seconds since the epoch; None: now.

    Args:
        headers: Of its message.
        app: The application, whose time zone a time without one is in.
    """
    eta = headers.get("eta")
    if not isinstance(eta, str):
        return None
    published_at = headers.get("published_at")
    if isinstance(published_at, int | float) and 0 < published_at < _END_OF_TIME:
        return published_at  # by the server's clock, where the ETA is by its producer's
    try:
        moment = float(maybe_make_aware(datetime.fromisoformat(eta), app.timezone).timestamp())
    except (ValueError, OverflowError):
        return None  # the request says what is wrong with it
    return moment if moment < _END_OF_TIME else None
