"""Admission: publishing under the controls of a pool, decided at the server with the publication.

A pool with ``max_queue`` takes no more operations than may wait; of a unique operation the
server publishes no second call with the same key. Both are one script (``admit.lua``). What
has neither is pushed with a plain command and passes by here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from pooltasks import keys
from pooltasks.broker.client import key_prefix
from pooltasks.broker.limiting import HEADER as FLOW
from pooltasks.broker.limiting import marked
from pooltasks.broker.names import Names
from pooltasks.broker.pusher import ScriptCommand
from pooltasks.broker.queues import place_of
from pooltasks.broker.scripts import Script
from pooltasks.broker.uniqueness import HEADER as UNIQUE
from pooltasks.broker.uniqueness import lasts_until
from pooltasks.errors import ConfigurationError, DuplicateError, PoolSaturated
from pooltasks.telemetry import Outcome

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery import Celery

    from pooltasks.broker.lanes import Lane
    from pooltasks.broker.message import Message

ADMIT = Script("delay.lua", "admit.lua")

_ENDED = [f"outcome:{outcome}" for outcome in Outcome if outcome is not Outcome.RETRY]
"""The fields of a pool's totals that count operations that have ended."""
REMEMBERED = 3600
"""Seconds for which the server remembers a lane: far longer than any retry policy."""
_OF_A_CANVAS = ("chain", "chord", "group_id", "link", "link_error")
"""Options by which others wait for this very call, and not for another one like it."""


class Entry(NamedTuple):
    """An operation that is to be admitted."""

    message: Message
    headers: Mapping[str, Any]
    """Headers of the message; empty for a call without options."""
    must: bool = False
    """Whether the pool takes it in any case: it belongs to what was accepted before."""


class Verdict(NamedTuple):
    """The server's decision."""

    ids: list[str]
    """Ids of the operations that fitted, in their order: its own, or that of the first like it."""
    retry_after: float
    """Seconds until there is room for the others; 0: there are no others."""


class Admission:
    """Publishes under the controls of one pool.

    Args:
        app: The application.
        queue: The pool's queue.
    """

    def __init__(self, app: Celery, queue: str) -> None:
        pool = app.pooltasks.settings.pool_settings(queue.removeprefix(keys.QUEUE_PREFIX))
        separator = app.conf.broker_transport_options.get("sep")
        self._names = Names(queue, key_prefix(app), separator)
        self._queue = queue
        self._most: int = pool.max_queue or 0
        self._places: Sequence[int] = pool.priorities or (0,)

    def call(
        self, entries: Sequence[Entry], lane: Lane | None = None, *, takes_part: bool = True
    ) -> tuple[list[str], list[Any]]:
        """Return keys and arguments of the script.

        Args:
            entries: Operations of one priority.
            lane: Where the server remembers its answer, if it may be asked again.
            takes_part: Whether those that fit are published where not all do.
        """
        names = self._names
        place = place_of(entries[0].message.priority, self._places)
        locks: list[str] = []
        arguments: list[Any] = [
            *(self._most, len(self._places), self._places.index(place) + 1, place, names.due),
            *(lane.next_number() if lane else 0, REMEMBERED, int(takes_part)),
            *(len(_ENDED), *_ENDED),
        ]
        for message, headers, must in entries:
            which = end = 0
            if UNIQUE in headers:
                locks.append(names.unique(headers[UNIQUE][0]))
                which, end = len(locks), int(lasts_until(headers) * 1000)
            due = "" if message.due is None else int(message.due * 1000)
            retries = headers.get("retries") or 0
            text = marked(message.text, headers[FLOW]) if FLOW in headers else message.text
            arguments += (message.id, text, due, which, end, retries, int(must))
        lists = [names.lists[place] for place in self._places]
        ours = [names.room, names.totals, names.held, names.waiting]
        ours += [names.delayed, names.delayed_messages]
        return [*ours, *lists, *([lane.key.decode()] if lane else []), *locks], arguments

    def command(self, entries: Sequence[Entry], lane: Lane | None = None) -> ScriptCommand:
        """Return the command that publishes operations, as far as they fit; as :meth:`call`."""
        return ScriptCommand(ADMIT, *self.call(entries, lane))

    @staticmethod
    def verdict(answer: Sequence[Any]) -> Verdict:
        """Return what the server has answered."""
        milliseconds, *ids = answer
        return Verdict([each.decode() for each in ids], int(milliseconds) / 1000)

    def refusal(self, name: str, verdict: Verdict) -> PoolSaturated:
        """Return the error that tells of operations which did not fit.

        Args:
            name: Of the operation.
            verdict: The server's decision.
        """
        return PoolSaturated(
            f"{self._queue.removeprefix(keys.QUEUE_PREFIX)} is full: {self._most:,} operations "
            f"wait, as max_queue allows. {name} was refused; there is room in about "
            f"{verdict.retry_after:.3g} seconds.",
            verdict.retry_after,
            len(verdict.ids),
        )


