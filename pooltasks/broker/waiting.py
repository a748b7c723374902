"""Waiting for results: nothing is subscribed to before somebody waits, and nothing is missed.

Stock Celery subscribes to a result when its task is published, whether or not
anybody ever asks for it. Here the subscriptions are made when somebody waits,
many with one command. A result that was stored before is found when the server
confirms its subscription: what is published after that comes as a message,
what was stored before that is there to be read.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from celery.backends import redis
from celery.result import ResultSet

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_CHANNELS = 1000
"""Most channels of one command."""
_OVER = 100
"""Subscriptions to results that have come, which end with one command."""
_MESSAGES = 1000
"""Most messages that are read before it is looked whether the result is there."""


class ResultConsumer(redis.ResultConsumer):
    """Celery's consumer of results, with subscriptions that are made late and together."""

    _pubsub: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._wanted: set[Any] = set()
        """Keys of results that somebody may wait for, not subscribed to yet."""
        self._came: Any = None
        """Key of the result that comes now."""
        self._over: set[Any] = set()
        """Keys of results that have come and are subscribed to still."""
        self._pid = os.getpid()
        super().__init__(*args, **kwargs)

    def consume_from(self, task_id: str) -> None:
        """Note that somebody may wait for a result; it costs nothing until somebody does."""
        self._wanted.add(self._get_key_for_task(task_id))

    def cancel_for(self, task_id: str) -> None:
        """Want a result no more; never blocks, the garbage collector calls it for each result."""
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
        """Look for what is there; called before somebody waits for ``result``.

        A set is looked up at once, with one command, because most of it may be
        there. A single result is looked up when its subscription is confirmed.
        """
        self._leave_the_parent()
        if isinstance(result, ResultSet) or self._is_subscribed(result.id):
            super().on_wait_for_pending(result, **options)
        else:
            self.consume_from(result.id)

    def drain_events(self, timeout: float | None = None) -> None:
        """Subscribe to what is wanted, then wait at most ``timeout`` seconds for messages."""
        if self._wanted:
            with self._locked(), self.reconnect_on_error():
                self._subscribe()
        super().drain_events(timeout)

    def on_after_fork(self) -> None:
        """Leave the connection to the parent; what was subscribed to is wanted again."""
        self._want_again()
        super().on_after_fork()
        self._pubsub = None

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
        """Subscribe to what is wanted; the caller holds the lock."""
        keys = list(self._wanted)
        self._pending_unsubscribe.difference_update(keys)
        self._over.difference_update(keys)
        # Whoever cancels from here on finds it subscribed to, and leaves it to be
        # unsubscribed when the lock is released.
        self.subscribed_to.update(keys)
        cancelled = [key for key in keys if key not in self._wanted]
        self.subscribed_to.difference_update(cancelled)
        keys = [key for key in keys if key in self.subscribed_to]
        self._wanted.difference_update(keys)
        if self._pubsub is None:
            self._pubsub = self.backend.client.pubsub()
        for some in _chunks(keys):
            self._pubsub.subscribe(*some)

    def _unsubscribe(self) -> None:
        """Unsubscribe from what is cancelled; the caller holds the lock."""
        while self._pending_unsubscribe:
            keys = list(self._pending_unsubscribe)
            self._pending_unsubscribe.difference_update(keys)
            keys = [key for key in keys if key in self.subscribed_to]
            self.subscribed_to.difference_update(keys)
            for some in _chunks(keys):
                if self._pubsub is not None:
                    with self.reconnect_on_error():
                        self._pubsub.unsubscribe(*some)

    def _reconnect_pubsub(self) -> None:
        with self._locked():
            self._pubsub = None
            self.backend.client.connection_pool.reset()
            self._want_again()
            self._subscribe()

    def _drain_one(self, pubsub: Any, timeout: float | None) -> bool:
        """Read what has come, not just one message; return whether there was any."""
        read = 0
        confirmed = []
        with self.reconnect_on_error():
            while read < _MESSAGES and _has_message(pubsub):
                message = pubsub.get_message(timeout=timeout)
                read += 1
                if message is None:
                    continue
                if message["type"] == "subscribe":
                    confirmed.append(message["channel"])
                elif message["type"] == "message":
                    self._take(message["channel"], message["data"], message)
            self._look_up(confirmed)
        return read > 0

    def _look_up(self, keys: Sequence[Any]) -> None:
        """Find the results that were stored before their subscription was confirmed."""
        for some in _chunks(keys):
            for key, value in zip(some, self.backend.client.mget(some), strict=True):
                if value is not None:
                    self._take(key, value)

    def _take(self, key: Any, value: Any, message: Any = None) -> None:
        self._came = key
        try:
            self.on_state_change(self._decode_result(value), message)
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


def _has_message(pubsub: Any) -> bool:
    connection = pubsub.connection
    return pubsub.subscribed and connection is not None and connection.can_read(timeout=0)


def _chunks(keys: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(keys), _CHANNELS):
        yield keys[start : start + _CHANNELS]
