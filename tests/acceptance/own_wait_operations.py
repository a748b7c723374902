"""Operations of a pool without limits, so that its workers may wait at the server themselves."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from typing import Any

from celery.exceptions import Reject

from pooltasks import operation
from pooltasks.broker.client import redis_client


@operation(pool="code", bind=True, timeout=60)
def note(self: Any, mark: str, seconds: float = 0.001) -> str:
    """Count that this starts, and take some time."""
    redis_client(self.app).hincrby("starts", mark, 1)
    time.sleep(seconds)
    return mark


@operation(pool="code", bind=True, idempotent=False)
def note_once(self: Any, mark: str) -> str:
    redis_client(self.app).hincrby("starts", mark, 1)
    return mark


@operation(pool="code", timeout=0.3)
def sleep(seconds: float) -> None:
    time.sleep(seconds)


@operation(pool="code")
def fail(message: str) -> None:
    raise ValueError(message)


@operation(pool="code", bind=True, retry={"connection": 3})
def fail_until(self: Any, key: str, attempts: int) -> int:
    begun: int = redis_client(self.app).incr(key)
    if begun < attempts:
        raise ConnectionError("not yet")
    return begun


@operation(pool="code")
def reject(reason: str) -> None:
    raise Reject(reason, requeue=False)


@operation(pool="code", bind=True)
def hang(self: Any, mark: str) -> None:
    """Wait in C code that keeps the interpreter; nothing but a hard limit ends it."""
    redis_client(self.app).hincrby("starts", mark, 1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ctypes.PyDLL(None).sleep(3600)


@operation(pool="code", bind=True)
def die(self: Any, mark: str, times: int) -> int:
    """Kill this worker at the first deliveries."""
    deliveries: int = redis_client(self.app).hincrby("starts", mark, 1)
    if deliveries <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return deliveries
