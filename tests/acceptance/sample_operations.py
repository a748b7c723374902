"""Operations that the acceptance tests run in real workers."""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import pdb  # noqa: T100  one operation is run in it
import signal
import sys
import time
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery import current_task
from celery.exceptions import Ignore, Reject
from celery.result import allow_join_result

from pooltasks import operation, telemetry
from pooltasks.broker.client import redis_client

if TYPE_CHECKING:
    from collections.abc import Mapping

_this_worker: dict[str, Any] = {}


@operation(pool="code", bind=True)
def warm(self, seconds: float = 0.0, unless: str | None = None) -> None:
    """Warm up this worker; fail unless the key ``unless`` exists."""
    redis_client(self.app).incr("warm-ups")
    time.sleep(seconds)
    if unless is not None and not redis_client(self.app).exists(unless):
        raise RuntimeError("the warm-up is told to fail")
    _this_worker["warm_pid"] = os.getpid()


@operation(pool="code", bind=True)
def hang_in_warm_up_once(self) -> None:
    """Hang in the first worker that warms up."""
    if redis_client(self.app).incr("hangs") == 1:
        time.sleep(3600)
    _this_worker["warm_pid"] = os.getpid()


@operation(pool="code", timeout=0.3)
def stop_in_a_debugger(commands: str) -> str:
    """Have a debugger stop here, which reads its commands from a file."""
    with Path(commands).open() as stdin, Path(os.devnull).open("w") as stdout:
        pdb.Pdb(stdin=stdin, stdout=stdout, nosigint=True).set_trace()
        return "went on"


@operation(pool="code", bind=True, timeout=30)
def hang_once(self, key: str) -> int:
    """At the first delivery, wait in C code that keeps the interpreter; nothing can end it."""
    deliveries = redis_client(self.app).incr(key)
    if deliveries == 1:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ctypes.PyDLL(None).sleep(3600)
    return deliveries


@operation(pool="code", bind=True, timeout=60)
def compute(self, key: str, seconds: float, *, in_c: bool) -> int:
    """Compute, in C code that keeps the interpreter or in Python; return how often it started."""
    deliveries = redis_client(self.app).incr(key)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(repeat(1, 10**8 if in_c else 10**3))
    return deliveries


@operation(pool="code")
def keep_in_memory(megabytes: int) -> int:
    _this_worker["ballast"] = b"x" * megabytes * 1024 * 1024
    return os.getpid()


@operation(pool="code")
def die_of(number: int) -> None:
    os.kill(os.getpid(), number)


@operation(pool="code")
def probe() -> dict[str, Any]:
    """Tell who runs this, and whether it is warm."""
    return {"pid": os.getpid(), "warm": _this_worker.get("warm_pid") == os.getpid()}


@operation(pool="code")
def echo(value: Any = None) -> Any:
    return value


@operation(pool="code", bind=True)
def ask(self, value: Any) -> tuple[Any, int, int]:
    """Return what another operation answers, and which backend of which process it waited at."""
    with allow_join_result():
        answer = echo.delay(value).get(timeout=60)
    return answer, os.getpid(), id(self.backend)


@operation(pool="code")
def say(message: str) -> None:
    logging.getLogger("shop").warning(message, extra={"order": 7})


@operation(pool="code")
def add(*terms: int) -> int:
    return sum(terms[0]) if terms and isinstance(terms[0], list) else sum(terms)


@operation(pool="code")
def fail(message: str = "as it was told") -> None:
    raise ValueError(message)


@operation(pool="code")
def ignore() -> None:
    raise Ignore


@operation(pool="code")
def unserialisable() -> object:
    return object()


@operation(pool="code")
def large(size: int) -> str:
    return "x" * size


@operation(pool="code", timeout=0.3)
def sleep(seconds: float) -> None:
    time.sleep(seconds)


@operation(pool="code", timeout=0.3)
def look_for_ever() -> None:
    while True:
        time.sleep(0.01)


@operation(pool="code", timeout=0.3)
def ignore_the_soft_limit() -> None:
    started = time.monotonic()
    while time.monotonic() - started < 60:
        try:
            time.sleep(60)
        except BaseException:  # noqa: BLE001, S112  that is what it is for
            continue


