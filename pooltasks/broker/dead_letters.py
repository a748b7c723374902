"""Operations that were set aside, each with its reason and its original message."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from itertools import count, islice
from typing import TYPE_CHECKING, Any, TypedDict
from uuid import uuid4

from celery.utils.log import get_logger

from pooltasks import keys
from pooltasks.broker.scripts import Script
from pooltasks.broker.validation import identity_of
from pooltasks.errors import DeadLetterNotFoundError
from pooltasks.pool_settings import DeadLetterBounds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import redis

    from pooltasks.broker.results import StoredResult

logger = get_logger(__name__)

_DEFAULT_BOUNDS = DeadLetterBounds()
_DAY = 86_400.0
_ATTEMPTS = 20
_ERROR_LENGTH = 500  # characters
_ATTEMPT_KEYS = {"at", "error"}
_END_OF_TIME = 1e11  # seconds since the epoch: the year 5138
_PAGE = 500  # letters in one step
_OF_THE_FIRST_LIFE = (
    *("deliveries", "attempts", "suspect", "retries", "submitted_at"),
    *("deadline", "deadline_given", "published_at"),
)
"""Headers that an operation loses when it is sent again."""

BURY = Script("store.lua", "unlock.lua", "trim.lua", "unlimited.lua", "bury.lua")
_SWEEP = Script("trim.lua", "sweep.lua")
_RETRY = """
-- Put a dead letter's message back into its queue, once, however often it is asked for.
-- KEYS[1] hash of letters  KEYS[2] hash of messages  KEYS[3] list, the queue  KEYS[4] order
-- ARGV[1] id of the letter  ARGV[2] the message
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then
  return 0
