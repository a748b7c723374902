"""Floods: one key, as a tenant, of which most of the waiting operations are."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from pooltasks.broker.limit_store import LimitStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis

_LEAST = 50
"""Operations of a key below which it is no flood."""
_SHARE = 0.5
"""Share of the operations that wait, above which one key floods the pool."""
_PLACES, _AT_EACH = 10, 10
"""Places all over a list, and messages at each: it takes the server a while to reach a place."""
_KEY = re.compile(rb'"flow": "([^"/]+)/([^"]+)"')

# KEYS: the lists. ARGV: places, messages at each, bytes of each. Returns for each list its length
# and the heads of the messages that were looked at.
_HEADS = """
local answer, places, most = {}, tonumber(ARGV[1]), tonumber(ARGV[2])
for _, list in ipairs(KEYS) do
  local length, heads = redis.call('LLEN', list), {}
  local step = math.max(most, math.floor(length / places))
  for first = 0, length - 1, step do
    for _, message in ipairs(redis.call('LRANGE', list, first, first + most - 1)) do
      heads[#heads + 1] = string.sub(message, 1, tonumber(ARGV[3]))
    end
  end
  answer[#answer + 1] = {length, heads}
end
return answer
"""
_HEAD = 500
"""Bytes in which a key stands."""


@dataclass(frozen=True)
class Flood:
    """The key that sent most of the operations that wait."""

    operation: str
    key: str
    """The value of the argument by which calls of the operation are counted."""
    waiting: int
    """About how many of its operations wait, for a worker or for their limit."""
    of: int
    """How many wait, all together."""
    held: int = 0
    """How many of its operations its own limit holds back; nobody waits for these."""

    @property
    def is_held(self) -> bool:
        """Whether most of its operations harm nobody."""
        return 2 * self.held >= self.waiting


def flooding(client: redis.Redis, lists: Sequence[str], pool: str, depth: int) -> Flood | None:
    """Return who sends most of what waits in a pool; None if nobody does, or little waits.

    Operations without ``@operation(key=…)`` are nobody's.

    Args:
        client: A client of the server.
        lists: In which the operations of the pool wait.
        pool: Its name.
        depth: How many operations wait there.

    Raises:
        redis.RedisError: The server does not answer.
    """
    held: Counter[tuple[str, str]] = Counter()
    every = depth
    for its in LimitStore(client, pool).states():
        every += its.held
        if its.key:
            held[its.operation, its.key] += its.held
    waiting = held.copy()
    if every < _LEAST:
        return None
    if depth:
        answer: Any = client.eval(_HEADS, len(lists), *lists, _PLACES, _AT_EACH, _HEAD)
        for length, heads in answer:
            found = Counter(match.groups() for head in heads if (match := _KEY.search(head)))
            for (operation, key), number in found.items():
                name = unquote(operation.decode()), unquote(key.decode())
                waiting[name] += round(number * length / len(heads))
    for (operation, key), number in waiting.most_common(1):
        if number >= max(_LEAST, _SHARE * every):
            return Flood(operation, key, number, every, held[operation, key])
    return None
