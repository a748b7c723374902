"""A node's consumer: it comes back soon after the server does, and loses no message.

Celery waits longer after each attempt to connect, up to half a minute, and
gives up after the hundredth. What it cannot decode it acknowledges, and so loses.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

from celery.exceptions import CPendingDeprecationWarning
from celery.utils.log import get_logger
from celery.worker import state
from celery.worker.consumer import Consumer
from celery.worker.consumer.mingle import Mingle

from pooltasks.broker.connection import NodeConnection
from pooltasks.broker.dead_letters import give_reason
from pooltasks.broker.reserved import QoS
from pooltasks.broker.tenure import Tenure

logger = get_logger(__name__)

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 0.5
"""Seconds between two attempts to connect: what an attempt costs a server is little."""
_UNION = 1.0
"""Seconds for which a node that starts waits for the others' answers, as Celery does."""
_REUNION = 0.2
"""Seconds for which one waits that comes back."""


def _running() -> set[str]:
    """Return the reservations of what the workers run."""
    return {request.message.delivery_tag for request in state.active_requests}


class Reunion(Mingle):
    """Asks the other nodes what is revoked, as Celery's Mingle, before anything is consumed.

    Less long after an outage: the others were cut off too, and answer at once or
    not. And on a connection of its own: on the consumer's, every control command
    that arrives meanwhile makes Celery wait anew.
    """

    def __init__(self, c: Any, **options: Any) -> None:
        super().__init__(c, **{**options, "without_mingle": False})

    def send_hello(self, c: Any) -> Any:
        """Return the answer of each other node."""
        seconds = _REUNION if c.restart_count else _UNION
        # Celery closes a connection when the server has answered its last BRPOP.
        options = {**c.app.conf.broker_transport_options, "polling_interval": _REUNION / 2}
        with c.app.connection(transport_options=options) as connection:
            inspect = c.app.control.inspect(timeout=seconds, connection=connection)
            replies = inspect.hello(c.hostname, list(c.controller.state.revoked)) or {}
        replies.pop(c.hostname, None)
        return replies


class NodeConsumer(Consumer):
    """Celery's consumer, which comes back soon and loses no message."""

    first_connection_attempt: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._tenure = Tenure(_running)
        super().__init__(*args, **kwargs)
        self.initial_prefetch_count *= self.pool.slots  # Celery counts workers

    def connection_for_read(self, heartbeat: Any = None) -> Any:
        """Return the connection from which operations come."""
        conn = self.app.connection_for_read(heartbeat=heartbeat)
        if isinstance(conn, NodeConnection):
            conn.tenure = self._tenure
        return self.ensure_connected(conn)

    def ensure_connected(self, conn: Any) -> Any:
        """Return ``conn`` when it is connected, however long that takes.

        The log has the first failure, each new one, and the end of the outage.
        """
        conf = self.app.conf
        first = self.first_connection_attempt
        if not (conf.broker_connection_retry_on_startup if first else conf.broker_connection_retry):
            return super().ensure_connected(conn)
        begun = time.monotonic()
        said = set()

        def say(error: Exception, _: float) -> None:
            if str(error) not in said:
                said.add(str(error))
                logger.error(
                    "Cannot connect to %s: %s. Trying again until it answers.", conn.as_uri(), error
                )

        conn.ensure_connection(
            say,
            interval_start=_FIRST_PAUSE,
            interval_step=_FIRST_PAUSE,
            interval_max=_LONGEST_PAUSE,
            callback=state.maybe_shutdown,
        )
        if said:
            logger.warning(
                "Connected to %s after %.1f seconds.", conn.as_uri(), time.monotonic() - begun
            )
        self.first_connection_attempt = False
        return conn

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Close the connection; what is reserved stays the node's until it is back."""
        qos = getattr(getattr(self.task_consumer, "channel", None), "qos", None)
        if isinstance(qos, QoS):
            qos.restore_at_shutdown = False
        with warnings.catch_warnings():
            # It tells of a default of Celery 6, and that operations would be delivered again.
            warnings.simplefilter("ignore", CPendingDeprecationWarning)
            super().on_connection_error_after_connected(exc)

    def _update_prefetch_count(self, index: int = 0) -> Any:
        """Have the prefetch count follow ``index`` more workers; Celery counts what they run."""
        return super()._update_prefetch_count(index * self.pool.slots)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Reject what cannot be decoded."""
        give_reason(message, f"unreadable: {type(exc).__name__}: {exc}")
        logger.error("a message that cannot be decoded becomes a dead letter: %r", exc)
        message.reject_log_error(logger, self.connection_errors)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Reject what names an operation that this pool does not have."""
        give_reason(message, f"rejected: unknown here: {exc}")
        super().on_unknown_task(body, message, exc)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Reject what cannot be run."""
        give_reason(message, f"rejected: {exc}")
        super().on_invalid_task(body, message, exc)
