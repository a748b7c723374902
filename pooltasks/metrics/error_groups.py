"""The errors of a pool: those of one kind together, with one full example.

Errors are of one kind if their operation, their class, their message and the
function that raised them are the same; numbers and identifiers in messages do
not count. Nodes add the errors since their last report, under a number that the
server accepts once. The size of this record is bounded, whatever fails in a pool.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha1
from typing import TYPE_CHECKING, Any, NamedTuple

from pooltasks import keys
from pooltasks.broker.scripts import Script
from pooltasks.errors import ErrorGroupNotFoundError
from pooltasks.metrics.error_text import folded

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import redis

    from pooltasks.broker.dead_letters import Attempt, DeadLetter

MOST = 64
"""Kinds of errors that are kept of a pool, those that were seen last."""
LIFE = 7 * 86_400.0
"""Seconds for which a kind is kept after it was seen last."""
MOST_COUNTED = 32
"""Operations and classes of errors of a pool that have a counter of their own, the first ones."""
OTHER = "other"
RECENT = 120.0
"""Seconds within which an error counts as going on."""
_NODE_LIFE = 3600.0
_ID_LENGTH = 12

# KEYS: heads, counts, order, examples, counters by class, number of the node's last batch.
# ARGV: number of this one, groups to keep, seconds to keep one, groups with a counter, ms to
# remember the node; and of each group: id, head (JSON), failed, retried, operation and class,
# example (JSON, '' for none).
RECORD = Script(
    tail=f"""
local heads, counts, order, examples, classes, last = unpack(KEYS)
local time = redis.call('TIME')
local now = tonumber(time[1]) + time[2] / 1e6
local minute = math.floor(now / 60)
if tonumber(redis.call('GET', last) or -1) >= tonumber(ARGV[1]) then return 0 end
redis.call('SET', last, ARGV[1], 'PX', ARGV[5])
local function forget(groups)
  for _, group in ipairs(groups) do
    redis.call('ZREM', order, group)
    redis.call('HDEL', heads, group)
    redis.call('HDEL', examples, group)
    for _, name in ipairs({{'failed:', 'retried:', 'first:', 'minute:'}}) do
      redis.call('HDEL', counts, name .. group)
    end
  end
end
for i = 6, #ARGV, 6 do
  local group, failed, retried, class = ARGV[i], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  redis.call('HSET', heads, group, ARGV[i + 1])
  redis.call('HSETNX', counts, 'first:' .. group, string.format('%.3f', now))
  redis.call('HINCRBY', counts, 'failed:' .. group, failed)
  redis.call('HINCRBY', counts, 'retried:' .. group, retried)
  -- How many there were in this minute of the clock, and in the one before.
  local its = redis.call('HGET', counts, 'minute:' .. group) or '0 0 0'
  local which, this, before = string.match(its, '(%d+) (%d+) (%d+)')
  local more = failed + retried
  if tonumber(which) == minute then this = this + more
  elseif tonumber(which) == minute - 1 then this, before = more, this
  else this, before = more, 0 end
  redis.call('HSET', counts, 'minute:' .. group,
             string.format('%d %d %d', minute, this, before))
  redis.call('ZADD', order, string.format('%.3f', now), group)
  if ARGV[i + 5] ~= '' then redis.call('HSET', examples, group, ARGV[i + 5]) end
  if tonumber(failed) > 0 then
    if redis.call('HEXISTS', classes, class) == 0
      and redis.call('HLEN', classes) >= tonumber(ARGV[4]) then class = '{OTHER}' end
    redis.call('HINCRBY', classes, class, failed)
  end
end
forget(redis.call('ZRANGEBYSCORE', order, '-inf', string.format('%.3f', now - ARGV[3])))
local beyond = redis.call('ZCARD', order) - ARGV[2]
if beyond > 0 then forget(redis.call('ZRANGE', order, 0, beyond - 1)) end
for i = 1, 5 do redis.call('EXPIRE', KEYS[i], ARGV[3]) end
return 1
"""
)


class Head(NamedTuple):
    """The common part of errors of one kind."""

    operation: str
    error: str
    """The class, with its module unless it is Python's own."""
    message: str
    """Without numbers and identifiers."""
    place: str
    """File, line and function that raised it; empty if that is not known."""
    category: str
    text: str
    """The reason in a dead letter of such an operation, without numbers and identifiers."""

    @property
    def group(self) -> str:
        """The id of the kind; a line that moves within its function leaves it as it is."""
        where = self.place.partition(", line ")[0] + self.place.rpartition(" in ")[2]
        parts = (self.operation, self.error, self.message, where)
        return sha1("\0".join(parts).encode()).hexdigest()[:_ID_LENGTH]  # noqa: S324  no secret


@dataclass(frozen=True)
class Example:
    """One operation that failed."""

    id: str | None
    at: float
    """Server time, seconds since the epoch."""
    arguments: str | None
    """Cut and without secrets; None if they could not be read."""
    traceback: str | None
    attempts: list[Attempt]
    """The earlier attempts that failed."""
    attempt: int
    """The number of the attempt, from 1."""
    node: str
    worker: int | None
    """Process id; None if no worker ran it."""


