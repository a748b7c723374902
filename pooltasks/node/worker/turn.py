"""Turn: a worker's progress, in memory that it shares with its node.

A worker notes here the operations that it begins and their slots, which saves a
message for each; a node takes back here operations that it has written to a worker
that is slower than expected.
"""

from __future__ import annotations

import mmap
import time

_LAST = 0
_RECALLED = 1
_SLOTS = 2

# Of each slot.
_NUMBER = 0
_STARTED = 1  # in monotonic nanoseconds; negative: it has ended; 0: the node has been told
_TARGET = 2
_WORDS = 3


class Turn:
    """A worker's place among the operations that were written to it; numbers count up from 1.

    Each word has one writer: the node writes the number up to which it takes back and
    the operations to interrupt, the worker the others; of these, only its main thread
    writes the last number.

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
        its word, and reads the number later than a processor holds a store back
        (nanoseconds), knows that operations with a higher number will not run.
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
        """The operation in ``slot`` has ended: nothing interrupts it any more."""
        place = _SLOTS + slot * _WORDS + _STARTED
        self._words[place] = -self._words[place]

    def told(self, slot: int = 0) -> None:
        """The node has been sent the end of the operation in ``slot``."""
        self._words[_SLOTS + slot * _WORDS + _STARTED] = 0

    def targets(self) -> dict[int, int]:
        """Return the running operations that are to be interrupted, by their slots."""
        words = self._words
        return {
            slot: words[place]
            for slot, place in enumerate(self._places)
            if words[place + _STARTED] > 0 and words[place + _TARGET] == words[place]
        }

    def leave_out(self, number: int) -> None:
        """Begin no operation up to ``number`` any more."""
        self._words[_LAST] = number

    def last(self) -> int:
        """Return the number that was begun, or left out, last."""
        return self._words[_LAST]

    def running(self) -> dict[int, float]:
        """Return the operations that have begun, and since when, in monotonic seconds.

        An operation counts until its end was sent to the node: if its worker dies before, it ran.
        """
        words = self._words
        found = {}
        for place in self._places:
            number, started = words[place], words[place + _STARTED]
            if started and words[place] == number:
                found[number] = abs(started) / 1e9
        return found

    def slot_of(self, number: int) -> int | None:
        """Return the slot in which operation ``number`` runs now; None if it does not."""
        words = self._words
        for slot, place in enumerate(self._places):
            if words[place] == number and words[place + _STARTED] > 0:
                return slot
        return None

    def recall(self, number: int) -> None:
        """Take back the operations up to ``number`` that have not begun."""
        self._words[_RECALLED] = number

    def recalled(self) -> int:
        """Return the number up to which operations that had not begun were taken back."""
        return self._words[_RECALLED]

    def interrupt(self, number: int) -> None:
        """Make ``number`` an operation that the next signal of a soft limit is for."""
        slot = self.slot_of(number)
        if slot is not None:
            self._words[_SLOTS + slot * _WORDS + _TARGET] = number
