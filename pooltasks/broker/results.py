"""The result backend: Celery's Redis backend, with each operation's times."""

from __future__ import annotations

from typing import Any

from celery.backends.redis import RedisBackend
from kombu.exceptions import EncodeError

from pooltasks.broker.serialization import encoding_error


class ResultBackend(RedisBackend):
    """Stores ``timing`` beside each finished result.

    ``timing`` is ``{"wait": seconds, "run": seconds}``: from being published
    (or due) until a worker started the operation, and its execution. It is
    absent from results of plain Celery tasks and of messages that a stock
    client published.
    """

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
