"""The lists in Redis of which a queue consists."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery import Celery

_SEPARATOR = "\x06\x16"
_PRIORITY_STEPS = (0, 3, 6, 9)


def lists_of(celery_app: Celery, queue: str) -> list[str]:
    """Return the keys of a queue's lists, without prefix: kombu keeps one for a priority step."""
    options = celery_app.conf.broker_transport_options
    separator = options.get("sep", _SEPARATOR)
    return [
        f"{queue}{separator}{step}" if step else queue
        for step in options.get("priority_steps", _PRIORITY_STEPS)
    ]
