"""The result backend: Celery's Redis backend, with each operation's times."""

from __future__ import annotations

import time
from typing import Any

from celery.backends.redis import RedisBackend


class ResultBackend(RedisBackend):
    """Stores ``timing`` beside each finished result.

    ``timing`` is ``{"wait": seconds, "run": seconds}``: from being published
    (or due) until a worker started the operation, and its execution. It is
    absent from results of plain Celery tasks and of messages that a stock
    client published.
    """

    def _get_result_meta(
        self,
        result: Any,
        state: str,
        traceback: Any,
        request: Any,
        **options: Any,
    ) -> dict[str, Any]:
        meta: dict[str, Any] = super()._get_result_meta(
            result, state, traceback, request, **options
        )
        wait = getattr(request, "wait_seconds", None)
        if wait is not None:
            meta["timing"] = {"wait": wait, "run": time.perf_counter() - request.run_started}
        return meta
