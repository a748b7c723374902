"""When a node may fork again after a worker could not be warmed."""

from __future__ import annotations

from dataclasses import dataclass

_BACKOFF_FIRST = 0.5
_BACKOFF_MOST = 30.0
_DOUBLINGS = 6
"""Failures in a row after which the pause is the longest."""


@dataclass
class StartBackoff:
    """When workers may be forked again after some could not be warmed.

    0.5 s after the first failure in a row, doubling to 30 s; a worker that
    becomes warm ends the row.
    """

    failures: int = 0
    until: float = 0.0

    def failed(self, now: float) -> float:
        """Count a failure at ``now`` (monotonic seconds); return the pause in seconds."""
        pause = min(_BACKOFF_MOST, _BACKOFF_FIRST * 2.0 ** min(self.failures, _DOUBLINGS))
        self.failures += 1
        self.until = now + pause
        return pause

    def succeeded(self) -> None:
        """End the row of failures."""
        self.failures = 0
        self.until = 0.0
