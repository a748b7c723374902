"""The notes that the operations of a run have left (``operations.py``), read back."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from chaos.operations import NOTE_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


class Start(NamedTuple):
    """One start of an operation: its id, when (seconds since the epoch), and in which worker."""

    operation: str
    at: float
    worker: int


class Runs:
    """All starts so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def count(self) -> int:
        """Return how many operations have been started."""
        return sum(path.stat().st_size for path in self.folder.iterdir()) // NOTE_BYTES

    def __iter__(self) -> Iterator[Start]:
        for path in self.folder.iterdir():
            yield from self._read(path)

    def since(self, moment: float) -> list[Start]:
        """Return the starts after ``moment``, the first one first."""
        recent = (path for path in self.folder.iterdir() if path.stat().st_mtime >= moment)
        its = (start for path in recent for start in self._read(path) if start.at > moment)
        return sorted(its, key=lambda start: start.at)

    def waits(self, accepted: Mapping[str, float]) -> list[float]:
        """Return how many seconds each operation waited for its first start.

        Args:
            accepted: When each was accepted, seconds since the epoch. Those that have not
                been started are left out.
        """
        first: dict[str, float] = {}
        for start in self:
            first[start.operation] = min(start.at, first.get(start.operation, start.at))
        return [
            max(0.0, first[identifier] - at)
            for identifier, at in accepted.items()
            if identifier in first
        ]

    @staticmethod
    def _read(path: Path) -> Iterator[Start]:
        text = path.read_bytes()
        # The last note of a killed process may be incomplete.
        for place in range(0, len(text) - NOTE_BYTES + 1, NOTE_BYTES):
            identifier, at = text[place : place + NOTE_BYTES].split()
            yield Start(identifier.decode(), float(at), int(path.name))
