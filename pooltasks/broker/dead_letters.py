"""Operations that were set aside, each with its reason and its original message."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypedDict
from uuid import uuid4

from pooltasks import keys
from pooltasks.errors import DeadLetterNotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import redis

_ATTEMPTS = 20
_ERROR_LENGTH = 500  # characters
_ATTEMPT_KEYS = {"at", "error"}
_END_OF_TIME = 1e11  # seconds since the epoch: the year 5138
_SCAN = 500  # letters in one step

_ADD = """
-- Set a message aside. An id belongs to whoever came first: another message that
-- claims it, by chance or on purpose, gets an id of its own.
-- KEYS[1] hash of letters  KEYS[2] hash of messages  KEYS[3] hash of what a node has reserved
-- ARGV[1] id  ARGV[2] id to use if that is taken  ARGV[3] the letter  ARGV[4] the message
-- ARGV[5] reservation that ends with this; none: ''
-- First of all: a server whose memory is full refuses a script whose first write needs some.
redis.call('HDEL', KEYS[3], ARGV[5])
local id = ARGV[1]
if redis.call('HEXISTS', KEYS[1], id) == 1 then
  id = ARGV[2]
end
redis.call('HSET', KEYS[1], id, ARGV[3])
redis.call('HSET', KEYS[2], id, ARGV[4])
return id
"""

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


class Attempt(TypedDict):
    """One attempt that failed: when, in seconds since the epoch, and with which error."""

    at: float
    error: str


@dataclass(frozen=True)
class DeadLetter:
    """One operation that was set aside. ``at`` is in seconds since the epoch."""

    id: str
    reason: str
    at: float
    operation: str | None
    deliveries: int
    history: list[Attempt] = field(default_factory=list)
    """The attempts that failed, the first one first; the last 20 of them."""


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

    def add(
        self,
        message: bytes,
        reason: str,
        *,
        history: Any = None,
        reservation: tuple[str, str] | None = None,
    ) -> str:
        """Set a message aside.

        Args:
            message: The message as it was in the queue.
            reason: Why, in words.
            history: The failed attempts, by default those of the message's header.
            reservation: What ends in the same step: the hash of what a node has
                reserved, and the message's place there.

        Returns:
            The letter's id: the operation's own, where the message has one.
        """
        headers = _headers(message)
        unique = uuid4().hex
        identifier = _storable(headers.get("id") or unique)
        letter = {
            "reason": reason,
            "at": time.time(),
            "operation": headers.get("task"),
            "deliveries": deliveries_of(headers) + 1,
            "history": _attempts(history or headers.get("attempts")),
        }
        reserved, place = reservation or (self._letters, "")
        added: bytes = self._client.eval(
            _ADD,
            3,
            self._letters,
            self._messages,
            reserved,
            identifier,
            f"{identifier}:{unique}",
            json.dumps(letter),
            message,
            place,
        )
        return added.decode()

    def list(self, *, reason: str = "", operation: str = "") -> list[DeadLetter]:
        """Return the letters, the latest first.

        Args:
            reason: Only those whose reason contains this, whatever its case.
            operation: Only those of this operation.
        """
        letters = (
            _letter(name, text)
            for name, text in self._client.hscan_iter(self._letters, count=_SCAN)
        )
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
        return _letter(identifier.encode(), text), message

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
            for header in ("deliveries", "attempts", "retries", "deadline", "published_at"):
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


def _letter(name: bytes, text: bytes) -> DeadLetter:
    return DeadLetter(id=name.decode(), **json.loads(text))


def _storable(identifier: object) -> str:
    """Return an id as text that the server can keep: a hostile one may hold half a character."""
    return str(identifier).encode("utf-8", "backslashreplace").decode()


def with_attempt(earlier: Any, at: float, error: BaseException) -> list[Attempt]:
    """Return the attempts that failed, with one more."""
    last = Attempt(at=at, error=repr(error)[:_ERROR_LENGTH])
    return [*_attempts(earlier), last][-_ATTEMPTS:]


def _attempts(claimed: Any) -> list[Attempt]:
    """Return the attempts of a message's header: what is none of them is left out."""
    return [
        Attempt(at=float(each["at"]), error=str(each["error"])[:_ERROR_LENGTH])
        for each in (claimed if isinstance(claimed, list) else [])[-_ATTEMPTS:]
        if isinstance(each, dict) and each.keys() == _ATTEMPT_KEYS and _is_time(each["at"])
    ]


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < _END_OF_TIME


def original_of(message: Any) -> bytes:
    """Return a reserved message as it was in its queue.

    Where Celery's own transport has reserved it, or another node has it
    meanwhile, there is only what it says, as JSON again.
    """
    original = message.channel.original(message) if hasattr(message.channel, "original") else None
    return original or json.dumps(message._raw).encode()  # noqa: SLF001  kombu's name


def give_reason(message: Any, reason: str) -> None:
    """Say why a message will be rejected; kombu's ``reject`` takes no reason along."""
    message.rejection = reason


def reason_of(message: Any) -> str:
    """Return why a message was rejected."""
    reason: str = getattr(message, "rejection", "rejected: refused by the operation itself")
    return reason


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