@operation(pool="code", timeout=30)
def occupy(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


@operation(pool="code", bind=True)
def tell_the_time(self, seconds: float) -> dict[str, Any]:
    """Tell when this began: by this host's clock, and by the server's, between two bounds."""
    asked = time.perf_counter()
    whole, micro = redis_client(self.app).time()
    answered = time.perf_counter()
    server = whole + micro / 1e6
    began = self.request.run_started
    host = time.time()
    while time.perf_counter() < answered + seconds:
        pass  # libfaketime breaks time.sleep()
    return {
        "host": host,
        "server": server,
        "began": (server - (answered - began), server - (asked - began)),
        "node": os.getppid(),
    }


@operation(pool="code", bind=True)
def kill_the_node(self, key: str) -> None:
    """Kill the node that runs this, whenever it runs."""
    redis_client(self.app).incr(key)
    os.kill(os.getppid(), 9)
    time.sleep(60)


@operation(pool="code", bind=True)
def die_once(self, key: str) -> int:
    """Kill this worker at the first delivery."""
    deliveries = redis_client(self.app).incr(key)
    if deliveries == 1:
        os.kill(os.getpid(), 9)
    return deliveries


@operation(pool="code", bind=True, idempotent=False)
def die_once_not_idempotent(self, key: str) -> int:
    deliveries = redis_client(self.app).incr(key)
    if deliveries == 1:
        os.kill(os.getpid(), 9)
    return deliveries


@operation(pool="code", bind=True, timeout=1, checkout_timeout=1)
def try_again_later(self: Any, countdown: float) -> int:
    """Fail once, and return the number of the attempt that did not."""
    if not self.request.retries:
        raise self.retry(countdown=countdown)
    return int(self.request.retries)


@operation(pool="code", bind=True, unique="order", key="tenant", concurrency=1)
def try_again_under_limits(self: Any, order: int, tenant: str) -> list[Any]:
    """Fail once, while another call like this one is sent; return whether that was one too many."""
    if not self.request.retries:
        raise self.retry(countdown=0.1)
    again = try_again_under_limits.delay(order, tenant)
    return [tenant, again.id == self.request.id]


@operation(pool="code", bind=True, retry={"connection": 3})
def fail_until(self, key: str, attempts: int) -> int:
    """Lose a connection until it was tried ``attempts`` times."""
    attempt = redis_client(self.app).incr(key)
    if attempt < attempts:
        raise ConnectionError("told to fail")
    return attempt


@operation(pool="code")
def exhaust_memory() -> None:
    raise MemoryError("as it was told")


@operation(pool="code")
def reject(reason: str) -> None:
    raise Reject(reason, requeue=False)


@operation(pool="code", bind=True)
def die_always(self, key: str) -> None:
    redis_client(self.app).incr(key)
    os.kill(os.getpid(), 9)


@operation(pool="code", bind=True)
def mark_and_occupy(self, key: str, seconds: float) -> None:
    """Note when and in which node this runs, and take some time."""
    mark = json.dumps({"at": time.time(), "node": os.getppid()})
    redis_client(self.app).rpush(key, mark)
    time.sleep(seconds)


@operation(pool="code", bind=True)
def die_before_it_is_counted(self, mark: str) -> str:
    """End this worker, the first time, when the success is stored and the chord knows nothing."""
    if redis_client(self.app).incr(mark) == 1:
        self.backend.on_chord_part_return = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    return mark


@operation(pool="code", bind=True)
def note(self, mark: str, seconds: float) -> str:
    """Count that this starts, and take some time."""
    redis_client(self.app).hincrby("starts", mark, 1)
    time.sleep(seconds)
    return mark


@operation(pool="code", bind=True, idempotent=False)
def note_once(self, mark: str, seconds: float) -> str:
    redis_client(self.app).hincrby("starts", mark, 1)
    time.sleep(seconds)
    return mark


@operation(pool="code", bind=True, timeout=30)
async def wait(self, seconds: float) -> list[Any]:
    """Wait on the event loop; return what this knows of itself, there and back."""
    before = [self.request.id, current_task.request.id]
    await asyncio.sleep(seconds)
    return [*before, self.request.id, current_task.request.id]


@operation(pool="code", bind=True)
def hold(self, key: str) -> int:
    """Keep the worker until ``key`` is there; return how often this was begun."""
    client = redis_client(self.app)
    begun = client.incr(f"begun:{self.request.id}")
    while not client.exists(key):
        time.sleep(0.02)
    return begun


@operation(pool="code", bind=True)
async def hold_waiting(self, key: str) -> int:
    """Do the same on the event loop."""
    client = redis_client(self.app)
    begun = client.incr(f"begun:{self.request.id}")
    while not client.exists(key):  # noqa: ASYNC110  another process says when
        await asyncio.sleep(0.02)
    return begun


@operation(pool="code")
async def warm_by_waiting() -> None:
    await asyncio.sleep(0.01)
    _this_worker["warm_pid"] = os.getpid()


@operation(pool="code", timeout=0.3)
async def wait_too_long(cleaning: float) -> None:
    try:
        await asyncio.sleep(60)
    finally:
        await asyncio.sleep(cleaning)


@operation(pool="code", timeout=0.3)
def compute_too_long() -> None:
    while True:
        sum(range(1000))


@operation(pool="code", bind=True, retry={"connection": 3})
async def wait_and_fail_until(self, key: str, attempts: int) -> int:
    """Lose a connection until it was tried ``attempts`` times."""
    await asyncio.sleep(0.01)
    attempt = redis_client(self.app).incr(key)
    if attempt < attempts:
        raise ConnectionError("told to fail")
    return attempt


@operation(pool="code")
async def wait_and_raise(error: str) -> None:
    await asyncio.sleep(0.01)
    raise {"ignore": Ignore, "value": ValueError, "exit": SystemExit}[error]


def _note(event: str, measurements: Mapping[str, Any], metadata: Mapping[str, Any], _: Any) -> None:
    record = {"event": event, "pid": os.getpid(), **measurements, **metadata}
    with (Path("events") / f"{os.getpid()}.jsonl").open("a") as file:
        file.write(json.dumps(record, default=repr) + "\n")


if Path("events").is_dir():
    # A test that wants every single event makes this folder.
    telemetry.attach_many("sample", telemetry.EVENTS, _note)


class UnloadableError(Exception):
    """Pickles, and does not unpickle."""

    def __init__(self, first: str, _second: str) -> None:
        super().__init__(first)


@operation(pool="code")
def reject_unloadable() -> None:
    raise Reject(UnloadableError("of the", "operation"))


@operation(pool="code")
def raise_unloadable() -> None:
    raise UnloadableError("of the", "operation")


@operation(pool="code")
def die_and_leave_a_process() -> None:
    """Start a process that keeps every descriptor of this worker open, and die."""
    if os.fork() == 0:
        time.sleep(10)
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


@operation(pool="code")
def errback(request: Any, error: Any, traceback: Any, key: str = "errbacks") -> None:  # noqa: ARG001
    """Note that it was told, and by whom; then leave, or sleep, as the key says."""
    redis_client(current_task.app).rpush(key, os.getpid())
    if key.endswith("leaves"):
        sys.exit("the errback leaves")
    if key.endswith("sleeps"):
        time.sleep(8)
