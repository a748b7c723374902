"""The goals of the requirements document are judged by what a pool says of itself."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from pooltasks.metrics.counts import Counts
from pooltasks.metrics.goals import Seen, goals
from pooltasks.metrics.histogram import Histogram
from pooltasks.metrics.sample import Resources, Sample
from pooltasks.metrics.view import Load, PoolMetrics, PoolWork, Quantiles
from pooltasks.telemetry import Outcome


def histogram(*seconds: float) -> Histogram:
    its = Histogram()
    for one in seconds:
        its.add(one)
    return its


def metrics(counts: Counts | None) -> PoolMetrics:
    load: dict[str, Any] = dict.fromkeys(Load.__dataclass_fields__)
    work = PoolWork.of(counts, seconds=10.0)
    return PoolMetrics("goals", 1000.0, 10.0, Load(**load), work, None, (), None)


def sample(rss: int, cpu: float, **changes: Any) -> Sample:
    used = Resources(node_cpu=1.0, workers_cpu=cpu, node_rss=1, workers_rss=rss, pss=None)
    values = {"size": 3, "warm": 3, "spares": 1, "busy": 2, "reserved": 0, "reserved_age": 0.0}
    return Sample(number=0, interval=1.0, resources=used, **{**values, **changes})


GOOD = Counts(
    outcomes=Counter({Outcome.SUCCESS: 19_990, Outcome.FAILURE: 10}),
    recovery=histogram(0.2, 0.4),
    busy=28.0,
    process=40.0,
    latency=histogram(*[0.02] * 990, *[0.09] * 10),
)


def test_what_is_within_the_bounds_holds() -> None:
    its = goals(metrics(GOOD), [sample(160_000_000, 0.2), sample(200_000_000, 0.4)])
    assert [goal.measured for goal in its] == pytest.approx(
        [20, 20, 2000, 70, 0.05, 400, 45, 7.5], rel=0.02
    )
    assert all(goal.holds for goal in its)
    assert [str(goal).split()[0] for goal in its] == ["holds"] * 8


def test_what_is_outside_is_missed() -> None:
    bad = Counts(
        outcomes=Counter({Outcome.SUCCESS: 1000, Outcome.FAILURE: 10}),
        recovery=histogram(0.2, 0.6),
        busy=38.0,
        process=40.0,
        latency=histogram(*[0.06] * 90, *[0.2] * 10),
    )
    its = goals(metrics(bad), [sample(400_000_000, 2.0)])
    assert not any(goal.holds for goal in its)
    assert str(its[2]).endswith("(≥ 1000)")
    assert str(its[3]).endswith("(60–80)")
    assert str(its[7]).endswith("(≤ 10)")


def test_an_idle_pool_is_outside_the_band() -> None:
    utilization = goals(metrics(Counts(busy=1.0, process=40.0)), [])[3]
    assert (utilization.what, utilization.holds) == ("utilization", False)


def test_what_is_not_known_does_not_hold() -> None:
    its = goals(metrics(None), [sample(1, 1.0, size=0, warm=0, spares=0)])
    assert [goal.measured for goal in its] == [None] * 8
    assert not any(goal.holds for goal in its)
    assert "not known" in str(its[0])
    assert {goal.verdict for goal in its} == {"unknown"}


def test_what_callers_saw_counts_for_them() -> None:
    seen = Seen(Quantiles.of(histogram(*[0.03] * 98, *[0.3] * 2)), 900.0, unanswered=0.01)
    its = goals(metrics(GOOD), [sample(160_000_000, 0.2)], seen)
    assert [goal.measured for goal in its[:5]] == pytest.approx([30, 300, 900, 70, 1.0], rel=0.02)
    assert [goal.verdict for goal in its[:5]] == ["holds", "MISSED", "MISSED", "holds", "MISSED"]
