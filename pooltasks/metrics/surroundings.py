"""Surroundings: what a pool depends on and its own numbers do not tell.

The memory of the server, the room of the hosts, the optimizer, and who sends most of what waits.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import redis

from pooltasks import keys
from pooltasks.keys import CONTROL_POOL
from pooltasks.metrics.collector import state_of
from pooltasks.metrics.decisions import last_turn
from pooltasks.metrics.flood import Flood, flooding

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pooltasks.metrics.decisions import PoolDecision
    from pooltasks.metrics.samples import StoredSample
    from pooltasks.metrics.view import Load
    from pooltasks.pool_settings import PoolSettings

_FULL = 0.99
"""Share of the memory from which on the server refuses writes, now and then at first."""
_SILENT = 3.0
"""Turns or decisions that are missing before the optimizer counts as stopped."""


@dataclass(frozen=True)
class ServerMemory:
    """How much memory the server uses, of how much that it may."""

    used: int
    """Bytes."""
    limit: int
    """Bytes; 0 without a limit."""

    @classmethod
    def read(cls, client: redis.Redis) -> ServerMemory:
        """Ask the server; one that refuses to tell counts as without a limit.

        Raises:
            redis.RedisError: It does not answer.
        """
        its: dict[str, Any] = {}
        with suppress(redis.ResponseError):  # a user may have no right to INFO
            its = client.info("memory")
        return cls(int(its.get("used_memory", 0)), int(its.get("maxmemory", 0)))

    @property
    def ratio(self) -> float | None:
        """Used ÷ limit; None without a limit."""
        return self.used / self.limit if self.limit else None

    @property
    def is_full(self) -> bool:
        """Whether the server refuses operations, results and samples."""
        return bool(self.limit) and self.used >= _FULL * self.limit


@dataclass(frozen=True)
class Surroundings:
    """The surroundings that a pool depends on."""

    memory: ServerMemory | None = None
    """Memory of the server; None if that is not known."""
    wanted: int | None = None
    """Workers that the optimizer wants and the hosts have no room for; None if they have."""
    full: Mapping[str, int] = field(default_factory=dict)
    """Nodes whose host has no room for more workers, and for how many it has."""
    undecided: float | None = None
    """Seconds since the last decision of an optimizer that has stopped."""
    flood: Flood | None = None
    """The sender of most waiting operations."""


def is_silent(turn: float | None, now: float, settings: PoolSettings) -> bool:
    """Return whether an optimizer has stopped, which takes a turn each second at least.

    Turns tell it also of a pool at rest, whose nodes write little to decide about.

    Args:
        turn: Server time of its last turn; None if that is not known.
        now: Server time.
        settings: Of the pool.
    """
    return turn is not None and now - turn >= _patience(settings)


def _patience(settings: PoolSettings) -> float:
    return _SILENT * max(1.0, settings.optimization_interval)


def look_around(
    client: redis.Redis,
    lists: Sequence[str],
    pool: str,
    settings: PoolSettings,
    *,
    now: float,
    load: Load,
    samples: Mapping[str, Sequence[StoredSample]],
    decision: PoolDecision | None,
) -> Surroundings:
    """Return what a pool depends on.

    Args:
        client: A client of the server.
        lists: In which the operations of the pool wait.
        pool: Its name.
        settings: Of the pool.
        now: Server time.
        load: How the pool stands.
        samples: The last ones of each node, oldest first.
        decision: The optimizer's last.

    Raises:
        redis.RedisError: The server does not answer.
    """
    memory = ServerMemory.read(client)
    flood = flooding(client, lists, pool, load.queue_depth or 0)
    live = {name: its for name, its in samples.items() if its and state_of(its[-1], now) == "live"}
    if not settings.enable_optimizer or pool == CONTROL_POOL or decision is None:
        return Surroundings(memory, flood=flood)
    before = now - _patience(settings)
    token: Any = client.hget(keys.optimizer(pool), "token")
    # One that takes its turns and fails in each has stopped as well.
    has_stopped = is_silent(last_turn(token), now, settings) or any(
        decision.at < one.at <= before for its in live.values() for one in its
    )
    undecided = now - decision.at if has_stopped else None
    target, wanted = decision.target, decision.wanted
    if undecided or target is None or wanted is None or wanted <= target:
        return Surroundings(memory, undecided=undecided, flood=flood)
    full = {
        name: one.room
        for name, its in live.items()
        if (one := its[-1].sample).room is not None
        and one.room <= one.size < settings.max_pool_size
    }
    return Surroundings(
        memory, wanted=-(-wanted // settings.slots) if full else None, full=full, flood=flood
    )
