"""When the time limits of operations pass, with one timer for all of them."""

from __future__ import annotations

from typing import Any

import pytest

from pooltasks.node.workforce.timeouts import Deadlines


class Loop:
    """An event loop whose time the tests move."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[Timer] = []

    def call_later(self, delay: float, function: Any) -> Timer:
        timer = Timer(self, self.now + delay, function)
        self.timers.append(timer)
        return timer

    def move(self, seconds: float) -> None:
        """Let the time pass, and the timers that are due fire in order."""
        end = self.now + seconds
        while due := [timer for timer in self.timers if timer.at <= end]:
            timer = min(due, key=lambda its: its.at)
            self.now = max(self.now, timer.at)
            timer.cancel()
            timer.function()
        self.now = end


class Timer:
    def __init__(self, loop: Loop, at: float, function: Any) -> None:
        self.loop, self.at, self.function = loop, at, function

    def cancel(self) -> None:
        self.loop.timers.remove(self)


class Limits(Deadlines):
    """Deadlines that note what passes, of jobs that are words."""

    def __init__(self, on_hard: Any = None) -> None:
        self.loop = Loop()
        self.passed: list[tuple[str, str, float]] = []
        super().__init__(
            lambda job: self.passed.append(("soft", str(job), self.loop.now)),
            on_hard or (lambda job: self.passed.append(("hard", str(job), self.loop.now))),
            now=lambda: self.loop.now,
        )
        self.start(self.loop)


def test_each_limit_passes_at_its_time() -> None:
    limits: Any = Limits()
    limits.set("both", 1.0, 3.0)
    limits.set("hard", None, 2.0)
    limits.set("none", None, None)
    limits.set("soft", 0.5, 0)
    limits.loop.move(10)
    assert limits.passed == [
        ("soft", "soft", 100.5),
        ("soft", "both", 101.0),
        ("hard", "hard", 102.0),
        ("hard", "both", 103.0),
    ]
    assert limits.loop.timers == []


def test_what_has_ended_has_no_limit() -> None:
    limits: Any = Limits()
    limits.set("ended", 1.0, 2.0)
    limits.set("runs", 1.5, None)
    limits.cancel("ended")
    limits.cancel("unknown")
    limits.loop.move(10)
    assert limits.passed == [("soft", "runs", 101.5)]


def test_many_operations_leave_one_timer() -> None:
    limits: Any = Limits()
    for number in range(10_000):
        limits.set(number, 30.0, 60.0)
        limits.cancel(number)
        limits.loop.now += 0.0001
    assert len(limits.loop.timers) == 1
    assert not limits._soft
    assert not limits._hard


def test_a_deadline_before_the_others_moves_the_timer() -> None:
    limits: Any = Limits()
    limits.set("long", None, 60.0)
    limits.set("short", None, 1.0)
    assert [timer.at for timer in limits.loop.timers] == [101.0]
    limits.loop.move(1)
    assert [timer.at for timer in limits.loop.timers] == [160.0]


def test_a_loop_that_starts_anew_keeps_the_deadlines() -> None:
    limits: Any = Limits()
    limits.set("runs", None, 5.0)
    limits.loop.now += 4
    limits.start(limits.loop)
    limits.loop.move(1)
    assert limits.passed == [("hard", "runs", 105.0)]


def test_one_that_ends_another_at_the_same_time_ends_it_once() -> None:
    limits: Any

    def kill(job: Any) -> None:
        limits.passed.append(job)
        for each in ("one", "two"):
            limits.cancel(each)

    limits = Limits(kill)
    limits.set("one", None, 1.0)
    limits.set("two", None, 1.0)
    limits.loop.move(2)
    assert limits.passed == ["one"]


def test_an_error_of_one_stops_no_other() -> None:
    def fail(job: Any) -> None:
        limits.passed.append(job)
        raise OSError("there is no such process")

    limits: Any = Limits(fail)
    limits.set("one", None, 1.0)
    limits.set("two", None, 2.0)
    with pytest.raises(OSError, match="process"):
        limits.loop.move(1)
    with pytest.raises(OSError, match="process"):
        limits.loop.move(2)
    assert limits.passed == ["one", "two"]
