"""The errors of a node since it told the server last, by kind of error."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery.exceptions import TimeLimitExceeded
from redis.exceptions import RedisError

from pooltasks.broker.dead_letters import attempts_of
from pooltasks.errors import categorize
from pooltasks.metrics.error_groups import RECORD, Example, Head, record_call
from pooltasks.metrics.error_text import folded, masked
from pooltasks.metrics.message_text import masked_attempts
from pooltasks.node.worker.outcome import words

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import redis

    from pooltasks.node.worker.error_reports import ErrorReport

    Send = Callable[
        [Sequence[str], Sequence[Any], Callable[[Any], None], Callable[[Exception], None]], None
    ]

_MOST = 64
"""Kinds of errors between two batches; all further kinds count as one."""
_OTHERS = Head("(several operations)", "(many different errors)", "", "", "system", "")


def sent_by(client: redis.Redis) -> Send:
    """Return a function that sends batches over a client, and waits for the answer."""
    script = client.register_script(RECORD.text)

    def send(
        names: Sequence[str],
        arguments: Sequence[Any],
        on_answer: Callable[[Any], None],
        on_refusal: Callable[[Exception], None],
    ) -> None:
        try:
            answer = script(keys=names, args=arguments)
        except RedisError as error:
            on_refusal(error)
        else:
            on_answer(answer)

    return send


@dataclass
class _Tally:
    failed: int = 0
    retried: int = 0
    example: Example | None = None


class ErrorLog:
    """Counts the errors of one node; a batch is sent again until it is answered.

    Args:
        pool: The pool that the node serves.
        name: The node's name.
        now: Returns the server's time, in seconds since the epoch.
        send: Sends a batch: keys and arguments of the script, the function that takes the
            answer, and the one that takes a refusal.
    """

    def __init__(self, pool: str, name: str, *, now: Callable[[], float], send: Send) -> None:
        self._pool = pool
        self._name = name
        # Another node may have the name too, and one that starts again begins anew.
        self._node = f"{name}/{secrets.token_hex(4)}"
        self._now = now
        self._send = send
        self._pending: dict[Head, _Tally] = {}
        self._batch: dict[Head, _Tally] = {}
        """The errors that were sent, while the server has not answered."""
        self._number = 0

    def add(self, report: ErrorReport) -> None:
        """Count an error that a worker tells of."""
        example = None
        if report.example is not None:
            identifier, arguments, traceback, attempts, attempt, worker = report.example
            example = Example(
                identifier, self._now(), arguments, traceback, attempts, attempt, self._name, worker
            )
        self._count(report.head, example, is_final=report.is_final)

    def found(
        self,
        error: Exception,
        headers: Mapping[str, Any],
        *,
        reason: str | None = None,
        arguments: str | None = None,
    ) -> None:
        """Count an error of an operation that the node itself found.

        Args:
            error: The error.
            headers: Of its message.
            reason: Of the dead letter, if it becomes one.
            arguments: Of the operation, as they may be told.
        """
        said = reason if reason is not None else words(error)
        message = reason if reason is not None else str(error)
        if isinstance(error, TimeLimitExceeded):  # its text is its repr
            message = f"it ran for longer than its hard limit of {error.args[0]:g} s"
        name = headers.get("task")
        head = Head(
            name if isinstance(name, str) else "(unreadable)",
            type(error).__name__,
            folded(message),
            "",
            str(categorize(error)),
            folded(said),
        )
        identifier, retries = headers.get("id"), headers.get("retries")
        example = Example(
            id=identifier if isinstance(identifier, str) else None,
            at=self._now(),
            arguments=arguments,
            traceback=masked(message),
            attempts=masked_attempts(attempts_of(headers)),
            attempt=(retries if isinstance(retries, int) else 0) + 1,
            node=self._name,
            worker=None,
        )
        self._count(head, example, is_final=True)

    def _count(self, head: Head, example: Example | None, *, is_final: bool) -> None:
        if head not in self._pending and len(self._pending) >= _MOST:
            head = _OTHERS
        its = self._pending.setdefault(head, _Tally())
        its.failed += is_final
        its.retried += not is_final
        its.example = example or its.example

    def flush(self) -> None:
        """Send the errors since the last batch, or that batch again if it is not answered."""
        if not self._batch:
            if not self._pending:
                return
            self._number += 1
            self._batch, self._pending = self._pending, {}
        batch = [(head, its.failed, its.retried, its.example) for head, its in self._batch.items()]
        number = self._number
        self._send(
            *record_call(self._pool, self._node, number, batch),
            lambda _: self._answered(number),
            # The sampler reports it: its samples are refused too. This batch is sent again.
            lambda _: None,
        )

    def _answered(self, number: int) -> None:
        if number == self._number:
            self._batch = {}
