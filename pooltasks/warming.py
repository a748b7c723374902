"""Warming: the workers of whole pools warm up again, as many at a time as the strategy allows.

A strategy is of the pool: a third of its workers at a time are a third of all its nodes'
workers together. The node itself sees to the order among its own workers.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from pooltasks.broker.asking import ask

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery import Celery

    Commands = Sequence[Mapping[str, Any]] | str

_LOOK = 0.1
"""Seconds between two questions to nodes that are still warming."""


class Batch(NamedTuple):
    """The nodes of one pool, and how many of their workers warm up at a time."""

    workers: Mapping[str, int]
    """Workers of each node."""
    strategy: str

    def next(self, waiting: Sequence[str], warming: Sequence[str]) -> list[str]:
        """Return the nodes that may begin now.

        Args:
            waiting: Those that have not begun, in order.
            warming: Those that are not finished.
        """
        if self.strategy == "parallel":
            return list(waiting)
        most = self._at_once(sum(self.workers.values()))
        taken = sum(self._at_once(self.workers[node]) for node in warming)
        begin: list[str] = []
        for node in waiting:
            taken += self._at_once(self.workers[node])
            if taken > most and (warming or begin):
                break
            begin.append(node)
        return begin

    def _at_once(self, workers: int) -> int:
        return 1 if self.strategy == "sequential" else max(1, -(-workers // 3))


def warm(
    app: Celery,
    batches: Sequence[Batch],
    *,
    strategy: str | None = None,
    commands: Commands | None = None,
    timeout: float,
) -> dict[str, dict[str, Any]]:
    """Have every worker of some nodes warm up again, and wait until they have.

    Args:
        app: The application.
        batches: Of each pool its nodes.
        strategy: Of a node's workers; by default that of its settings.
        commands: As in a pool's settings; by default the pool's own.
        timeout: Seconds to wait; nodes that have not begun by then do not begin.

    Returns:
        By node: ``workers``, ``succeeded``, ``success_rate`` (0–1, None without workers),
        ``seconds``, ``commands``, ``timeline`` (see :func:`pooltasks.node.worker.warmup.summary`),
        ``finished``, and ``refused``: why the node did nothing, None if it warmed. A node that
        does not answer, or had no time to begin, is left out.

    Raises:
        kombu.exceptions.OperationalError: The server cannot be reached, or refuses.
    """
    deadline = time.monotonic() + timeout
    reports: dict[str, dict[str, Any]] = {}
    rounds: dict[str, int] = {}
    waiting = {number: list(batch.workers) for number, batch in enumerate(batches)}
    given: dict[str, Any] = {"strategy": strategy, "commands": commands}
    while time.monotonic() < deadline:
        for number, batch in enumerate(batches):
            begin = batch.next(waiting[number], [one for one in rounds if one in batch.workers])
            waiting[number] = waiting[number][len(begin) :]
            for node, reply in ask(app, "pool_warm", begin, **given).items():
                if reply["refused"] is None:
                    rounds[node] = reply["round"]
                else:
                    reports[node] = {"finished": False, **_NOTHING, "refused": reply["refused"]}
        for node in list(rounds):
            for name, report in ask(app, "pool_warm_report", [node], number=rounds[node]).items():
                reports[name] = {**report, "refused": None}
                if report["finished"]:
                    del rounds[name]
        if not rounds and not any(waiting.values()):
            break
        time.sleep(_LOOK)
    return reports


def well(reports: Mapping[str, Mapping[str, Any]], nodes: Sequence[str]) -> bool:
    """Return whether each of ``nodes`` has warmed all of its workers."""
    return all(
        node in reports and reports[node]["finished"] and reports[node]["success_rate"] in {1, None}
        for node in nodes
    )


_NOTHING: Mapping[str, Any] = {
    "workers": 0,
    "succeeded": 0,
    "success_rate": None,
    "seconds": 0.0,
    "commands": {},
    "timeline": [],
}
