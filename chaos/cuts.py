"""Cut any one connection of a living node, again and again: no caller must notice."""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import psutil

from chaos.accounting import Account, settle
from chaos.cluster import Cluster, wait_until
from chaos.steady import Steady

if TYPE_CHECKING:
    from pathlib import Path

_LONGEST_PAUSE = 0.4
_PATIENCE = 20.0


class Report(NamedTuple):
    """The results of a run."""

    cuts: Counter[str]
    """Cuts by the state of the connection: its last command, and whether it is subscribed."""
    account: Account
    longest_wait: float
    """Seconds from being accepted until the first start, of all operations."""
    node_deaths: int
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether nothing was lost, counted as a delivery, or run twice, and no node ended."""
        account = self.account
        return (
            account.is_whole and not account.dead and not account.repeated and not self.node_deaths
        )

    def lines(self) -> list[str]:
        """Return the results as text."""
        its = self.account
        what = ", ".join(f"{count} at {name}" for name, count in self.cuts.most_common())
        return [
            f"{self.cuts.total()} cuts: {what}",
            (
                f"{its.accepted} accepted: {its.done} done, {its.dead} dead letters, "
                f"{its.repeated} started more than once, lost {len(its.lost)}; longest wait "
                f"{self.longest_wait:.2f} s; {self.node_deaths} nodes ended; {self.seconds:.0f} s"
            ),
        ]


def cuts(folder: Path, times: int, seed: int) -> Report:
    """Cut ``times`` connections of two nodes and their workers."""
    begun = time.monotonic()
    chance = random.Random(seed)  # noqa: S311  repeatable
    counted: Counter[str] = Counter()
    # One counted delivery makes a message a dead letter at once.
    with Cluster(folder, nodes=2, workers=2, max_deliveries=1, control=False) as cluster:
        wait_until(
            lambda: all(len(node.children()) > 1 for node in cluster.nodes), "nodes with workers"
        )
        with Steady(cluster, chance) as load:
            wait_until(lambda: cluster.runs.count() > 1, "something runs")
            while counted.total() < times:
                cut = _cut(cluster, chance)
                if cut is not None:
                    counted[cut] += 1
                time.sleep(chance.uniform(0, _LONGEST_PAUSE))
        account = settle(cluster, set(load.accepted), _PATIENCE)
        return Report(
            counted,
            account,
            max(load.waits(cluster.runs)),
            cluster.restarts,
            time.monotonic() - begun,
        )


def _cut(cluster: Cluster, chance: random.Random) -> str | None:
    """Cut a connection; return its state, None if it was gone by itself."""
    ports = _ports(cluster)
    clients = [
        client
        for client in cluster.redis.client_list()
        if int(client["addr"].rpartition(":")[2]) in ports
    ]
    if not clients:
        return None
    client = chance.choice(clients)
    if not cluster.redis.client_kill_filter(_id=client["id"]):
        return None
    is_subscribed = int(client["sub"]) + int(client["psub"]) > 0
    return f"{client['cmd']}{', subscribed' if is_subscribed else ''}"


def _ports(cluster: Cluster) -> set[int]:
    """Return the ports of this side of the connections of all nodes and workers."""
    ports = set()
    for node in cluster.nodes:
        for process in (node.popen.pid, *node.children()):
            try:
                found = psutil.Process(process).net_connections("tcp")
            except psutil.Error:  # it is gone
                continue
            ports |= {each.laddr.port for each in found if each.laddr}
    return ports
