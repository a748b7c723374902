"""Durations: how long operations have taken lately in a node."""

from __future__ import annotations

LONG = 0.01
"""Seconds after which an operation is not short, and what waits behind it is taken back."""
_FORGET = 0.97
"""Factor by which the longest duration fades with each operation that was shorter."""
_GROW = 1.1
"""Factor by which the shortest one grows with each that was longer."""
_LEAST = 1e-5
"""Seconds of the shortest operation that there may be."""
_WEIGHT = 1 / 32
"""Weight of the last operation in the mean."""


class Durations:
    """The durations of a node's last operations, in seconds; they follow what changes."""

    def __init__(self) -> None:
        self._longest: dict[str, float] = {}
        self._shortest: dict[str, float] = {}
        self.longest = float("inf")
        """The longest, of all names; infinite until one has ended, as the mean is."""
        self.mean = float("inf")

    def note(self, name: str, seconds: float) -> None:
        """Take note of an operation that has ended."""
        self._longest[name] = max(seconds, self._longest.get(name, 0.0) * _FORGET)
        self._shortest[name] = max(_LEAST, min(seconds, self._shortest.get(name, seconds) * _GROW))
        self.longest = max(seconds, min(self.longest, LONG) * _FORGET)
        known = self.mean < float("inf")
        self.mean = self.mean + (seconds - self.mean) * _WEIGHT if known else seconds

    def of(self, name: str) -> tuple[float, float]:
        """Return what an operation of a name takes at the most, and at the least.

        The least is not that of the shortest where one was long lately: none is taken for very
        short then. One that had to wait for a processor is no measure of the least.
        """
        longest = self._longest.get(name, float("inf"))
        return longest, longest if longest > LONG else self._shortest.get(name, longest)
