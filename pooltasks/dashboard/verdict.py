"""Verdict: whether a pool is well, and if not, what is wrong, in a sentence.

The list of pools, a pool's page and ``pooltasks status`` say the same, and what
they color red is what the sentence names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pooltasks.counted import percent
from pooltasks.dashboard import remedies, rollouts
from pooltasks.dashboard.circumstances import MORE_MEMORY, circumstances, full_server
from pooltasks.keys import CONTROL_POOL
from pooltasks.metrics.collector import PRESENT, state_of
from pooltasks.metrics.health import late_share
from pooltasks.metrics.surroundings import Surroundings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pooltasks.metrics.health import Health
    from pooltasks.metrics.histogram import Histogram
    from pooltasks.metrics.rollout import Rollout
    from pooltasks.metrics.samples import StoredSample
    from pooltasks.metrics.view import NodeMetrics, PoolMetrics
    from pooltasks.pool_settings import PoolSettings

GOOD, FAIR = 80, 60
"""Health scores from which on a pool is well, or wants attention soon."""
LEVELS = ("bad", "fair", "good", "off")
"""How a pool is, the worst first; ``off``: nobody uses it."""
_OLD = 1.0
"""Seconds of waiting of a single operation that are a problem: every objective allows some."""
_MANY_FAILURES = 0.01
"""Share of failed operations from which on they are a problem and not a remark."""
UNFINISHED = ("retry", "lost")
"""Outcomes of operations that run again."""


@dataclass(frozen=True)
class Evidence:
    """The evidence of a verdict: a pool's metrics, and the facts that they leave out."""

    pool: str
    settings: PoolSettings
    metrics: PoolMetrics
    waits: Histogram | None = None
    """How long operations waited in the window; None if that is not known."""
    lost: Mapping[str, float] = field(default_factory=dict)
    """Nodes that fell silent and were not replaced, and for how many seconds."""
    draining: Mapping[str, bool] = field(default_factory=dict)
    """Nodes that take no operations, and whether they have finished what they had."""
    set_aside: int = 0
    """Operations that became dead letters in the window."""
    last_reason: str | None = None
    """The reason of the last dead letter."""
    unseen_failures: int = 0
    """Dead letters of the window that no worker has counted as failures."""
    warm_up_failure: str | None = None
    """The present failure of the warm-up: the command, its exception, the file and the line."""
    cause: str | None = None
    """The most frequent error of now: the operation, the error, the file and the line."""
    around: Surroundings = field(default_factory=Surroundings)
    """The surroundings that the pool depends on."""
    rollout: Rollout | None = None
    """The rollout of a new version, the last that there was."""
    application: str = "pooltasks"
    """The name by which Celery's commands know the application."""

    @property
    def wait(self) -> float | None:
        """The wait, in seconds, at the quantile of the pool's objective."""
        return self.waits.quantile(self.settings.objective.quantile) if self.waits else None

    @property
    def failed(self) -> int | None:
        """Operations that failed in the window, those that became dead letters included."""
        counted = self.metrics.work.operations
        return None if counted is None else counted["failure"] + self.unseen_failures  # type: ignore[index]

    @property
    def error_rate(self) -> float | None:
        """Share (0–1) of the operations that ended in the window and failed."""
        rate = self.metrics.work.error_rate
        if not self.unseen_failures or self.metrics.work.operations is None:
            return rate
        finished = finished_of(self.metrics)
        ended = finished + self.unseen_failures
        return ((rate or 0.0) * finished + self.unseen_failures) / ended


@dataclass(frozen=True)
class Verdict:
    """How a pool is."""

    level: str
    """One of :data:`LEVELS`."""
    text: str
    """One sentence for people."""
    blamed: frozenset[str]
    """Bad numbers: of ``wait``, ``oldest``, ``errors``, ``warm``, ``dead``, ``nodes``."""
    remedy: str | None = None
    """The next step against the worst finding, in a sentence."""
    more: tuple[str, ...] = ()
    """The remedies of the other findings, the worst first."""

    def as_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "level": self.level,
            "text": self.text,
            "blamed": sorted(self.blamed),
            "remedy": self.remedy,
            "more": list(self.more),
        }


def finished_of(metrics: PoolMetrics) -> int:
    """Return how many operations workers finished in the window, whatever their outcome."""
    counted = metrics.work.operations or {}
    return sum(number for outcome, number in counted.items() if outcome not in UNFINISHED)


def celery_name(node: NodeMetrics) -> str:
    """Return a node's name as Celery has it: without the process id."""
    return _celery_name(node.name)


def _celery_name(name: str) -> str:
    return name.rpartition("/")[0] or name


def lost_nodes(samples: Mapping[str, Sequence[StoredSample]], now: float) -> dict[str, float]:
    """Return the nodes that fell silent without a word, by their names in Celery.

    One that was started again under its name is not lost.

    Args:
        samples: Of each node, oldest first.
        now: Server time.

    Returns:
        For each the seconds since its last sample.
    """
    states = [(name, state_of(its[-1], now), its[-1].at) for name, its in samples.items() if its]
    latest: dict[str, float] = {}
    for name, _, at in states:
        latest[_celery_name(name)] = max(at, latest.get(_celery_name(name), 0.0))
    return {
        _celery_name(name): max(0.0, now - at)
        for name, state, at in sorted(states)
        if state in ("stale", "lost") and latest[_celery_name(name)] == at
    }


