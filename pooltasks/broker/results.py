"""The result backend: Celery's Redis backend with one step a result, and each operation's times."""

from __future__ import annotations

from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from celery.app.defaults import NAMESPACES
from celery.backends.redis import RedisBackend
from celery.states import FAILURE, READY_STATES
from kombu.exceptions import EncodeError

from pooltasks.broker.chords import ChordPart
from pooltasks.broker.scripts import text_of
from pooltasks.broker.serialization import encoding_error
from pooltasks.broker.waiting import ResultConsumer

if TYPE_CHECKING:
    from celery import Celery

STORE = text_of("store.lua")
"""Defines ``store(key, value, seconds)`` for the scripts that store results."""


_SILENCE = 4.0
"""Seconds without an answer after which a connection is given up."""
_CELERYS_SILENCE = NAMESPACES["redis"]["socket_timeout"].default
"""The same in Celery, unless ``redis_socket_timeout`` says otherwise."""


class StoredResult(NamedTuple):
    """A result as it is stored: key, encoded value, and seconds until it expires (0: never)."""

    key: bytes
    value: bytes
    expires: int


def _is_read_by_others(request: Any) -> bool:
    """Return whether other operations, sent right after it, may read the result."""
    return bool(getattr(request, "chord", None) or getattr(request, "errbacks", None))


class ResultBackend(RedisBackend):
    """Stores a result with one command instead of four, and ``timing`` beside each finished result.

    ``timing`` is ``{"wait": seconds, "run": seconds}``: from being published
    (or due) until a worker started the operation, and its execution. It is
    absent from results of plain Celery tasks and of messages that a stock
    client published.
    """

    ResultConsumer = ResultConsumer

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.connparams.get("socket_timeout") == _CELERYS_SILENCE:
            self.connparams["socket_timeout"] = _SILENCE

    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Do nothing: a caller that waits for a result subscribes to it then (``waiting.py``)."""

    def remove_pending_result(self, result: Any) -> Any:
        """Stop waiting for ``result``; Celery calls this for each result that is dropped."""
        if any(self._pending_results):
            return super().remove_pending_result(result)
        return result  # nobody waits for anything

    @cached_property
    def _chord_part_return_script(self) -> Any:
        return ChordPart(super()._chord_part_return_script)

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
        stored = self._stored(task_id, result, state, traceback, request)
        if task_id in self._kept and state in READY_STATES and not _is_read_by_others(request):
            self._kept[task_id] = stored
        else:
            self.store_now(stored)
        return result

    def _stored(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None
    ) -> StoredResult:
        meta = self._get_result_meta(
            result=result, state=state, traceback=traceback, request=request
        )
        meta["task_id"] = task_id
        value = self.encode(meta)
        if isinstance(value, str):
            value = value.encode()
        expires = self.failure_expires if state == FAILURE else self.expires
        return StoredResult(self.get_key_for_task(task_id), value, int(expires or 0))

    def plain_failure(
        self, task_id: str, error: BaseException, state: str = FAILURE
    ) -> StoredResult:
        """Return the result of an operation that failed; the caller stores it.

        No code runs that the operation's message names.

        Args:
            task_id: The operation's id.
            error: An error of pooltasks' or Celery's.
            state: Celery's.
        """
        return self._stored(task_id, self.encode_result(error, state), state)

    @cached_property
    def _kept(self) -> dict[str, StoredResult | None]:
        return {}

    def keep(self, task_id: str) -> None:
        """Keep the final result of ``task_id`` until it is released; the caller then stores it."""
        self._kept[task_id] = None

    def release(self, task_id: str) -> StoredResult | None:
        """Return the kept result, None if there is no final one; keep nothing more."""
        return self._kept.pop(task_id, None)

    def store_now(self, stored: StoredResult) -> None:
        """Store a result, as often as Celery's policy says if the server is away."""
        self.ensure(self._publish_result, stored)

    def _publish_result(self, key: bytes, value: bytes, expires: int) -> None:
        self._store(keys=(key,), args=(value, expires))

    @cached_property
    def _store(self) -> Any:
        return self.client.register_script(f"{STORE}return store(KEYS[1], ARGV[1], ARGV[2])")

    def _get_result_meta(
        self,
        result: Any,
        state: str,
        traceback: Any,
        request: Any,
        **options: Any,
    ) -> dict[str, Any]:
        if self._is_extended:
            meta: dict[str, Any] = super()._get_result_meta(
                result, state, traceback, request, **options
            )
        else:
            meta = self._plain_meta(result, state, traceback, request)
        wait = getattr(request, "wait_seconds", None)
        if wait is not None:
            # An operation that came too late never ran.
            meta["timing"] = {"wait": wait, "run": getattr(request, "run_seconds", 0.0)}
        return meta

    @cached_property
    def _is_extended(self) -> bool:
        return bool(self.app.conf.find_value_for_key("extended", "result"))

    def _plain_meta(self, result: Any, state: str, traceback: Any, request: Any) -> dict[str, Any]:
        """Return the parts of a result that Celery stores unless ``result_extended`` is set.

        Celery's own takes a fifth of a worker's time for a short operation,
        most of it for the time of day.
        """
        done = datetime.now(self.app.timezone).isoformat() if state in READY_STATES else None
        meta = {
            "status": state,
            "result": result,
            "traceback": traceback,
            "children": self.current_task_children(request),
            "date_done": done,
        }
        for name, source in (("group_id", "group"), ("parent_id", "parent_id")):
            value = getattr(request, source, None)
            if value:
                meta[name] = value
        return meta


def share(app: Celery) -> ResultBackend | None:
    """Have all threads of this process use one backend, and return it; None if it is not ours.

    Celery makes one for each thread, with connections of its own.
    """
    backend = app.backend
    if not isinstance(backend, ResultBackend):
        return None
    backend.thread_safe = True
    app._backend_cache = backend  # noqa: SLF001  Celery's name
    return backend
