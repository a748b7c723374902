"""Coroutines: the event loop of this process, on which operations that are ``async def`` run.

The loop runs in a thread of its own from the first coroutine on, and goes on
between them: sessions and pools of connections that a library opens on it stay
open. The thread that runs an operation waits for its coroutine, as it would run
a function: Celery's signals, results, retries and telemetry are the same for both.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from celery._state import _task_stack
from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.threads import get_ident

if TYPE_CHECKING:
    from celery import Task


class _Call:
    """A coroutine on the loop, and the thread that waits for its end."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False
        self._ended = threading.Lock()
        self._ended.acquire()
        self.thread = threading.get_ident()
        self.owner: Any = get_ident()
        """Celery's identity of that thread; None once the coroutine has ended."""

    def begin(self) -> None:
        """Run the coroutine; called on the loop, in a copy of the caller's context."""
        self._task = asyncio.get_running_loop().create_task(self._coroutine)
        self._task.add_done_callback(self._end)
        if self._cancelled:
            self._task.cancel()

    def _end(self, _: Any) -> None:
        self._ended.release()

    def cancel(self) -> None:
        """Have asyncio raise CancelledError in the coroutine; called on the loop."""
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()

    def wait(self) -> None:
        """Return when the coroutine has ended."""
        self._ended.acquire()

    def result(self) -> Any:
        """Return the coroutine's value, or raise its error.

        Raises:
            SoftTimeLimitExceeded: It was interrupted and did not handle that.
            concurrent.futures.CancelledError: It cancelled itself.
        """
        assert self._task is not None  # noqa: S101  for the type checker: it has ended
        try:
            return self._task.result()
        except asyncio.CancelledError as error:
            if self._cancelled:
                raise SoftTimeLimitExceeded from error
            # asyncio's error is no Exception: it would pass all code that handles errors.
            raise concurrent.futures.CancelledError from error


class _Loop(threading.Thread):
    """The thread of the event loop."""

    def __init__(self) -> None:
        super().__init__(name="pooltasks-coroutines", daemon=True)
        self.loop = asyncio.new_event_loop()

    def run(self) -> None:
        """Run the loop for as long as there is this process."""
        while True:
            try:
                self.loop.run_forever()
            except (SystemExit, KeyboardInterrupt):
                # Raised by a coroutine; its caller gets it. asyncio leaves the loop as well.
                continue


_loop: _Loop | None = None
_calls: dict[int, _Call] = {}
"""The call that each thread waits for."""
_start = threading.Lock()
_present: ContextVar[_Call | None] = ContextVar("pooltasks_call", default=None)


def _forget() -> None:
    # The loop's thread does not survive a fork.
    global _loop, _start
    _loop, _start = None, threading.Lock()
    _calls.clear()


os.register_at_fork(after_in_child=_forget)


def _running() -> _Loop:
    global _loop  # noqa: PLW0603  the loop belongs to the process
    with _start:
        if _loop is None:
            _loop = _Loop()
            _loop.start()
        return _loop


def _owner() -> Any:
    """Return the owner of the present stacks of tasks and requests, as Celery knows it."""
    call = _present.get()
    return get_ident() if call is None or call.owner is None else call.owner


def run(task: Task, value: Any) -> Any:
    """Return ``value``; if it is a coroutine, run it on the loop and return its result.

    It runs in a copy of the caller's context. ``task.request`` and Celery's
    ``current_task`` are there the same as for the caller: Celery keeps both by
    thread, and asks a function which thread that is. So they are right in tasks
    that the coroutine starts, too.

    Args:
        task: The task of the coroutine.
        value: The value that the task's function returned.

    Raises:
        SoftTimeLimitExceeded: It was interrupted.
        RuntimeError: This is the loop's own thread, which cannot wait for itself.
    """
    if not isinstance(value, Coroutine):
        return value
    running = _running()
    loop = running.loop
    if running.ident == threading.get_ident():
        value.close()
        raise RuntimeError(
            f"{task.name} is applied on the event loop that is to run it: await {task.name}(…)."
        )
    call = _Call(value)
    for stack in (_task_stack, task.request_stack):
        stack.__ident_func__ = _owner
    token = _present.set(call)
    _calls[call.thread] = call
    try:
        loop.call_soon_threadsafe(call.begin)
        try:
            call.wait()
        except BaseException:
            # This process is told to end: the coroutine may clean up, as a function would.
            loop.call_soon_threadsafe(call.cancel)
            call.wait()
            raise
    finally:
        del _calls[call.thread]
        call.owner = None
        _present.reset(token)
    return call.result()


def interrupt(thread: int) -> bool:
    """Cancel the coroutine for which ``thread`` waits; return False if it waits for none."""
    call = _calls.get(thread)
    if call is None or _loop is None:
        return False
    _loop.loop.call_soon_threadsafe(call.cancel)
    return True
