"""Turn: what a worker has got to, in memory that it shares with its node.

A worker says here what it begins and in which of its slots, so that no message is
needed for it; a node takes back here what it has written to a worker that is
slower than expected.
"""

from __future__ import annotations

import mmap
import time

_LAST = 0
_RECALLED = 1
_SLOTS = 2

# Of each slot.
_NUMBER = 0
_STARTED = 1
_TARGET = 2
_WORDS = 3


class Turn:
    """A worker's place among what was written to it; numbers count up from 1.

    Each word has one writer: the node what it takes back and what is to be
    interrupted, the worker the others, and of those the last number its main
    thread only.

    Args:
        slots: How many operations the worker runs at once.
    """

    def __init__(self, slots: int = 1) -> None:
        self._memory = mmap.mmap(-1, (_SLOTS + slots * _WORDS) * 8)
        self._words = memoryview(self._memory).cast("q")
        self._places = range(_SLOTS, _SLOTS + slots * _WORDS, _WORDS)

    def begin(self, number: int, slot: int = 0) -> bool:
        """Begin operation ``number``; return False if the node has taken it back.

        The number is stored before the node's word is read. A node that stores
        its word and reads the number later, by more than the nanoseconds that a
        processor holds a store back, so knows: what has a higher number will
        not be run.
        """
        words = self._words
        words[_LAST] = number
        if number <= words[_RECALLED]:
            return False
        place = _SLOTS + slot * _WORDS
        words[place] = number
        words[place + _STARTED] = time.monotonic_ns()
        return True

    def end(self, slot: int = 0) -> None:
        """The operation in ``slot`` is done."""
        self._words[_SLOTS + slot * _WORDS + _STARTED] = 0

    def targets(self) -> dict[int, int]:
        """Return which operations are to be interrupted, by their slots, of those that run now."""
        words = self._words
        return {
            slot: words[place]
            for slot, place in enumerate(self._places)
            if words[place + _STARTED] and words[place + _TARGET] == words[place]
        }

    def last(self) -> int:
        """Return the number that was begun, or left out, last."""
        return self._words[_LAST]

    def running(self) -> dict[int, float]:
        """Return the numbers of what runs now, and since when in monotonic seconds."""
        words = self._words
        found = {}
        for place in self._places:
            number, started = words[place], words[place + _STARTED]
            if started and words[place] == number:
                found[number] = started / 1e9
        return found

    def slot_of(self, number: int) -> int | None:
        """Return the slot in which operation ``number`` runs now; None if it does not."""
        words = self._words
        for slot, place in enumerate(self._places):
            if words[place] == number and words[place + _STARTED]:
                return slot
        return None

    def recall(self, number: int) -> None:
        """Take back everything up to ``number`` that has not begun."""
        self._words[_RECALLED] = number

    def recalled(self) -> int:
        """Return up to which number everything that had not begun was taken back."""
        return self._words[_RECALLED]

    def interrupt(self, number: int) -> None:
        """Make ``number`` an operation that the next signal of a soft limit is for."""
        slot = self.slot_of(number)
        if slot is not None:
            self._words[_SLOTS + slot * _WORDS + _TARGET] = number
