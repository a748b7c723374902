"""How many workers a node has beyond its size."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from pooltasks.optimizer.overflow import LOOK, Overflow


def looks(overflow, *seen, size=2, start=0.0, room=None):
    """Look every 20 ms; each time at how many serve, how many are busy and how many wait."""
    for number, one in enumerate(seen):
        look(overflow, start + number * LOOK, size, one, room)
    return overflow.count


def look(overflow, now, size, seen, room=None):
    serving, busy, waiting = seen
    return overflow.look(
        now, size, serving=serving, busy=busy, waiting=waiting, queued=lambda: 0, room=room
    )


def test_a_temporary_worker_comes_when_an_operation_has_waited_for_one():
    assert looks(Overflow(3), (2, 2, 1)) == 0
    assert looks(Overflow(3), (2, 2, 1), (2, 2, 0), (2, 2, 1)) == 0
    assert looks(Overflow(3), (2, 2, 1), (2, 2, 1)) == 1
    assert looks(Overflow(3), (2, 1, 1), (2, 1, 1)) == 0


def test_a_wait_that_is_short_beside_the_objective_needs_no_temporary_worker():
    def grows(*, waiting, queued, run):
        overflow = Overflow(3, wait=0.05)
        for number in range(2):
            overflow.look(
                number * LOOK,
                2,
                serving=2,
                busy=2,
                waiting=waiting,
                queued=lambda: queued,
                run=run,
            )
        return overflow.count == 1

    assert not grows(waiting=1, queued=8, run=0.005)
    assert grows(waiting=1, queued=9, run=0.005)
    assert grows(waiting=10, queued=0, run=0.005)
    assert grows(waiting=1, queued=0, run=1.0)
    assert grows(waiting=1, queued=0, run=math.inf), "none has ended yet"


def test_one_that_comes_counts_for_one_that_waits():
    assert looks(Overflow(3), *[(2, 2, 1)] * 9) == 1
    assert looks(Overflow(3), *[(2, 2, 2)] * 3) == 2
    assert looks(Overflow(3), *[(2, 2, 9)] * 9) == 3


def test_there_is_no_overflow_while_workers_of_the_size_are_lacking():
    assert looks(Overflow(3), *[(1, 1, 5)] * 9) == 0
    assert looks(Overflow(3), *[(0, 0, 5)] * 9) == 0


def test_overflow_stays_within_the_room_of_the_host():
    assert looks(Overflow(3), *[(2, 2, 9)] * 9, room=3) == 1
    assert looks(Overflow(3), *[(2, 2, 9)] * 9, room=1) == 0


def test_temporary_workers_go_when_they_were_not_needed_for_half_a_second():
    overflow = Overflow(3)
    assert looks(overflow, *[(2, 2, 2)] * 3) == 2
    # One of the two goes on being needed.
    assert looks(overflow, *[(4, 3, 0)] * 20, start=0.1) == 2
    assert looks(overflow, *[(4, 3, 0)] * 10, start=0.5) == 1
    assert looks(overflow, *[(3, 0, 0)] * 20, start=0.7) == 1
    assert looks(overflow, (3, 0, 0), start=1.2) == 0


def test_a_spare_comes_at_the_first_look():
    def comes(resting):
        overflow = Overflow(3)
        overflow.look(0.0, 2, serving=2, busy=2, waiting=1, queued=lambda: 0, resting=resting)
        return overflow.count == 1

    assert comes(1)
    assert not comes(0)


def test_spares_that_serve_as_temporary_workers_are_not_replaced():
    overflow = Overflow(3)
    assert overflow.spares(2) == 2
    looks(overflow, *[(2, 2, 1)] * 2)
    assert (overflow.spares(2), overflow.spares(1), overflow.spares(0)) == (1, 0, 0)


def test_one_that_is_still_cold_is_kept_while_something_waits_for_it():
    overflow = Overflow(1)
    assert looks(overflow, *[(2, 2, 1)] * 200) == 1
    assert looks(overflow, *[(2, 2, 0)] * 60, start=4.0) == 0


def test_what_is_in_the_queue_waits_too_and_is_asked_for_only_while_all_are_busy():
    def of(overflow, serving, busy, waiting=0):
        asked = []
        overflow.look(
            0.0,
            2,
            serving=serving,
            busy=busy,
            waiting=waiting,
            queued=lambda: asked.append(1) or 5,
        )
        return len(asked)

    overflow = Overflow(1)
    assert of(overflow, 2, 1) == 0
    assert of(overflow, 2, 2) == 1
    assert of(overflow, 2, 2) == 1
    assert overflow.count == 1
    assert of(overflow, 3, 3) == 1, "is it still of use?"
    assert of(Overflow(0), 2, 2) == 0


def test_a_temporary_worker_stays_while_operations_would_wait_for_long_without_it():
    def stays(*, busy, waiting, run):
        overflow = Overflow(1, wait=0.05)
        for now, its in ((0.0, math.inf), (LOOK, math.inf), (1.1, run)):
            overflow.look(
                now,
                2,
                serving=2 if now < 1 else 3,
                busy=2 if now < 1 else busy,
                waiting=1 if now < 1 else waiting,
                queued=lambda: 0,
                run=its,
            )
        return overflow.count == 1

    assert stays(busy=3, waiting=0, run=0.06)
    assert not stays(busy=3, waiting=0, run=0.04)
    assert stays(busy=3, waiting=9, run=0.005)
    assert not stays(busy=3, waiting=8, run=0.005)
    assert not stays(busy=2, waiting=0, run=1.0)


def test_a_size_that_grows_takes_temporary_workers_over():
    overflow = Overflow(3)
    assert looks(overflow, *[(2, 2, 9)] * 4) == 3
    overflow.take_over(2)
    assert overflow.count == 1
    overflow.take_over(5)
    assert overflow.count == 0


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), max_size=60),
    st.integers(0, 4),
    st.integers(1, 5),
    st.none() | st.integers(0, 9),
)
def test_overflow_stays_within_its_bounds_and_ends(seen, most, size, room):
    overflow = Overflow(most)
    for number, one in enumerate(seen):
        before = overflow.count
        changed = look(overflow, number * LOOK, size, one, room)
        assert changed == (overflow.count != before)
        assert 0 <= overflow.count <= min(most, before + 1)
        if overflow.count > before:
            assert room is None or size + overflow.count <= room
    end = len(seen) * LOOK + 1
    look(overflow, end, size, (size + overflow.count, 0, 0))
    assert overflow.count == 0
