"""When a node forks again after workers that could not be warmed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pooltasks.node.workforce.backoff import StartBackoff


def test_the_first_pause_is_half_a_second_and_each_next_one_double():
    backoff = StartBackoff()
    assert [backoff.failed(100.0) for _ in range(5)] == [0.5, 1.0, 2.0, 4.0, 8.0]
    assert backoff.until == 108.0


def test_no_pause_is_longer_than_thirty_seconds():
    backoff = StartBackoff()
    pauses = [backoff.failed(0.0) for _ in range(50)]
    assert max(pauses) == pauses[-1] == 30.0
    assert pauses == sorted(pauses)


def test_thousands_of_failures_in_a_row_are_no_error():
    backoff = StartBackoff()
    assert [backoff.failed(0.0) for _ in range(3000)][-1] == 30.0


def test_a_worker_that_becomes_warm_ends_the_row():
    backoff = StartBackoff()
    backoff.failed(100.0)
    backoff.failed(100.0)
    backoff.succeeded()
    assert backoff == StartBackoff()
    assert backoff.failed(200.0) == 0.5
    assert backoff.until == 200.5


@given(st.lists(st.floats(min_value=0, max_value=1e6)))
def test_the_next_fork_is_never_before_the_last_failure(times):
    backoff = StartBackoff()
    for now in sorted(times):
        assert backoff.until == 0.0 or backoff.until > 0
        pause = backoff.failed(now)
        assert 0.5 <= pause <= 30.0
        assert backoff.until == now + pause
