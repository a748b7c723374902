"""Controlled calls that Celery makes its own way: of beat, of groups, with rare options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pooltasks.broker.admission import controlled, entry_of, is_controlled
from pooltasks.broker.captured import Captured
from pooltasks.broker.message import Message
from pooltasks.broker.publishing import publisher_of
from pooltasks.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_POSITIONAL = ("task_id", "producer", "link", "link_error", "shadow")
"""Arguments of Celery's ``apply_async`` after the operation's own, in their order."""


class ControlledCall(Captured):
    """A call that Celery publishes its own way, except for the last step: the server admits it.

    Calls with rare options are such, and all calls where a library wraps Celery's functions.

    Args:
        operation: The operation.
        options: Of the call.
    """

    def __init__(self, operation: Any, options: Mapping[str, Any]) -> None:
        super().__init__()
        self._operation = operation
        self._options = options
        self.first_id: str | None = None
        """The id of the result, if another call came first."""

    def on_captured(self) -> None:
        """Have the server publish the message.

        Raises:
            PoolSaturated: The pool is full.
            DuplicateError: Another call came first, and other tasks wait for this very one.
            kombu.exceptions.OperationalError: It could not be published.
        """
        operation, headers, options = self._operation, self.headers, self._options
        app = operation.app
        due = headers["published_at"] if headers.get("eta") else None
        message = Message(headers["id"], self.text, self.priority, due)
        entry = entry_of(app, message, headers, options)
        queue = getattr(options["queue"], "name", options["queue"])
        result, is_duplicate = publisher_of(app).admit(operation.name, queue, entry, options)
        self.first_id = result.id if is_duplicate else None


def send(
    operation: Any,
    args: Any,
    kwargs: Any,
    *positional: Any,
    celerys: Callable[..., Any],
    **options: Any,
) -> Any:
    """Publish a call as Celery does, under the controls of its pool if there are any.

    Args:
        operation: The operation.
        args: Positional arguments.
        kwargs: Keyword arguments.
        *positional: Options of the call, in Celery's order.
        celerys: Celery's ``apply_async`` of the operation.
        **options: The other options, ``queue`` and ``headers`` among them.

    Raises:
        PoolSaturated: The pool is full.
        DuplicateError: Another call came first, and others wait for this very one.
        ConfigurationError: The call names a connection to another broker.
    """
    app = operation.app
    queue = getattr(options["queue"], "name", options["queue"])
    extension = app.pooltasks
    if extension.is_diverted or app.conf.task_always_eager or not is_controlled(operation, queue):
        result = celerys(args, kwargs, *positional, **options)
        if operation.unique is not None:
            result.is_duplicate = False  # it runs here, or is recorded
        return result
    options |= dict(zip(_POSITIONAL, positional, strict=False))
    producer = options.pop("producer", None)
    connection = options.pop("connection", None) or (producer and producer.connection)
    if connection and connection.as_uri() != app.connection_for_write().as_uri():
        raise ConfigurationError(
            f"{operation.name} cannot be sent to {connection.as_uri()}: whether it is unique, and "
            "whether its pool has room, is decided at the application's own server."
        )
    options = controlled(operation, args, kwargs, options)
    call = ControlledCall(operation, options)
    result = celerys(args, kwargs, **options, producer=call)
    if call.first_id is not None:
        result = operation.AsyncResult(call.first_id)
    result.is_duplicate = call.first_id is not None
    return result
