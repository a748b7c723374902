"""The operation that the scenarios send, in a module of its own: workers load nothing else."""

from __future__ import annotations

import time

from pooltasks import operation


@operation(pool="bench")
def sleep(seconds: float) -> None:
    """Wait, as for another service.

    Args:
        seconds: How long.
    """
    time.sleep(seconds)
