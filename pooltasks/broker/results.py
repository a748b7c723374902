"""The result backend: Celery's Redis backend with one step a result, and each operation's times."""

from __future__ import annotations

from functools import cached_property
from importlib.resources import files
from typing import Any

from celery.backends.redis import RedisBackend
from celery.states import FAILURE
from kombu.exceptions import EncodeError

from pooltasks.broker.serialization import encoding_error
from pooltasks.broker.waiting import ResultConsumer

_STORE = files("pooltasks.broker").joinpath("store.lua").read_text("utf-8")


class ResultBackend(RedisBackend):
    """Stores a result with one command instead of four, and ``timing`` beside each finished result.

    ``timing`` is ``{"wait": seconds, "run": seconds}``: from being published
    (or due) until a worker started the operation, and its execution. It is
    absent from results of plain Celery tasks and of messages that a stock
    client published.
    """

    ResultConsumer = ResultConsumer

    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Do nothing: whoever waits for a result subscribes to it then (``waiting.py``)."""

    def encode(self, data: Any) -> Any:
        """Return ``data`` as the stored text.

        Raises:
            MessageTooLargeError: It is larger than a message may be.
            kombu.exceptions.EncodeError: It is not JSON.
        """
        try:
            return super().encode(data)
        except EncodeError as error:
            raise encoding_error(error) from None

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **_: Any,
    ) -> Any:
        meta = self._get_result_meta(
            result=result, state=state, traceback=traceback, request=request
        )
        meta["task_id"] = task_id
        value = self.encode(meta)
        expires = self.failure_expires if state == FAILURE else self.expires
        self.ensure(self._publish_result, (self.get_key_for_task(task_id), value, expires or 0))
        return result

    def _publish_result(self, key: bytes, value: str, expires: int) -> None:
        self._store(keys=(key,), args=(value, int(expires)))

    @cached_property
    def _store(self) -> Any:
        return self.client.register_script(_STORE)

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
            # What came too late was never run.
            meta["timing"] = {"wait": wait, "run": getattr(request, "run_seconds", 0.0)}
        return meta
