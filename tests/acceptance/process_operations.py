"""Operations that start processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from celery import current_app

from pooltasks import operation
from pooltasks.broker.client import redis_client

_kept: list[Any] = []
"""Processes that outlive their operation, so that nobody ends them when they are collected."""


def square(number: int) -> int:
    return number * number


def _put_square(queue: Any, number: int) -> None:
    queue.put(square(number))


@operation(pool="code", timeout=60)
def by_process(method: str, number: int) -> int:
    context: Any = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    process = context.Process(target=_put_square, args=(queue, number))
    process.start()
    answer: int = queue.get()
    process.join()
    return answer if process.exitcode == 0 else -1


@operation(pool="code", timeout=60)
def by_executor(method: str, numbers: list[int]) -> list[int]:
    context: Any = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        return list(executor.map(square, numbers))


@operation(pool="code", timeout=60)
def by_pool(method: str, numbers: list[int]) -> list[int]:
    """Load data as libraries do: processes that feed a queue, ended with ``terminate``."""
    with multiprocessing.get_context(method).Pool(2) as pool:
        return list(pool.imap(square, numbers))


@operation(pool="code", timeout=60)
def terminated_child() -> int | None:
    """End a process with SIGTERM; return its exit code."""
    process = multiprocessing.Process(target=time.sleep, args=(3600,))
    process.start()
    process.terminate()
    process.join()
    return process.exitcode


def _publish_and_wait(key: str) -> None:
    client = redis_client(current_app)
    for number in range(20):
        by_nobody.apply_async((number,), queue="pool.other")
        client.incr(key)


@operation(pool="other")
def by_nobody(number: int) -> int:
    return number


@operation(pool="code", timeout=60)
def publish_beside_a_child(key: str) -> int | None:
    """Use the connections that this worker has, here and in a process at the same time."""
    client = redis_client(current_app)
    by_nobody.apply_async((0,), queue="pool.other")
    client.incr(key)
    process = multiprocessing.Process(target=_publish_and_wait, args=(key,))
    process.start()
    _publish_and_wait(key)
    process.join()
    return process.exitcode


def _sleep() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(3600)


@operation(pool="code", timeout=60)
def leave_processes() -> dict[str, Any]:
    """Start processes of several kinds, and leave them; return who they are."""
    process = multiprocessing.Process(target=_sleep)
    # What would end with the thread that started it has ended already.
    thread = threading.Thread(target=process.start)
    thread.start()
    thread.join()
    program = subprocess.Popen(["sleep", "3600"])
    _kept.extend((process, program))
    return {"worker": os.getpid(), "forked": process.pid, "executed": program.pid}


@operation(pool="code", timeout=1)
def leave_processes_and_hang(key: str) -> None:
    """Start the same, and go on until the hard limit ends this worker."""
    found = leave_processes.run()
    client = redis_client(current_app)
    client.hset(key, mapping=found)
    while True:
        try:
            time.sleep(60)
        except BaseException:  # noqa: BLE001, S112  that is what it is for
            continue
