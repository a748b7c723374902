"""Forms of messages that are made without a connection: an event loop cannot wait for kombu's."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from pooltasks.broker.client import key_prefix
from pooltasks.broker.coverage import is_covered
from pooltasks.broker.message import Form

if TYPE_CHECKING:
    from celery import Celery


class UnconnectedForms:
    """The forms of an application's operations.

    Args:
        app: The application.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._forms: dict[tuple[str, str], Form | None] = {}

    def form(self, operation: Any, queue: str) -> Form | None:
        """Return the form of an operation's messages in a queue; None if Celery has to make them.

        Raises:
            celery.exceptions.QueueNotFound: There is no such queue.
        """
        key = operation.name, queue
        form = self._forms.get(key)
        if form is not None and form.operation is operation and form.pid == os.getpid():
            return form
        if form is None and key in self._forms:
            return None
        its = self._app.amqp.router.expand_destination({"queue": queue})["queue"]
        form = None
        if is_covered(operation, its):
            form = Form(operation, its, operation._get_exec_options(), _channel(self._app))  # noqa: SLF001  Celery's name
        self._forms[key] = form
        return form


def _channel(app: Celery) -> Any:
    """Return a channel of kombu's that says how a message is written; it connects to nothing."""
    kind = app.connection_for_write().get_transport_cls().Channel
    channel = kind.__new__(kind)
    channel.global_keyprefix = key_prefix(app)
    return channel
