"""Descendants: the processes that operations start, and how they end with their worker.

Celery's workers are daemons, to which multiprocessing refuses processes of
their own: nobody would end them (celery #1709). Here two things end them.

* A worker leads a process group. Its node kills the group when the worker has
  ended, in whatever way.
* Each forked process asks the kernel to be killed when its worker is gone. So
  it ends also where the node was killed together with the worker.
"""

from __future__ import annotations

import ctypes
import fcntl
import multiprocessing
import os
import signal
import sys
import threading
from contextlib import suppress
from multiprocessing.process import AuthenticationString  # type: ignore[attr-defined]  # typeshed lacks it
from typing import TYPE_CHECKING, Any

from billiard import util

if TYPE_CHECKING:
    from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1
"""The number of the option in ``<linux/prctl.h>``."""
_OF_A_WORKER = (
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
"""Signals that mean something to a worker, and nothing to the processes that it forks."""


def die_with(node_pid: int) -> None:
    """Have the kernel kill this process when the node ends; end now if it has already.

    Celery asks the kernel too, but does not look whether its parent was gone
    before: such a worker would stay for ever.

    Raises:
        OSError: The kernel refuses.
    """
    kernel = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "linux" and kernel.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL):
        raise OSError(ctypes.get_errno(), "the kernel does not tie a worker to its node")
    if os.getppid() != node_pid:
        os._exit(os.EX_UNAVAILABLE)


def lead(*pipes: int) -> None:
    """Let operations of this process, a worker, start processes that end with it.

    Args:
        *pipes: Descriptors of the worker's pipes, which no other process may use.
    """
    os.setpgid(0, 0)
    process: Any = multiprocessing.current_process()
    config = process._config  # noqa: SLF001  the setter refuses a process that runs
    config["daemon"] = False
    # Billiard's own kind of key is no key to multiprocessing, which could spawn nothing.
    config["authkey"] = AuthenticationString(config["authkey"])
    ties = _Ties(pipes)
    os.register_at_fork(
        before=ties.hold_signals, after_in_parent=ties.take_signals, after_in_child=ties.follow
    )


class _Ties:
    """The ties of a process to the worker that forked it; made by the worker."""

    def __init__(self, pipes: Sequence[int]) -> None:
        self._pipes = pipes
        self._reader, self._writer = os.pipe()
        self._is_worker = True
        self._thread = threading.local()

    def hold_signals(self) -> None:
        """Have signals wait: right after the fork, a signal would be the worker's, or lost."""
        self._thread.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_A_WORKER)

    def take_signals(self) -> None:
        """Take the signals that have come meanwhile."""
        signal.pthread_sigmask(signal.SIG_SETMASK, self._thread.mask)

    def follow(self) -> None:
        """Make this process, just forked, one of Python's again that dies with the worker."""
        for number in _OF_A_WORKER:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.take_signals()
        with suppress(OSError):  # its parent has closed all that it inherited, as daemons do
            self._die_with_the_worker()
        if self._is_worker:  # not so where a forked process has forked another
            self._is_worker = False
            self._let_go()
        # Celery's and kombu's connections are the parent's. Billiard's own processes forget
        # them; those of multiprocessing do not know of them.
        util._run_after_forkers()  # noqa: SLF001  as billiard's processes do

    def _die_with_the_worker(self) -> None:
        """Have the kernel kill this process when the pipe has no writer: only the worker is one.

        PR_SET_PDEATHSIG would kill it when the *thread* ends that has started it.
        """
        # Opened anew: the process to signal belongs to the open file, not to its descriptor.
        own = os.open(f"/proc/self/fd/{self._reader}", os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(own, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(own, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(own, fcntl.F_SETFL, os.O_NONBLOCK | os.O_ASYNC)

    def _let_go(self) -> None:
        """Give up the worker's pipes: its node hears nothing of this process."""
        os.close(self._writer)
        # Their numbers stay taken: objects that know them close them some day.
        nothing = os.open(os.devnull, os.O_RDWR)
        for pipe in self._pipes:
            os.dup2(nothing, pipe, inheritable=False)
        os.close(nothing)


def end_descendants(worker_pid: int) -> None:
    """Kill the processes that a worker leaves behind when it ends; called by its node."""
    with suppress(ProcessLookupError, PermissionError):  # there are none; or none is ours
        os.killpg(worker_pid, signal.SIGKILL)
