"""Kill the server under load and start it again; measure when each part works again."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from chaos.accounting import Account, settle
from chaos.cluster import Cluster
from chaos.load import Load
from pooltasks import keys, remote

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable
    from pathlib import Path

    from chaos.server import MortalServer


CONSUMPTION_BOUND = 2.0
_SHOWN = 5
"""Findings that are printed as text."""
_LONGEST_OUTAGE = 6.0
_LOAD_SECONDS = 1.0
_LOOK = 0.02
_GIVE_UP = 60.0
_PATIENCE = 20.0


class Report(NamedTuple):
    """The results of a run."""

    back: dict[str, list[float]]
    """Seconds from each return of the server, when it answers and has its data, until a part
    works on operations that came after it."""
    outages: list[float]
    """Seconds for which the server was away."""
    account: Account
    refused: Counter[str]
    unexpected: list[str]
    """Errors of producers and callers that the documentation does not promise."""
    node_deaths: int
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether every node consumed in time, and nothing accepted is lost."""
        return (
            max(self.back["every node consumes"]) <= CONSUMPTION_BOUND
            and self.account.is_whole
            and not self.node_deaths
            and not self.unexpected
        )

    def lines(self) -> list[str]:
        """Return the results as text."""
        its = self.account
        lines = ["seconds after the server's return      median  longest"]
        for what, seconds in sorted(self.back.items(), key=lambda each: max(each[1])):
            median = sorted(seconds)[len(seconds) // 2]
            bound = f"  bound {CONSUMPTION_BOUND:g}" if "consumes" in what else ""
            lines.append(f"{what:<38} {median:6.2f} {max(seconds):8.2f}{bound}")
        refused = ", ".join(f"{count} of {what}" for what, count in self.refused.items())
        lines.append(
            f"{len(self.outages)} outages of {min(self.outages):.1f} to {max(self.outages):.1f} s; "
            f"{its.accepted} accepted: {its.done} done, {its.failed} failed, "
            f"{its.dead} dead letters, {its.repeated} runs more than once, "
            f"lost {len(its.lost)}; refused: {refused or 'none'}; {self.node_deaths} nodes "
            f"died; {self.seconds:.0f} s"
        )
        return [*lines, *self.unexpected[:_SHOWN]]


def restart(folder: Path, times: int, server: MortalServer, nodes: int, seed: int) -> Report:
    """Kill ``server`` and start it again, ``times`` times."""
    begun = time.monotonic()
    chance = random.Random(seed)  # noqa: S311  repeatable
    back: dict[str, list[float]] = {}
    outages = []
    with Cluster(folder, nodes=nodes, server=server) as cluster:
        observer = _Observer(cluster)
        with Load(cluster) as load:
            observer.wait(time.time(), load)
            for _ in range(times):
                time.sleep(_LOAD_SECONDS)
                # Short and long ones: pauses that grow with each attempt show only in a long one.
                outages.append(chance.uniform(0, _LONGEST_OUTAGE))
                server.kill()
                time.sleep(outages[-1])
                server.start()
                for what, seconds in observer.wait(time.time(), load).items():
                    back.setdefault(what, []).append(seconds)
        account = settle(cluster, {call.id for call in load.accepted}, _PATIENCE)
        deaths = cluster.restarts
    return Report(
        back, outages, account, load.refused, load.unexpected, deaths, time.monotonic() - begun
    )


class _Observer:
    """Finds out from outside when each part of a deployment works."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._app = cluster.application(cluster.url)

    def wait(self, since: float, load: Load) -> dict[str, float]:
        """Return the seconds until each part has worked on operations that came after ``since``."""
        pending: dict[str, Callable[[float, Load], bool]] = {
            "a producer is accepted": self._accepts,
            "a waiting caller is answered": self._answers,
            "every node consumes": self._consumes,
            "every node samples": self._samples,
            "the optimizer decides": self._decides,
        }
        found: dict[str, float] = {}
        control = threading.Thread(target=self._control, args=(since, found))
        control.start()
        while pending and time.time() - since < _GIVE_UP:
            for what, works in [*pending.items()]:
                if works(since, load):
                    found[what] = time.time() - since
                    del pending[what]
            time.sleep(_LOOK)
        control.join()
        return {**found, **dict.fromkeys(pending, _GIVE_UP)}

    def _accepts(self, since: float, load: Load) -> bool:
        return any(call.at > since for call in load.accepted[-100:])

    def _answers(self, since: float, load: Load) -> bool:
        return any(call.at > since for call in load.answered[-100:])

    def _consumes(self, since: float, load: Load) -> bool:
        """Return whether every node has begun an operation that was sent after ``since``."""
        new = {call.id for call in load.accepted[-2000:] if call.begun > since}
        workers = {
            start.worker for start in self._cluster.runs.since(since) if start.operation in new
        }
        return all(workers & set(node.children()) for node in self._cluster.nodes)

    def _samples(self, since: float, _: Load) -> bool:
        nodes = self._cluster.redis.zrange(keys.pool_nodes("chaos"), 0, -1, withscores=True)
        fresh = [name for name, at in nodes if at > since]
        return len(fresh) == len(self._cluster.nodes)

    def _decides(self, since: float, _: Load) -> bool:
        last = self._cluster.redis.xrevrange(keys.decisions("chaos"), count=1)
        return bool(last) and int(last[0][0].split(b"-")[0]) / 1000 > since

    def _control(self, since: float, found: dict[str, float]) -> None:
        """Ask until every node answers a control command."""
        while time.time() - since < _GIVE_UP:
            answers = remote.ask(self._app, "pool_status", timeout=0.3)
            mine = [answer for answer in answers.values() if answer["pool"] == "chaos"]
            if len(mine) == len(self._cluster.nodes):
                break
        found["every node obeys"] = time.time() - since