def draining_nodes(
    nodes: Iterable[NodeMetrics], said: Mapping[str, Mapping[str, Any]]
) -> dict[str, bool]:
    """Return the nodes that take no operations, by their names in Celery.

    A node that is about to end takes none either, and only its samples tell so.

    Args:
        nodes: As their samples told them.
        said: What each node that answers says of itself.

    Returns:
        For each whether it has finished what it had.
    """
    by_sample = {
        celery_name(node): not (node.reserved or node.running or node.busy)
        for node in nodes
        if node.state == "draining"
    }
    return by_sample | {name: its["empty"] for name, its in said.items() if its["draining"]}


def warm_up_failure(said: Iterable[Mapping[str, Any]]) -> str | None:
    """Return what fails in the warm-up of a pool now; None if nothing does.

    Args:
        said: What each node that answers says of itself.
    """
    # A node of the version before tells nothing of it.
    failures = (its["warm_up"].get("last_failure") for its in said)
    return next((failure for failure in failures if failure), None)


def verdict(its: Evidence) -> Verdict:
    """Return how a pool is.

    A pool that misses its objective, or of which something is missing, is not
    ``good``, whatever its score.
    """
    metrics, memory = its.metrics, its.around.memory
    if memory is not None and memory.is_full:  # whatever else is seen comes of it
        return Verdict("bad", _sentence(full_server(memory)), frozenset({"nodes"}), MORE_MEMORY)
    present = [celery_name(node) for node in metrics.nodes if node.state in PRESENT]
    if not present:
        return _without_nodes(its)
    # Nobody waits for the operations of the control pool, which are most of its score.
    level = "good" if its.pool == CONTROL_POOL else score_level(metrics.health)
    found = _Findings()
    _look_at_rollout(its, found)
    _look_at_nodes(its, present, found)
    _look_at_workers(its, found)
    _look_at_failures(its, found)
    for text, remedy in circumstances(its.application, its.pool, its.around):
        found.problems.append(text)
        found.remedies[text] = remedy
    _look_at_waits(its, level, found)
    if found.bad:
        level = "bad"
    elif found.problems and level == "good":
        level = "fair"
    text = "; ".join([*found.bad, *found.problems, *found.remarks])
    warm = metrics.load.warm or 0
    text = text or f"{_plural(len(present), 'node')}, {_plural(warm, 'warm worker')}"
    first, *more = found.what_to_do or (None,)
    return Verdict(level, _sentence(text), frozenset(found.blamed), first, tuple(more))


@dataclass
class _Findings:
    """The findings, in words."""

    bad: list[str] = field(default_factory=list)
    """Findings that make a pool bad, whatever its score."""
    problems: list[str] = field(default_factory=list)
    """Findings that keep a pool from being good."""
    remarks: list[str] = field(default_factory=list)
    blamed: set[str] = field(default_factory=set)
    remedies: dict[str, str] = field(default_factory=dict)
    """The remedy of each finding that has one."""

    @property
    def what_to_do(self) -> list[str]:
        """The remedies of the findings that have one, the worst finding first."""
        worst = (*self.bad, *self.problems, *self.remarks)
        return list(dict.fromkeys(self.remedies[text] for text in worst if text in self.remedies))


def _look_at_rollout(its: Evidence, found: _Findings) -> None:
    its_finding = rollouts.finding(its)
    if its_finding is not None:
        where = {"bad": found.bad, "problem": found.problems, "remark": found.remarks}
        where[its_finding.kind].append(its_finding.text)
        if its_finding.remedy:
            found.remedies[its_finding.text] = its_finding.remedy
        if its_finding.kind == "bad":
            found.blamed.add("nodes")


def _look_at_nodes(its: Evidence, present: Sequence[str], found: _Findings) -> None:
    if its.lost:
        found.problems.append(_silence(its.lost))
        found.remedies[found.problems[-1]] = remedies.lost(its)
        found.blamed.add("nodes")
    for text in _unreadable(its.metrics):
        found.problems.append(text)
        found.remedies[text] = remedies.SAME_VERSION
    draining = {name: empty for name, empty in its.draining.items() if name in present}
    if len(draining) == len(present):
        found.blamed.add("nodes")
        where = found.bad if its.metrics.load.backlog else found.problems
        where.append(_drain(draining, "no node takes operations"))
        found.remedies[where[-1]] = remedies.resume(its)
    elif draining:
        found.remarks.append(_drain(draining, ""))


