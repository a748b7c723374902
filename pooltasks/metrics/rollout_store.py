"""Rollouts: two versions of a pool's code beside each other, as the server has them.

The state of a rollout is one hash of its pool. Whoever changes it says which revision it has
seen, so what a control node decides that was frozen meanwhile changes nothing. A rollout that
begins or ends has every node join again before the server gives it anything more: no node can
miss it (``join.lua``, ``reserve.lua``).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pooltasks import keys
from pooltasks.broker.names import Names
from pooltasks.metrics.rollout import MOST_STEPS, Step, encoded, rollout_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import redis

    from pooltasks.metrics.counts import Counts
    from pooltasks.metrics.rollout import Rollout, State

_REMEMBERED_MS = 7 * 86_400_000
_AT_ONCE = 1000
"""Messages that one script moves: about a millisecond of the server's time."""

_ALL_JOIN_AGAIN = """
local function all_join_again(index, channel)
  local nodes = redis.call('HGETALL', index)
  for at = 1, #nodes, 2 do
    -- Any other has to join before it is given something anyway.
    if string.find(nodes[at + 1], '^%d+$') then redis.call('HSET', index, nodes[at], 'again') end
  end
  redis.call('PUBLISH', channel, 'join')  -- or one at rest would hear of it in a minute
end
local time = redis.call('TIME')
local now = string.format('%d.%06d', time[1], time[2])
"""

# KEYS: rollout, index of the nodes. ARGV: the version before, the new one, channel of the nodes.
# Returns 1; 0 if a rollout goes on, or what the last one left is not gathered yet.
_START = (
    _ALL_JOIN_AGAIN
    + """
local state, left, retired = unpack(redis.call('HMGET', KEYS[1], 'state', 'left', 'retired'))
if state == 'live' or left then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'state', 'live', 'from', ARGV[1], 'to', ARGV[2], 'share', 0,
           'revision', 1, 'started', now, 'since', now, 'retired', retired or ',')
all_join_again(KEYS[2], ARGV[3])
return 1
"""
)

# KEYS: rollout. ARGV: the revision that was seen, fields and values; a value of `now` is the
# server's time. Returns 1; 0 if somebody else has changed it, or it has ended.
_CHANGE = """
local state, revision = unpack(redis.call('HMGET', KEYS[1], 'state', 'revision'))
if state ~= 'live' or revision ~= ARGV[1] then return 0 end
local time = redis.call('TIME')
for at = 2, #ARGV, 2 do
  local value = ARGV[at + 1]
  if value == 'now' then value = string.format('%d.%06d', time[1], time[2]) end
  redis.call('HSET', KEYS[1], ARGV[at], value)
end
redis.call('HINCRBY', KEYS[1], 'revision', 1)
return 1
"""

# KEYS: rollout, index of the nodes, room.
# ARGV: the revision that was seen, how it ends, why, channel of the nodes.
# Returns 1; 0 if somebody else has changed it, or it has ended.
_END = (
    _ALL_JOIN_AGAIN
    + """
local state, revision, retired, from, to = unpack(
  redis.call('HMGET', KEYS[1], 'state', 'revision', 'retired', 'from', 'to'))
if state ~= 'live' or revision ~= ARGV[1] then return 0 end
-- The last twenty versions that are out of use, without the one that is in use.
local used, out = to, from
if ARGV[2] == 'aborted' then used, out = from, to end
local versions, text = {}, ','
for version in string.gmatch(retired, '([^,]*),') do versions[#versions + 1] = version end
table.remove(versions, 1)
versions[#versions + 1] = out
for at = math.max(1, #versions - 19), #versions do
  if versions[at] ~= used and not string.find(text, ',' .. versions[at] .. ',', 1, true) then
    text = text .. versions[at] .. ','
  end
end
redis.call('HSET', KEYS[1], 'state', ARGV[2], 'reason', ARGV[3], 'ended', now, 'left', 1,
           'retired', text)
redis.call('HDEL', KEYS[3], 'aside')  -- what waits is in the queue's own lists again
redis.call('HINCRBY', KEYS[1], 'revision', 1)
all_join_again(KEYS[2], ARGV[4])
return 1
"""
)

# KEYS: rollout, index of the nodes. ARGV: channel of the nodes.
# Returns 1; 0 if a rollout goes on, or what it left is not gathered yet.
_FORGET = (
    _ALL_JOIN_AGAIN
    + """
local state, left = unpack(redis.call('HMGET', KEYS[1], 'state', 'left'))
if state == 'live' or left then return 0 end
redis.call('DEL', KEYS[1])
all_join_again(KEYS[2], ARGV[1])
return 1
"""
)

# KEYS: as sort.lua has them. ARGV: messages to move at the most, ms to remember the rollout.
# What waits for one of the two versions goes back to the heads of the queue's lists, the oldest
# to the very head. Returns 1 if some are left.
_GATHER = """
local state, left = unpack(redis.call('HMGET', KEYS[1], 'state', 'left'))
if state == 'live' or not left then return 0 end
local most = tonumber(ARGV[1])
for at = 12, 31 do
  local main = KEYS[2 + (at - 2) % 10]
  local messages = most > 0 and redis.call('LPOP', KEYS[at], math.min(most, 100)) or {}
  while #messages > 0 do
    redis.call('RPUSH', main, unpack(messages))
    most = most - #messages
    messages = most > 0 and redis.call('LPOP', KEYS[at], math.min(most, 100)) or {}
  end
end
if most <= 0 then return 1 end
redis.call('HDEL', KEYS[1], 'left')
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 0
"""


