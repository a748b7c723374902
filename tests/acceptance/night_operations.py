"""Operations of a pool that has a bad night."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

from pooltasks import operation
from pooltasks.broker.client import redis_client


@operation(pool="shop", bind=True)
def load(self: Any) -> None:
    """Warm a worker up; needs what a deployment forgot to bring."""
    server = redis_client(self.app)
    if not server.exists("model"):
        server.set("missed", time.time(), nx=True)
        raise FileNotFoundError("model.bin")


@operation(pool="shop")
def pay(order: int) -> None:
    """Fail as a bank does."""
    raise RuntimeError(f"the bank refuses order {order}")


@operation(pool="shop")
def parse() -> None:
    """End the worker, as a message that nobody can digest."""
    os.kill(os.getpid(), signal.SIGKILL)


@operation(pool="shop", key="tenant", concurrency=100)
def serve(tenant: str, seconds: float = 0.0) -> str:
    """Serve a tenant."""
    time.sleep(seconds)
    return tenant


@operation(pool="shop", timeout=60)
def compute(seconds: float) -> None:
    """Keep a processor busy."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
