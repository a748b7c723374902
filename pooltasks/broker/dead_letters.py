"""Operations that were set aside, each with its reason and its original message."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from pooltasks import keys
from pooltasks.errors import DeadLetterNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import redis

_RETRY = """
-- Put a dead letter's message back into its queue, once, however often it is asked for.
-- KEYS[1] hash of letters  KEYS[2] hash of messages  KEYS[3] list, the queue
-- ARGV[1] id of the letter  ARGV[2] the message
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then
  return 0
end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('LPUSH', KEYS[3], ARGV[2])
return 1
"""


@dataclass(frozen=True)
class DeadLetter:
    """One operation that was set aside. ``at`` is in seconds since the epoch."""

    id: str
    reason: str
    at: float
    operation: str | None
    deliveries: int


class DeadLetters:
    """The dead letters of one queue.

    Args:
        client: A client of the server.
        queue: Name of the queue.
    """

    def __init__(self, client: redis.Redis, queue: str) -> None:
        self._client: Any = client
        self._queue = queue
        self._letters = keys.dead_letters(queue)
        self._messages = keys.dead_messages(queue)

    def add(self, message: bytes, reason: str, *, also: Callable[[Any], Any] | None = None) -> str:
        """Set a message aside.

        Args:
            message: The message as it was in the queue.
            reason: Why, in words.
            also: Adds commands to the same transaction, given its pipeline:
                what takes the message from where it was.

        Returns:
            The letter's id: the operation's own, where the message has one.
        """
        headers = _headers(message)
        identifier = str(headers.get("id") or uuid4())
        letter = DeadLetter(
            id=identifier,
            reason=reason,
            at=time.time(),
            operation=headers.get("task"),
            deliveries=deliveries_of(headers) + 1,
        )
        with self._client.pipeline() as pipe:
            pipe.hset(self._letters, identifier, json.dumps(asdict(letter)))
            pipe.hset(self._messages, identifier, message)
            if also is not None:
                also(pipe)
            pipe.execute()
        return identifier

    def list(self, *, reason: str = "", operation: str = "") -> list[DeadLetter]:
        """Return the letters, the latest first.

        Args:
            reason: Only those whose reason contains this, whatever its case.
            operation: Only those of this operation.
        """
        letters = (DeadLetter(**json.loads(text)) for text in self._values())
        chosen = (
            letter
            for letter in letters
            if reason.lower() in letter.reason.lower() and operation in ("", letter.operation)
        )
        return sorted(chosen, key=lambda letter: letter.at, reverse=True)

    def show(self, identifier: str) -> tuple[DeadLetter, bytes]:
        """Return a letter and its original message.

        Raises:
            DeadLetterNotFoundError: There is no such letter.
        """
        text = self._client.hget(self._letters, identifier)
        message = self._client.hget(self._messages, identifier)
        if text is None or message is None:
            raise DeadLetterNotFoundError(
                f"{self._queue} has no dead letter {identifier!r}: "
                "it was retried or dropped meanwhile, or belongs to another pool."
            )
        return DeadLetter(**json.loads(text)), message

    def retry(self, identifier: str) -> bool:
        """Send the operation again, with its deliveries counted from 0 and no deadline.

        Returns:
            False if somebody else retried or dropped it at the same moment.

        Raises:
            DeadLetterNotFoundError: There is no such letter.
        """
        _, message = self.show(identifier)
        if _headers(message):
            decoded = json.loads(message)
            decoded.pop("deliveries", None)
            for header in ("deliveries", "deadline", "published_at"):
                decoded["headers"].pop(header, None)
            message = json.dumps(decoded).encode()
        script = self._client.register_script(_RETRY)
        return bool(
            script(keys=(self._letters, self._messages, self._queue), args=(identifier, message))
        )

    def drop(self, identifier: str) -> bool:
        """Delete a letter; return whether it was there."""
        with self._client.pipeline() as pipe:
            pipe.hdel(self._letters, identifier)
            pipe.hdel(self._messages, identifier)
            deleted, _ = pipe.execute()
        return bool(deleted)

    def purge(self) -> int:
        """Delete all letters; return how many there were."""
        with self._client.pipeline() as pipe:
            pipe.hlen(self._letters)
            pipe.delete(self._letters, self._messages)
            number, _ = pipe.execute()
        return int(number)

    def _values(self) -> Iterator[bytes]:
        for _, text in self._client.hscan_iter(self._letters, count=500):
            yield text


def deliveries_of(headers: Mapping[str, Any]) -> int:
    """Return how many workers have died with a message; 0 if its sender put nonsense there."""
    count = headers.get("deliveries")
    return count if isinstance(count, int) and count > 0 else 0


def _headers(message: bytes) -> dict[str, Any]:
    """Return the headers of a message; none if it is not readable."""
    try:
        headers = json.loads(message)["headers"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}
    return headers if isinstance(headers, dict) else {}
