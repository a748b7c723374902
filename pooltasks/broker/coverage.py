"""Coverage: tells calls that ``publishing.py`` publishes from those that go Celery's own way."""

from __future__ import annotations

from types import FunctionType
from typing import TYPE_CHECKING, Any

from celery import Task
from celery.app import amqp, routes
from kombu.transport import redis

from pooltasks.broker.serialization import SERIALIZER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kombu import Queue

    from pooltasks.broker.message import Form

PLAIN = {"headers", "queue"}
COVERED = PLAIN | {
    "add_to_parent",
    "chain",
    "chord",
    "countdown",
    "eta",
    "group_id",
    "group_index",
    "ignore_result",
    "link",
    "link_error",
    "parent_id",
    "priority",
    "replaced_task_nesting",
    "retries",
    "retry",
    "retry_policy",
    "root_id",
    "shadow",
    "soft_time_limit",
    "task_id",
    "time_limit",
}
"""Options of a call that is published here."""
_ATTRIBUTES = {"priority", "queue", "serializer", "soft_time_limit", "time_limit"}
"""Options that an operation which is published here may have as attributes."""
_PROTOCOL = 2
_BACKENDS = {"celery.backends.base", "celery.backends.redis", "pooltasks.broker.results"}
"""Modules of result backends that need no producer of kombu's to hear of a call."""


def is_celerys(function: Any, module: Any) -> bool:
    """Return whether ``function`` is ``module``'s own: libraries wrap it to see each call."""
    return type(function) is FunctionType and function.__globals__ is module.__dict__


def is_covered(operation: Any, queue: Queue) -> bool:
    """Return whether the operation's messages in this queue can be published here."""
    app = operation.app
    conf = app.conf
    transport = app.connection_for_write().get_transport_cls()
    attributes = operation._get_exec_options().items()  # noqa: SLF001  Celery's name
    return (
        all(value is None or name in _ATTRIBUTES for name, value in attributes)
        and operation.serializer == SERIALIZER
        and type(operation).shadow_name is Task.shadow_name
        and type(app.amqp) is amqp.AMQP
        and type(app.amqp.router) is routes.Router
        and conf.task_protocol == _PROTOCOL
        and not conf.task_send_sent_event
        and not conf.task_compression
        and queue.exchange.type == "direct"
        and not (queue.expires or queue.message_ttl or queue.queue_arguments)
        and issubclass(transport, redis.Transport)
        and transport.Channel._put is redis.Channel._put  # noqa: SLF001  kombu's name
        and app.backend.on_task_call.__module__ in _BACKENDS
    )


def is_covered_by(form: Form, options: Mapping[str, Any]) -> bool:
    """Return whether the options, once routed, still name the form's queue."""
    return (
        options["queue"].name == form.queue.name
        and options["serializer"] == SERIALIZER
        and all(
            value is None or name in COVERED or name in _ATTRIBUTES
            for name, value in options.items()
        )
    )
