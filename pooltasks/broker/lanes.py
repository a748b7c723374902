"""Lanes: the keys under which the server remembers the last accepted chunk of a submission.

The chunks of a lane have rising numbers, and the server accepts each number
once. A submission takes a lane that nobody uses and gives it back, so that a
process leaves as many keys as it ever submitted at the same time.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from uuid import uuid4

from pooltasks import keys
from pooltasks.broker.client import key_prefix

if TYPE_CHECKING:
    from celery import Celery


class Lane:
    """The chunks that are submitted one after the other to one queue.

    Args:
        key: The key of the lane, with the deployment's prefix.
    """

    def __init__(self, key: str) -> None:
        self.key = key.encode()
        self.pid = os.getpid()
        self._sent = 0

    def next_number(self) -> int:
        """Return the number of the next chunk."""
        self._sent += 1
        return self._sent


class Lanes:
    """The lanes of one application.

    Args:
        app: The application.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._free: dict[str, list[Lane]] = {}

    def take(self, queue: str) -> Lane:
        """Return a lane to ``queue`` that nobody else uses."""
        free = self._free.get(queue, [])
        while free:
            try:
                lane = free.pop()
            except IndexError:  # another thread took it
                break
            if lane.pid == os.getpid():
                return lane
            # The parent of this process goes on with this lane.
        # The hash tag is the key of the queue, so that a server cluster holds both in one slot.
        prefix = key_prefix(self._app)
        return Lane(prefix + keys.submission(prefix + queue, uuid4().hex))

    def give_back(self, queue: str, lane: Lane) -> None:
        """Let others use a lane again; each of its chunks was accepted or never sent."""
        self._free.setdefault(queue, []).append(lane)
