"""One operation of every kind, for the crash points; each notes its starts."""

from __future__ import annotations

from typing import Any

from celery.exceptions import Reject

from chaos.operations import note_start
from pooltasks import operation

_COUNTDOWN = 0.2


@operation(pool="chaos", bind=True, max_retries=3)
def retried(self: Any) -> str:
    """Fail once, and succeed a moment later."""
    note_start(self.request.id)
    if self.request.retries == 0:
        raise self.retry(countdown=_COUNTDOWN)
    return "in the end"


@operation(pool="chaos", bind=True, idempotent=False)
def once(self: Any) -> str:
    """Must not run twice."""
    note_start(self.request.id)
    return "once"


@operation(pool="chaos", bind=True, acks_late=False)
def early(self: Any) -> str:
    """Is acknowledged before it starts."""
    note_start(self.request.id)
    return "early"


@operation(pool="chaos", bind=True)
def refused(self: Any) -> None:
    """Refuse itself."""
    note_start(self.request.id)
    raise Reject("told to", requeue=False)


@operation(pool="chaos", bind=True)
def gathered(self: Any, results: list[str]) -> int:
    """End a chord."""
    note_start(self.request.id)
    return len(results)
