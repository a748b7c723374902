"""The policy ``objective`` beside other autoscalers, each at its best.

Each rival is tried with several settings on one half of the seeds. The cheapest
setting that meets the goal there (if none does, the one that is late least) is
reported on the other half. So each rival has the best setting for each workload,
which no live pool could choose.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pooltasks.optimizer.policies import Objective, Rules
from pooltasks.optimizer.staffing import Goal
from pooltasks.simulator.report import Row, compare, fixed
from pooltasks.simulator.rivals import (
    CeleryAutoscale,
    HorizontalPodAutoscaler,
    Keda,
    KnativePodAutoscaler,
    LatencyStep,
    TargetTracking,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pooltasks.optimizer.policies import Policy
    from pooltasks.simulator.report import Builder, Setting
    from pooltasks.simulator.workloads import Workload

OURS = "objective"
ORACLE = "oracle"
EQUAL_COST = 1.02
"""A rival that costs up to this times ours costs the same."""

_FIRST_REPORTED = 1000
_FIXED = (5, 6, 7, 8, 10, 12, *range(14, 21), 22, 25, 28, 31, 34, 38)


def rivals() -> dict[str, dict[str, Builder]]:
    """Return every setting of every rival: rival → setting → its builder."""
    utilizations = (0.5, 0.6, 0.7, 0.8, 0.9)
    return {
        "document's rules": {"": lambda setting: Rules(setting.limits)},
        "Kubernetes HPA": {
            f"{target:.0%}, {window:g} s": _hpa(target, window)
            for target in utilizations
            for window in (60.0, 300.0)
        },
        "Knative KPA": {f"{target:.0%}": _knative(target) for target in utilizations},
        "AWS target tracking": {f"{target:.0%}": _aws(target) for target in utilizations},
        "KEDA list length": {f"{length:g}": _keda(length) for length in (1.0, 2.0, 5.0, 10.0)},
        "--autoscale": {
            f"{keepalive:g} s": _celery(keepalive) for keepalive in (10.0, 30.0, 120.0)
        },
        "latency step": {
            f"{threshold * 1000:g} ms, {calm:g} s": _latency(threshold, calm)
            for threshold in (0.005, 0.02, 0.05)
            for calm in (30.0, 120.0)
        },
        "fixed size": {str(size): fixed(size) for size in _FIXED},
    }


def _hpa(target: float, window: float) -> Builder:
    def build(setting: Setting) -> Policy:
        return HorizontalPodAutoscaler(setting.limits, target, window)

    return build


def _knative(target: float) -> Builder:
    return lambda setting: KnativePodAutoscaler(setting.limits, target)


def _aws(target: float) -> Builder:
    return lambda setting: TargetTracking(setting.limits, target)


def _keda(length: float) -> Builder:
    return lambda setting: Keda(setting.limits, length)


def _celery(keepalive: float) -> Builder:
    return lambda setting: CeleryAutoscale(setting.limits, keepalive=keepalive)


def _latency(threshold: float, calm: float) -> Builder:
    return lambda setting: LatencyStep(setting.limits, threshold, calm)


@dataclass(frozen=True)
class Comparison:
    """One workload: ours and every rival at its best, on the seeds that tuned none of them."""

    ours: Row
    rivals: dict[str, Row]
    """By rival; the policy of a row is the setting."""
    others: list[Row]
    """Settings at the highest cost that still counts as equal to ours."""

    @property
    def beaten(self) -> list[str]:
        """Rivals that are both cheaper and late less often than ours."""
        return [
            name
            for name, row in self.rivals.items()
            if row.cost.mean < self.ours.cost.mean
            and row.violations.mean < self.ours.violations.mean
        ]

    @property
    def at_equal_cost(self) -> float | None:
        """How many times more often than ours the best rival of our cost is late."""
        most = EQUAL_COST * self.ours.cost.mean
        rows = [*self.rivals.values(), *self.others]
        late = [row.violations.mean for row in rows if row.cost.mean <= most]
        return min(late) / self.ours.violations.mean if late else None


def best(rows: Sequence[Row], goal: Goal) -> Row:
    """Return the cheapest row that meets the goal; if none does, the one late least."""
    meeting = [row for row in rows if row.violations.mean <= goal.allowance]
    if meeting:
        return min(meeting, key=lambda row: row.cost.mean)
    return min(rows, key=lambda row: row.violations.mean)


def comparisons(
    workloads: Iterable[Workload], seeds: int, tuning_seeds: int, seconds: float
) -> Iterator[Comparison]:
    """Yield a comparison of each workload.

    Args:
        workloads: The workloads to compare on.
        seeds: How many sequences are reported: from the number 1,000 on.
        tuning_seeds: How many sequences the rivals are tuned on: from the number 0 on, as
            the default policy was.
        seconds: Length of a sequence.
    """
    goal = Goal()
    tried = {(rival, name): build for rival, its in rivals().items() for name, build in its.items()}
    by_label = {f"{rival} {name}".strip(): (rival, name) for rival, name in tried}
    tuning, reported = range(tuning_seeds), range(_FIRST_REPORTED, _FIRST_REPORTED + seeds)
    for workload in workloads:
        builders = {label: tried[key] for label, key in by_label.items()}
        tuned: dict[str, list[Row]] = {}
        ours_tuned = 0.0
        for row in compare([workload], {OURS: _objective, **builders}, tuning, seconds=seconds):
            if row.policy == OURS:
                ours_tuned = row.cost.mean
            else:
                tuned.setdefault(by_label[row.policy][0], []).append(row)
        chosen = {rival: best(rows, goal).policy for rival, rows in tuned.items()}
        # At our cost the best setting may be another than the one that meets the goal.
        affordable = [
            row
            for rows in tuned.values()
            for row in rows
            if row.cost.mean <= EQUAL_COST * ours_tuned and row.policy not in chosen.values()
        ]
        cheap = min(affordable, key=lambda row: row.violations.mean, default=None)
        wanted = {*chosen.values(), *([cheap.policy] if cheap else [])}
        rows = {
            row.policy: row
            for row in compare(
                [workload],
                {OURS: _objective, **{label: builders[label] for label in wanted}},
                reported,
                seconds=seconds,
            )
        }
        yield Comparison(
            rows[OURS],
            {rival: rows[label] for rival, label in chosen.items()},
            [rows[cheap.policy]] if cheap else [],
        )


def _objective(setting: Setting) -> Policy:
    return Objective(setting.limits, setting.goal)


def lines(comparison: Comparison) -> Iterator[str]:
    """Yield a comparison for people: late % / cost, each with its 95 % interval."""
    yield f"{comparison.ours.workload}"
    for name, row in ((OURS, comparison.ours), *comparison.rivals.items()):
        late, cost = row.violations, row.cost
        mark = " cheaper and better than ours" if name in comparison.beaten else ""
        yield (
            f"  {name:<20} {100 * late.mean:6.2f} ± {100 * (late.high - late.mean):5.2f} % "
            f"{cost.mean:6.3f} ± {cost.high - cost.mean:5.3f}  "
            f"{row.resizes_per_hour.mean:4.0f}/h  {row.policy}{mark}"
        )
    ratio = comparison.at_equal_cost
    shown = "none of that cost" if ratio is None or math.isinf(ratio) else f"{ratio:.1f} × as often"
    yield f"  late at our cost, best rival: {shown}"
