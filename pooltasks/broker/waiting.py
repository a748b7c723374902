"""Waiting for results: a caller subscribes when it waits, and misses nothing.

Stock Celery subscribes to a result when its task is published, whether or not
anybody ever asks for it. Here the subscriptions are made when a caller waits, many
with one command, which also finds results that were stored before (``mailbox.py``).
"""

from __future__ import annotations

import os
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from celery.backends import redis
from celery.backends.asynchronous import _waiting_on, greenletDrainer
from celery.result import ResultSet
from celery.states import READY_STATES
from redis.exceptions import ConnectionError as NotConnectedError
from redis.exceptions import TimeoutError as TimedOutError

from pooltasks.broker.mailbox import Mailbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_OVER = 100
"""Subscriptions to results that have come, which end with one command."""
_LOOK = 1.0
"""Seconds between looks at a connection, which another thread may have replaced."""
_KEYS = 1024
"""Keys of results that are remembered: each is asked for several times."""


class ResultConsumer(redis.ResultConsumer):
    """Celery's consumer of results, with subscriptions that are made late and together."""

    _get_key_for_task: Callable[[str], Any]
    _socket_waiter: bool

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._wanted: set[Any] = set()
        """Keys of results that somebody may wait for, not subscribed to yet."""
        self._came: Any = None
        """Key of the result that comes now."""
        self._over: set[Any] = set()
        """Keys of results that have come and are subscribed to still."""
        self._mailbox: Mailbox | None = None
        self._pid = os.getpid()
        super().__init__(*args, **kwargs)
        self._get_key_for_task = lru_cache(_KEYS)(self._get_key_for_task)

    def consume_from(self, task_id: str) -> None:
        """Note that somebody may wait for a result; it costs nothing until somebody does."""
        self._wanted.add(self._get_key_for_task(task_id))

    def cancel_for(self, task_id: str) -> None:
        """Give up a result; never blocks: the garbage collector calls it for each result."""
        if not (self._wanted or self.subscribed_to):
            return
        key = self._get_key_for_task(task_id)
        self._wanted.discard(key)
        if key not in self.subscribed_to or key in self._over:
            return
        self._leave_the_parent()
        if key != self._came or key in self._pending_unsubscribe:
            super().cancel_for(task_id)
            return
        # Nothing more is published for it, so the end of its subscription can
        # wait for others.
        self._over.add(key)
        if len(self._over) >= _OVER:
            self._pending_unsubscribe.update(self._over)
            self._over.clear()
            self._flush_pending_unsubscribe()

    def on_wait_for_pending(self, result: Any, **options: Any) -> None:
        """Look for stored results; called before a caller waits for ``result``.

        The results of a set are looked up at once, with one command, because most
        may be stored. A single result is looked up when it is subscribed to.
        """
        self._leave_the_parent()
        if isinstance(result, ResultSet) or self._is_subscribed(result.id):
            try:
                super().on_wait_for_pending(result, **options)
            except (
                NotConnectedError,
                TimedOutError,
            ):  # an error of a caller's callback is not ours
                with self.reconnect_on_error():
                    raise
        else:
            self.consume_from(result.id)
        if isinstance(self.drainer, greenletDrainer):
            # One greenlet reads for all, and may be waiting already.
            with self._locked(), self.reconnect_on_error():
                if self._wanted:
                    self._subscribe()

    def drain_events_until(self, p: Any, **options: Any) -> Iterator[Any]:
        """Drain until ``p`` is ready; yield in between only: Celery sleeps at each yield."""
        for each in super().drain_events_until(p, **options):
            if not p.ready:
                yield each

    def drain_events(self, timeout: float | None = None) -> None:
        """Subscribe to the wanted keys, then wait at most ``timeout`` seconds for results.

        As Celery's: one thread waits, without the lock, and the others for it.
        """
        longest = _LOOK if timeout is None else min(timeout, _LOOK)
        with self._locked():
            if self._wanted:
                with self.reconnect_on_error():
                    self._subscribe()
            mailbox = self._mailbox
            if mailbox is not None:
                if self._socket_waiter:
                    self._pubsub_read.wait(longest)
                    return
                self._socket_waiter = True
                if self._is_waited_for():
                    longest = min(longest, mailbox.look_is_due_in())
        if mailbox is None:
            time.sleep(longest)
            return
        has_come = False
        try:
            has_come = mailbox.wait(longest)
        finally:
            with self._locked():
                self._socket_waiter = False
                try:
                    if mailbox is not self._mailbox:
                        pass  # another thread has replaced it
                    elif has_come:
                        self._receive(mailbox)
                    elif self._is_waited_for():
                        with self.reconnect_on_error():
                            mailbox.look()
                finally:
                    self._pubsub_read.notify_all()

    def _receive(self, mailbox: Mailbox) -> None:
        with self.reconnect_on_error():
            for key, value in mailbox.receive():
                self._take(key, value)

    def stop(self) -> None:
        """Close the connection."""
        with self._locked():
            if self._mailbox is not None:
                self._mailbox.close()
                self._mailbox = None
                self._want_again()

    def on_after_fork(self) -> None:
        """Leave the connection to the parent; keys that were subscribed to are wanted again."""
        self._want_again()
        super().on_after_fork()
        self._mailbox = None

    def _is_waited_for(self) -> bool:
        """Return whether a caller waits for a result: otherwise the server may be silent."""
        return len(self.subscribed_to) > len(self._over)

    def _is_subscribed(self, task_id: str) -> bool:
        return self._get_key_for_task(task_id) in self.subscribed_to

    def _leave_the_parent(self) -> None:
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._after_fork()

    def _want_again(self) -> None:
        self._wanted.update(self.subscribed_to - self._over)
        self._over.clear()
        self.subscribed_to.clear()

    def _subscribe(self) -> None:
        """Subscribe to the wanted keys; the caller holds the lock."""
        keys = list(self._wanted)
        self._pending_unsubscribe.difference_update(keys)
        self._over.difference_update(keys)
        # A thread that cancels a key from here on finds it subscribed to. The key is then
        # unsubscribed when the lock is released.
        self.subscribed_to.update(keys)
        cancelled = [key for key in keys if key not in self._wanted]
        self.subscribed_to.difference_update(cancelled)
        keys = [key for key in keys if key in self.subscribed_to]
        self._wanted.difference_update(keys)
        if self._mailbox is None:
            self._mailbox = Mailbox(self.backend.client.connection_pool)
        self._mailbox.subscribe(keys)

    def _unsubscribe(self) -> None:
        """Unsubscribe from the cancelled keys; the caller holds the lock."""
        while self._pending_unsubscribe:
            keys = list(self._pending_unsubscribe)
            self._pending_unsubscribe.difference_update(keys)
            keys = [key for key in keys if key in self.subscribed_to]
            self.subscribed_to.difference_update(keys)
            if self._mailbox is not None:
                with self.reconnect_on_error():
                    self._mailbox.unsubscribe(keys)

    def _reconnect_pubsub(self) -> None:
        with self._locked():
            if self._mailbox is not None:
                self._mailbox.close()
                self._mailbox = None
            self.backend.client.connection_pool.reset()
            self._want_again()
            self._subscribe()

    def on_state_change(self, meta: Mapping[str, Any], _message: Any = None) -> None:
        """Tell the callers that wait of a new state, as Celery does; it sleeps afterwards."""
        if self.on_message:
            self.on_message(meta)
        if meta["status"] not in READY_STATES:
            return
        task_id = meta["task_id"]
        results = _waiting_on(self._pending_results, task_id)
        if not results:
            # The result comes before its caller has called get().
            self._pending_messages.put(task_id, meta)
        for result in results:
            result._maybe_set_cache(meta)  # noqa: SLF001  Celery's name
            bucket = self.buckets.pop(result, None)
            if bucket is not None:
                bucket.append(result)
        self.cancel_for(task_id)

    def _take(self, key: Any, value: Any) -> None:
        self._came = key
        try:
            self.on_state_change(self._decode_result(value))
        finally:
            self._came = None

    def _flush_pending_unsubscribe(self) -> None:
        """As Celery's, with one command for many results."""
        if self._lock_depth.value:
            return
        while self._pending_unsubscribe and self._pubsub_lock.acquire(blocking=False):
            self._lock_depth.value += 1
            try:
                self._unsubscribe()
            finally:
                self._lock_depth.value -= 1
                self._pubsub_lock.release()
