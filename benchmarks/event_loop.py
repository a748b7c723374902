"""An event loop with a thousand requests in flight, of which each awaits an operation.

Their endpoint is FastAPI's, called as its server would call it; there is no socket in between.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from kombu.exceptions import OperationalError

from benchmarks.measure import BrokenRoundError
from benchmarks.nodes import configure, serving
from benchmarks.telemetry import Figure
from pooltasks import Pool, operation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_POOL: Final = "loop"
_LEAD: Final = 2.0  # seconds of the load before those that count
_TIMEOUT: Final = 60.0
_BETWEEN_PINGS: Final = 0.002
_RAMP: Final = 25  # requests that arrive in one turn of the loop
_SILENCE_ENDS: Final = 6.0  # seconds, the limit of a request at a silent server
_RATE, _LONGEST_BLOCK = 2000.0, 20.0
_PROCESSOR_TIME: Final = 1000 / _RATE  # milliseconds a request, of the one that the loop has


@operation(pool=_POOL)
def double(number: int) -> int:
    """Return what shows that the answer is that of the question."""
    return 2 * number


web = FastAPI()


@web.get("/double/{number}")
async def endpoint(number: int) -> int:
    """Wait for an operation on the loop."""
    value: int = await (await double.adelay(number))
    return value


@web.get("/ping")
async def ping() -> str:
    """Answer at once."""
    return "pong"


@web.exception_handler(OperationalError)
async def unavailable(_: Any, error: Exception) -> JSONResponse:
    """Answer for a server that is away."""
    return JSONResponse(str(error), 503)


async def _get(path: str) -> tuple[int, bytes]:
    """Return the status and the body of the answer to a request."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"shop")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    status, body = 0, b""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status, body
        status = message.get("status", status)
        body += message.get("body", b"")

    await web(scope, receive, send)  # type: ignore[arg-type]
    return status, body


