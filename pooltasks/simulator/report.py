"""Policies × workloads × seeds, and the table of their cost and their service."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from statistics import NormalDist, fmean, stdev
from typing import TYPE_CHECKING

from pooltasks.optimizer.policies import Fixed, Limits, Objective, Rules, Schedule
from pooltasks.optimizer.staffing import Goal
from pooltasks.simulator.conditions import Conditions
from pooltasks.simulator.engine import Simulation
from pooltasks.simulator.rivals import (
    CeleryAutoscale,
    HorizontalPodAutoscaler,
    Keda,
    KnativePodAutoscaler,
    LatencyStep,
    Oracle,
    TargetTracking,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pooltasks.optimizer.policies import Policy
    from pooltasks.simulator.recorded import Replay
    from pooltasks.simulator.run import Run
    from pooltasks.simulator.workloads import Arrivals, Source

    Builder = Callable[["Setting"], Policy]
    Watcher = Callable[[str, str, int, Arrivals, Run], None]

_RECOVERED_FOR = 10.0  # seconds that the objective must hold to count as recovered
_CHANCE = 0.05  # of the operations; when more are late with the oracle too, it is overload


@dataclass(frozen=True)
class Setting:
    """The setting that a policy is built for: one sequence under one objective."""

    arrivals: Arrivals
    limits: Limits
    goal: Goal
    conditions: Conditions
    tail_factor: float = 1.0

    @property
    def overflow(self) -> int:
        """Slots of temporary workers that nodes add by themselves."""
        return self.conditions.overflow * self.conditions.nodes

    def oracle(self) -> Oracle:
        """Return the policy that knows the arrivals to come."""
        return Oracle(self.limits, self.goal, self.arrivals, self.conditions, self.tail_factor)

    def staffed_for_mean(self) -> int:
        """Return the slots that the mean rate of the whole sequence needs."""
        rate = len(self.arrivals.times) / self.arrivals.seconds
        return self.oracle().size_for(rate)


def policies() -> dict[str, Builder]:
    """Return the builder of each policy and each rival, by name."""
    return {
        "objective": lambda setting: Objective(
            setting.limits, setting.goal, overflow=setting.overflow
        ),
        "schedule": lambda setting: Schedule(
            setting.limits, setting.goal, season=3600.0, overflow=setting.overflow
        ),
        "rules": lambda setting: Rules(setting.limits),
        "fixed": lambda setting: Fixed(setting.staffed_for_mean()),
        "hpa": lambda setting: HorizontalPodAutoscaler(setting.limits),
        "keda": lambda setting: Keda(setting.limits),
        "knative": lambda setting: KnativePodAutoscaler(setting.limits),
        "aws": lambda setting: TargetTracking(setting.limits),
        "celery": lambda setting: CeleryAutoscale(setting.limits),
        "latency": lambda setting: LatencyStep(setting.limits, setting.goal.wait),
        "oracle": lambda setting: setting.oracle(),
    }


def fixed(size: int) -> Builder:
    """Return the builder of a pool of always ``size`` slots."""
    return lambda _setting: Fixed(size)


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % confidence interval (Student's t over the seeds)."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Interval:
        """Return the interval of at least one value; that of one value has no width."""
        mean = fmean(values)
        if len(values) == 1:
            return cls(mean, mean, mean)
        half = student_t(len(values) - 1) * stdev(values) / math.sqrt(len(values))
        return cls(mean, mean - half, mean + half)


def student_t(degrees: int) -> float:
    """Return the 97.5 % point of Student's t.

    Exact for 1 and 2 degrees of freedom, else within 0.5 % by Cornish and
    Fisher's expansion (Abramowitz and Stegun 26.7.5).
    """
    if degrees == 1:
        return 12.7062
    if degrees == 2:  # noqa: PLR2004  the closed form ends here
        return 4.3027
    z = NormalDist().inv_cdf(0.975)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / math.pow(degrees, power) for power, term in enumerate(terms, 1))


@dataclass(frozen=True)
class Row:
    """One policy on one workload, over all seeds.

    Attributes:
        workload: Its name.
        policy: Its name.
        violations: Share of operations that waited longer than the objective, 0–1.
        cost: Worker-seconds ÷ those of the oracle on the same sequence.
        resizes_per_hour: Decisions that changed the size.
        recovery: Mean seconds from a step of at least twofold until the objective
            holds again (:func:`recoveries`); None if the workload has no such step.
        worst_recovery: The longest of these.
    """

    workload: str
    policy: str
    violations: Interval
    cost: Interval
    resizes_per_hour: Interval
    recovery: float | None
    worst_recovery: float | None

    def as_json(self) -> dict[str, object]:
        """Return the row as JSON values."""
        return asdict(self)


def compare(
    workloads: Iterable[Source],
    builders: dict[str, Builder],
    seeds: Iterable[int],
    *,
    seconds: float = 1800.0,
    limits: Limits | None = None,
    goal: Goal | None = None,
    conditions: Conditions | None = None,
    watch: Watcher | None = None,
) -> Iterator[Row]:
    """Run every policy on every workload; yield a row as soon as it is known.

    All policies see the same sequences, start with the size that the oracle
    starts with, and are measured against the oracle of the same sequence.
    ``watch`` is told of each run: workload, policy, seed, operations, run.
    """
    limits = limits or Limits(2, 64)
    goal = goal or Goal()
    conditions = conditions or Conditions(wait=goal.wait)
    seeds = list(seeds)
    for workload in workloads:
        measured: dict[str, list[tuple[Run, float, list[float]]]] = {name: [] for name in builders}
        for seed in seeds:
            arrivals = workload.sequence(seed, seconds)
            factor = arrivals.service.steady_factor
            setting = Setting(arrivals, limits, goal, conditions, factor)
            oracle, runs = _one_seed(setting, builders, seed)
            for name, run in runs.items():
                cost = run.worker_seconds / oracle.worker_seconds
                measured[name].append((run, cost, recoveries(arrivals, run, oracle, goal)))
                if watch:
                    watch(workload.name, name, seed, arrivals, run)
        hours = (seconds - conditions.warm_in) / 3600.0
        for name, results in measured.items():
            times = [time for _, _, found in results for time in found]
            yield Row(
                workload=workload.name,
                policy=name,
                violations=Interval.of([run.violations for run, _, _ in results]),
                cost=Interval.of([cost for _, cost, _ in results]),
                resizes_per_hour=Interval.of([run.resizes / hours for run, _, _ in results]),
                recovery=fmean(times) if times else None,
                worst_recovery=max(times) if times else None,
            )


def recorded_row(replay: Replay, limits: Limits, goal: Goal, conditions: Conditions) -> Row:
    """Return the row of the pool itself, to compare with policies on its traffic."""
    recording = replay.recording
    arrivals = replay.sequence(0, recording.seconds)
    setting = Setting(arrivals, limits, goal, conditions, arrivals.service.steady_factor)
    oracle, _ = _one_seed(setting, {}, 0)
    since = int(conditions.warm_in)
    sizes = recording.sizes[since:]
    resizes = sum(before != after for before, after in pairwise(sizes))
    return Row(
        workload=replay.name,
        policy="as it was",
        violations=Interval.of([recording.late(goal.wait, since)]),
        cost=Interval.of([recording.worker_seconds(since) / oracle.worker_seconds]),
        resizes_per_hour=Interval.of([resizes / len(sizes) * 3600.0]),
        recovery=None,
        worst_recovery=None,
    )


def _one_seed(
    setting: Setting, builders: dict[str, Builder], seed: int
) -> tuple[Run, dict[str, Run]]:
    """Return the oracle's run and every policy's, all from the oracle's first size.

    The oracle has no spares and no overflow: it is never surprised.
    """
    start = replace(setting.conditions, initial=setting.oracle().size_at(0.0, 0.0))
    without = replace(start, spares=0, overflow=0)
    oracle = Simulation(setting.arrivals, setting.oracle(), without, seed).run()
    runs = {
        name: oracle
        if name == "oracle"
        else Simulation(setting.arrivals, build(setting), start, seed).run()
        for name, build in builders.items()
    }
    return oracle, runs


def recoveries(arrivals: Arrivals, run: Run, oracle: Run, goal: Goal) -> list[float]:
    """Return, for each step up, the seconds until the objective holds again.

    That is the first moment from which on, for 10 s, no more operations are late than
    the objective allows, or than with an oracle that was staffed for the step before it
    came: in so short a time chance alone makes more than 1 % (but hardly 5 %) of them
    late now and then, with any policy. Operations count at their publication. A run
    that does not recover before it ends counts to its end.
    """
    published = arrivals.times
    late, unavoidable = _late(arrivals, run, goal), _late(arrivals, oracle, goal)
    found = []
    for step in arrivals.steps_up():
        recovered = arrivals.seconds
        for start in [step, *late[bisect_right(late, step) :]]:
            end = start + _RECOVERED_FOR
            total = _between(published, start, end)
            chance = min(_between(unavoidable, start, end), _CHANCE * total)
            if _between(late, start, end) <= max(goal.allowance * total, chance):
                recovered = start
                break
        found.append(recovered - step)
    return found


def _late(arrivals: Arrivals, run: Run, goal: Goal) -> list[float]:
    """Return the publication times of operations that waited too long, or never started."""
    return [
        time
        for time, wait in zip(arrivals.times, run.waits, strict=True)
        if wait > goal.wait or wait < 0.0
    ]


def _between(times: Sequence[float], start: float, end: float) -> int:
    return bisect_right(times, end) - bisect_right(times, start)


def table(rows: Iterable[Row]) -> Iterator[str]:
    """Yield the lines of a table for people, the heading first."""
    yield (
        f"{'WORKLOAD':<21} {'POLICY':<10} {'LATE %':>7} {'± 95 %':>7} {'COST':>6} {'± 95 %':>7} "
        f"{'RESIZES/H':>9} {'RECOVERY S':>10} {'LONGEST':>7}"
    )
    for row in rows:
        yield (
            f"{row.workload:<21} {row.policy:<10} {100 * row.violations.mean:>7.2f} "
            f"{_half(row.violations, 100, 2):>7} {row.cost.mean:>6.3f} {_half(row.cost, 1, 3):>7} "
            f"{row.resizes_per_hour.mean:>9.0f} {_seconds(row.recovery):>10} "
            f"{_seconds(row.worst_recovery):>7}"
        ).rstrip()


def _half(interval: Interval, scale: float, digits: int) -> str:
    """Return half the width of an interval in words; empty for a single value."""
    half = scale * (interval.high - interval.mean)
    return f"{half:.{digits}f}" if half else ""


def _seconds(time: float | None) -> str:
    return "" if time is None else f"{time:.1f}"
