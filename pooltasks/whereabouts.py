"""Whereabouts: where one operation is, as ``pooltasks inspect`` and the pages tell it."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from celery.result import AsyncResult

from pooltasks import keys
from pooltasks.app import settings_of
from pooltasks.broker.asking import ask
from pooltasks.broker.client import redis_client
from pooltasks.broker.dead_letters import DeadLetters, attempts_of, deliveries_of
from pooltasks.broker.limit_store import LimitStore
from pooltasks.broker.queues import waiting_in
from pooltasks.counted import counted
from pooltasks.errors import DeadLetterNotFoundError
from pooltasks.keys import CONTROL_POOL, queue
from pooltasks.metrics.error_text import masked, told_arguments
from pooltasks.metrics.message_text import (
    arguments_of,
    masked_attempts,
    told_letter,
    told_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery import Celery

    Place = dict[str, Any]
    """A place as JSON values: ``state``, ``text``, and what is known of it there."""

_PAGE = 1000
"""Messages that are read at once."""
_PATIENCE = 1.0
"""Seconds that nodes have to answer."""
_BEGINS = 2
"""Characters of an entry before its message: the place and the state (entries.lua)."""


def places_of(app: Celery, operation_id: str) -> list[Place]:
    """Return where an operation is; one that moves meanwhile may be found in two places.

    Each place has a ``state``: ``waiting``, ``held``, ``delayed``, ``reserved``, ``running``,
    ``result`` or ``dead letter``; ``since`` in seconds since the epoch, None if that is not
    known; ``text`` in words. Secrets are masked. All that waits in the pools is read, in bounded
    steps, and nodes have a second to answer.

    Args:
        app: The application.
        operation_id: The id.

    Returns:
        The places in the order of an operation's life; none if it is found nowhere.

    Raises:
        redis.RedisError: The server does not answer.
        kombu.exceptions.OperationalError: As above.
    """
    pools = [*settings_of(app).pools]
    if CONTROL_POOL not in pools:
        pools.append(CONTROL_POOL)
    found: list[Place] = []
    # In the order of its life: one that goes on meanwhile is met later on.
    for look in (_in_queue, _in_line, _held, _delayed):
        for pool in pools:
            found += look(app, pool, operation_id)
    at_nodes = _at_nodes(app, operation_id)
    found += at_nodes
    if not at_nodes:
        for pool in pools:
            found += _at_silent_nodes(app, pool, operation_id)
    found += _result(app, operation_id)
    for pool in pools:
        found += _dead(app, pool, operation_id)
    return found


def found_nowhere(operation_id: str) -> str:
    """Return the sentence about an operation that is in no place."""
    return (
        f"The operation {operation_id} is found nowhere: in no queue, at no node, among no "
        "results and no dead letters. Its result may have expired."
    )


def _in_queue(app: Celery, pool: str, operation_id: str) -> list[Place]:
    client: Any = redis_client(app)
    found = []
    for name in waiting_in(app, queue(pool)):
        length = client.llen(name)
        # The head, which runs next, is at the end of the list.
        for start in range(0, length, _PAGE):
            for place, message in enumerate(client.lrange(name, start, start + _PAGE - 1), start):
                payload = _payload(message, operation_id)
                if payload is not None:
                    found.append(_waiting(app, pool, payload, length - place, length))
    return found


def _in_line(app: Celery, pool: str, operation_id: str) -> list[Place]:
    """Look among what waits for its turn."""
    client: Any = redis_client(app)
    found = []

    def message_of(entry: bytes) -> bytes:
        return entry.partition(b" ")[2]

    name = keys.flow(queue(pool), "waiting")
    for field, payload in _scanned(client, name, operation_id, message_of):
        line, _, number = field.partition(b"\0")
        ends = client.hget(keys.flow(queue(pool), "lines"), line)
        if ends is not None:
            first, last = map(int, ends.split())
            place, length = int(number) - first + 1, last - first + 1
            found.append(_waiting(app, pool, payload, place, length, of_its_key=True))
    return found


def _waiting(
    app: Celery,
    pool: str,
    payload: Place,
    place: int,
    length: int,
    *,
    of_its_key: bool = False,
) -> Place:
    name = payload["headers"].get("task")
    return {
        "state": "waiting",
        "pool": pool,
        "operation": name,
        "place": place,
        "waiting": length,
        **_waited(payload),
        **_past(app, payload),
        "text": f"{name} waits in the queue of the pool {pool}, at place {place} of "
        f"{length}{' with its key' if of_its_key else ''}.{_in_words(payload)}",
    }


def _held(app: Celery, pool: str, operation_id: str) -> list[Place]:
    """Look among what limits hold back."""
    client: Any = redis_client(app)
    found = []
    name = keys.flow(queue(pool), "messages")
    # The place comes before the message.
    for member, payload in _scanned(client, name, operation_id, lambda entry: entry[1:]):
        flow = member.partition(b"\0")[0]
        held = keys.flow(queue(pool), "held")
        ranks = client.zlexcount(held, b"[" + flow + b"\0", b"[" + member)
        length = client.zlexcount(held, b"[" + flow + b"\0", b"(" + flow + b"\1")
        operation, _, value = flow.decode().partition("/")
        operation, value = unquote(operation), unquote(value)
        limit = LimitStore(client, pool).limit(operation, value or None)
        running = int(client.hget(keys.flow(queue(pool), "running"), flow) or 0)
        its_key = f"with the key {masked(value)}" if value else "of this operation"
        found.append(
            {
                "state": "held",
                "pool": pool,
                "operation": operation,
                "key": masked(value),
                "place": ranks,
                "waiting": length,
                "running": running,
                "limit": limit.in_words(),
                **_waited(payload),
                **_past(app, payload),
                "text": f"{operation} is held back in the pool {pool} by the limit of its calls "
                f"{its_key} ({limit.in_words()}; {running} running), at place {ranks} of "
                f"{length}.{_in_words(payload)} Look: pooltasks limit {pool}",
            }
        )
    return found


def _delayed(app: Celery, pool: str, operation_id: str) -> list[Place]:
    client: Any = redis_client(app)
    found = []

    def message_of(kept: bytes) -> bytes:
        # The place in its list comes before the message.
        return kept[max(0, kept.find(b"{")) :]

    name = keys.delayed_messages(queue(pool))
    for entry, payload in _scanned(client, name, operation_id, message_of):
        due = client.zscore(keys.delayed(queue(pool)), entry)
        if due is None:
            continue
        seconds = due / 1000 - app.pooltasks.clock.now()
        operation = payload["headers"].get("task")
        found.append(
            {
                "state": "delayed",
                "pool": pool,
                "operation": operation,
                "due_in": seconds,
                "due": due / 1000,
                **_waited(payload),
                **_past(app, payload),
                "text": f"{operation} waits for its time in the pool {pool}: it is due in "
                f"{_lasting(seconds)}.{_in_words(payload, waits=False)}",
            }
        )
    return found


def _at_nodes(app: Celery, operation_id: str) -> list[Place]:
    answers = ask(app, "query_task", timeout=_PATIENCE, ids=[operation_id])
    found = []
    for node, tasks in sorted(answers.items()):
        for state, request in tasks.values():
            running = state == "active"
            does = "runs" if running else "has reserved"
            since, worker = request.get("time_start"), request.get("worker_pid")
            seconds = time.time() - since if running and since else None
            how = "" if seconds is None else f" in worker {worker}, for {_lasting(seconds)}"
            name = request.get("name")
            args, kwargs = request.get("args"), request.get("kwargs")
            found.append(
                {
                    "state": "running" if running else "reserved",
                    "node": node,
                    "operation": name,
                    "worker": worker,
                    "seconds": seconds,
                    "since": since if running else None,
                    "arguments": told_of(app, name, args, kwargs),
                    "text": f"{node} {does} {name}{how}.",
                }
            )
    return found


def _at_silent_nodes(app: Celery, pool: str, operation_id: str) -> list[Place]:
    """Look among what nodes have reserved that do not answer: busy, cut off or dead."""
    client: Any = redis_client(app)
    found = []
    for identity in client.hkeys(keys.unacked_index(queue(pool))):
        name = keys.unacked(queue(pool), identity.decode())
        for _, payload in _scanned(client, name, operation_id, lambda entry: entry[_BEGINS:]):
            operation = payload["headers"].get("task")
            found.append(
                {
                    "state": "reserved",
                    "pool": pool,
                    "node": None,
                    "operation": operation,
                    "worker": None,
                    "seconds": None,
                    "since": None,
                    **_past(app, payload),
                    "text": f"A node of the pool {pool} that does not answer has reserved "
                    f"{operation}. If the node is dead, another one takes it over."
                    f"{_in_words(payload, waits=False)} Look: pooltasks status {pool}",
                }
            )
    return found


def _result(app: Celery, operation_id: str) -> list[Place]:
    result: Any = AsyncResult(operation_id, app=app)
    state = result.state
    if state == "PENDING":  # Celery's word for: there is none
        return []
    value = outcome = None
    if result.successful():
        value = told_arguments(None, (), {"value": result.result}).removeprefix("value=")
        outcome = f"{state}, with the value {value}"
    elif result.ready():
        outcome = masked(f"{state}: {result.result!r}")
    ended = result.date_done
    return [
        {
            "state": "result",
            "result": state,
            "value": value,
            "operation": result.name,
            "since": ended.timestamp() if ended is not None else None,
            "traceback": masked(result.traceback) if result.traceback else None,
            "text": f"It has a result: {outcome or state}.",
        }
    ]


def _dead(app: Celery, pool: str, operation_id: str) -> list[Place]:
    try:
        whole, message = DeadLetters(redis_client(app), queue(pool)).show(operation_id)
    except DeadLetterNotFoundError:
        return []
    letter, payload = told_letter(whole), _payload(message, operation_id)
    return [
        {
            "state": "dead letter",
            "pool": pool,
            "operation": letter.operation,
            "reason": letter.reason,
            "since": letter.at,
            "deliveries": letter.deliveries,
            "attempts": letter.history,
            "arguments": None if payload is None else arguments_of(app, payload),
            "text": f"{letter.operation or 'It'} is a dead letter of the pool {pool}: "
            f"{letter.reason}. Look: pooltasks dead show {pool} {operation_id}",
        }
    ]


def _scanned(
    client: Any, name: str, operation_id: str, message_of: Callable[[bytes], bytes]
) -> Iterator[tuple[bytes, Place]]:
    """Give the fields of a hash whose messages are the operation's, with these messages."""
    for field, entry in client.hscan_iter(name, count=_PAGE):
        if operation_id.encode() in entry:
            payload = _payload(message_of(entry), operation_id)
            if payload is not None:
                yield field, payload


