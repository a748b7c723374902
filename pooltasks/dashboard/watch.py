"""The nodes' own status: their workers, and the operations of each."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger

from pooltasks import remote
from pooltasks.dashboard.verdict import celery_name
from pooltasks.metrics.collector import PRESENT, STALE

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

    from celery import Celery

    from pooltasks.metrics.view import NodeMetrics

logger = get_logger(__name__)

_PERIOD = 0.7
"""Seconds for the answers, and by default from question to question."""
_MUTE = 3
"""Questions, two seconds of them, after which a node that has not answered is mute."""
_WANTED = 5.0
"""Seconds for which a node is asked after a page has shown it."""


@dataclass
class Answer:
    """The last answer of a node."""

    status: dict[str, Any]
    at: float = 0.0
    """On the monotonic clock."""
    missed: int = 0
    """Questions since then that it has not answered."""


def silent_nodes(nodes: Iterable[NodeMetrics], mute: Container[str]) -> dict[str, float]:
    """Return the nodes that neither answer nor write, by their names in Celery.

    A node at rest writes a sample each six seconds: its samples alone tell only after nine
    that it is lost.

    Args:
        nodes: As their samples told them.
        mute: Those that do not answer.

    Returns:
        For each the seconds since its last sample.
    """
    named = ((celery_name(node), node) for node in nodes)
    return {
        name: node.silent
        for name, node in named
        if node.state in PRESENT and node.silent >= STALE and name in mute
    }


class NodeWatch(threading.Thread):
    """Asks nodes for their status while somebody looks at them.

    Celery's remote control waits for answers, so it has a thread of its own;
    the pages show the last answers.

    Args:
        app: The application.
        period: Seconds from question to question.
    """

    def __init__(self, app: Celery, *, period: float = _PERIOD) -> None:
        # A daemon: without the server, Celery may wait for ever.
        super().__init__(name="pooltasks-node-watch", daemon=True)
        self._app = app
        self._period = period
        self._until: dict[str, float] = {}
        self._answers: dict[str, Answer] = {}
        self._missed: dict[str, int] = {}
        """Questions in a row that a node has not answered, and maybe none before."""
        self._wake = threading.Event()
        self._closed = False

    def look(self, nodes: Iterable[str]) -> Mapping[str, Answer]:
        """Return the last answers of these nodes, and have them asked from now on.

        Nodes that have not been asked yet are missing.
        """
        names = list(nodes)
        until = time.monotonic() + max(_WANTED, 2 * self._period)
        self._until = {**self._until, **dict.fromkeys(names, until)}
        self._wake.set()
        answers = self._answers
        return {name: answers[name] for name in names if name in answers}

    def mute(self) -> set[str]:
        """Return the nodes that have answered nothing for so long that it is no chance."""
        return {name for name, missed in self._missed.items() if missed >= _MUTE}

    def close(self) -> None:
        """Ask no more."""
        self._closed = True
        self._wake.set()

    def run(self) -> None:
        """Ask until closed; for the thread only."""
        while not self._closed:
            started = time.monotonic()
            names = [name for name, until in self._until.items() if until > started]
            if not names:
                self._answers, self._missed = {}, {}
                self._wake.wait()
                self._wake.clear()
                continue
            self._ask(names)
            time.sleep(max(0.0, started + self._period - time.monotonic()))

    def _ask(self, names: list[str]) -> None:
        try:
            replies = remote.ask(self._app, "pool_status", names, timeout=_PERIOD)
        except Exception as error:  # noqa: BLE001  the transport may raise anything: there is no answer
            logger.debug("the nodes cannot be asked: %s", error)
            self._answers, self._missed = {}, {}
            return
        before = self._answers
        self._missed = {
            name: self._missed.get(name, 0) + 1 for name in names if name not in replies
        }
        missed = {
            name: replace(before[name], missed=before[name].missed + 1)
            for name in names
            if name in before and name not in replies
        }
        now = time.monotonic()
        self._answers = missed | {
            name: _answer(before.get(name), status, now) for name, status in replies.items()
        }


def _answer(before: Answer | None, status: dict[str, Any], now: float) -> Answer:
    """Return a node's answer, with the processor time of its workers as a share (0–1)."""
    used = {worker["pid"]: worker["cpu"] for worker in before.status["workers"]} if before else {}
    for worker in status["workers"]:
        known = used.get(worker["pid"])
        worker["cpu_share"] = None
        if before and known is not None and worker["cpu"] is not None:
            worker["cpu_share"] = (worker["cpu"] - known) / (now - before.at)
    return Answer(status, now)
