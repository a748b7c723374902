"""What a node makes of workers that have ended: the part alone, without processes."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from billiard.pool import EX_OK, EX_RECYCLE

from pooltasks import telemetry
from pooltasks.errors import Category
from pooltasks.node.workforce import deaths as module
from pooltasks.node.workforce.crashes import Cause, Crashes
from pooltasks.node.workforce.deaths import Deaths, End

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

EVENTS = ("worker.terminate", "recovery", "error")


class Scoreboard:
    """Notes what it is told, and says what was running."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.running = 0

    def serves(self, index: int) -> None:
        self.told.append(f"{index} serves")

    def rests(self, index: int) -> None:
        self.told.append(f"{index} rests")

    def recovered(self, duration: float) -> None:
        assert duration >= 0
        self.told.append("recovered")

    def died(self, index: int, *, timed_out: Collection[int | None]) -> tuple[int, int]:
        self.told.append(f"{index} died")
        failed = min(self.running, len(timed_out))
        return self.running - failed, failed


@pytest.fixture
def told() -> Iterator[list[tuple[str, dict[str, Any], dict[str, Any]]]]:
    events: list[Any] = []
    for event in EVENTS:
        telemetry.attach(f"test {event}", event, lambda *its: events.append(its[:3]))
    yield events
    for event in EVENTS:
        telemetry.detach(f"test {event}")


@pytest.fixture(autouse=True)
def ended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The workers whose processes were ended."""
    pids: list[int] = []
    monkeypatch.setattr(module, "end_descendants", pids.append)
    return pids


@pytest.fixture
def scoreboard() -> Scoreboard:
    return Scoreboard()


@pytest.fixture
def deaths(scoreboard: Any) -> Deaths:
    return Deaths("shop", scoreboard, Crashes(counters=()))


def end(exitcode: int | None = -9, **its: Any) -> End:
    return End(100, 0, exitcode, forked_at=1.0, **its)


def test_the_end_is_told_with_its_cause_and_what_the_worker_started_is_ended(
    deaths, scoreboard, told, ended
):
    deaths.on_end(end(-11), served=True, lacking=1)
    assert (scoreboard.told, ended) == (["0 died"], [100])
    ((event, measurements, metadata),) = told
    assert event == "worker.terminate"
    assert measurements["age"] > 0
    assert metadata == {
        "pool": "shop",
        "worker": 100,
        "exitcode": -11,
        "expected": False,
        "cause": Cause.SEGFAULT,
    }


@pytest.mark.parametrize(
    "its",
    [
        end(EX_OK),
        end(EX_RECYCLE),
        end(was_asked=True),
        end(timed_out={0}),
        end(shutdown=True),
    ],
)
def test_an_end_that_was_to_come_has_no_cause_and_nobody_stands_in(its, deaths, scoreboard, told):
    deaths.on_end(its, served=True, lacking=1)
    deaths.on_serving(101, 1)
    ((_, _, metadata),) = told
    assert (metadata["expected"], metadata["cause"]) == (True, None)
    assert scoreboard.told == ["0 died", "1 serves"]


def test_a_worker_that_hung_was_killed_for_that(deaths, told):
    deaths.on_end(end(is_unhealthy=True))
    assert told[0][2]["cause"] is Cause.UNHEALTHY


def test_what_was_running_is_lost_or_has_failed_with_its_limit(deaths, scoreboard, told):
    scoreboard.running = 3
    deaths.on_end(end(timed_out={1}))
    errors = [metadata for event, _, metadata in told if event == "error"]
    assert [its["category"] for its in errors] == [
        Category.TIMEOUT,
        Category.COMMUNICATION,
        Category.COMMUNICATION,
    ]
    assert "worker 100 ended in an operation: signal 9 (SIGKILL)" in str(errors[1]["exception"])


def test_the_next_worker_that_serves_stands_in_for_one_that_died(deaths, scoreboard, told):
    deaths.on_end(end(), served=True, lacking=1)
    told.clear()
    deaths.on_serving(101, 1)
    ((event, measurements, metadata),) = told
    assert event == "recovery"
    assert measurements["duration"] >= 0
    assert metadata == {"pool": "shop", "worker": 101, "exitcode": -9, "cause": Cause.KILLED}
    deaths.on_serving(102, 2)
    deaths.on_resting(2)
    assert scoreboard.told == ["0 died", "1 serves", "recovered", "2 serves", "2 rests"]


def test_nobody_stands_in_for_a_worker_that_was_given_nothing(deaths, scoreboard):
    deaths.on_end(end(), served=False, lacking=1)
    deaths.on_serving(101, 1)
    assert "recovered" not in scoreboard.told


def test_nobody_stands_in_where_the_others_are_enough(deaths, scoreboard):
    for _ in range(3):
        deaths.on_end(end(), served=True, lacking=2)
    deaths.forget(lacking=1)
    for index in (1, 2, 3):
        deaths.on_serving(100 + index, index)
    assert scoreboard.told.count("recovered") == 1


@pytest.mark.parametrize("was_asked", [True, False])
def test_the_end_of_a_process_is_read_from_it(was_asked):
    process = SimpleNamespace(
        pid=os.getpid(),
        index=3,
        exitcode=-15,
        forked_at=2.0,
        timed_out=set(),
        is_unhealthy=False,
    )
    if was_asked:
        process._controlled_termination = True
    its = End.of(process, shutdown=False)
    assert its == End(os.getpid(), 3, -15, 2.0, set(), was_asked=was_asked)
    assert its.is_expected is was_asked
