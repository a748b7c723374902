"""Rollouts: a control node counts what both versions do, and goes a step on, or back.

All that it remembers is in Redis (``metrics/rollout.py``): any control node takes the next
look, and a look that finds nothing new changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from celery.utils.log import get_logger

from pooltasks import keys, telemetry
from pooltasks.app import settings_of
from pooltasks.broker.client import key_prefix, redis_client
from pooltasks.broker.queues import waiting_in
from pooltasks.counted import counted
from pooltasks.metrics.collector import STALE, state_of
from pooltasks.metrics.counts import Counts
from pooltasks.metrics.rollout import STEPS
from pooltasks.metrics.rollout_store import RolloutStore
from pooltasks.metrics.samples import SampleStore
from pooltasks.optimizer.judge import Side, judge

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from celery import Celery

    from pooltasks.metrics.rollout import Rollout, State
    from pooltasks.metrics.samples import StoredSample
    from pooltasks.optimizer.judge import Judgment
    from pooltasks.pool_settings import RolloutSettings

    Samples = Mapping[str, Sequence[StoredSample]]

logger = get_logger(__name__)

ABSENT = 15.0
"""Seconds without a warm worker of the new version after which it is rolled back."""
_BEHIND = 2.0
"""Seconds of work that may wait for the new version before the next step waits for more nodes."""
_LATE = 3.0
"""Seconds after which a sample is not written again with what came after it."""
_MOST_MISSED = 120.0
"""Seconds of samples that a control node reads which was away."""


@dataclass
class Tally:
    """The work of both versions since a rollout has its share."""

    since: float
    before: Counts = field(default_factory=Counts)
    canary: Counts = field(default_factory=Counts)
    seen: dict[str, int] = field(default_factory=dict)
    """The number of the last sample of each node that is counted."""

    def add(self, rollout: Rollout, samples: Samples) -> None:
        """Count what is new; a sample that may be written again waits.

        Args:
            rollout: Says which version is which, and what time it is.
            samples: Of each node, oldest first.
        """
        sides = {rollout.before: self.before, rollout.version: self.canary}
        for node, its in samples.items():
            newest = its[-1].sample.number
            for one in its:
                number = one.sample.number
                is_settled = number < newest or rollout.at - one.at > _LATE or one.sample.stopped
                if not is_settled or number <= self.seen.get(node, -1):
                    continue
                self.seen[node] = number
                if one.at > self.since and one.sample.version in sides:
                    sides[one.sample.version].add(one.sample.counts)
        self.seen = {node: number for node, number in self.seen.items() if node in samples}


def look_after(app: Celery, pool: str) -> Rollout | None:
    """Look after the rollout of one pool of an application; as :func:`look`."""
    settings = settings_of(app).pool_settings(pool)
    client = redis_client(app)
    lists = waiting_in(app, keys.queue(pool))
    samples = SampleStore(client, pool, lists, settings.objective)
    return look(RolloutStore(client, pool, key_prefix(app)), samples, settings.rollout)


def look(store: RolloutStore, samples: SampleStore, settings: RolloutSettings) -> Rollout | None:
    """Look after the rollout of a pool: count, judge, go a step on or back.

    Args:
        store: The pool's rollout.
        samples: The pool's samples.
        settings: The pool's.

    Returns:
        The rollout as it was found; None if there is none.

    Raises:
        redis.RedisError: The server does not answer; the next look goes on.
    """
    rollout = store.read()
    if rollout is None:
        return None
    if not rollout.is_live:
        if not rollout.is_gathered:
            store.gather()
        return rollout
    missed = rollout.at - max(rollout.looked, rollout.since)
    reading = samples.read(min(_MOST_MISSED, missed) + ABSENT + STALE).samples
    tally = Tally(
        rollout.since,
        rollout.counted.get("before", Counts()),
        rollout.counted.get("canary", Counts()),
        dict(rollout.seen),
    )
    tally.add(rollout, reading)
    move = move_of(rollout, tally, reading, settings)
    counted = {"before": tally.before, "canary": tally.canary}
    if move.what == "abort":
        end(store, rollout, "aborted", move.reason)
    elif move.what == "step":
        forward(store, rollout, move.reason, counted)
    else:
        store.note(rollout, counted, tally.seen, move.reason)
    return rollout


class Move(NamedTuple):
    """The next step of a rollout, with its reason."""

    what: Literal["wait", "step", "abort"]
    reason: str


def move_of(rollout: Rollout, tally: Tally, samples: Samples, settings: RolloutSettings) -> Move:
    """Return what is to be done with a live rollout now.

    Args:
        rollout: As it was read.
        tally: What both versions did since it has its share.
        samples: Of each node, oldest first, of the last seconds.
        settings: The pool's.
    """
    capacity = _capacity(rollout.version, samples, rollout.at)
    if not rollout.share:
        if capacity and not rollout.paused:
            return Move("step", f"its nodes have {counted(capacity, 'slot')}")
        return Move("wait", "its nodes are there" if capacity else "it has no warm worker yet")
    if not capacity and _absent(rollout, samples) >= ABSENT:
        return Move("abort", f"for {ABSENT:.0f} s it had no warm worker")
    found = _judged(rollout, tally, samples, settings)
    if found.answer == "worse":
        return Move("abort", found.reason)
    finished = tally.canary.finished / max(1.0, rollout.at - rollout.since)
    much = max(settings.operations / 10, capacity, _BEHIND * finished)
    obstacle = _obstacle(
        replace(rollout, waiting=0) if rollout.waiting <= much else rollout,
        found,
        capacity,
        settings,
    )
    return Move("step", found.reason) if obstacle is None else Move("wait", obstacle)


def _obstacle(
    rollout: Rollout, found: Judgment, capacity: int, settings: RolloutSettings
) -> str | None:
    """Return what the next step waits for; None: nothing."""
    if not capacity:
        return "it has no warm worker now"
    if found.answer == "unknown":
        return found.reason
    if rollout.waiting:
        return f"{rollout.waiting:,} operations wait for its {capacity} slots: start more nodes"
    if rollout.paused:
        return found.reason
    is_too_soon = rollout.at - rollout.since < settings.step_seconds
    return f"{found.reason}; a step takes {settings.step_seconds:g} s" if is_too_soon else None


def _judged(
    rollout: Rollout, tally: Tally, samples: Samples, settings: RolloutSettings
) -> Judgment:
    before = tally.before
    if rollout.baseline is not None and before.finished < settings.operations:
        before = rollout.baseline  # the version before has hardly an operation any more
    return judge(
        Side(before, _memory(rollout.before, samples, rollout.at)),
        Side(tally.canary, _memory(rollout.version, samples, rollout.at)),
        settings.operations,
    )


def forward(
    store: RolloutStore,
    rollout: Rollout,
    reason: str,
    counted: Mapping[str, Counts] | None = None,
) -> bool:
    """Take the next step, or end a rollout that has all operations.

    Args:
        store: The pool's rollout.
        rollout: As it was read.
        reason: Why.
        counted: What both versions did in the step that ends; by default what is stored.

    Returns:
        False if somebody else has changed it meanwhile.
    """
    for share in STEPS:
        if share > rollout.share:
            return _step(store, rollout, share, reason, counted)
    return end(store, rollout, "done", reason)


def end(store: RolloutStore, rollout: Rollout, state: State, reason: str) -> bool:
    """End a rollout; return False if somebody else has changed it meanwhile.

    Args:
        store: The pool's rollout.
        rollout: As it was read.
        state: ``done`` or ``aborted``.
        reason: Why.
    """
    if not store.end(rollout, state, reason):
        return False
    _tell(store.pool, rollout, 100 if state == "done" else 0, state, reason)
    return True


def _step(
    store: RolloutStore,
    rollout: Rollout,
    share: int,
    reason: str,
    counted: Mapping[str, Counts] | None = None,
) -> bool:
    if not store.step(rollout, share, reason, counted):
        return False
    _tell(store.pool, rollout, share, "live", reason)
    return True


def _tell(pool: str, rollout: Rollout, share: int, state: State, reason: str) -> None:
    log = logger.warning if state == "aborted" else logger.info
    log("pool %s: rollout of %s, %s, %d %%: %s", pool, rollout.version, state, share, reason)
    telemetry.execute(
        "rollout",
        {"share": share / 100, "before": rollout.share / 100},
        {
            "pool": pool,
            "version": rollout.version,
            "version_before": rollout.before,
            "state": state,
            "reason": reason,
        },
    )


def _of_version(version: str, samples: Samples, now: float) -> Iterable[StoredSample]:
    """Return the last sample of each live node that serves and has this version."""
    for its in samples.values():
        last = its[-1]
        if last.sample.version == version and state_of(last, now) == "live":
            yield last


def _capacity(version: str, samples: Samples, now: float) -> int:
    return sum(one.sample.capacity for one in _of_version(version, samples, now))


def _absent(rollout: Rollout, samples: Samples) -> float:
    """Return for how many seconds no node of the new version has told of a warm worker."""
    warm = [
        one.at
        for its in samples.values()
        for one in its
        if one.sample.version == rollout.version and one.sample.capacity and one.sample.serves
    ]
    return rollout.at - max([rollout.since, *warm])


def _memory(version: str, samples: Samples, now: float) -> float | None:
    """Return the bytes of a worker, those it shares included.

    Without the node's own process and as if nothing were shared: a node with one worker, as a
    new version has at first, would else look larger than one of the same code with several.
    """
    total = workers = 0
    for one in _of_version(version, samples, now):
        its = one.sample.resources
        count = one.sample.warm + one.sample.spares
        if its is None or not its.workers_rss or not count:
            continue
        total += its.workers_rss
        workers += count
    return total / workers if workers else None
