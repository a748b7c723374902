"""Frames: what a node writes to the pipe of a worker."""

from __future__ import annotations

import pickle
import struct
from typing import Any

JOBS = 66
"""Message to a worker: operations to run, in their order."""
LOAN = 71
"""Message to a worker: the terms of a loan (:mod:`pooltasks.broker.loan`)."""


def frame(kind: int, content: Any) -> memoryview:
    """Return a message as billiard reads it: its length in four bytes, and a pickle."""
    payload = pickle.dumps((kind, content), pickle.HIGHEST_PROTOCOL)
    return memoryview(struct.pack("!i", len(payload)) + payload)