@dataclass(frozen=True)
class ErrorGroup:
    """Errors of one kind. Times are server time in seconds since the epoch."""

    id: str
    operation: str
    error: str
    message: str
    place: str
    category: str
    failed: int
    """Operations that ended with it."""
    retried: int
    """Attempts that ended with it, after which the operation ran again."""
    recent: int
    """Both together, of this minute of the clock and the one before."""
    first: float
    last: float
    text: str

    @property
    def title(self) -> str:
        """The operation, the error and the place, in a line."""
        said = f"{self.error}: {self.message}" if self.message else self.error
        return f"{self.operation}: {said}{f' ({self.place})' if self.place else ''}"

    def has(self, letter: DeadLetter) -> bool:
        """Return whether a dead letter is one of these errors."""
        if letter.operation not in (self.operation, None):
            return False
        said = [letter.reason, *(attempt["error"] for attempt in letter.history[-1:])]
        return self.text in map(folded, said)


class ErrorGroups:
    """The errors of one pool, by kind.

    Args:
        client: With ``decode_responses=False``.
        pool: The pool's name.
    """

    def __init__(self, client: redis.Redis, pool: str) -> None:
        self._client: Any = client
        self._pool = pool

    def latest(self, most: int = MOST) -> list[ErrorGroup]:
        """Return the kinds of errors, the last one that was seen first.

        Args:
            most: How many at the most.

        Raises:
            redis.RedisError: The server does not answer.
        """
        with self._client.pipeline(transaction=False) as pipe:
            pipe.zrevrange(keys.error_order(self._pool), 0, most - 1, withscores=True)
            pipe.time()
            order, (seconds, _) = pipe.execute()
        return self._read([(group.decode(), at) for group, at in order], int(seconds))

    def show(self, group: str) -> tuple[ErrorGroup, Example | None]:
        """Return one kind of errors, and its example.

        Raises:
            ErrorGroupNotFoundError: There is none of this id.
            redis.RedisError: The server does not answer.
        """
        with self._client.pipeline(transaction=False) as pipe:
            pipe.zscore(keys.error_order(self._pool), group)
            pipe.hget(keys.error_examples(self._pool), group)
            pipe.time()
            last, example, (seconds, _) = pipe.execute()
        found = [] if last is None else self._read([(group, last)], int(seconds))
        if not found:
            raise ErrorGroupNotFoundError(
                f"The pool {self._pool} has no errors {group!r}: they were not seen for a week, "
                "or newer ones took their place."
            )
        return found[0], None if example is None else Example(**json.loads(example))

    def _read(self, order: Sequence[tuple[str, float]], now: int) -> list[ErrorGroup]:
        if not order:
            return []
        names = [group for group, _ in order]
        fields = [f"{name}:{its}" for its in names for name in _COUNTS]
        with self._client.pipeline(transaction=False) as pipe:
            pipe.hmget(keys.error_heads(self._pool), names)
            pipe.hmget(keys.error_counts(self._pool), fields)
            heads, counts = pipe.execute()
        return [
            _group(name, head, counts[place * len(_COUNTS) :], last, now)
            for place, ((name, last), head) in enumerate(zip(order, heads, strict=True))
            if head is not None  # forgotten meanwhile
        ]


_COUNTS = ("failed", "retried", "first", "minute")


def _group(name: str, head: bytes, counts: Sequence[Any], last: float, now: int) -> ErrorGroup:
    failed, retried, first, minute = counts[: len(_COUNTS)]
    which, this, before = map(int, (minute or b"0 0 0").split())
    behind = now // 60 - which
    recent = this + before if behind == 0 else this if behind == 1 else 0
    its = Head(*json.loads(head))
    return ErrorGroup(
        id=name,
        failed=int(failed or 0),
        retried=int(retried or 0),
        recent=recent,
        first=float(first or last),
        last=last,
        **its._asdict(),
    )


def worst(groups: Iterable[ErrorGroup]) -> ErrorGroup | None:
    """Return the kind of which most operations fail now, errors of their callers left out."""
    now = [its for its in groups if its.recent and its.failed and its.category != "client"]
    return max(now, key=lambda its: its.recent, default=None)


def failures_by_class(reply: Mapping[bytes, bytes]) -> dict[tuple[str, str], int]:
    """Return the failures of a pool by operation and class of error.

    Args:
        reply: The hash of the counters.
    """
    found = {}
    for name, count in reply.items():
        operation, _, error = name.decode().partition("\n")
        found[operation, error or OTHER] = int(count)
    return found


def record_call(
    pool: str, node: str, number: int, batch: Iterable[tuple[Head, int, int, Example | None]]
) -> tuple[list[str], list[Any]]:
    """Return keys and arguments with which :data:`RECORD` adds errors, once for each number.

    Args:
        pool: The pool's name.
        node: The node that tells of them.
        number: Counts the node's batches, upwards.
        batch: Of each kind: how many operations failed, how many attempts were retried, and
            an example if there is a new one.
    """
    arguments: list[Any] = [number, MOST, int(LIFE), MOST_COUNTED, int(_NODE_LIFE * 1000)]
    for head, failed, retried, example in batch:
        named = f"{head.operation}\n{head.error}"
        its = "" if example is None else json.dumps(vars(example))
        arguments += [head.group, json.dumps(head), failed, retried, named, its]
    return [
        keys.error_heads(pool),
        keys.error_counts(pool),
        keys.error_order(pool),
        keys.error_examples(pool),
        keys.error_classes(pool),
        keys.node_errors(pool, node),
    ], arguments
