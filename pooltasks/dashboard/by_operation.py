"""The recent work of each operation of a pool, kept up to date record by record.

An hour of a busy pool takes seconds to read: that is done once, beside the
thread that answers. After that a record is added when it is written and taken
away when it leaves the window.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import wait
from typing import TYPE_CHECKING, NamedTuple

from pooltasks.metrics.collector import covered
from pooltasks.metrics.counts import Counts
from pooltasks.metrics.sample import OperationRecord
from pooltasks.metrics.view import Work

if TYPE_CHECKING:
    from collections.abc import Iterable
    from concurrent.futures import Executor, Future

    from pooltasks.metrics.samples import SampleStore

_GAP = 15.0
"""Seconds of records that are read while somebody waits for the answer."""
_OVERLAP = 2.0
"""Seconds that are read again: each of two answers may have taken half a second."""
_PATIENCE = 0.05
"""Seconds for which an answer waits for the reading beside it."""


class _Kept(NamedTuple):
    """A record as it is stored: decoded, an hour of a busy pool takes a hundred megabytes."""

    at: float
    number: int
    seconds: float
    encoded: bytes


class RecentOperations:
    """The work of each operation in a window. For one thread, that of ``beside`` apart.

    Args:
        store: The samples of a pool.
        window: Seconds.
        beside: Runs the readings that take long.
    """

    def __init__(self, store: SampleStore, window: float, beside: Executor) -> None:
        self._store = store
        self._window = window
        self._beside = beside
        self._reading: Future[None] | None = None
        self._read_at = float("-inf")
        self._records: dict[str, deque[_Kept]] = {}
        self._counts: dict[str, Counts] = {}

    def update(self, nodes: Iterable[str], now: float) -> dict[str, Work] | None:
        """Return the work of each operation until ``now``; None while it is being read.

        Args:
            nodes: Those that wrote samples in the window.
            now: Server time.

        Raises:
            redis.RedisError: The server does not answer, or did not.
        """
        if self._reading is None and now - self._read_at > _GAP:
            self._reading = self._beside.submit(self._read, list(nodes), now)
        if self._reading is not None:
            wait([self._reading], _PATIENCE)
            if not self._reading.done():
                return None
            reading, self._reading = self._reading, None
            reading.result()
        self._read(list(nodes), now)
        spans = [
            (one.at, one.seconds) for its in self._records.values() for one in (its[0], its[-1])
        ]
        seconds = covered(spans, self._window)
        return {name: Work.of(counts, seconds) for name, counts in sorted(self._counts.items())}

    def _read(self, nodes: list[str], now: float) -> None:
        first = now - self._window
        since = max(first, self._read_at - _OVERLAP)
        for node, entries in self._store.operation_entries(nodes, since).items():
            kept = self._records.setdefault(node, deque())
            newest = kept[-1].at if kept else first
            for at, encoded in entries:
                if at > newest:
                    self._enter(kept, at, encoded)
        for node, kept in list(self._records.items()):
            while kept and kept[0].at < first:
                self._leave(kept.popleft())
            if not kept:
                del self._records[node]
        self._counts = {
            name: its for name, its in self._counts.items() if its.outcomes or not its.wait.is_empty
        }
        self._read_at = now

    def _enter(self, kept: deque[_Kept], at: float, encoded: bytes) -> None:
        record = OperationRecord.decode(encoded)
        if kept and kept[-1].number == record.number:
            # Its sample may not have arrived, and came again with later counts.
            self._leave(kept.pop())
        kept.append(_Kept(at, record.number, record.seconds, encoded))
        for name, counts in record.counts.items():
            self._counts.setdefault(name, Counts()).add(counts)

    def _leave(self, kept: _Kept) -> None:
        for name, counts in OperationRecord.decode(kept.encoded).counts.items():
            if name in self._counts:  # else nothing was left of it
                self._counts[name] = self._counts[name].since(counts)
