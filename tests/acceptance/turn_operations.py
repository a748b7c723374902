"""Operations whose keys take turns, for nodes of the acceptance tests."""

from __future__ import annotations

import time
from typing import Any

from pooltasks import operation
from pooltasks.broker.client import redis_client


@operation(pool="turns", bind=True, key="tenant", fair=True, retry={"python": 1})
def take_turns(self: Any, tenant: str, number: int = 0) -> int:
    """Note the start; fail once if the tenant is clumsy."""
    redis_client(self.app).rpush("starts", tenant)
    time.sleep(0.02)
    if tenant == "clumsy" and not self.request.retries:
        raise RuntimeError("not yet")
    return number


@operation(pool="turns", bind=True, key="tenant", fair=True)
async def take_turns_waiting(self: Any, tenant: str) -> str:
    """Note the start, from a coroutine."""
    redis_client(self.app).rpush("starts", tenant)
    return tenant
