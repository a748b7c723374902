"""How pools stand, as ``pooltasks status`` and ``check`` tell it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pooltasks.broker.asking import ask
from pooltasks.broker.client import redis_client
from pooltasks.broker.dead_letters import DeadLetters
from pooltasks.broker.queues import waiting_in
from pooltasks.pools import Pool

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from celery import Celery

    from pooltasks.dashboard.verdict import Evidence, Verdict
    from pooltasks.metrics.decisions import PoolDecision
    from pooltasks.metrics.error_groups import ErrorGroup

WINDOW = 60.0
"""Seconds of which the numbers speak."""


@dataclass(frozen=True)
class Standing:
    """One pool, the nodes that answer, and how it is."""

    evidence: Evidence
    verdict: Verdict
    nodes: Mapping[str, Mapping[str, Any]]
    dead_letters: int
    decision: PoolDecision | None
    paused: float | None
    """Seconds for which the optimizer still only watches."""
    errors: Sequence[ErrorGroup]
    """The recent errors of operations by kind, the last one that was seen first."""

    @property
    def states(self) -> dict[str, str]:
        """The state of each node: ``live``, ``draining``, ``drained`` or ``lost``."""
        draining = self.evidence.draining
        known = {
            name: "live" if name not in draining else "drained" if draining[name] else "draining"
            for name in self.nodes
        }
        return known | {name: "lost" for name in self.evidence.lost if name not in known}


def standings(
    app: Celery, pools: Iterable[str], nodes: Mapping[str, Mapping[str, Any]]
) -> list[Standing]:
    """Return how each pool stands, the worst first.

    Args:
        app: The application.
        pools: Names of the pools.
        nodes: The status of each node that answers.

    Raises:
        redis.RedisError: The server does not answer.
    """
    from pooltasks.dashboard.verdict import LEVELS

    found = [_standing(app, pool, nodes) for pool in pools]
    return sorted(found, key=lambda its: LEVELS.index(its.verdict.level))


def _standing(app: Celery, name: str, nodes: Mapping[str, Mapping[str, Any]]) -> Standing:
    from pooltasks.dashboard.circumstances import (
        last_reason,
        recent_dead,
        unseen,
    )
    from pooltasks.dashboard.verdict import (
        Evidence,
        celery_name,
        draining_nodes,
        lost_nodes,
        verdict,
        warm_up_failure,
    )
    from pooltasks.dashboard.watch import silent_nodes
    from pooltasks.metrics.counts import Counts
    from pooltasks.metrics.error_groups import ErrorGroups, worst
    from pooltasks.metrics.rollout_store import RolloutStore
    from pooltasks.metrics.samples import SampleStore, read_last
    from pooltasks.metrics.surroundings import look_around

    pool, client = Pool(name, app=app), redis_client(app)
    metrics = pool.metrics(WINDOW)
    _, samples = pool.samples(WINDOW)
    lists = waiting_in(app, pool.queue)
    store = SampleStore(client, name, lists, pool.settings.objective)
    ((queue, last, _),) = read_last(client, [store])
    own = {node: status for node, status in nodes.items() if status["pool"] == name}
    # A node at rest writes seldom: one that did not answer is asked once more.
    quiet = silent_nodes(metrics.nodes, {celery_name(its) for its in metrics.nodes} - own.keys())
    again = ask(app, "pool_status", list(quiet)) if nodes else quiet
    silent = {node: seconds for node, seconds in quiet.items() if node not in again}
    letters = DeadLetters(client, pool.queue).list()
    lately = recent_dead(letters, metrics.at - WINDOW)
    counts = Counts.merged(one.sample.counts for its in samples.values() for one in its)
    decisions = pool.decisions()
    decision = decisions.current()
    errors = ErrorGroups(client, name).latest()
    cause = worst(errors)
    evidence = Evidence(
        name,
        pool.settings,
        metrics,
        waits=counts.wait if samples else None,
        lost={
            node: seconds
            for node, seconds in (lost_nodes(last, queue.at) | silent).items()
            if node not in own
        },
        draining=draining_nodes(metrics.nodes, own),
        set_aside=len(lately),
        last_reason=last_reason(lately),
        unseen_failures=unseen(lately),
        warm_up_failure=warm_up_failure(own.values()),
        cause=cause.title if cause else None,
        around=look_around(
            client,
            lists,
            name,
            pool.settings,
            now=queue.at,
            load=metrics.load,
            samples=samples,
            decision=decision,
        ),
        rollout=RolloutStore(client, name).read(),
        application=app.main or "pooltasks",
    )
    return Standing(
        evidence,
        verdict(evidence),
        own,
        len(letters),
        decision,
        decisions.paused(),
        errors,
    )
