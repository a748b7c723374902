"""Audit: the operators' actions on a pool in the dashboard, and their outcomes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger

from pooltasks import keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    import redis

logger = get_logger(__name__)

_MOST = 1000
_LIFE = 90 * 86_400


@dataclass(frozen=True)
class Done:
    """One action of an operator, done or failed."""

    user: str
    """The account's name; ``anonymous`` where nobody has to log in."""
    address: str
    action: str
    arguments: dict[str, Any]
    outcome: str
    """A sentence for people."""
    succeeded: bool


class AuditLog:
    """The actions on one pool, the last thousand of 90 days.

    Args:
        client: With ``decode_responses=False``.
        pool: The pool's name.
    """

    def __init__(self, client: redis.Redis, pool: str) -> None:
        self._client = client
        self._pool = pool

    def add(self, done: Done) -> None:
        """Note an action, in Redis and in the log of this process.

        Raises:
            redis.RedisError: The action is in the log only.
        """
        logger.info("pool %s: %s", self._pool, done)
        key = keys.pool_audit(self._pool)
        with self._client.pipeline() as pipe:
            text = json.dumps(asdict(done))
            pipe.xadd(key, {"action": text}, maxlen=_MOST, approximate=True)
            pipe.expire(key, _LIFE)
            pipe.execute()

    def latest(self, most: int) -> list[dict[str, Any]]:
        """Return the latest actions as JSON values, the last first, each with its time ``at``."""
        entries: Any = self._client.xrevrange(keys.pool_audit(self._pool), count=most)
        return [_action(identifier, fields) for identifier, fields in entries]


def _action(identifier: bytes, fields: Mapping[bytes, bytes]) -> dict[str, Any]:
    return {"at": int(identifier.partition(b"-")[0]) / 1000, **json.loads(fields[b"action"])}