end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[4], ARGV[1])
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
        bounds: How many are kept, and for how long.
    """

    def __init__(
        self, client: redis.Redis, queue: str, bounds: DeadLetterBounds = _DEFAULT_BOUNDS
    ) -> None:
        self._client: Any = client
        self._queue = queue
        self._letters = keys.dead_letters(queue)
        self._messages = keys.dead_messages(queue)
        self._order = keys.dead_order(queue)
        self._bounds = bounds

    def add(
        self,
        message: bytes,
        reason: str,
        *,
        history: Any = None,
        result: StoredResult | None = None,
    ) -> str:
        """Set a message aside that no node has reserved.

        Args:
            message: The message as it was in the queue.
            reason: Why, in words.
            history: The failed attempts, by default those of the message's header.
            result: The result that its caller gets in the same step.

        Returns:
            The letter's id: the operation's own, where the message has one.
        """
        script = self._client.register_script(BURY.text)
        its = letter(message, reason, history=history, at=time.time(), bounds=self._bounds)
        names: list[str | bytes] = [self._letters, self._letters, self._messages, self._order]
        outcome: list[Any] = ["", ""]
        if result is not None:
            names.append(result.key)
            outcome = [result.value, result.expires]
        added, gone = script(keys=names, args=("", *its, *outcome))
        self._tell(gone)
        its_id: str = added.decode()
        return its_id

    def list(
        self, *, reason: str = "", operation: str = "", most: int | None = None
    ) -> list[DeadLetter]:
        """Return the letters, the latest first.

        Args:
            reason: Only those whose reason contains this, whatever its case.
            operation: Only those of this operation.
            most: How many at most; None for all.
        """
        self._sweep()
        chosen = (
            letter
            for letter in self._latest()
            if reason.lower() in letter.reason.lower() and operation in ("", letter.operation)
        )
        return [*islice(chosen, most)]

    def count(self) -> int:
        """Return how many letters there are."""
        return int(self._client.hlen(self._letters))

    def _latest(self) -> Iterator[DeadLetter]:
        for first in count(0, _PAGE):
            names = self._client.zrevrange(self._order, first, first + _PAGE - 1)
            if not names:
                return
            for name, text in zip(names, self._client.hmget(self._letters, names), strict=True):
                if text is not None:  # dropped meanwhile
                    yield _letter(name, text)

    def _sweep(self) -> None:
        bounds = self._bounds
        self._tell(
            self._client.register_script(_SWEEP.text)(
                keys=(self._letters, self._messages, self._order),
                args=(time.time(), bounds.most, bounds.age),
            )
        )

    def _tell(self, gone: int) -> None:
        if gone:
            logger.warning(
                "queue %s: %d dead letters were deleted: it keeps the last %d of %.1f days "
                "(the setting dead_letters)",
                self._queue,
                gone,
                self._bounds.most,
                self._bounds.age / _DAY,
            )

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
            for mark in ("deliveries", "turn"):
                decoded.pop(mark, None)
            for header in _OF_THE_FIRST_LIFE:
                decoded["headers"].pop(header, None)
            message = json.dumps(decoded).encode()
        script = self._client.register_script(_RETRY)
        return bool(
            script(
                keys=(self._letters, self._messages, self._queue, self._order),
                args=(identifier, message),
            )
        )

    def drop(self, identifier: str) -> bool:
        """Delete a letter; return whether it was there."""
        with self._client.pipeline() as pipe:
            pipe.hdel(self._letters, identifier)
            pipe.hdel(self._messages, identifier)
            pipe.zrem(self._order, identifier)
            deleted, *_ = pipe.execute()
        return bool(deleted)

    def purge(self) -> int:
        """Delete all letters; return how many there were."""
        with self._client.pipeline() as pipe:
            pipe.hlen(self._letters)
            pipe.delete(self._letters, self._messages, self._order)
            number, _ = pipe.execute()
        return int(number)


def letter(
    message: bytes,
    reason: str,
    *,
    history: Any = None,
    at: float,
    bounds: DeadLetterBounds = _DEFAULT_BOUNDS,
) -> tuple[str, str, str, bytes, float, int, float]:
    """Return a dead letter as bury.lua takes it.

    Args:
        message: The message as it was in the queue.
        reason: Why it was set aside.
        history: The failed attempts, by default those of the message's header.
        at: When, in seconds since the epoch.
        bounds: How many letters are kept, and for how long.

    Returns:
        Its id, another id if that is taken, the letter as JSON, the message, when,
        and the two bounds.
    """
    headers = _headers(message)
    unique = uuid4().hex
    named, operation = identity_of(message)
    identifier = named or unique
    its = {
        "reason": reason,
        "at": at,
        "operation": operation,
        "deliveries": deliveries_of(headers) + 1,
        "history": _attempts(history or headers.get("attempts")),
    }
    other = f"{identifier}:{unique}"
    return identifier, other, json.dumps(its), message, at, bounds.most, bounds.age


def _letter(name: bytes, text: bytes) -> DeadLetter:
    return DeadLetter(id=name.decode(), **json.loads(text))


def with_attempt(earlier: Any, at: float, error: str) -> list[Attempt]:
    """Return the attempts that failed, with one more and its error as text."""
    last = Attempt(at=at, error=error[:_ERROR_LENGTH])
    return [*_attempts(earlier), last][-_ATTEMPTS:]


def attempts_of(headers: Mapping[str, Any]) -> list[Attempt]:
    """Return the attempts that failed before, as a message's headers tell."""
    return _attempts(headers.get("attempts"))


def _attempts(claimed: Any) -> list[Attempt]:
    """Return the attempts of a message's header: what is none of them is left out."""
    return [
        Attempt(at=float(each["at"]), error=str(each["error"])[:_ERROR_LENGTH])
        for each in (claimed if isinstance(claimed, list) else [])[-_ATTEMPTS:]
        if isinstance(each, dict) and each.keys() == _ATTEMPT_KEYS and _is_time(each["at"])
    ]


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < _END_OF_TIME


def deliveries_of(headers: Mapping[str, Any]) -> int:
    """Return how many workers have died with a message; 0 if its sender put nonsense there."""
    count = headers.get("deliveries")
    return count if isinstance(count, int) and count > 0 else 0


def _headers(message: bytes) -> dict[str, Any]:
    """Return the headers of a message; none if it is not readable."""
    try:
        payload = json.loads(message)
        headers = payload["headers"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}
    if not isinstance(headers, dict):
        return {}
    # A script that puts a message back counts its deliveries before all else.
    deliveries = payload.get("deliveries")
    return headers if deliveries is None else {**headers, "deliveries": deliveries}
