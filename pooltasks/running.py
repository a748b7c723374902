"""The server of the ``pooltasks up`` in this folder: every command and program here finds it.

``up`` writes ``.pooltasks/up.json`` into its working folder and removes it
when it ends. A file that another user could have written, or whose process is
gone, is not read.
"""

from __future__ import annotations

import json
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

STATE_FILE = Path(".pooltasks/up.json")
_OTHERS_WRITE = 0o022
_STARTED = 19
"""The place of a process's start in /proc/PID/stat behind its name (proc(5))."""


class Running(NamedTuple):
    """A ``pooltasks up`` that runs."""

    pid: int
    redis_url: str
    app: str
    """The Celery application, as after ``celery -A``."""


@contextmanager
def announced(redis_url: str, app: str = "pooltasks") -> Iterator[None]:
    """Say in this folder where the server is, until the end.

    Args:
        redis_url: Its address; only this user can read it.
        app: The Celery application, as after ``celery -A``.
    """
    path = STATE_FILE.absolute()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = {
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "redis_url": redis_url,
        "app": app,
    }
    # Whole, or not at all: others read it at any time.
    part = path.with_suffix(f".{os.getpid()}")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(state, file)
    part.replace(path)
    try:
        yield
    finally:
        found = running()
        if found is None or found.pid == os.getpid():
            path.unlink(missing_ok=True)


def running() -> Running | None:
    """Return the ``pooltasks up`` that runs in this folder; None if none does."""
    with suppress(OSError, ValueError, KeyError, TypeError):  # there is none, or it is no such file
        status = STATE_FILE.stat()
        if status.st_uid != os.geteuid() or status.st_mode & _OTHERS_WRITE:
            return None
        state = json.loads(STATE_FILE.read_text("utf-8"))
        pid = int(state["pid"])
        if _started(pid) == state["started"]:
            return Running(pid, str(state["redis_url"]), str(state["app"]))
    return None


def _started(pid: int) -> int:
    """Return when a process was started, in ticks since the host was; ids are used again.

    Raises:
        OSError: There is no such process.
    """
    text = Path(f"/proc/{pid}/stat").read_text("utf-8")
    return int(text.rpartition(")")[2].split()[_STARTED])
