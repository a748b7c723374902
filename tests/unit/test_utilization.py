"""The utilization that is right for a pool follows its objective and its size."""

from __future__ import annotations

import pytest

from pooltasks.optimizer.staffing import Goal, smallest_size
from pooltasks.optimizer.utilization import band

TIGHT, GENEROUS = Goal(0.05, 0.99), Goal(10.0, 0.9)


def test_a_tight_objective_wants_idle_slots_and_a_generous_one_busy_ones() -> None:
    assert band(4, 0.1, TIGHT).high < 0.5
    assert band(4, 0.1, GENEROUS).low > 0.6


def test_a_larger_pool_is_busier() -> None:
    highs = [band(slots, 0.1, TIGHT).high for slots in (1, 2, 4, 16, 64)]
    assert highs == sorted(highs)


@pytest.mark.parametrize("slots", [2, 5, 16, 50])
def test_within_the_band_as_many_slots_are_staffed(slots: int) -> None:
    its = band(slots, 0.1, TIGHT)
    staffed = smallest_size(0.999 * its.high * slots, 0.1, TIGHT, maximum=1000)
    assert staffed == slots
    fewer = smallest_size(1.001 * its.low * slots, 0.1, TIGHT, maximum=1000)
    assert fewer == slots - max(1, round(slots / 4)) + 1


def test_one_slot_may_always_be_idle() -> None:
    assert band(1, 0.1, TIGHT).low == 0.0