def _look_at_workers(its: Evidence, found: _Findings) -> None:
    load = its.metrics.load
    if load.size and not load.warm and (its.warm_up_failure or not load.warming):
        found.blamed.add("warm")
        found.bad.append(
            f"no worker is warm: the warm-up fails in {its.warm_up_failure}"
            if its.warm_up_failure
            else "no worker is warm: the warm-up fails, or the workers die in it. "
            f"For the error: pooltasks check {its.pool}, or the node's log"
        )
        if its.warm_up_failure:
            found.remedies[found.bad[-1]] = remedies.warm_up(its)
    elif load.size and load.warm is not None and load.warm < load.size:
        found.blamed.add("warm")
        warming = f", {load.warming} warming up" if load.warming else ""
        found.problems.append(f"{load.warm} of {_plural(load.size, 'worker')} warm{warming}")
        if its.warm_up_failure:
            found.problems.append(f"the warm-up fails in {its.warm_up_failure}")
            found.remedies[found.problems[-1]] = remedies.warm_up(its)
    if its.metrics.work.recoveries:
        found.remarks.append(f"{_plural(its.metrics.work.recoveries, 'worker')} died")


def _look_at_waits(its: Evidence, level: str, found: _Findings) -> None:
    age, objective = its.metrics.load.oldest_age or 0.0, its.settings.objective
    if age * 1000 > objective.wait_ms and (age > _OLD or level != "good"):
        found.blamed.add("oldest")
        found.problems.append(f"the oldest operation has waited {in_seconds(age)}")
        found.remedies[found.problems[-1]] = remedies.more_workers(its)
    if is_late(its):
        found.blamed.add("wait")
        found.problems.append(
            f"the wait at {objective.quantile * 100:g} % is {in_seconds(its.wait or 0.0)}, "
            f"above the objective of {objective.wait_ms:g} ms"
        )
        found.remedies[found.problems[-1]] = remedies.more_workers(its)


def _look_at_failures(its: Evidence, found: _Findings) -> None:
    if its.error_rate:
        cause = f", most of them now with {its.cause}" if its.cause else ""
        failures = f"{percent(its.error_rate)} % of the operations failed{cause}"
        found.remedies[failures] = remedies.failures(its)
        if its.error_rate >= _MANY_FAILURES:
            found.blamed.add("errors")
            found.problems.append(failures)
        else:
            found.remarks.append(failures)
    if its.set_aside:
        found.blamed.add("dead")
        became = "became a dead letter" if its.set_aside == 1 else "became dead letters"
        why = f", the last because {its.last_reason}" if its.last_reason else ""
        found.problems.append(f"{_plural(its.set_aside, 'operation')} {became}{why}")
        found.remedies[found.problems[-1]] = remedies.dead_letters(its)


def is_late(its: Evidence) -> bool:
    """Return whether more operations waited too long than the objective of the pool allows.

    Nobody waits for the control pool's own operations: it has no objective.
    """
    objective = its.settings.objective
    if its.waits is None or its.pool == CONTROL_POOL:
        return False
    late = late_share(its.waits, objective.wait_ms / 1000)
    return late is not None and late > 1 - objective.quantile + 1e-9


def score_level(health: Health | None) -> str:
    """Return the level of a score: good, fair or bad."""
    score = health.score if health else 0.0
    return "good" if score >= GOOD else "fair" if score >= FAIR else "bad"


def in_seconds(seconds: float) -> str:
    """Return a duration in words."""
    if seconds >= 100:  # noqa: PLR2004  from here on tenths tell nothing
        return f"{seconds:,.0f} s"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _without_nodes(its: Evidence) -> Verdict:
    metrics, load = its.metrics, its.metrics.load
    if metrics.unreadable:  # it may be as well as can be
        text = _sentence(_unreadable(metrics)[0])
        return Verdict("fair", text, frozenset({"nodes"}), remedies.SAME_VERSION)
    idle = not its.lost and load.backlog == 0
    who = _silence(its.lost) if its.lost else "no node serves this pool"
    waiting = "" if idle else f"; {_plural(load.queue_depth or 0, 'operation')} in the queue"
    blamed = frozenset() if idle else frozenset({"nodes"})
    if idle:
        return Verdict("off", _sentence(who + waiting), blamed)
    remedy = remedies.start(its)
    return Verdict("bad", _sentence(who + waiting), blamed, remedy)


def _silence(lost: Mapping[str, float]) -> str:
    first, *others = (f"{name} has not answered for {in_seconds(s)}" for name, s in lost.items())
    return f"{first} (and {_plural(len(others), 'other node')})" if others else first


def _drain(draining: Mapping[str, bool], meaning: str) -> str:
    names = ", ".join(
        f"{name} is {'drained' if empty else 'draining'}" for name, empty in draining.items()
    )
    return f"{names}: {meaning}" if meaning else names


def _unreadable(metrics: PoolMetrics) -> list[str]:
    nodes = len(metrics.unreadable)
    return [f"{_plural(nodes, 'node')} of another version cannot be read"] if nodes else []


def _sentence(text: str) -> str:
    # A node's name keeps its case.
    first = text.partition(" ")[0]
    return f"{text if '@' in first else text[0].upper() + text[1:]}."


def _plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
