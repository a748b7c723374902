"""What a node knows of one operation between reserving and completing it."""

from __future__ import annotations

import time
from typing import Any

from celery.worker.request import Request

from pooltasks import keys

_LEAST_LIMIT = 0.1
"""The worker itself refuses what comes after its deadline, and says so; a shorter
limit would strike before it gets that far."""


class OperationRequest(Request):
    """Celery's request, with the operation's time limits.

    The soft limit is the caller's, else the operation's, else the pool's, and
    never more than what is left of the deadline. The hard limit follows it by
    a tenth, at least one second and at most ten, in which the operation can
    clean up before its worker is killed.
    """

    _asked: tuple[float | None, float | None] = (None, None)

    @property
    def time_limits(self) -> tuple[float | None, float | None]:
        """Hard and soft limit in seconds, as Celery orders them."""
        hard, soft = self._asked
        task: Any = self._task
        if soft is None:
            soft = task.timeout or task.soft_time_limit or self._pool_timeout()
        deadline = self._request_dict.get("deadline")
        if isinstance(deadline, int | float):
            soft = max(_LEAST_LIMIT, min(soft, deadline - time.time()))
        if hard is None:
            hard = task.time_limit or soft + min(10.0, max(1.0, soft / 10))
        return hard, min(soft, hard)

    @time_limits.setter
    def time_limits(self, asked: tuple[float | None, float | None]) -> None:
        hard, soft = asked
        self._asked = hard, soft

    def _pool_timeout(self) -> float:
        settings = self._app.pooltasks.settings
        queue = self._delivery_info.get("routing_key") or ""
        timeout: float = settings.pool_settings(
            queue.removeprefix(keys.QUEUE_PREFIX)
        ).operation_timeout
        return timeout
