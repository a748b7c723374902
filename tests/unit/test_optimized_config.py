"""The configuration of a pool: its limits, and the size that the optimizer gave it."""

from __future__ import annotations

import pytest

from pooltasks.metrics.configuration import OptimizedConfig
from pooltasks.metrics.decisions import PoolDecision
from pooltasks.pool_settings import PoolSettings

SETTINGS = PoolSettings(
    min_pool_size=2, max_pool_size=20, pool_size=5, max_overflow=5, spares=1, slots=4
)


def decision(target: int | None, before: int | None, *, acting: bool = True) -> PoolDecision:
    return PoolDecision(
        at=1000.0,
        policy="objective",
        target=target,
        before=before,
        wanted=target,
        hosts=1,
        nodes={},
        told=[],
        reason="From 20 to 28 slots: as a test says.",
        acting=acting,
    )


def test_the_limits_are_those_of_the_settings_whether_or_not_anything_was_decided() -> None:
    its = OptimizedConfig.of(SETTINGS, None)
    assert (its.min_pool_size, its.max_pool_size, its.max_overflow) == (2, 20, 5)
    assert (its.spares, its.slots, its.strategy) == (1, 4, "lifo")
    assert its.pool_size is its.decision is None


@pytest.mark.parametrize(
    ("made", "workers"),
    [
        (decision(28, 20), 7),
        (decision(30, 20), 8),
        (decision(28, 20, acting=False), 5),
        (decision(None, None, acting=False), None),
    ],
)
def test_the_size_is_in_workers_and_that_of_a_decision_only_if_it_is_carried_out(
    made: PoolDecision, workers: int | None
) -> None:
    its = OptimizedConfig.of(SETTINGS, made)
    assert its.pool_size == workers
    assert its.decision == made
