"""Asking: orders and questions to nodes through Celery's remote control."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import redis
from kombu.exceptions import OperationalError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery import Celery

REPLY_TIMEOUT = 1.0
"""Seconds that nodes have to answer."""


def ask(
    app: Celery,
    command: str,
    nodes: Sequence[str] | None = None,
    timeout: float = REPLY_TIMEOUT,
    **arguments: Any,
) -> dict[str, dict[str, Any]]:
    """Send a control command; return the replies by node name.

    A node that does not know the command, like a plain worker of Celery, has no reply.

    Args:
        app: The application.
        command: Name of the control command.
        nodes: The nodes; all that answer in time if None.
        timeout: Seconds to wait for answers; named nodes are waited for no
            longer than until the last of them has answered.
        **arguments: Of the command.

    Raises:
        kombu.exceptions.OperationalError: The server cannot be reached, or refuses.
    """
    if nodes is not None and not nodes:
        return {}  # to Celery, no destination means every node
    options = {
        "arguments": arguments,
        "destination": None if nodes is None else list(nodes),
        "reply": True,
        "timeout": timeout,
        "limit": None if nodes is None else len(nodes),
    }
    try:
        try:
            replies = app.control.broadcast(command, **options)
        except redis.ConnectionError:
            # Celery keeps a connection for the next question; the server may have closed it since.
            with app.connection_for_write() as connection:
                replies = app.control.broadcast(command, connection=connection, **options)
    except redis.ConnectionError as error:
        raise OperationalError(str(error)) from error
    return {
        node: answer for reply in replies for node, answer in reply.items() if "error" not in answer
    }
