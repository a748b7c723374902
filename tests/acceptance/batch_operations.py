"""Operations that take a list of calls, for nodes of the acceptance tests."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from typing import Any

from celery.exceptions import Reject, Retry

from pooltasks import operation
from pooltasks.app import app
from pooltasks.broker.client import redis_client


def note(rows: list[Any]) -> None:
    """Note which calls ran together."""
    redis_client(app).rpush("batches", json.dumps(rows))


@operation(pool="code", batch=10, batch_wait=0.3)
def store(row: list[Any], table: list[str]) -> list[Any]:
    """Return the row of each call; some rows do something else."""
    note(row)
    if "kill" in row:
        os.kill(os.getpid(), signal.SIGKILL)
    if "leave" in row:
        sys.exit(3)
    if "raise" in row:
        raise RuntimeError("the database is away")
    if "sleep" in row and redis_client(app).incr("slept") % 2:  # each second time it ends at once
        time.sleep(20)
    outcomes = {
        "bad": ValueError("it is bad"),
        "reject": Reject("no", requeue=False),
        "unjson": object(),
    }
    return [outcomes.get(one, [one, its]) for one, its in zip(row, table, strict=True)]


@operation(pool="code", batch=10, batch_wait=0.1, retry={"python": 2})
def try_again(row: list[str]) -> list[Any]:
    """Succeed at the third attempt of a row."""
    note(row)
    server = redis_client(app)
    return [one if server.incr(f"tries:{one}") > 2 else RuntimeError("not yet") for one in row]


@operation(pool="code", batch=10, batch_wait=0.1)
def ask_again(row: list[str]) -> list[Any]:
    """Ask for another attempt of each row, once."""
    note(row)
    server = redis_client(app)
    return [one if server.incr(f"asked:{one}") > 1 else Retry(when=0) for one in row]


@operation(pool="code", batch=10, batch_wait=0.1, timeout=0.5)
async def wait(seconds: list[float]) -> list[float]:
    """Sleep for the longest time of all calls."""
    note(seconds)
    await asyncio.sleep(max(seconds))
    return seconds


@operation(pool="code", batch=10, batch_wait=0.1, time_limit=1)
def hang(row: list[int]) -> None:
    """Do not end within the hard limit."""
    note(row)
    time.sleep(20)


@operation(pool="code", batch=10, batch_wait=0.1, idempotent=False)
def once(row: list[str]) -> None:
    """End the worker."""
    note(row)
    os.kill(os.getpid(), signal.SIGKILL)


@operation(pool="code", batch=100, batch_wait=1, key="tenant", concurrency=3)
def limited(tenant: list[str], row: list[int]) -> list[int]:
    """Return the rows; no more than three of a tenant run at once."""
    note([f"{its}-{one}" for its, one in zip(tenant, row, strict=True)])
    return row


@operation(pool="code")
def alone(number: int) -> int:
    """An operation as any other."""
    return number
