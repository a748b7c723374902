"""The takeover of all reservations and dead letters that an earlier version left at the server.

Version 0.0 kept the reservations and the dead letters of all pools under keys of the
whole deployment. Nodes of both versions may run beside each other during an upgrade:
an old node's reservations are its own until its lease runs out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger
from redis.exceptions import ResponseError

from pooltasks import keys
from pooltasks.broker.queues import PLACES, list_name
from pooltasks.broker.scripts import Script

if TYPE_CHECKING:
    import redis

logger = get_logger(__name__)

_ADOPT = Script("entries.lua", "adopt.lua")
_AT_ONCE = 300
_SILENT = 10
"""Seconds after the end of its lease for which a node without reservations may still run."""
_REMEMBERED = 30 * 86400
"""Seconds for which the note that nothing is left is kept."""
_LEASES = f"{keys.PREFIX}leases"
_UNACKED = f"{keys.PREFIX}unacked:"


class Adoption:
    """Takes over the reservations and dead letters that an earlier version left of one pool.

    Args:
        client: A client of the server, which puts the deployment's prefix before keys.
        queue: The pool's queue.
        prefix: The text that every key of the deployment begins with.
        separator: Between a queue and a priority, as kombu has it.
    """

    def __init__(
        self, client: redis.Redis, queue: str, prefix: str = "", separator: str | None = None
    ) -> None:
        self._client: Any = client
        self._queue = queue
        self._prefix = prefix
        self._lists = [list_name(queue, place, separator) for place in PLACES]

    def run(self) -> bool:
        """Take over all that can be taken over; return whether nothing is left.

        Raises:
            redis.RedisError: The server is away; a part may have been taken over.
        """
        client = self._client
        if client.exists(keys.adopted(self._queue)) and not client.exists(_LEASES):
            client.expire(keys.adopted(self._queue), _REMEMBERED)
            return True
        self._dead_letters()
        start = self._prefix + _UNACKED
        found = client.scan_iter(match=f"{_literally(start)}*", count=1000)
        some_live = [
            identity
            for identity in (key.decode().removeprefix(start) for key in found)
            if not self._reservations_of(identity)
        ]
        seconds, _ = client.time()
        if some_live or client.zcount(_LEASES, (seconds - _SILENT) * 1000, "+inf"):
            return False
        client.set(keys.adopted(self._queue), 1, ex=_REMEMBERED)
        return True

    def _reservations_of(self, identity: str) -> bool:
        """Put back the reservations of a dead node; return False if the node lives."""
        adopt = self._client.register_script(_ADOPT.text)
        lists = (_UNACKED + identity, _LEASES, *self._lists)
        total, left = 0, 1
        while left:
            moved, left = adopt(keys=lists, args=(identity, _AT_ONCE, *self._lists))
            if moved < 0:
                return False
            total += moved
        if total:
            logger.warning(
                "put %d operations back that a node of an earlier version had reserved", total
            )
        return True

    def _dead_letters(self) -> None:
        old = f"{keys.PREFIX}dead:{self._queue}"
        for source, target in (
            (f"{old}:messages", keys.dead_messages(self._queue)),
            (old, keys.dead_letters(self._queue)),
        ):
            try:
                self._client.renamenx(source, target)
            except ResponseError:
                continue  # there are none
            for name, value in self._client.hscan_iter(source, count=500):
                # There were dead letters of this version already.
                self._client.hsetnx(target, name, value)
                self._client.hdel(source, name)


def _literally(text: str) -> str:
    """Return a pattern of the server that matches exactly this text."""
    return "".join(f"\\{char}" if char in "*?[]\\" else char for char in text)
