"""How long operations have taken lately."""

from __future__ import annotations

import math

import pytest

from pooltasks.node.workforce.durations import LONG, Durations


def noted(*seconds, name="op"):
    durations = Durations()
    for each in seconds:
        durations.note(name, each)
    return durations


def test_nothing_is_known_before_one_has_ended():
    durations = Durations()
    assert durations.mean == durations.longest == math.inf
    assert durations.of("op") == (math.inf, math.inf)


def test_one_that_waited_for_a_processor_does_not_make_the_mean():
    """Nodes took the longest for it: one of 20 ms among those of 5 had temporary workers come."""
    durations = noted(*[0.005] * 50, 0.02, *[0.005] * 10)
    assert durations.mean == pytest.approx(0.005, rel=0.1)


def test_the_mean_follows_operations_that_became_long():
    assert noted(*[0.005] * 50, *[1.0] * 3).mean > 0.05


def test_the_longest_fades_and_the_shortest_grows():
    longest, shortest = noted(0.008, *[0.001] * 100).of("op")
    assert longest == pytest.approx(0.001)
    assert shortest == pytest.approx(0.001)
    assert noted(0.001, *[0.004] * 100).of("op") == pytest.approx((0.004, 0.004))


def test_of_what_was_long_lately_none_is_very_short():
    assert noted(*[0.0001] * 9, 2 * LONG).of("op") == (2 * LONG, 2 * LONG)


def test_names_have_their_own_durations_and_share_the_mean():
    durations = noted(0.001)
    durations.note("other", 0.005)
    assert durations.of("op") == (0.001, 0.001)
    assert 0.001 < durations.mean < 0.005