class RolloutStore:
    """The rollout of one pool in Redis.

    Args:
        client: With ``decode_responses=False``.
        pool: The pool's name.
        prefix: What every key and channel of the deployment begins with.
    """

    def __init__(self, client: redis.Redis, pool: str, prefix: str = "") -> None:
        self._client = client
        self.pool = pool
        self._names = Names(keys.queue(pool))
        # The client puts the prefix before keys, and not before channels.
        self._channel = keys.prefixed(prefix, keys.due(keys.queue(pool)))
        self._start = client.register_script(_START)
        self._change = client.register_script(_CHANGE)
        self._end = client.register_script(_END)
        self._forget = client.register_script(_FORGET)
        self._gather = client.register_script(_GATHER)

    def read(self) -> Rollout | None:
        """Return the pool's rollout, the last that there was; None if nothing is known of one.

        Raises:
            redis.RedisError: The server does not answer.
        """
        pipeline = self._client.pipeline(transaction=False)
        pipeline.hgetall(self._names.rollout)
        pipeline.time()
        for name in self._names.canary:
            pipeline.llen(name)
        fields, time, *lengths = pipeline.execute()
        if b"state" not in fields:
            return None
        return rollout_of(fields, time[0] + time[1] / 1e6, sum(lengths))

    def start(self, before: str, version: str) -> bool:
        """Begin a rollout; return False if one goes on.

        Args:
            before: The version that the pool's nodes have.
            version: The new one.
        """
        its = [self._names.rollout, self._names.index]
        return bool(self._start(keys=its, args=[before, version, self._channel]))

    def change(self, rollout: Rollout, /, **fields: Any) -> bool:
        """Change some fields of a live rollout.

        Args:
            rollout: The rollout as it was read.
            **fields: As they are stored; ``now`` is the server's time.

        Returns:
            False if somebody else has changed it, or it has ended.
        """
        parts = [part for item in fields.items() for part in item]
        return bool(self._change(keys=[self._names.rollout], args=[rollout.revision, *parts]))

    def step(
        self,
        seen: Rollout,
        share: int,
        reason: str,
        counted: Mapping[str, Counts] | None = None,
    ) -> bool:
        """Give the new version another share, and count anew; as :meth:`change`.

        Args:
            seen: The rollout as it was read.
            share: Percent.
            reason: Why.
            counted: What both versions did with the share before; by default what is stored.
        """
        steps = [*map(vars, seen.steps), vars(Step(seen.at, share, reason))]
        before = (seen.counted if counted is None else counted).get("before")
        # The larger sample: without most of its operations a version finishes too few.
        last = seen.baseline
        if before is None or (last is not None and before.finished < last.finished):
            before = last
        return self.change(
            seen,
            share=share,
            since="now",
            paused=0,
            reason="",
            steps=json.dumps(steps[-MOST_STEPS:]),
            counted="",
            baseline="" if before is None else encoded({"before": before}),
        )

    def note(
        self, seen: Rollout, counted: Mapping[str, Counts], samples: Mapping[str, int], reason: str
    ) -> bool:
        """Store what was counted since the step began, and what is waited for; as :meth:`change`.

        Args:
            seen: The rollout as it was read.
            counted: What both versions did: ``before`` and ``canary``.
            samples: The last sample of each node that is in it.
            reason: What is waited for.
        """
        return self.change(
            seen,
            counted=encoded(counted),
            seen=json.dumps(dict(samples)),
            reason=reason,
            looked="now",
        )

    def end(self, seen: Rollout, state: State, reason: str) -> bool:
        """End a rollout: one of the versions takes everything, the other nothing.

        Returns:
            False if somebody else has changed it, or it has ended.
        """
        its = [self._names.rollout, self._names.index, self._names.room]
        if not self._end(keys=its, args=[seen.revision, state, reason, self._channel]):
            return False
        self.gather()
        return True

    def forget(self) -> bool:
        """Have nodes of every version take operations again; return False while a rollout goes on.

        That is what a plain restart with a version needs which a rollout had taken out of use.
        """
        its = [self._names.rollout, self._names.index]
        return bool(self._forget(keys=its, args=[self._channel]))

    def gather(self) -> None:
        """Put back what waits in the lists of a rollout that has ended, in bounded steps."""
        while self._gather(keys=self._names.of_rollout, args=[_AT_ONCE, _REMEMBERED_MS]):
            pass


def with_rollouts(client: redis.Redis, pools: Sequence[str]) -> list[str]:
    """Return those of some pools that have a rollout, or had one lately; one round trip.

    Raises:
        redis.RedisError: The server does not answer.
    """
    pipeline = client.pipeline(transaction=False)
    for pool in pools:
        pipeline.exists(keys.rollout(keys.queue(pool)))
    return [pool for pool, exists in zip(pools, pipeline.execute(), strict=True) if exists]
