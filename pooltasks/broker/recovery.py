"""What a dead node had reserved goes back to its queue.

Every node holds a lease and keeps one connection subscribed to a channel of
its own. The server drops the subscription at the moment the node's process is
gone, so every other node sees its death without waiting for the lease; the
lease finds what no closed connection shows: a frozen process, a lost host.

A node that was only frozen finds its lease taken: it reserves nothing more
(``reserve.lua``) and starts again under a new identity.
"""

from __future__ import annotations

import json
import time
from datetime import datetime
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger
from redis.exceptions import TimeoutError as TimedOutError
from redis.exceptions import WatchError

from pooltasks import keys
from pooltasks.broker.dead_letters import deliveries_of
from pooltasks.broker.wire import pack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pooltasks.broker.wire import Wire

logger = get_logger(__name__)

LEASE_SECONDS = 5.0
"""How long a node may be silent before what it reserved runs elsewhere."""
WATCH_SECONDS = 0.05
"""How often a node renews its lease and looks at the others."""
_GONE_SECONDS = 0.1
"""How long a subscription must be gone: longer than a reconnection takes."""
_LATE_SECONDS = 0.5
"""How old an answer may be to say how the others are; that of a node that was frozen is not."""

_LIST_MARK = ',"",'
"""Between a message and its list, where kombu has the exchange."""

_WATCH = files("pooltasks.broker").joinpath("watch.lua").read_text("utf-8")


def reservation_end(name: str) -> str:
    """Return what follows a message of the list ``name`` in the unacked hash."""
    return f"{_LIST_MARK}{json.dumps(name)}]"


def reserved_message(entry: bytes) -> bytes:
    """Return the message of a reservation, as it was in its queue."""
    return _split(entry)[0]


def _split(entry: bytes) -> tuple[bytes, str]:
    """Return the message of a reservation, whatever it is, and the list it came from."""
    place = entry.rindex(_LIST_MARK.encode())
    name: str = json.loads(entry[place + len(_LIST_MARK) : -1])
    return entry[1:place], name


def redelivered(payload: dict[str, Any], deliveries: int) -> bytes:
    """Return a message that goes back to its queue, with kombu's marks of a redelivery.

    Args:
        payload: The message; it is changed.
        deliveries: How many workers or nodes have died while they had it. Beside
            the header of that name it becomes the first key, where reserve.lua
            sees it without reading the message.

    Raises:
        TypeError, KeyError: It is no message.
    """
    payload["headers"]["redelivered"] = True
    payload["properties"]["delivery_info"]["redelivered"] = True
    payload.pop("deliveries", None)
    if deliveries:
        payload["headers"]["deliveries"] = deliveries
        payload = {"deliveries": deliveries, **payload}
    return json.dumps(payload).encode()


def _put_back(message: bytes, now: float | None) -> bytes:
    """Return a reserved message as it goes back; as it is if it is not readable.

    Args:
        message: The message.
        now: When its node died, seconds since the epoch; None if it did not. The
            death counts as a delivery: which of its operations killed the node
            is not known. One that was not due yet had not begun.
    """
    try:
        payload = json.loads(message)
        headers = payload["headers"]
        eta = headers.get("eta")
        due = eta is None or datetime.fromisoformat(eta).timestamp() <= (now or 0.0)
        return redelivered(payload, deliveries_of(headers) + (now is not None and due))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return message  # whoever reserves it makes it a dead letter


