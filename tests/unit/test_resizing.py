"""Who serves, rests and ends when a pool is given another size."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pooltasks.node.resizing import Moves, Overflow, Staff, moves


def test_a_pool_of_the_right_size_is_left_alone():
    assert moves(Staff(serving=[1, 2], resting=[3], cold=[4]), size=3, spares=1) == Moves(
        release=[3]
    )
    assert moves(Staff(serving=[1, 2], resting=[3]), size=2, spares=1) == Moves()


def test_a_spare_serves_before_anything_is_forked():
    assert moves(Staff(serving=[1], resting=[2, 3]), size=2, spares=2) == Moves(release=[2], fork=1)


def test_workers_that_warm_up_count():
    assert moves(Staff(serving=[1], cold=[2, 3]), size=4, spares=0) == Moves(fork=1)


def test_the_cold_end_first_and_then_the_youngest():
    staff = Staff(serving=[1, 2, 3], cold=[4])
    assert moves(staff, size=2, spares=0) == Moves(rest=[3], end=[4, 3])


def test_no_busy_worker_has_to_rest_or_end():
    staff = Staff(serving=[1, 2, 3], resting=[4], busy={1, 3, 4})
    assert moves(staff, size=1, spares=0) == Moves(rest=[2], end=[2])


def test_what_is_too_much_is_kept_as_a_spare_where_one_is_wanted():
    assert moves(Staff(serving=[1, 2, 3]), size=1, spares=1) == Moves(rest=[3, 2], end=[3])


workers = st.lists(st.sampled_from(["serving", "resting", "cold"]), max_size=12)


@given(workers, st.integers(1, 8), st.integers(0, 4), st.sets(st.integers(0, 11)))
def test_the_moves_lead_to_the_size_and_interrupt_nobody(places, size, spares, busy):
    staff = Staff(
        serving=[pid for pid, place in enumerate(places) if place == "serving"],
        resting=[pid for pid, place in enumerate(places) if place == "resting"],
        cold=[pid for pid, place in enumerate(places) if place == "cold"],
        busy={pid for pid, place in enumerate(places) if place == "serving"} & busy,
    )
    to_do = moves(staff, size, spares)
    serving = {*staff.serving, *to_do.release} - {*to_do.rest}
    assert not staff.busy & {*to_do.rest, *to_do.end}
    assert not serving & {*to_do.end}
    assert to_do.release == [] or to_do.rest == []
    # Either as many serve as should, or the rest is busy, cold or to be forked.
    missing = size - len(serving)
    cold = [pid for pid in staff.cold if pid not in to_do.end]
    assert 0 <= missing <= len(cold) + to_do.fork or (missing < 0 and serving <= staff.busy)
    left = len(places) - len(to_do.end) + to_do.fork
    assert left == size + spares or (left > size + spares and to_do.fork == 0 and staff.busy)


def test_an_outgoing_worker_goes_on_until_another_is_warm_in_its_place():
    assert moves(Staff(serving=[1, 2], outgoing={1}), size=2, spares=0) == Moves(fork=1)
    assert moves(Staff(serving=[1, 2], cold=[3], outgoing={1}), size=2, spares=0) == Moves()
    assert moves(Staff(serving=[1, 2], resting=[3], outgoing={1}), size=2, spares=0) == Moves(
        release=[3], rest=[1], end=[1]
    )


def test_an_outgoing_worker_finishes_its_operation():
    staff = Staff(serving=[1, 2], resting=[3], busy={1}, outgoing={1})
    assert moves(staff, size=2, spares=0) == Moves()


def test_an_outgoing_worker_does_not_take_the_spare_with_it():
    assert moves(Staff(serving=[1], resting=[2], outgoing={1}), size=1, spares=1) == Moves(fork=1)
    assert moves(Staff(serving=[1], resting=[2, 3], outgoing={1}), size=1, spares=1) == Moves(
        release=[2], rest=[1], end=[1]
    )


def test_an_outgoing_worker_still_stands_in_where_nobody_else_can():
    assert moves(Staff(serving=[], resting=[1], outgoing={1}), size=1, spares=0) == Moves(
        release=[1], fork=1
    )


def test_an_outgoing_worker_goes_first_when_the_pool_shrinks():
    assert moves(Staff(serving=[1, 2], cold=[3], outgoing={1}), size=1, spares=0) == Moves(
        rest=[1], end=[3, 1]
    )


def looks(overflow, *seen, size=2, start=0.0, room=None):
    """Look every 20 ms; each time at how many serve, how many are busy and how many wait."""
    for number, one in enumerate(seen):
        look(overflow, start + number / 50, size, one, room)
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


def test_temporary_workers_go_when_they_were_not_needed_for_a_second():
    overflow = Overflow(3)
    assert looks(overflow, *[(2, 2, 2)] * 3) == 2
    # One of the two goes on being needed.
    assert looks(overflow, *[(4, 3, 0)] * 40, start=0.1) == 2
    assert looks(overflow, *[(4, 3, 0)] * 20, start=0.9) == 1
    assert looks(overflow, *[(3, 0, 0)] * 40, start=1.3) == 1
    assert looks(overflow, (3, 0, 0), start=2.3) == 0


def test_one_that_is_still_cold_is_kept_while_something_waits_for_it():
    overflow = Overflow(1)
    assert looks(overflow, *[(2, 2, 1)] * 200) == 1
    assert looks(overflow, *[(2, 2, 0)] * 60, start=4.0) == 0


def test_what_is_in_the_queue_waits_too_and_is_asked_for_only_where_that_matters():
    def of(serving, busy, waiting=0):
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
    assert of(2, 1) == 0
    assert of(2, 2, waiting=1) == 0
    assert of(2, 2) == 1
    assert overflow.count == 1
    assert of(2, 2) == 1  # one is on its way: is it still of use?
    assert of(3, 3) == 0  # more there cannot be


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
        changed = look(overflow, number / 50, size, one, room)
        assert changed == (overflow.count != before)
        assert 0 <= overflow.count <= min(most, before + 1)
        if overflow.count > before:
            assert room is None or size + overflow.count <= room
    end = len(seen) / 50 + 1
    look(overflow, end, size, (size + overflow.count, 0, 0))
    assert overflow.count == 0
