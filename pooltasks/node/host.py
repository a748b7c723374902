"""The limits of a host, and the code that runs there, as ``pooltasks check`` compares them."""

from __future__ import annotations

import os
import platform
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import celery
from celery.worker.control import inspect_command

import pooltasks
from pooltasks.node.workforce.headroom import control_group, number_in

if TYPE_CHECKING:
    from celery import Celery


@inspect_command()
def pool_host(state: Any) -> dict[str, Any]:
    """Return what the node's host allows it, its clock, and the versions that run there."""
    return host_report(state.consumer.app)


def host_report(app: Celery, root: Path = Path("/")) -> dict[str, Any]:
    """Return what this host allows this process.

    Args:
        app: The application.
        root: Where the host's ``proc`` and ``sys`` are.

    Returns:
        ``versions``: of pooltasks, celery and python. ``ahead``: seconds by which the
        host's clock is ahead of the server's; None while that is not known. ``files``,
        ``processes``: how many the process may still open, and start; ``memory``: bytes that
        the control group may use, else the host has; None without a limit.
    """
    clock = app.pooltasks.clock
    group = control_group(root)
    return {
        "versions": {
            "pooltasks": pooltasks.__version__,
            "celery": celery.__version__,
            "python": platform.python_version(),
        },
        "ahead": None if clock.error is None else time.time() - clock.now(),
        "files": _files(root),
        "processes": _processes(group),
        "memory": number_in(f"{group}/memory.max") or _memory(),
    }


def _files(root: Path) -> int | None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    try:
        opened = len(os.listdir(root / "proc" / "self" / "fd"))  # noqa: PTH208  names are enough
    except OSError:  # not on this system
        opened = 0
    return max(0, soft - opened)


def _processes(group: Path) -> int | None:
    most, present = number_in(f"{group}/pids.max"), number_in(f"{group}/pids.current")
    left = None if most is None else max(0, most - (present or 0))
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if os.geteuid() == 0 or soft == resource.RLIM_INFINITY:  # root is not held to it
        return left
    return soft if left is None else min(soft, left)


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
