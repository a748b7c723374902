"""Decisions: what the optimizer wants of a pool and why, an hour of them in Redis.

One optimizer at a time decides for a pool. Its turn is a lock of 1.5 s with a
fencing token (Kleppmann, "How to do distributed locking", 2016): what it
decided is stored only while the lock is its own, and nodes refuse a token that
is lower than the last one they saw. So an optimizer that was frozen in the
middle of its turn changes nothing when it wakes up.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from pooltasks import keys
from pooltasks.metrics.announced import Announced, standing

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis

    from pooltasks.metrics.sample import Sample

HISTORY = 3600.0
"""Seconds of decisions that are kept."""
_LOCK_MS = 1500
_MEMORY_MS = 7 * 86_400_000
_HOSTS_MS = 86_400_000
_MOST_DECISIONS = 3600
_MOST_HOSTS = 10_000

# KEYS: lock, optimizer, paused, announced, rollout.
# ARGV: ms that the lock and the optimizer's memory live.
# The token outlives its key and a lost server: it is never below the server's
# clock in ms. Returns it, 0 if another optimizer has the lock.
_BEGIN = """
if redis.call('EXISTS', KEYS[1]) == 1 then return {0} end
local time = redis.call('TIME')
local now = string.format('%d.%06d', time[1], time[2])
local clock = time[1] * 1000 + math.floor(time[2] / 1000)
local token = math.max(clock, 1 + (redis.call('HGET', KEYS[2], 'token') or 0))
local text = string.format('%d', token)
redis.call('SET', KEYS[1], text, 'PX', ARGV[1])
redis.call('HSET', KEYS[2], 'token', text)
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return {text, now, redis.call('HGET', KEYS[2], 'state') or '', redis.call('PTTL', KEYS[3]),
        redis.call('HGETALL', KEYS[4]),
        redis.call('HMGET', KEYS[5], 'state', 'to', 'share')}
"""

# KEYS: lock, optimizer, decisions, hosts.
# ARGV: token, state, decision, hosts, and the lives of the last three keys in ms.
_COMMIT = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[2], 'state', ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[8], '*', 'decision', ARGV[3])
redis.call('PEXPIRE', KEYS[3], ARGV[6])
local missing = ARGV[4] - redis.call('LLEN', KEYS[4])
if missing < 0 then redis.call('LTRIM', KEYS[4], 0, ARGV[4] - 1) end
for _ = 1, missing do redis.call('RPUSH', KEYS[4], 'node') end
redis.call('PEXPIRE', KEYS[4], ARGV[7])
return 1
"""

# KEYS: lock. ARGV: token.
_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""


@dataclass(frozen=True)
class PoolDecision:
    """The optimizer's decision on a pool, with its reason."""

    at: float
    """Server time, seconds since the epoch."""
    policy: str
    target: int | None
    """Slots that the nodes that serve are to have, all together; None if nobody knows how many
    they have and nothing was decided."""
    before: int | None
    """Slots that they had."""
    wanted: int | None
    """Slots that the policy wants; more than ``target`` if the live nodes have no room."""
    hosts: int
    """Nodes that the pool needs for long, for whoever starts and stops hosts."""
    nodes: dict[str, int]
    """Workers that each node that serves is to have, by its name."""
    told: list[str]
    """Nodes that were told their size now, because they had another one."""
    reason: str
    """A sentence with figures."""
    acting: bool = True
    """False of a decision that is shown and not carried out."""
    inputs: dict[str, float] = field(default_factory=dict)
    """The numbers behind it, by name."""
    overflow: int | None = None
    """Temporary workers that each node may have beyond its size; None: as its settings say."""

    def as_json(self) -> dict[str, Any]:
        """Return JSON values, with as many digits as matter."""
        values = asdict(self)
        values["at"] = round(self.at, 3)
        values["inputs"] = {name: float(f"{value:.5g}") for name, value in self.inputs.items()}
        return values


@dataclass(frozen=True)
class Sharing:
    """How two versions of a pool's code share its operations, during a rollout."""

    version: str
    """The new one."""
    share: float
    """Share of the operations that it gets, 0 to 1."""

    def has(self, sample: Sample) -> bool:
        """Return whether a node that wrote this runs the new version."""
        return sample.version == self.version


@dataclass(frozen=True)
class Turn:
    """An optimizer's turn to decide."""

    token: int
    """Higher than that of every turn before."""
    at: float
    """Server time at its beginning, seconds since the epoch."""
    state: Any
    """The state that the turn before remembered; None if there is none."""
    paused: float | None
    """Seconds for which the optimizer only watches; None if it acts."""
    announced: Announced | None = None
    """The figures that applications recorded; None if none of them still stands."""
    sharing: Sharing | None = None
    """How two versions share the work; None: there is no rollout."""