def _payload(message: bytes, operation_id: str) -> Place | None:
    """Return a message as it was sent; None if it is another operation's, or unreadable."""
    if operation_id.encode() not in message:
        return None
    try:
        payload = json.loads(message)
        headers = payload["headers"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None  # unreadable: a node will make a dead letter of it
    if not isinstance(headers, dict) or headers.get("id") != operation_id:
        return None
    # A script that puts a message back counts its deliveries before all else.
    deliveries = payload.get("deliveries", headers.get("deliveries"))
    return {**payload, "headers": {**headers, "deliveries": deliveries}}


def _waited(payload: Place) -> Place:
    """Return since when an operation waits."""
    published = payload["headers"].get("published_at")
    is_known = isinstance(published, float | int)
    return {
        "since": published if is_known else None,
        "waited": time.time() - published if is_known else None,
    }


def _past(app: Celery, payload: Place) -> Place:
    """Return what happened to an operation before, and its arguments."""
    headers = payload["headers"]
    return {
        "retries": headers.get("retries") or 0,
        "deliveries": deliveries_of(headers),
        "attempts": masked_attempts(attempts_of(headers)),
        "arguments": arguments_of(app, payload),
    }


def _in_words(payload: Place, *, waits: bool = True) -> str:
    headers = payload["headers"]
    waited = _waited(payload)["waited"] if waits else None
    text = "" if waited is None else f" It has waited for {_lasting(waited)}."
    retries, deliveries = headers.get("retries") or 0, deliveries_of(headers)
    attempts = attempts_of(headers)
    if retries:
        text += f" It was retried {counted(retries, 'time')}."
    if deliveries:
        who = "worker or node" if deliveries == 1 else "workers or nodes"
        text += f" {deliveries} {who} died with it."
    if attempts:
        text += f" The last error: {masked(attempts[-1]['error'])}"
    return text


def _lasting(seconds: float) -> str:
    """Return a duration in words; what is over already lasts 0 s."""
    for unit, word, part, its in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if seconds >= unit:
            return f"{seconds // unit:.0f} {word} {seconds % unit // part:.0f} {its}"
    if seconds >= 100:  # noqa: PLR2004  seconds that one still grasps
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{max(0.0, seconds):.1f} s"
