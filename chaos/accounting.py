"""The end of every accepted operation."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from chaos.cluster import QUEUE
from pooltasks import keys

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from chaos.cluster import Cluster

_BATCH = 1000
_LOOPING = 3  # times the patience: for how long operations may begin and none end
_READY = {"SUCCESS": "done", "FAILURE": "failed", "REVOKED": "revoked"}


@dataclass
class Account:
    """The accepted operations of one run, counted by their ends."""

    accepted: int
    done: int = 0
    failed: int = 0
    dead: int = 0
    revoked: int = 0
    waiting: int = 0
    """In the queue or delayed, though nobody takes them any more."""
    reserved: int = 0
    """Held by a process that is dead; stock gives them back after the visibility timeout."""
    lost: list[str] = field(default_factory=list)
    repeated: int = 0
    """Runs beyond the first of each operation."""

    @property
    def is_whole(self) -> bool:
        """Whether every operation is done, failed, revoked or a dead letter."""
        return not (self.lost or self.waiting or self.reserved)


def settle(cluster: Cluster, accepted: Collection[str], patience: float) -> Account:
    """Wait until every operation has an end, or nothing has happened for ``patience`` seconds.

    Operations that only begin again and again are given up after some times that.
    """
    seen, since = (-1, -1), time.monotonic()
    ended_at = since
    open_operations = set(accepted)
    while (
        open_operations
        and time.monotonic() - since < patience
        and time.monotonic() - ended_at < _LOOPING * patience
    ):
        ended = _ended(cluster.redis, open_operations).keys()
        if ended:
            ended_at = time.monotonic()
        open_operations -= ended
        progress = (len(open_operations), cluster.runs.count())
        if progress != seen:
            seen, since = progress, time.monotonic()
        time.sleep(0.2)
    return _account(cluster, accepted)


def _account(cluster: Cluster, accepted: Collection[str]) -> Account:
    server = cluster.redis
    ended = _ended(server, accepted)
    ends = Counter(ended.values())
    account = Account(len(accepted), ends["done"], ends["failed"], ends["dead"], ends["revoked"])
    reserved = {_id_of(message) for message in reserved_messages(server)}
    waiting = {
        _id_of(message)
        for message in (*server.lrange(QUEUE, 0, -1), *delayed_messages(server, QUEUE))
    }
    for identifier in accepted:
        if identifier in ended:
            continue
        if identifier in waiting:
            account.waiting += 1
        elif identifier in reserved:
            account.reserved += 1
        else:
            account.lost.append(identifier)
    starts = Counter(start.operation for start in cluster.runs)
    account.repeated = sum(starts.values()) - len(starts)
    return account


def _ended(server: Any, operations: Iterable[str]) -> dict[str, str]:
    """Return the ends of the operations that have ended."""
    identifiers = list(operations)
    dead = {name.decode() for name in server.hkeys(keys.dead_letters(QUEUE))}
    ended = {}
    for place in range(0, len(identifiers), _BATCH):
        batch = identifiers[place : place + _BATCH]
        results = server.mget([f"celery-task-meta-{identifier}" for identifier in batch])
        for identifier, result in zip(batch, results, strict=True):
            if identifier in dead:
                ended[identifier] = "dead"
            elif result is not None and (state := json.loads(result)["status"]) in _READY:
                ended[identifier] = _READY[state]
    return ended


def reserved_messages(server: Any) -> list[bytes]:
    """Return the messages that nodes hold, dead ones and stock ones included."""
    found = [
        entry[2:]  # after its place and its state
        for name in server.keys(keys.unacked(QUEUE, "*"))
        for entry in server.hvals(name)
    ]
    for name in server.keys(keys.incoming(QUEUE, "*")):
        found += server.lrange(name, 0, -1)
    # kombu keeps the message together with its exchange and queue.
    found += [json.dumps(json.loads(entry)[0]).encode() for entry in server.hvals("unacked")]
    return found


def delayed_messages(server: Any, queue: str) -> list[bytes]:
    """Return the messages of a queue that wait at the server until they are due."""
    # After its place.
    return [entry[1:] for entry in server.hvals(keys.delayed_messages(queue))]


def _id_of(message: bytes) -> str:
    """Return the id of the operation in a message."""
    identifier: str = json.loads(message)["headers"]["id"]
    return identifier
