"""Operations about a worker and about a session as a whole."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pooltasks.app import current_pool
from pooltasks.decorator import operation
from pooltasks.operations.program_cache import process_cache
from pooltasks.sessions import name_of, sessions_of

if TYPE_CHECKING:
    from pooltasks.task import Operation


class _ProcessStart:
    """The start of this process on the monotonic clock: its fork, or its import of this module."""

    def __init__(self) -> None:
        self.reset()
        os.register_at_fork(after_in_child=self.reset)

    def reset(self) -> None:
        self.at = time.monotonic()


_PROCESS_START = _ProcessStart()


@operation(name="pooltasks.operations.ping")
def ping() -> dict[str, Any]:
    """Say that a worker answers, and which one.

    Returns:
        ``status`` ("ok"), ``timestamp`` (epoch seconds), ``uptime`` (seconds that
        this worker process lives), ``pid`` and ``pool`` (None outside a node).
    """
    return {
        "status": "ok",
        "timestamp": time.time(),
        "uptime": time.monotonic() - _PROCESS_START.at,
        "pid": os.getpid(),
        "pool": current_pool(),
    }


@operation(name="pooltasks.operations.get_stats", bind=True)
def get_stats(self: Operation, *, session_id: str | None = None) -> dict[str, Any]:
    """Return the numbers of the worker that runs this, and of a session.

    Args:
        self: The task.
        session_id: The session; by default the anonymous one.

    Returns:
        ``pid``, ``pool``, ``uptime`` (seconds), ``programs_cached`` (built programs
        that this worker keeps, of all sessions) and ``session``: the fields of
        :class:`pooltasks.sessions.SessionStatistics`.

    Raises:
        SessionNotFoundError: There is no such session.
    """
    statistics = sessions_of(self.app).stats(name_of(session_id))
    return {
        "pid": os.getpid(),
        "pool": current_pool(),
        "uptime": time.monotonic() - _PROCESS_START.at,
        "programs_cached": len(process_cache()),
        "session": asdict(statistics),
    }


@operation(name="pooltasks.operations.cleanup_session", bind=True)
def cleanup_session(self: Operation, *, session_id: str | None = None) -> dict[str, Any]:
    """Delete a session with its data and programs; one that is gone is no error.

    Args:
        self: The task.
        session_id: The session; by default the anonymous one.

    Returns:
        ``session_id`` and ``deleted``: whether it existed.
    """
    name = name_of(session_id)
    deleted = sessions_of(self.app).delete(name)
    process_cache().discard_session(name)
    return {"session_id": name, "deleted": deleted}
