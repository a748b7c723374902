"""Kill, freeze and cut at random under load, then account for every operation."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from kombu.exceptions import OperationalError

from chaos.accounting import Account, settle
from chaos.cluster import Cluster, wait_until
from chaos.reporting import counted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from chaos.cluster import Process

_LONGEST_FREEZE = 7.0  # seconds: beyond the lease of 5 s
_PATIENCE = 20.0


class Plan(NamedTuple):
    """The number of faults of each kind in a run."""

    operations: int
    node_kills: int
    worker_kills: int
    freezes: int
    cuts: int
    other_kills: int
    """Kills of the control node and beat."""


class Report(NamedTuple):
    """The faults of a run, and the ends of its operations."""

    account: Account
    happened: Counter[str]
    refused: int
    """Operations that could not be published, as their caller was told."""
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether every accepted operation is done, failed or a dead letter."""
        return self.account.is_whole

    def lines(self) -> list[str]:
        """Return the results as text."""
        its = self.account
        return [
            f"{counted(self.happened)}; {self.refused} refused; {self.seconds:.0f} s",
            (
                f"{its.accepted} accepted: {its.done} done, {its.failed} failed, "
                f"{its.dead} dead letters, {its.repeated} runs more than once; "
                f"still waiting {its.waiting}, held by dead nodes {its.reserved}, "
                f"lost {len(its.lost)}"
            ),
        ]


class Mayhem:
    """Carries out the plan, evenly over the progress of the run, in random order."""

    def __init__(self, cluster: Cluster, plan: Plan, seed: int) -> None:
        self._cluster = cluster
        self._random = random.Random(seed)  # noqa: S311  repeatable
        self.happened: Counter[str] = Counter()
        self._thawing: list[tuple[float, int]] = []
        self._left: list[Callable[[], bool]] = [
            *[self._kill_node] * plan.node_kills,
            *[self._kill_worker] * plan.worker_kills,
            *[self._freeze] * plan.freezes,
            *[self._cut] * plan.cuts,
            *[self._kill_other] * plan.other_kills,
        ]
        self._random.shuffle(self._left)
        self._step = plan.operations / (len(self._left) + 1)
        self._begun = len(self._left)
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def finish(self) -> None:
        """Carry out the rest of the plan, and thaw everything."""
        self._finished.set()
        self._thread.join()

    def _run(self) -> None:
        while self._left or self._thawing:
            now = time.monotonic()
            for moment, process in [*self._thawing]:
                if now >= moment:
                    self._thawing.remove((moment, process))
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGCONT)
            begun = self._begun - len(self._left)
            due = (begun + 1) * self._step
            if (
                self._left
                and (self._finished.is_set() or self._cluster.runs.count() >= due)
                and self._left[-1]()
            ):
                self._left.pop()
            time.sleep(0.01)

    def _kill_node(self) -> bool:
        return self._count("node kills", self._any_node().send(signal.SIGKILL))

    def _kill_worker(self) -> bool:
        return self._count("worker kills", self._signal_worker(signal.SIGKILL) is not None)

    def _kill_other(self) -> bool:
        process = self._random.choice(self._cluster.others)
        return self._count(f"{process.name} kills", process.send(signal.SIGKILL))

    def _cut(self) -> bool:
        self._cluster.cut_connections()
        return self._count("cuts", happened=True)

    def _freeze(self) -> bool:
        if self._random.random() < 0.5:  # noqa: PLR2004  half of them
            node = self._any_node()
            frozen = node.popen.pid if node.send(signal.SIGSTOP) else None
        else:
            frozen = self._signal_worker(signal.SIGSTOP)
        if frozen is not None:
            until = time.monotonic() + self._random.uniform(0.1, _LONGEST_FREEZE)
            self._thawing.append((until, frozen))
        return self._count("freezes", frozen is not None)

    def _any_node(self) -> Process:
        return self._random.choice(self._cluster.nodes)

    def _signal_worker(self, number: int) -> int | None:
        workers = self._any_node().children()
        if not workers:
            return None
        worker = self._random.choice(workers)
        with suppress(ProcessLookupError):
            os.kill(worker, number)
            return worker
        return None

    def _count(self, what: str, happened: bool) -> bool:
        if happened:
            self.happened[what] += 1
        return happened


def kill(folder: Path, plan: Plan, transport: str, seed: int) -> Report:
    """Run ``plan`` on a deployment of four nodes in ``folder``."""
    begun = time.monotonic()
    chance = random.Random(seed)  # noqa: S311  repeatable
    with Cluster(folder, transport=transport) as cluster:
        wait_until(lambda: len(cluster.nodes[0].children()) > 1, "a node has workers")
        mayhem = Mayhem(cluster, plan, seed)
        accepted: set[str] = set()
        refused = 0
        work = cluster.application(cluster.proxied_url).tasks["chaos.operations.work"]
        mayhem.start()
        try:
            for number in range(plan.operations):
                try:
                    accepted.add(work.apply_async(_fate(chance, number)).id)
                except OperationalError:
                    refused += 1
        finally:
            mayhem.finish()
        account = settle(cluster, accepted, _PATIENCE)
    return Report(account, mayhem.happened, refused, time.monotonic() - begun)


def _fate(chance: random.Random, number: int) -> tuple[str, float]:
    """Return the fate of the operation with this number, and its seconds."""
    if number % 10_000 == 5_000:  # noqa: PLR2004  few: each kills three workers
        return "kill", 0.0
    if number % 500 == 250:  # noqa: PLR2004
        return "fail", 0.0
    # One in fifty takes some time, so that deaths come in the middle of it.
    return "finish", chance.uniform(0.005, 0.1) if number % 50 == 0 else 0.0
