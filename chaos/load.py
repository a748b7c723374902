"""A steady load: producers of every kind, and callers that wait for their results."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import redis
from celery.exceptions import TimeoutError as ResultTimeoutError
from kombu.exceptions import OperationalError

from pooltasks.errors import SubmissionError
from pooltasks.pools import Pool

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from chaos.cluster import Cluster

_PAUSE = 0.01
_MANY = 25
_LONGEST_WAIT = 60.0
_RUN = ("finish", 0.002)
_LONG_RUN = ("finish", 4.0)
"""Fate and seconds of an operation that goes on in its worker while the server is away."""
_EACH_LONG = 200


class Call(NamedTuple):
    """An accepted operation, or a result that a caller waited for."""

    id: str
    begun: float
    """Seconds since the epoch when it was sent, or when its caller began to wait."""
    at: float
    """Seconds since the epoch when the server's answer was there."""


class Load:
    """Publishes until it is closed; no fault of the server ends it."""

    def __init__(self, cluster: Cluster) -> None:
        app = cluster.application(cluster.proxied_url)
        self._work = app.tasks["chaos.operations.work"]
        self._pool = Pool("chaos", app=app)
        self._delayed = 0
        self.accepted: list[Call] = []
        self.answered: list[Call] = []
        self.refused: Counter[str] = Counter()
        """Calls that raised, by how they were made."""
        self.unexpected: list[str] = []
        """Errors that the documentation does not promise."""
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(action,))
            for action in (self._delay, self._submit_many, self._wait)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, action: Callable[[], None]) -> None:
        while not self._stopping.wait(_PAUSE):
            try:
                action()
            except Exception as error:  # noqa: BLE001  the report names any error
                self.unexpected.append(f"{action.__name__}: {type(error).__name__}: {error}")
                self._stopping.wait(10 * _PAUSE)

    def _accept(self, identifiers: Sequence[str], begun: float) -> None:
        now = time.time()
        self.accepted.extend(Call(identifier, begun, now) for identifier in identifiers)

    def _delay(self) -> None:
        begun = time.time()
        self._delayed += 1
        try:
            result = self._work.delay(*(_RUN if self._delayed % _EACH_LONG else _LONG_RUN))
        except OperationalError:
            self.refused["delay"] += 1
        else:
            self._accept([result.id], begun)

    def _submit_many(self) -> None:
        begun = time.time()
        try:
            results: Any = self._pool.submit_many(self._work, [_RUN] * _MANY)
        except OperationalError:
            self.refused["submit_many"] += _MANY
        except SubmissionError as error:
            self._accept([result.id for result in error.accepted], begun)
            self.refused["submit_many"] += _MANY - len(error.accepted)
        else:
            self._accept([result.id for result in results], begun)
        self._stopping.wait(20 * _PAUSE)

    def _wait(self) -> None:
        begun = time.time()
        try:
            result = self._work.delay(*_RUN)
        except OperationalError:
            self.refused["delay"] += 1
            return
        self._accept([result.id], begun)
        try:
            result.get(timeout=_LONGEST_WAIT)
        except (ResultTimeoutError, redis.RedisError, OSError) as error:
            self.refused[f"get: {type(error).__name__}"] += 1
        else:
            self.answered.append(Call(result.id, begun, time.time()))