def is_controlled(operation: Any, queue: str) -> bool:
    """Return whether calls of an operation that go to this queue are published here."""
    extension = getattr(operation.app, "pooltasks", None)
    if extension is None or not extension.has_server or not queue.startswith(keys.QUEUE_PREFIX):
        return False
    if any(getattr(operation, control, None) is not None for control in ("unique", "limits")):
        return True
    pool = extension.settings.pool_settings(queue.removeprefix(keys.QUEUE_PREFIX))
    return pool.max_queue is not None


def controlled(operation: Any, args: Any, kwargs: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a call with the headers of a controlled operation.

    Args:
        operation: The operation.
        args: Positional arguments.
        kwargs: Keyword arguments.
        options: Options of the call, ``headers`` among them.

    Raises:
        ConfigurationError: The application's nodes use kombu's own transport.
        TypeError: The arguments do not fit the operation.
    """
    unique = getattr(operation, "unique", None)
    limits = getattr(operation, "limits", None)
    if unique is None and limits is None:
        return options
    if operation.app.pooltasks.settings.broker_transport == "stock":
        raise ConfigurationError(
            f"{operation.name} is unique or has limits, and nodes with broker_transport = 'stock' "
            "do not tell of its end. Use the transport of pooltasks."
        )
    headers = dict(options["headers"])
    # A retry is as unique as its first attempt, whatever its arguments.
    if unique is not None and not (UNIQUE in headers and options.get("retries")):
        digest = unique.digest(operation, args, kwargs)
        headers[UNIQUE] = unique.header(digest, headers["published_at"])
    if limits is not None:
        headers[FLOW] = limits.flow(operation, args, kwargs)
    return {**options, "headers": headers}


def entry_of(
    app: Celery, message: Message, headers: Mapping[str, Any], options: Mapping[str, Any]
) -> Entry:
    """Return a call as it is to be admitted.

    A pool refuses what is new. The next part of a chain, a retry, the body of a chord, all of
    which a worker sends with the id that they have already, belong to what it has accepted.

    Args:
        app: The application.
        message: The message.
        headers: Of the message.
        options: Of the call.
    """
    extension = app.pooltasks
    if extension.settings.broker_transport == "stock":
        message = replace(message, due=None)  # such a node has it wait in its memory
    return Entry(message, headers, extension.pool is not None and "task_id" in options)


def told_apart(
    name: str, entry: Entry, first_id: str, options: Mapping[str, Any]
) -> tuple[Message, bool]:
    """Return a message whose id is that of the result, and whether another call came first.

    Args:
        name: Of the operation.
        entry: The call.
        first_id: The id in the server's answer.
        options: Of the call.

    Raises:
        DuplicateError: Another call came first, and others wait for this very one.
    """
    message = entry.message
    if first_id == message.id:
        return message, False
    if any(options.get(option) for option in _OF_A_CANVAS):
        raise DuplicateError(
            f"{name} is unique, and the call {first_id} with the same key has not ended. This one "
            "is part of a canvas whose other parts would wait for it in vain.",
            first_id,
        )
    return replace(message, id=first_id), True
