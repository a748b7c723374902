"""Slots: the threads of a worker that runs several operations at once.

The main thread reads what the node writes and hands it out; a thread is started
when its slot is needed for the first time. An operation that is a coroutine runs on
the event loop, and its slot's thread waits for it.
"""

from __future__ import annotations

import ctypes
import os
import threading
from queue import LifoQueue, SimpleQueue
from typing import TYPE_CHECKING, Any

from billiard.common import terminate_handler_fired
from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.log import get_logger

from pooltasks import coroutines

if TYPE_CHECKING:
    from collections.abc import Callable

    from pooltasks.node.worker.outcome import Run

logger = get_logger(__name__)


class Slots:
    """The slots of this process, the worker; used by its main thread.

    Args:
        count: How many.
        operate: Runs an operation: takes its slot, then the arguments of :meth:`start`.
        too_late: Returns the end of an operation that was interrupted outside of
            the code that handles errors.
    """

    def __init__(
        self,
        count: int,
        operate: Callable[..., Any],
        too_late: Callable[[BaseException], Run],
    ) -> None:
        self._slots = [_Slot(place, operate, too_late) for place in range(count)]
        # The one used last goes first: few threads while little runs.
        self._free: LifoQueue[int] = LifoQueue()
        for place in reversed(range(count)):
            self._free.put(place)

    def take(self) -> int:
        """Return a free slot.

        The node writes no more operations than there are slots. It may have heard of an end
        a moment before the slot is given back: then that is waited for.
        """
        return self._free.get()

    def give_back(self, place: int) -> None:
        """Make a slot free again; called by its thread."""
        self._free.put(place)

    def start(self, place: int, *task: Any) -> None:
        """Have an operation run in a slot that was taken."""
        slot = self._slots[place]
        if slot.ident is None:
            slot.start()
        slot.tasks.put(task)

    def run(self, place: int, number: int, function: Callable[..., Run], *args: Any) -> Run:
        """Return what ``function`` returns, which may be interrupted; called by the slot's thread.

        Args:
            place: The slot.
            number: Of the operation.
            function: Runs it.
            *args: Its arguments.
        """
        return self._slots[place].interruptible(number, function, *args)

    def interrupt(self, place: int, number: int) -> None:
        """Raise SoftTimeLimitExceeded in the operation ``number``, once, if the slot runs it."""
        self._slots[place].interrupt(number)

    def thread(self, place: int) -> int | None:
        """Return the thread of a slot, as :func:`threading.get_ident` names it."""
        return self._slots[place].ident

    def finish(self) -> None:
        """Return when everything that was started has ended."""
        started = [slot for slot in self._slots if slot.ident is not None]
        for slot in started:
            slot.tasks.put(None)
        for slot in started:
            slot.join()


class _Slot(threading.Thread):
    """One slot and its thread."""

    def __init__(
        self,
        place: int,
        operate: Callable[..., Any],
        too_late: Callable[[BaseException], Run],
    ) -> None:
        super().__init__(name=f"pooltasks-slot-{place}", daemon=True)
        self.tasks: SimpleQueue[Any] = SimpleQueue()
        self._place = place
        self._operate = operate
        self._too_late = too_late
        self._lock = threading.Lock()
        self._number = 0
        """Number of the operation that may be interrupted; 0 if there is none."""

    def run(self) -> None:
        """Run operations until no more come."""
        while (task := self.tasks.get()) is not None:
            try:
                self._operate(self._place, *task)
            except BaseException:  # nobody else would notice: the operation would never end
                if terminate_handler_fired():
                    return  # the process is about to end, and its operations with it
                logger.critical("a slot's thread failed", exc_info=True)
                os._exit(os.EX_SOFTWARE)

    def interruptible(self, number: int, function: Callable[..., Run], *args: Any) -> Run:
        """Return what ``function`` returns; interrupt it if that is asked for meanwhile."""
        try:
            with self._lock:
                self._number = number
            try:
                return function(*args)
            finally:
                # An interrupt that is asked for later comes too late; an earlier
                # one is raised by the time that the lock is held.
                with self._lock:
                    self._number = 0
        except SoftTimeLimitExceeded as error:
            return self._too_late(error)

    def interrupt(self, number: int) -> None:
        """Raise SoftTimeLimitExceeded in this thread, where it next runs Python code.

        A coroutine for which it waits is cancelled instead.
        """
        with self._lock:
            if self._number != number or self.ident is None:
                return
            self._number = 0  # once
            if not coroutines.interrupt(self.ident):
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self.ident), ctypes.py_object(SoftTimeLimitExceeded)
                )