class DecisionStore:
    """The decisions on one pool in Redis.

    Args:
        client: With ``decode_responses=False``.
        pool: The pool's name.
    """

    def __init__(self, client: redis.Redis, pool: str) -> None:
        self._client = client
        self.pool = pool
        self._begin = client.register_script(_BEGIN)
        self._commit = client.register_script(_COMMIT)
        self._release = client.register_script(_RELEASE)

    def begin(self) -> Turn | None:
        """Take the turn; None while another optimizer has it."""
        reply: Any = self._begin(
            keys=[
                keys.optimizer_lock(self.pool),
                keys.optimizer(self.pool),
                keys.optimizer_paused(self.pool),
                keys.announced(self.pool),
                keys.rollout(keys.queue(self.pool)),
            ],
            args=[_LOCK_MS, _MEMORY_MS],
        )
        if len(reply) == 1:
            return None
        token, at, state, paused, announced, rollout = reply
        return Turn(
            int(token),
            float(at),
            json.loads(state) if state else None,
            paused / 1000 if paused > 0 else None,
            standing(dict(zip(announced[::2], announced[1::2], strict=True)), float(at)),
            _sharing(rollout),
        )

    def commit(self, turn: Turn, state: Any, decision: PoolDecision) -> bool:
        """Store the decision and end the turn; False if the turn had ended before."""
        reply: Any = self._commit(
            keys=[
                keys.optimizer_lock(self.pool),
                keys.optimizer(self.pool),
                keys.decisions(self.pool),
                keys.hosts_wanted(self.pool),
            ],
            args=[
                turn.token,
                json.dumps(state, separators=(",", ":")),
                json.dumps(decision.as_json(), separators=(",", ":")),
                min(decision.hosts, _MOST_HOSTS),
                _MEMORY_MS,
                int(HISTORY * 1000),
                _HOSTS_MS,
                _MOST_DECISIONS,
            ],
        )
        return bool(reply)

    def release(self, turn: Turn) -> None:
        """End the turn without a decision."""
        self._release(keys=[keys.optimizer_lock(self.pool)], args=[turn.token])

    def memory(self) -> Turn:
        """Return what a turn would begin with, and take none: to decide without acting."""
        state: Any = self._client.hget(keys.optimizer(self.pool), "state")
        time: Any = self._client.time()
        at = time[0] + time[1] / 1e6
        fields: Any = self._client.hgetall(keys.announced(self.pool))
        remembered = json.loads(state) if state else None
        rollout: Any = self._client.hmget(
            keys.rollout(keys.queue(self.pool)), "state", "to", "share"
        )
        return Turn(0, at, remembered, self.paused(), standing(fields, at), _sharing(rollout))

    def current(self) -> PoolDecision | None:
        """Return the last decision; None if there was none within the hour."""
        return last_decision(self._client.xrevrange(keys.decisions(self.pool), count=1))

    def history(self, seconds: float = HISTORY) -> list[PoolDecision]:
        """Return the decisions of the last ``seconds``, at most 3,600, oldest first."""
        time: Any = self._client.time()
        return self.since(time[0] + time[1] / 1e6 - min(seconds, HISTORY))

    def since(self, at: float) -> list[PoolDecision]:
        """Return the decisions from a moment of server time on, oldest first."""
        first = str(max(0, int(at * 1000)))
        entries: Any = self._client.xrange(keys.decisions(self.pool), min=first)
        return [_decision(fields) for _, fields in entries]

    def pause(self, seconds: float) -> None:
        """Have the optimizer only watch for ``seconds``; a pause always ends by itself."""
        self._client.set(keys.optimizer_paused(self.pool), "1", px=int(seconds * 1000))

    def resume(self) -> bool:
        """End a pause; return whether there was one."""
        return bool(self._client.delete(keys.optimizer_paused(self.pool)))

    def paused(self) -> float | None:
        """Return the seconds for which the optimizer still only watches; None if it acts."""
        left: Any = self._client.pttl(keys.optimizer_paused(self.pool))
        return left / 1000 if left > 0 else None


def last_turn(token: bytes | None) -> float | None:
    """Return the server time of the turn with this token; None without one."""
    return None if token is None else int(token) / 1000


def last_decision(entries: Any) -> PoolDecision | None:
    """Return the first of some entries of the stream of decisions, None if there is none."""
    return _decision(entries[0][1]) if entries else None


def _sharing(rollout: Sequence[bytes | None]) -> Sharing | None:
    state, version, share = rollout
    if state != b"live" or version is None or share is None:
        return None
    return Sharing(version.decode(), int(share) / 100)


def _decision(fields: dict[bytes, bytes]) -> PoolDecision:
    return PoolDecision(**json.loads(fields[b"decision"]))
