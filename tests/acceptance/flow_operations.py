"""Operations under the controls of their pool, for nodes of the acceptance tests."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from pooltasks import operation
from pooltasks.broker.client import redis_client


@operation(pool="code", bind=True, unique="key")
def once(self: Any, key: str, seconds: float = 0.01) -> str:
    """Run for a moment; note if another call with the same key runs meanwhile."""
    server = redis_client(self.app)
    holder = server.set(f"running:{key}", self.request.id, nx=True, get=True)
    # One that comes back from a dead node finds what it left itself.
    if holder is not None and holder.decode() != self.request.id:
        server.incr("together")
    time.sleep(seconds)
    server.delete(f"running:{key}")
    server.rpush(f"ended:{key}", self.request.id)
    return str(self.request.id)


@operation(pool="code", bind=True, unique=True, retry={"python": 2})
def fail_at_first(self: Any, key: str) -> int:
    """Fail until the third attempt; each one tries to publish itself meanwhile."""
    again = fail_at_first.delay(key)
    redis_client(self.app).rpush(f"seen:{key}", int(again.is_duplicate))
    if self.request.retries < 2:
        raise RuntimeError("not yet")
    return int(self.request.retries)


@operation(pool="code", bind=True, unique=True, unique_until="start")
def follow(self: Any, key: str) -> str:
    """Have another one follow, which waits while this one runs."""
    if redis_client(self.app).incr(f"runs:{key}") > 1:
        return "last"
    following = follow.delay(key)
    return "duplicate" if following.is_duplicate else str(following.id)


@operation(pool="code", bind=True, key="tenant", concurrency=2)
def limited(self: Any, tenant: str, seconds: float = 0.02) -> int:
    """Run for a moment; note if more than two of a tenant run, of those whose nodes live."""
    server = redis_client(self.app)
    node = os.getppid()
    server.hset(f"in:{tenant}", self.request.id, node)
    if sum(map(_lives, map(int, server.hvals(f"in:{tenant}")))) > 2:
        server.incr("too many")
    time.sleep(seconds)
    server.hdel(f"in:{tenant}", self.request.id)
    return node


def _lives(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@operation(pool="code", bind=True, rate="50/s", burst=5)
def slow_down(self: Any) -> float:
    """Return when it has started, by the server's clock."""
    return float(self.app.pooltasks.clock.now())
