from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pooltasks.optimizer.staffing import (
    Goal,
    erlang_b,
    erlang_c,
    late_share,
    smallest_size,
    tail_factor,
)
from pooltasks.simulator.planning import parse_goal


def factorial_erlang_c(load: float, slots: int) -> float:
    top = load**slots / math.factorial(slots) * slots / (slots - load)
    return top / (sum(load**k / math.factorial(k) for k in range(slots)) + top)


@pytest.mark.parametrize(("load", "slots"), [(0.5, 1), (2.0, 3), (8.0, 10), (20.0, 24)])
def test_erlang_c_is_its_textbook_sum(load, slots):
    assert erlang_c(load, slots) == pytest.approx(factorial_erlang_c(load, slots), rel=1e-12)


def test_erlang_b_of_the_tables():
    assert erlang_b(5.0, 10) == pytest.approx(0.018385, abs=1e-6)
    assert erlang_b(5.0, 0) == 1.0


def test_one_slot_waits_as_in_m_m_1():
    # P(W > t) = rho * exp(-(mu - lambda) t)
    expected = 0.5 * math.exp(-(10.0 - 5.0) * 0.05)
    assert late_share(0.5, 1, 0.1, 0.05) == pytest.approx(expected)


def test_too_few_slots_are_always_late():
    assert late_share(3.0, 3, 0.1, 0.05) == 1.0
    assert erlang_c(4.0, 3) == 1.0


def test_halfin_whitt_limit_at_ten_thousand_slots():
    # P(wait) -> 1 / (1 + beta * Phi(beta) / phi(beta)) for c = a + beta * sqrt(a)
    slots, beta = 10_000, 1.0
    load = slots - beta * math.sqrt(slots)
    density = math.exp(-beta * beta / 2) / math.sqrt(2 * math.pi)
    share = 0.5 * (1 + math.erf(beta / math.sqrt(2)))
    assert erlang_c(load, slots) == pytest.approx(1 / (1 + beta * share / density), rel=0.02)


@settings(deadline=None)
@given(
    load=st.floats(0.0, 200.0),
    service=st.floats(0.001, 10.0),
    wait=st.floats(0.001, 1.0),
    quantile=st.floats(0.5, 0.999),
    factor=st.floats(0.3, 4.0),
)
def test_the_smallest_size_meets_the_goal_and_one_less_does_not(
    load, service, wait, quantile, factor
):
    goal = Goal(wait, quantile)
    size = smallest_size(load, service, goal, factor=factor, maximum=2_000)
    assert late_share(load, size, service, wait, factor) <= goal.allowance
    if size > 1:
        assert late_share(load, size - 1, service, wait, factor) > goal.allowance


def test_the_maximum_is_the_answer_when_nothing_suffices():
    assert smallest_size(50.0, 0.1, Goal(), maximum=20) == 20


def test_the_tail_factor_of_exponential_service_is_one():
    assert tail_factor(1.0) == 1.0
    assert tail_factor(0.0) == 0.5


@pytest.mark.parametrize(
    ("wait", "written"),
    [
        (0.0005, "99% < 0.5ms"),
        (0.05, "99% < 50ms"),
        (1.0, "99% < 1s"),
        (90.0, "99% < 90s"),
        (120.0, "99% < 2min"),
        (7200.0, "99% < 2h"),
    ],
)
def test_a_goal_reads_as_it_is_written(wait, written):
    assert str(Goal(wait, 0.99)) == written
    assert parse_goal(written) == Goal(wait, 0.99)
