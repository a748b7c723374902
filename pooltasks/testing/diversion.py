"""An application whose messages go to a function instead of a broker.

Celery and pooltasks make and route each message as ever. Only the last step of
publishing, and the result backend, are replaced while the diversion lasts.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from celery import signals
from kombu.serialization import dumps

from pooltasks.extension import Extension, LocalClock, extend, preferred, settings_for_tests
from pooltasks.testing.memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery import Celery


class Sent(NamedTuple):
    """A message as a worker would get it."""

    name: str
    id: str
    headers: dict[str, Any]
    text: Any
    """The body: arguments, keyword arguments and the embedded parts of a call."""
    content_type: str
    content_encoding: str
    queue: str


class _Connection:
    """The part of a producer's connection that Celery uses."""

    def _reraise_as_library_errors(self) -> Any:
        return nullcontext()


class _Producer:
    """The part of a producer that Celery uses before it publishes."""

    connection = _Connection()


@contextmanager
def diverted(app: Celery, deliver: Callable[[Sent], None]) -> Iterator[None]:
    """Have ``deliver`` called with each message that the application would publish.

    Results are in the memory of this process, and end with the diversion.

    Args:
        app: The application, with or without pools.
        deliver: Takes each message.
    """
    if not hasattr(app, "pooltasks"):
        extend(app, Extension(settings_for_tests(), has_server=False))
    extension = app.pooltasks

    def publish(
        _producer: Any,
        name: str,
        message: Any,
        *,
        queue: Any = None,
        serializer: str | None = None,
        headers: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        place = getattr(queue, "name", queue) or app.conf.task_default_queue
        its = {**message.headers, **(headers or {})}
        signals.before_task_publish.send(
            sender=name,
            body=message.body,
            exchange="",
            routing_key=place,
            declare=[],
            headers=its,
            properties=message.properties,
            retry_policy={},
        )
        kind, encoding, text = dumps(message.body, serializer or app.conf.task_serializer)
        signals.after_task_publish.send(
            sender=name, body=message.body, headers=its, exchange="", routing_key=place
        )
        deliver(Sent(name, its["id"], its, text, kind, encoding, place))

    backend = MemoryBackend(app=app)
    with ExitStack() as stack:
        replace = partial(_replace, stack)
        # A publisher that sees that this is not Celery's own leaves each message to Celery.
        replace(app, "send_task", partial(type(app).send_task, app))
        replace(app, "producer_or_acquire", lambda given=None: nullcontext(given or _Producer()))
        replace(app.amqp, "send_task_message", publish)
        replace(app, "_local", threading.local())
        replace(app, "_backend_cache", backend)
        replace(extension, "clock", LocalClock())
        replace(extension, "is_diverted", True)
        stack.enter_context(preferred(app))
        yield


_MISSING = object()


def _replace(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    """Set an attribute until the end of ``stack``."""
    attributes = vars(owner)
    before = attributes.get(name, _MISSING)
    attributes[name] = value

    def put_back() -> None:
        if before is _MISSING:
            del attributes[name]
        else:
            attributes[name] = before

    stack.callback(put_back)
