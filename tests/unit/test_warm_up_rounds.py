"""A node tells how its workers warmed up together: ``pool.warmup``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pooltasks import telemetry
from pooltasks.node.worker.warmup import CommandReport, Plan, WorkerReport
from pooltasks.node.workforce.rounds import WarmUpRound, tell_of_start
from pooltasks.pool_settings import PoolSettings, WarmUp

if TYPE_CHECKING:
    from collections.abc import Iterator

PLAN = Plan.of("code", PoolSettings(warmup=WarmUp(strategy="staged")), 4)


@pytest.fixture
def told() -> Iterator[list[tuple[dict[str, Any], dict[str, Any]]]]:
    """The measurements and the metadata of each event."""
    events: list[Any] = []
    telemetry.attach("test", "pool.warmup", lambda *event: events.append(event[1:3]))
    yield events
    telemetry.detach("test")


def report(pid: int, error: str | None = None) -> WorkerReport:
    return WorkerReport(pid, 10.0, 11.0, (CommandReport("a", 1.0, error),))


def test_a_round_ends_with_the_last_of_its_workers(told: list[Any]) -> None:
    one = WarmUpRound.of(3, {1, 2, 3, 4}, "staged")
    assert not one.hear(report(5))  # forked since
    assert not one.hear(report(1))
    assert not one.hear(report(2, "Trace"))
    assert not one.miss(3)  # it died
    assert one.hear(report(4))
    assert not one.hear(report(4))
    assert not one.miss(4)
    assert [its.pid for its in one.reports] == [1, 2, 4]

    one.tell(PLAN)
    ((measurements, metadata),) = told
    assert measurements.pop("duration") >= 0
    assert measurements == {"workers": 4, "success_rate": 0.5}
    assert metadata == {"pool": "code", "strategy": "staged", "round": 3}


def test_a_round_whose_last_worker_dies_has_ended() -> None:
    one = WarmUpRound.of(1, {1, 2}, "parallel")
    assert not one.hear(report(1))
    assert one.miss(2)


def test_a_round_that_nobody_asked_for_never_ends() -> None:
    assert not WarmUpRound().hear(report(1))
    assert not WarmUpRound().miss(1)


def test_the_start_counts_those_that_were_never_warm(told: list[Any]) -> None:
    tell_of_start(PLAN, seconds=2.5, workers=3, failures=1)
    assert told == [
        (
            {"duration": 2.5, "workers": 3, "success_rate": 0.75},
            {"pool": "code", "strategy": "staged", "round": 0},
        )
    ]
