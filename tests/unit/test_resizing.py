"""Who serves, rests and ends when a pool is given another size."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pooltasks.node.workforce.resizing import Moves, Staff, moves


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