class Lease:
    """One node's lease, and its watch over the others.

    Args:
        client: A redis-py client of the server.
        wire: Over which it renews and looks; nobody else uses it, and the lease closes it.
        identity: The node's.
        patience: Seconds from now on for which expired leases of others are let be.
        prefix: Before the names of channels, as the client has it before keys.
    """

    def __init__(
        self, client: Any, wire: Wire, identity: str, patience: float = 0.0, prefix: str = ""
    ) -> None:
        self.identity = identity
        self._client = client
        self._wire = wire
        self._asked_at: float | None = None
        """Monotonic seconds of the last look, until its answer is there."""
        self._prefix = prefix
        self._patient_until = time.monotonic() + patience
        self._subscription = client.pubsub()
        self._alive: set[str] = set()
        self._gone_since: dict[str, float] = {}

    def take(self) -> None:
        """Take the lease; nothing may be reserved before."""
        self._client.zadd(keys.LEASES, {self.identity: self._end()})
        self._subscription.subscribe(self._prefix + keys.alive(self.identity))

    def resume(self, running: set[str]) -> bool:
        """Take up the lease again, and put back what is reserved and not ``running``.

        Returns:
            Whether it was still there: others end the lease of whom they take
            for dead.
        """
        unacked = keys.unacked(self.identity)
        with self._client.pipeline() as pipe:
            try:
                pipe.watch(unacked, keys.LEASES)
                if pipe.zscore(keys.LEASES, self.identity) is None:
                    return False
                reserved = pipe.hgetall(unacked)
                end = self._end()
                pipe.multi()
                for reservation, entry in reserved.items():
                    if reservation.decode() not in running:
                        message, name = _split(entry)
                        pipe.rpush(name, _put_back(message, None))
                        pipe.hdel(unacked, reservation)
                pipe.zadd(keys.LEASES, {self.identity: end})
                pipe.execute()
            except WatchError:
                return self.resume(running)
        self._subscription.subscribe(self._prefix + keys.alive(self.identity))
        return True

    def _end(self) -> int:
        """Return when a lease that begins now runs out, in the server's milliseconds."""
        seconds, microseconds = self._client.time()
        return int(seconds * 1000 + microseconds // 1000 + LEASE_SECONDS * 1000)

    def give_up(self) -> None:
        """Close the subscription; the others put back what is left."""
        self._subscription.close()
        self._wire.close()

    def renew(self) -> bool:
        """Recover what dead nodes have left, as the last look told; renew the lease and look again.

        Nothing is waited for: the answer to a look is read when the next one is due.

        Returns:
            Whether the lease was still held at the last look.

        Raises:
            redis.RedisError: The server is away, or refuses to renew it.
        """
        if self._asked_at is not None:
            asked_at = self._asked_at
            if not self._wire.wait(0):
                if time.monotonic() - asked_at > LEASE_SECONDS:
                    raise TimedOutError(
                        f"no answer in {LEASE_SECONDS:g} s to the renewal of a lease"
                    )
                return True
            self._asked_at = None
            held, *others = self._wire.receive()
            if not held:
                return False
            self._see(others, asked_at)
        self._wire.send(
            pack(
                (
                    "EVAL",
                    _WATCH,
                    1,
                    self._prefix + keys.LEASES,
                    self.identity,
                    int(LEASE_SECONDS * 1000),
                    self._prefix + keys.alive(""),
                )
            )
        )
        self._asked_at = time.monotonic()
        return True

    def _see(self, others: list[Any], asked_at: float) -> None:
        """Recover those that are dead, by an answer to what was asked at ``asked_at``."""
        if time.monotonic() - asked_at > _LATE_SECONDS:
            return
        known = set()
        for identity, expired, subscribers in _triples(others):
            known.add(identity)
            if self._is_gone(identity, subscribers, asked_at):
                self._recover(identity, "its connections closed")
            elif expired and asked_at >= self._patient_until:
                self._recover(identity, "its lease ran out")
        self._alive &= known

    def _is_gone(self, identity: str, subscribers: int, now: float) -> bool:
        """Return whether a node that this one has seen alive has been gone for long enough.

        Only those: after a restart of the server everybody is away for a moment.
        """
        if subscribers:
            self._alive.add(identity)
            self._gone_since.pop(identity, None)
            return False
        since = self._gone_since.setdefault(identity, now)
        return identity in self._alive and now - since >= _GONE_SECONDS

    def _recover(self, identity: str, reason: str) -> None:
        """Put everything that ``identity`` had reserved back, and end its lease.

        All or nothing, and once: another node that does the same at this
        moment makes one of the two transactions fail.
        """
        unacked = keys.unacked(identity)
        leases = keys.LEASES
        with self._client.pipeline() as pipe:
            try:
                pipe.watch(unacked, leases)
                if pipe.zscore(leases, identity) is None:
                    return
                reserved = pipe.hvals(unacked)
                now, _ = pipe.time()
                pipe.multi()
                for entry in reserved:
                    message, name = _split(entry)
                    pipe.rpush(name, _put_back(message, now))
                pipe.delete(unacked)
                pipe.zrem(leases, identity)
                pipe.execute()
            except WatchError:
                return  # the next look tells
        self._gone_since.pop(identity, None)
        self._alive.discard(identity)
        logger.warning(
            "node %s is dead (%s): put %d operations back", identity, reason, len(reserved)
        )


def _triples(values: list[Any]) -> Iterator[tuple[str, int, int]]:
    for place in range(0, len(values), 3):
        identity, expired, subscribers = values[place : place + 3]
        yield identity.decode(), expired, subscribers
