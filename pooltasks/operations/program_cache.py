"""Built programs that a worker keeps, so that executing one does not build it again."""

from __future__ import annotations

import functools
import os
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Built = TypeVar("Built")

CAPACITY = 128
"""Programs that a worker keeps; the one used longest ago goes first."""


class ProgramCache(Generic[Built]):
    """The programs used last, one for each program id of each session.

    Threads may share it.

    Args:
        capacity: Programs kept at most, 1 or more.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._lock = threading.Lock()
        self._programs: OrderedDict[tuple[str, str], tuple[str, Built]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._programs)

    def get(
        self, session_id: str, program_id: str, revision: str, build: Callable[[], Built]
    ) -> Built:
        """Return the program of that revision, built now unless it is kept.

        Another revision of the same program is given up for it. An error of
        ``build`` is raised, and nothing is kept.

        Args:
            session_id: The session.
            program_id: The program's name in the session.
            revision: Unique to one definition of the program: a kept program is
                never returned for another definition.
            build: Makes the program. It runs without the lock: a slow one holds
                up no other thread, and two threads may build the same program.
        """
        key = (session_id, program_id)
        with self._lock:
            kept = self._programs.get(key)
            if kept is not None and kept[0] == revision:
                self._programs.move_to_end(key)
                return kept[1]
        program = build()
        with self._lock:
            self._programs[key] = (revision, program)
            self._programs.move_to_end(key)
            while len(self._programs) > self._capacity:
                self._programs.popitem(last=False)
        return program

    def discard(self, session_id: str, program_id: str) -> None:
        """Give up a program, if it is kept."""
        with self._lock:
            self._programs.pop((session_id, program_id), None)

    def discard_session(self, session_id: str) -> None:
        """Give up every program of a session."""
        with self._lock:
            for key in [key for key in self._programs if key[0] == session_id]:
                del self._programs[key]


@functools.cache
def process_cache() -> ProgramCache[Any]:
    """Return this process's cache, empty in a worker that was just forked."""
    return ProgramCache()


# A fork copies the lock as it is: held, if another thread of the parent held it
# at that moment, and then for ever.
os.register_at_fork(after_in_child=process_cache.cache_clear)
