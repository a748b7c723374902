"""Limits of tenants under load, while nodes and workers are killed: kept, and used."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, NamedTuple

from chaos.accounting import Account, settle
from chaos.keyed import (
    KeyedRun,
    Killer,
    by_key,
    cluster_with_notes,
    most_at_once,
    read,
    too_early,
)
from chaos.keyed_operations import BURST, CONCURRENCY, PER_SECOND
from chaos.reporting import counted
from pooltasks.pools import Pool

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Sequence
    from pathlib import Path

USED_SHARE = 0.95
"""Of the rate that is permitted, to be used by all tenants together."""
LONGEST_SHARE = 2.0
"""Times its own share of the time that a tenant may wait."""
EARLY_SECONDS = 0.1
"""For which the start of an operation may come after its reservation, which the server counts."""
_NODES, _WORKERS = 4, 12
"""So many workers that two nodes have enough: nothing but the limits is to hold operations back."""
_SHORT, _LONG, _EACH_LONG = 0.005, 0.25, 5
"""Seconds of operations: of most tenants their rate is the limit, of each fifth how many run."""
_PATIENCE = 20.0


class Report(NamedTuple):
    """What the operations' own notes say."""

    account: Account
    happened: Counter[str]
    most_at_once: int
    """Operations of one tenant that ran at the same moment."""
    too_early: float
    """Seconds by which a start came before the rate allowed it."""
    used: float
    """Share of the permitted rate that was used while operations waited, 0 to 1."""
    longest: float
    """The longest wait of a tenant for its last start, as a multiple of its share."""
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether every limit was kept, and used."""
        return (
            self.account.is_whole
            and self.account.done == self.account.accepted
            and self.most_at_once <= CONCURRENCY
            and self.too_early <= EARLY_SECONDS
            and self.used >= USED_SHARE
            and self.longest <= LONGEST_SHARE
        )

    def lines(self) -> list[str]:
        """Return the results as text."""
        its = self.account
        return [
            (
                f"{counted(self.happened)}; {its.accepted} accepted: {its.done} done, "
                f"{its.dead} dead letters; {self.seconds:.0f} s"
            ),
            (
                f"at most {self.most_at_once} of a tenant at once; a start came "
                f"{1000 * self.too_early:.0f} ms too early for the rate at the most, bound "
                f"{1000 * EARLY_SECONDS:.0f} ms; {self.used:.1%} of the permitted rate was used, "
                f"target {USED_SHARE:.0%}; a tenant waited {self.longest:.2f} times as long as its "
                f"share at the most, target {LONGEST_SHARE:g}"
            ),
        ]


class _Tenant(NamedTuple):
    name: str
    seconds: float
    """Of each of its operations."""
    submitted: float
    """When all of its operations had been accepted."""
    operations: list[str]

    @property
    def share(self) -> float:
        """Seconds that its limits need from the first start to the last."""
        number = len(self.operations)
        turns = math.ceil(number / CONCURRENCY) - 1
        return max((number - BURST) / PER_SECOND, turns * self.seconds)

    def took(self, runs: Sequence[KeyedRun]) -> float:
        """Return the seconds from its submission to the first start of its last operation.

        Infinity if that has never started.
        """
        first: dict[str, float] = {}
        for run in runs:
            first.setdefault(run.operation, run.start)
        return max(first.get(each, math.inf) for each in self.operations) - self.submitted


def limits(
    folder: Path,
    *,
    operations: int,
    tenants: int,
    every: float,
    node_kills: int,
    worker_kills: int,
    seed: int,
) -> Report:
    """Have one tenant after the other submit its operations, ``every`` seconds."""
    begun = time.monotonic()
    with cluster_with_notes(folder, nodes=_NODES, workers=_WORKERS) as (cluster, notes):
        app = cluster.application(cluster.url)
        limited, pool = app.tasks["chaos.keyed_operations.limited"], Pool("chaos", app=app)
        done: list[_Tenant] = []
        killer = Killer(
            cluster,
            nodes=node_kills,
            workers=worker_kills,
            seconds=tenants * every,
            seed=seed,
        )
        with killer:
            start = time.monotonic()
            for number in range(tenants):
                time.sleep(max(0.0, start + number * every - time.monotonic()))
                name = f"tenant-{number}"
                seconds = _LONG if number % _EACH_LONG == 0 else _SHORT
                calls = [(name, seconds)] * (operations // tenants)
                results = pool.submit_many(limited, calls)
                submitted = time.monotonic()  # from now on all of them wait
                done.append(_Tenant(name, seconds, submitted, [each.id for each in results]))
            account = settle(cluster, {each for its in done for each in its.operations}, _PATIENCE)
    runs = by_key(read(notes, killer.deaths))
    took = {its.name: its.took(runs.get(its.name, [])) for its in done}
    return Report(
        account,
        killer.happened,
        max(most_at_once(its) for its in runs.values()),
        max(too_early([run.start for run in its], PER_SECOND, BURST) for its in runs.values()),
        sum(its.share for its in done) / sum(took.values()),
        max(took[its.name] / its.share for its in done),
        time.monotonic() - begun,
    )
