"""What is wrong with a worker, by what is seen of it at two moments."""

from __future__ import annotations

import time

from pooltasks.node.worker.pulse import Pulse
from pooltasks.node.workforce.health import Check, Problem, Vitals, beat_interval, check

INTERVAL = 30.0
MB = 1024 * 1024


def look(before: Check | None, at: float, **seen: object) -> Check:
    vitals = Vitals(**{"beats": 0, "cpu": 0.0, "memory": 50 * MB, **seen})
    return check(before, vitals, at, interval=INTERVAL, memory_limit=100 * MB)


def test_the_first_check_knows_no_better():
    assert look(None, 0).problems == {}


def test_either_a_pulse_or_processor_time_shows_that_it_responds():
    first = look(None, 0)
    assert look(first, 30, beats=1).problems == {}
    assert look(first, 30, cpu=29.0).problems == {}
    # What a thread uses up by asking for the interpreter is no computing.
    assert look(first, 30, cpu=0.3).problems == {Problem.UNRESPONSIVE: 1}


def test_failures_are_counted_in_a_row_and_one_success_restores():
    one = look(None, 0)
    for number in (1, 2, 3):
        one = look(one, 30 * number)
        assert one.failures == number
        assert one.hangs(3) == (number == 3)
    one = look(one, 120, beats=1)
    assert (one.failures, one.hangs(3)) == (0, False)
    assert look(one, 150, beats=1).failures == 1


def test_a_check_that_is_late_proves_nothing():
    assert look(look(None, 0), 61, unaccepted=1).problems == {}


def test_an_operation_that_is_not_taken_up():
    one = look(None, 0, unaccepted=7)
    assert look(one, 30, beats=1, unaccepted=8).problems == {}
    assert look(one, 30, beats=1, unaccepted=7).problems == {Problem.STALLED: 1}


def test_an_operation_beyond_its_hard_limit():
    assert look(None, 0, overdue=-3600).problems == {}
    assert look(None, 0, overdue=1).problems == {}
    assert look(None, 0, overdue=6).problems == {Problem.OVERDUE: 1}


def test_too_much_memory_never_gets_a_worker_killed():
    one = look(None, 0, memory=101 * MB)
    for number in range(1, 9):
        one = look(one, 30 * number, beats=number, memory=101 * MB)
    assert one.problems == {Problem.MEMORY: 9}
    assert not one.hangs(3)
    # Nor does it make another problem older than it is.
    one = look(one, 270, beats=8, memory=101 * MB)
    assert one.problems == {Problem.MEMORY: 10, Problem.UNRESPONSIVE: 1}
    assert not one.hangs(3)


def test_a_pulse_beats_several_times_between_checks():
    assert beat_interval(0.4) == 0.1
    assert beat_interval(3600) == 5.0
    pulse = Pulse()
    assert pulse.beats == 0
    pulse.start(0.01)
    deadline = time.monotonic() + 10
    while pulse.beats < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)  # between looks
