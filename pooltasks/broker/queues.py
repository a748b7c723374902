"""The lists in Redis of which a queue consists: one for each step of priority."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pooltasks import keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from celery import Celery

_SEPARATOR = "\x06\x16"
PLACES = range(10)
"""The steps that there may be: kombu's priorities are 0 to 9, and a step is one of them."""


def list_name(queue: str, place: int, separator: str | None = None) -> str:
    """Return the key of one of a queue's lists, without prefix, as kombu names it."""
    return f"{queue}{separator or _SEPARATOR}{place}" if place else queue


def place_of(priority: int | None, steps: Sequence[int]) -> int:
    """Return the step in whose list a message goes: the largest that is not above its priority.

    Args:
        priority: Of the message; None is 0, and what is beyond 0 to 9 is the nearest of them.
        steps: Of the pool; none: all its messages go on one list.
    """
    number = max(0, min(9, priority or 0))
    return max((step for step in steps if step <= number), default=min(steps, default=0))


def list_of(queue: str, priority: int, steps: Sequence[int], separator: str | None = None) -> str:
    """Return the key of the list for messages of a priority, without prefix."""
    return list_name(queue, place_of(priority, steps), separator)


def lists_of(celery_app: Celery, queue: str) -> list[str]:
    """Return the keys of a pool's lists, without prefix, in the order in which they are served."""
    separator = celery_app.conf.broker_transport_options.get("sep")
    return [list_name(queue, step, separator) for step in _steps(celery_app, queue)]


def waiting_in(celery_app: Celery, queue: str) -> list[str]:
    """Return the keys, without prefix, of all lists in which a pool's operations wait.

    Beside its own lists these are those of a rollout, which are empty without one.
    """
    steps = _steps(celery_app, queue)
    tracks = [keys.track(queue, name, step) for name in ("stable", "canary") for step in steps]
    return [*lists_of(celery_app, queue), *tracks]


def queue_names(queues: Iterable[str] | str | None) -> list[str]:
    """Return the names of queues as ``celery worker -Q`` has them: a list, or commas between."""
    if queues is None:
        return []
    return queues.split(",") if isinstance(queues, str) else list(queues)


def _steps(celery_app: Celery, queue: str) -> Sequence[int]:
    pool = queue.removeprefix(keys.QUEUE_PREFIX)
    return celery_app.pooltasks.settings.pool_settings(pool).priorities or (0,)
