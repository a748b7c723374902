"""Announced: figures on a pool's work that applications know and its nodes cannot see.

An application records figures for a few seconds at a time. They add to what the nodes
measure and never hide it, so a wrong figure may cost workers and never waits.
"""

from __future__ import annotations

import json
import math
import os
import socket
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from pooltasks import keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    import redis

LONGEST = 3600.0
"""Seconds for which a figure may stand."""

# KEYS: the announced figures. ARGV: source, figures as JSON, seconds for which they stand.
# A field is "<server time until which it stands> <JSON>"; those that are over are dropped.
_RECORD = """
local time = redis.call('TIME')
local now, last = time[1] + time[2] / 1e6, 0
local function until_of(value) return tonumber(string.match(value, '^%S+')) end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.3f', now + ARGV[3]) .. ' ' .. ARGV[2])
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local ends = until_of(all[i + 1])
  if ends <= now then redis.call('HDEL', KEYS[1], all[i]) end
  last = math.max(last, ends)
end
redis.call('PEXPIRE', KEYS[1], math.ceil((last - now) * 1000))
"""


@dataclass(frozen=True)
class Announced:
    """Figures of the requirements document's ``record_metrics``; None: it is not given."""

    queue_depth: float | None = None
    """Operations that wait in the application, and are in no queue yet."""
    throughput: float | None = None
    """Operations a second that the application sends, or is about to send."""
    active_checkouts: float | None = None
    """Operations that run."""
    utilization: float | None = None
    """Busy share of the pool's slots, 0–1."""
    avg_wait_time: float | None = None
    """Seconds that operations wait, on average."""
    error_rate: float | None = None
    """Share of operations that fail, 0–1."""

    def __post_init__(self) -> None:
        """Refuse a value that is no figure.

        Raises:
            ValueError: A figure is negative, not finite, or a share above 1; or there is none.
        """
        given = {name: value for name, value in asdict(self).items() if value is not None}
        if not given:
            raise ValueError("no figure is given")
        for name, value in given.items():
            most = 1.0 if name in _SHARES else math.inf
            if not (math.isfinite(value) and 0 <= value <= most):
                allowed = "0 to 1" if name in _SHARES else "0 or more"
                raise ValueError(f"{name} is {value}; allowed: {allowed}")

    @classmethod
    def merged(cls, several: list[Announced]) -> Self | None:
        """Return the figures of several sources together; None if there are no sources.

        Counts add up; of shares and waits the largest stands.
        """
        figures: dict[str, float] = {}
        for name in cls.__dataclass_fields__:
            values = [value for one in several if (value := getattr(one, name)) is not None]
            if values:
                figures[name] = math.fsum(values) if name in _COUNTS else max(values)
        return cls(**figures) if figures else None

    def figures(self) -> dict[str, float]:
        """Return the figures that are given, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def __str__(self) -> str:
        """The recorded figures, in words."""
        return ", ".join(f"{name} {value:.4g}" for name, value in self.figures().items())


_COUNTS = frozenset({"queue_depth", "throughput", "active_checkouts"})
_SHARES = frozenset({"utilization", "error_rate"})


def record(
    client: redis.Redis, pool: str, announced: Announced, seconds: float, source: str | None
) -> None:
    """Store figures for the optimizer of a pool.

    Args:
        client: With ``decode_responses=False``.
        pool: The pool's name.
        announced: The figures. They replace those that the same source recorded before.
        seconds: For which they stand, at most :data:`LONGEST`.
        source: Name of the source; by default this process.

    Raises:
        ValueError: ``seconds`` is outside of its bounds.
        redis.RedisError: The server does not answer.
    """
    if not 0 < seconds <= LONGEST:
        raise ValueError(f"seconds is {seconds}; allowed: more than 0, at most {LONGEST:g}")
    name = source or f"{socket.gethostname()}:{os.getpid()}"
    figures = json.dumps(announced.figures(), separators=(",", ":"))
    client.eval(_RECORD, 1, keys.announced(pool), name, figures, seconds)


def standing(fields: Mapping[bytes, bytes], now: float) -> Announced | None:
    """Return the figures that still stand, of all sources together.

    Args:
        fields: The content of the key.
        now: Server time, seconds since the epoch.
    """
    values: list[list[bytes]] = [value.split(b" ", 1) for value in fields.values()]
    figures: list[dict[str, Any]] = [json.loads(its) for ends, its in values if float(ends) > now]
    known = [
        {name: value for name, value in its.items() if name in Announced.__dataclass_fields__}
        for its in figures  # another version may record more
    ]
    return Announced.merged([Announced(**its) for its in known if its])
