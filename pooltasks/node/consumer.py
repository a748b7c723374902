"""What a node does with a message that it cannot run: it says why, and sets it aside.

Celery acknowledges what it cannot decode, and so loses it.
"""

from __future__ import annotations

from typing import Any

from celery.utils.log import get_logger
from celery.worker.consumer import Consumer

from pooltasks.broker.dead_letters import give_reason

logger = get_logger(__name__)


class NodeConsumer(Consumer):
    """Celery's consumer, which loses no message."""

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
