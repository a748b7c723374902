"""How long ago an operation was published, as its message says."""

from __future__ import annotations

from typing import Any

_NUMBER = (float, int)
_END_OF_TIME = 1e11  # seconds since the epoch: the year 5138


def waited(request: Any, now: float) -> float | None:
    """Return the seconds since ``request`` was published or due; None if it does not say.

    Args:
        request: Celery's request of a task.
        now: Seconds since the epoch, by the server's clock.
    """
    return _since(request.get("published_at"), now)


def taken(request: Any, now: float) -> float | None:
    """Return the seconds since ``request`` was first published or due, before its retries.

    Args:
        request: Celery's request of a task.
        now: Seconds since the epoch, by the server's clock.

    Returns:
        None if the request does not say.
    """
    return _since(request.get("submitted_at", request.get("published_at")), now)


def _since(moment: Any, now: float) -> float | None:
    # A stock client sends none, and anyone may send nonsense.
    if not isinstance(moment, _NUMBER) or not 0 < moment < _END_OF_TIME:
        return None
    # Never negative: two hosts' views of the server's clock differ a little.
    return now - moment if now > moment else 0.0