class Collector:
    """Notes how long Python's garbage collector has the loop stand still."""

    def __init__(self) -> None:
        self.seconds = 0.0
        """Of this thread on a processor, in all."""
        self.longest = 0.0
        self._begun = 0.0
        gc.callbacks.append(self._note)

    def close(self) -> None:
        """Note no more."""
        gc.callbacks.remove(self._note)

    def _note(self, phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            self._begun = time.thread_time()
        else:
            seconds = time.thread_time() - self._begun
            self.seconds += seconds
            self.longest = max(self.longest, seconds)


class Pings:
    """Asks ``/ping`` all the time, and notes the longest time until an answer.

    Args:
        collector: Whose pauses are left out of ``busy``.
    """

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self.seconds: list[float] = []
        self.busy: list[float] = []
        """Seconds of them in which the loop itself had a processor; others took the rest."""

    async def run(self) -> None:
        """Ask until this is cancelled."""
        while True:
            due, busy = time.perf_counter() + _BETWEEN_PINGS, self._busy()
            await asyncio.sleep(_BETWEEN_PINGS)
            await _get("/ping")
            self.seconds.append(time.perf_counter() - due)
            self.busy.append(self._busy() - busy)

    def _busy(self) -> float:
        return time.thread_time() - self._collector.seconds

    def forget(self) -> None:
        """Begin anew."""
        self.seconds.clear()
        self.busy.clear()


class Load:
    """Keeps requests in flight; a new one follows each that has been answered.

    Args:
        requests: How many.
    """

    def __init__(self, requests: int) -> None:
        self._requests = requests
        self.answered = 0
        self.refused: list[float] = []
        """Seconds until the answer of each that a silent server made fail."""
        self.wrong: list[str] = []
        self._goes_on = True

    async def run(self) -> None:
        """Send them until :meth:`end`."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._requests):
                if number % _RAMP == 0:
                    await asyncio.sleep(_BETWEEN_PINGS)
                group.create_task(self._one_after_the_other(number))

    def end(self) -> None:
        """Send no more; :meth:`run` returns as soon as all have been answered."""
        self._goes_on = False

    async def _one_after_the_other(self, number: int) -> None:
        while self._goes_on:
            begun = time.perf_counter()
            status, body = await _get(f"/double/{number}")
            if status == 503:  # noqa: PLR2004  HTTP's
                self.refused.append(time.perf_counter() - begun)
            elif (status, body) == (200, str(2 * number).encode()):
                self.answered += 1
            else:
                self.wrong.append(f"{status} {body!r}")
            number += self._requests


def measure(
    url: str, server: int, folder: Path, *, seconds: float, requests: int, workers: int
) -> list[Figure]:
    """Return the figures of one loop.

    Args:
        url: Of an empty server.
        server: Its process; it is stopped at the end, as a server that hangs.
        folder: For configuration and log.
        seconds: That count; the load begins before.
        requests: In flight at any moment.
        workers: Of the one node.

    Raises:
        BrokenRoundError: The node did not become warm or ended, or an answer was wrong.
    """
    configure(_configuration(workers), url, folder)
    with serving(_POOL, folder=folder):
        _wait_until_warm(workers)
        return asyncio.run(_figures(server, seconds, requests))


async def _figures(server: int, seconds: float, requests: int) -> list[Figure]:
    threads = threading.active_count()
    gc.freeze()  # as a server does when it has started
    collector = Collector()
    load, pings = Load(requests), Pings(collector)
    pinging = asyncio.create_task(pings.run())
    loading = asyncio.create_task(load.run())
    await asyncio.sleep(_LEAD)
    rate, busy = await _counted(load, pings, seconds)
    figures = [
        Figure("operations, from request to answer", rate, "/s", _RATE, is_least=True),
        Figure("processor time of the loop, a request", 1000 * busy, "ms", _PROCESSOR_TIME),
        *_pinged(pings, "under load"),
        Figure(
            "longest pause of the garbage collector", 1000 * collector.longest, "ms", _LONGEST_BLOCK
        ),
    ]
    gc.disable()
    rate, _ = await _counted(load, pings, seconds)
    figures += [
        Figure("operations, without the collector", rate, "/s", _RATE, is_least=True),
        *_pinged(pings, "without the collector"),
        Figure("threads made", threading.active_count() - threads, "", 0),
    ]
    async with _hangs(server):
        pings.forget()
        load.end()
        stopped = time.perf_counter()
        await asyncio.wait([loading], timeout=_SILENCE_ENDS + 1)
        unanswered = 0 if loading.done() else requests - len(load.refused)
        figures += [
            Figure("requests without an answer of a silent server", unanswered, "", 0),
            Figure("last error after", time.perf_counter() - stopped, "s", _SILENCE_ENDS),
            *_pinged(pings, "at a silent server, without it"),
        ]
    gc.enable()
    pinging.cancel()
    loading.cancel()
    await asyncio.wait([pinging, loading])
    collector.close()
    if load.wrong:
        raise BrokenRoundError(f"{len(load.wrong)} answers were wrong: {load.wrong[0]}")
    return figures


async def _counted(load: Load, pings: Pings, seconds: float) -> tuple[float, float]:
    """Return the answers a second, and the seconds of processor time for each."""
    pings.forget()
    before, begun, busy = load.answered, time.perf_counter(), time.thread_time()
    await asyncio.sleep(seconds)
    answered, passed = load.answered - before, time.perf_counter() - begun
    return answered / passed, (time.thread_time() - busy) / max(1, answered)


def _pinged(pings: Pings, when: str) -> list[Figure]:
    return [
        Figure(f"slowest /ping {when}", 1000 * max(pings.seconds), "ms", _LONGEST_BLOCK),
        Figure(
            "… of it the loop itself, on a processor", 1000 * max(pings.busy), "ms", _LONGEST_BLOCK
        ),
    ]


@asynccontextmanager
async def _hangs(server: int) -> AsyncIterator[None]:
    """Stop the server's process: it takes connections and answers nothing."""
    os.kill(server, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server, signal.SIGCONT)


def _configuration(workers: int) -> str:
    return f"""
[pools.{_POOL}]
imports = ["benchmarks.event_loop"]
pool_size = {workers}
min_pool_size = {workers}
max_pool_size = {workers}
enable_optimizer = false
"""


def _wait_until_warm(workers: int) -> None:
    deadline = time.monotonic() + _TIMEOUT
    while Pool(_POOL).metrics(1.0).load.warm != workers:
        if time.monotonic() > deadline:
            raise BrokenRoundError(f"{workers} workers were not warm within {_TIMEOUT:g} s")
        time.sleep(0.1)  # between looks
