"""A result backend in the memory of this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.backends.base import KeyValueStoreBackend
from celery.exceptions import TimeoutError as CeleryTimeoutError
from celery.states import READY_STATES

if TYPE_CHECKING:
    from collections.abc import Iterable


class MemoryBackend(KeyValueStoreBackend):
    """Stores results as Celery's other backends do, encoded, in a dictionary."""

    supports_autoexpire = True
    supports_native_join = True
    implements_incr = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.thread_safe = True
        self._stored: dict[Any, Any] = {}

    def get(self, key: Any) -> Any:
        """Return a value, or None."""
        return self._stored.get(key)

    def mget(self, keys: Iterable[Any]) -> list[Any]:
        """Return the values of several keys."""
        return [self._stored.get(key) for key in keys]

    def set(self, key: Any, value: Any) -> None:
        """Store a value."""
        self._stored[key] = value

    def delete(self, key: Any) -> None:
        """Remove a value."""
        self._stored.pop(key, None)

    def incr(self, key: Any) -> int:
        """Count."""
        self._stored[key] = count = self._stored.get(key, 0) + 1
        return int(count)

    def expire(self, key: Any, value: Any) -> None:
        """Do nothing: stored values end with their test."""

    def wait_for(self, task_id: str, **_: Any) -> Any:
        """Return a result. Nothing runs beside this thread, so a missing result never comes.

        Raises:
            celery.exceptions.TimeoutError: There is none.
        """
        meta = self.get_task_meta(task_id)
        if meta["status"] in READY_STATES:
            return meta
        raise CeleryTimeoutError(
            f"The operation {task_id} has no result (its state is {meta['status']}), and nothing "
            "runs that could make one: under recorded() nothing does, and under inline() what "
            "was ignored, rejected or is still running has none."
        )

    def _get_result_meta(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        meta: dict[str, Any] = super()._get_result_meta(*args, **kwargs)
        request = kwargs.get("request")
        wait = getattr(request, "wait_seconds", None)
        if wait is not None:
            meta["timing"] = {"wait": wait, "run": getattr(request, "run_seconds", 0.0)}
        return meta
