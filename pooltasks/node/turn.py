"""Turn: which operation a worker has got to, in memory that it shares with its node.

A worker says here what it begins, so that no message is needed for it; a node
takes back here what it has written to a worker that is slower than expected.
"""

from __future__ import annotations

import mmap
import time

_NUMBER = 0
_STARTED = 1
_RECALLED = 2
_TARGET = 3
_WORDS = 4


class Turn:
    """A worker's place among what was written to it; numbers count up from 1.

    Each word has one writer: the worker the first two, the node the others.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _WORDS * 8)
        self._words = memoryview(self._memory).cast("q")

    def begin(self, number: int) -> bool:
        """Begin operation ``number``; return False if the node has taken it back.

        The number is stored before the node's word is read. A node that stores
        its word and reads the number later, by more than the nanoseconds that a
        processor holds a store back, so knows: what has a higher number will
        not be run.
        """
        words = self._words
        words[_NUMBER] = number
        if number <= words[_RECALLED]:
            return False
        words[_STARTED] = time.monotonic_ns()
        return True

    def end(self) -> None:
        """The operation is done."""
        self._words[_STARTED] = 0

    def is_target(self) -> bool:
        """Return whether the operation that runs now is the one to be interrupted."""
        words = self._words
        return bool(words[_STARTED]) and words[_TARGET] == words[_NUMBER]

    def now(self) -> tuple[int, float | None]:
        """Return the number that was begun last, and when in monotonic seconds if it still runs."""
        words = self._words
        number, started = words[_NUMBER], words[_STARTED]
        return number, started / 1e9 if started and words[_NUMBER] == number else None

    def recall(self, number: int) -> None:
        """Take back everything up to ``number`` that has not begun."""
        self._words[_RECALLED] = number

    def recalled(self) -> int:
        """Return up to which number everything that had not begun was taken back."""
        return self._words[_RECALLED]

    def interrupt(self, number: int) -> None:
        """Make ``number`` the operation that the next signal of a soft limit is for."""
        self._words[_TARGET] = number
