from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pooltasks.optimizer.policies import (
    Limits,
    Objective,
    Observation,
    Rules,
    Schedule,
    Tuning,
    build,
)
from pooltasks.optimizer.policies.observation import resized
from pooltasks.optimizer.staffing import Goal

LIMITS = Limits(2, 64)
CALM = Observation(
    now=0.0,
    seconds=1.0,
    arrivals=100,
    waiting=0,
    started=100,
    late=0,
    wait_sum=0.1,
    completed=100,
    service_sum=10.0,
    service_squares=2.0,
    busy=10.0,
    size=15,
    warm=15,
)
IDLE = replace(
    CALM,
    arrivals=0,
    started=0,
    wait_sum=0.0,
    completed=0,
    service_sum=0.0,
    service_squares=0.0,
    busy=0.0,
)


def obeyed(policy, observation, ticks, start=0):
    """Feed ``ticks`` observations, the pool obeying at once; return the decisions."""
    decisions = []
    for tick in range(start + 1, start + ticks + 1):
        decision = policy.observe(replace(observation, now=float(tick)))
        observation = replace(observation, size=decision.target, warm=decision.target)
        decisions.append(decision)
    return decisions


def test_objective_staffs_a_steady_load():
    decision = obeyed(Objective(LIMITS, Goal()), replace(CALM, late=1), 120)[-1]
    assert decision.target in {15, 16}
    assert decision.inputs["load"] == pytest.approx(10.0, abs=0.2)


@pytest.mark.parametrize("name", ["objective", "rules", "schedule", "fixed"])
def test_every_decision_is_one_sentence_with_figures(name):
    policy = build(name, LIMITS, Goal(), 15)
    observations = [*[CALM] * 70, *[replace(CALM, arrivals=400, waiting=200)] * 70, *[IDLE] * 200]
    size = 15
    for tick, observation in enumerate(observations, start=1):
        decision = policy.observe(replace(observation, now=float(tick), size=size, warm=size))
        size = decision.target
        assert decision.reason.endswith(".")
        assert "\n" not in decision.reason
        assert str(decision.target) in decision.reason
        assert LIMITS.minimum <= decision.target <= LIMITS.maximum


def test_objective_grows_in_the_tick_that_shows_a_step():
    policy = Objective(LIMITS, Goal())
    size = obeyed(policy, CALM, 60)[-1].target
    step = replace(CALM, arrivals=400, waiting=150, now=61.0, size=size, warm=size)
    assert policy.observe(step).target >= 40


def test_objective_drains_a_backlog_and_gives_those_slots_back():
    policy = Objective(LIMITS, Goal())
    size = obeyed(policy, CALM, 60)[-1].target
    surge = replace(CALM, waiting=75, size=size, warm=size)
    assert obeyed(policy, surge, 1, start=60)[0].target == 36  # 10.2 + 75 * 0.1 / 0.3, rounded up
    after = obeyed(policy, replace(CALM, size=36, warm=36), 12, start=61)
    assert after[0].target == 36
    assert after[-1].target <= 17


@pytest.mark.parametrize("drop", [5.0, 20.0])
def test_objective_gives_back_what_a_drop_leaves_only_after_its_time(drop):
    policy = Objective(LIMITS, Goal(), Tuning(drop=drop))
    size = obeyed(policy, CALM, 120)[-1].target
    decisions = obeyed(policy, replace(IDLE, size=size, warm=size), 80, start=120)
    assert all(decision.target == size for decision in decisions[: int(drop)])
    assert decisions[int(drop)].target < size / 2
    assert decisions[-1].target == LIMITS.minimum


def test_objective_gives_back_in_one_step_what_a_falling_rate_leaves():
    policy = Objective(LIMITS, Goal())
    before = obeyed(policy, CALM, 120)[-1].target
    decisions = []
    size = before
    for tick in range(1, 61):
        falling = replace(CALM, arrivals=100 - tick, now=120.0 + tick, size=size, warm=size)
        decisions.append(policy.observe(falling))
        size = decisions[-1].target
    first = next(i for i, decision in enumerate(decisions) if decision.target < before)
    lately = [decision.inputs["staffed"] for decision in decisions[first - 3 : first + 1]]
    assert decisions[first].target == max(lately)
    assert len({decision.target for decision in decisions}) <= 4


def test_objective_gives_a_single_slot_back_only_after_a_minute():
    policy = Objective(LIMITS, Goal())
    size = obeyed(policy, CALM, 180)[-1].target
    surge = replace(CALM, now=181.0, waiting=15, size=size, warm=size)
    assert policy.observe(surge).target == size + 1
    after = obeyed(policy, replace(CALM, size=size + 1, warm=size + 1), 90, start=181)
    assert {decision.target for decision in after[:71]} == {size + 1}
    assert after[-1].target == size


def test_objective_grows_by_a_little_only_where_the_objective_needs_it():
    policy = Objective(LIMITS, Goal())
    size = obeyed(policy, CALM, 120)[-1].target
    more = replace(CALM, arrivals=112, size=size, warm=size)
    kept = obeyed(policy, more, 60, start=120)[-1]
    assert kept.inputs["staffed"] == size + 1
    assert kept.target == size
    assert "for so few more the pool is not resized" in kept.reason
    much_more = replace(CALM, arrivals=125, size=size, warm=size)
    assert obeyed(policy, much_more, 60, start=180)[-1].target > size


def test_objective_grows_by_a_little_at_once_for_a_backlog():
    policy = Objective(LIMITS, Goal())
    size = obeyed(policy, CALM, 120)[-1].target
    surge = replace(CALM, now=121.0, waiting=18, size=size, warm=size)
    assert policy.observe(surge).target == size + 1  # 10.2 + 18 * 0.1 / 0.3, rounded up


def test_objective_leaves_a_backlog_to_temporary_workers_that_drain_it():
    policy = Objective(LIMITS, Goal(), overflow=6)
    size = obeyed(policy, CALM, 120)[-1].target
    surge = replace(CALM, now=121.0, waiting=18, size=size, warm=size)  # 18 * 0.1 / 0.3 = 6 slots
    assert policy.observe(surge).target == size
    assert policy.observe(replace(surge, now=122.0, waiting=60)).target > size


def test_objective_never_shrinks_while_a_sample_is_missing():
    policy = Objective(LIMITS, Goal())
    size = obeyed(policy, CALM, 120)[-1].target
    missing = replace(IDLE, size=size, warm=size, complete=False)
    assert {decision.target for decision in obeyed(policy, missing, 200, start=120)} == {size}


def test_objective_does_not_take_a_missing_sample_and_its_make_up_for_a_change():
    policy = Objective(LIMITS, Goal())
    size = obeyed(policy, CALM, 120)[-1].target
    calm = replace(CALM, size=size, warm=size)
    policy.observe(replace(calm, now=121.0, arrivals=0, complete=False))
    decision = policy.observe(replace(calm, now=122.0, arrivals=200))
    assert decision.inputs["horizon"] == 60
    assert decision.target == size


def test_objective_knows_no_service_time_before_an_operation_has_finished():
    policy = Objective(LIMITS, Goal())
    silent = replace(IDLE, size=4, warm=4)
    assert policy.observe(silent).target == 4
    stuck = replace(silent, now=1.0, arrivals=50, started=4, waiting=46, busy=4.0)
    assert policy.observe(stuck).target == 8
    assert policy.observe(replace(stuck, now=2.0, size=8, warm=4)).target == 8


def test_objective_learns_a_heavier_tail_from_late_operations():
    policy = Objective(LIMITS, Goal())
    before = obeyed(policy, replace(CALM, late=1), 60)[-1]
    after = obeyed(policy, replace(CALM, late=5, size=before.target), 300, start=60)[-1]
    assert after.inputs["factor"] > 1.5 * before.inputs["factor"]
    assert after.target > before.target


def test_objective_learns_nothing_from_a_backlog():
    policy = Objective(LIMITS, Goal())
    before = obeyed(policy, replace(CALM, late=1), 60)[-1].inputs["factor"]
    flooded = replace(CALM, late=100, waiting=300, size=64, warm=64)
    after = obeyed(policy, flooded, 30, start=60)[-1].inputs["factor"]
    assert after == pytest.approx(before, rel=0.01)


def test_objective_answers_the_limit_and_says_so():
    decision = obeyed(Objective(Limits(2, 8), Goal()), replace(CALM, size=8, warm=8), 20)[-1]
    assert decision.target == 8
    assert "never more than 8" in decision.reason


def test_rules_hold_with_fewer_than_ten_samples():
    policy = Rules(LIMITS)
    busy = replace(CALM, size=10, warm=10, waiting=50)
    policy.observe(busy)
    decision = policy.observe(replace(busy, now=60.0))
    assert decision.target == 10
    assert "only 2 samples" in decision.reason


@pytest.mark.parametrize(("waiting", "step"), [(1, 1), (5, 2), (10, 3), (50, 4)])
def test_rules_grow_by_the_documents_step(waiting, step):
    busy = replace(CALM, size=10, warm=10, waiting=waiting)
    decisions = obeyed(Rules(LIMITS), busy, 61)
    assert [decision.target for decision in decisions[:60]] == [10] * 60
    assert decisions[60].target == 10 + step


def test_rules_shrink_by_one_a_minute_down_to_the_minimum():
    decisions = obeyed(Rules(LIMITS), replace(IDLE, size=5, warm=5), 400)
    assert decisions[61].target == 4
    assert decisions[-1].target == 2


def test_rules_overflow_for_long_waits_only_up_to_the_size():
    waits = replace(CALM, busy=2.4, size=3, warm=3, waiting=1, wait_sum=20.0)
    policy = Rules(LIMITS, overflow=1)
    decisions = obeyed(policy, waits, 300)
    assert {decision.target for decision in decisions} == {3}  # utilization stays at 80 %
    assert [decisions[at].overflow for at in (59, 60, 120, 299)] == [1, 2, 3, 3]
    assert "allow 2 of overflow" in decisions[60].reason
    assert decisions[60].inputs["overflow"] == 2


def test_rules_take_back_overflow_with_the_size_and_never_what_is_set():
    policy = Rules(LIMITS, overflow=1)
    obeyed(policy, replace(CALM, busy=4.0, size=5, warm=5, waiting=1, wait_sum=20.0), 130)
    decisions = obeyed(policy, replace(IDLE, size=5, warm=5), 700, start=130)
    assert decisions[0].overflow == 3
    assert (decisions[-1].target, decisions[-1].overflow) == (LIMITS.minimum, 1)


def test_rules_overflow_by_workers_whatever_their_slots():
    policy = Rules(LIMITS, per_worker=4, overflow=0)
    waits = replace(CALM, busy=8.0, size=10, warm=10, waiting=1, wait_sum=20.0)
    allowed = [decision.overflow for decision in obeyed(policy, waits, 250)]
    assert [allowed[at] for at in (0, 60, 120, 180, 240)] == [0, 4, 8, 10, 10]


def test_schedule_raises_before_what_came_at_this_time_of_the_season_before():
    season = 600.0
    policy = Schedule(LIMITS, Goal(), season=season, bucket=60.0)
    size = 15
    targets = {}
    for tick in range(1, 1201):
        busy = 300 <= tick % season < 360
        seen = replace(
            CALM,
            now=float(tick),
            arrivals=400 if busy else 100,
            size=size,
            warm=size,
        )
        size = policy.observe(seen).target
        targets[tick] = size
    assert targets[280] <= 17
    assert targets[280 + 600] >= 40


def test_schedule_never_lowers_what_the_objective_wants():
    plain, seasonal = Objective(LIMITS, Goal()), Schedule(LIMITS, Goal(), season=120.0, bucket=20.0)
    for tick in range(1, 600):
        arrivals = 100 + 80 * ((tick // 37) % 3)
        seen = replace(CALM, now=float(tick), arrivals=arrivals)
        assert seasonal.observe(seen).target >= plain.observe(seen).target


@pytest.mark.parametrize("name", ["objective", "rules", "schedule", "fixed"])
def test_a_restarted_policy_decides_as_if_it_had_never_stopped(name):
    first = build(name, LIMITS, Goal(), 15)
    obeyed(first, CALM, 100)
    second = build(name, LIMITS, Goal(), 15)
    second.restore(json.loads(json.dumps(first.snapshot())))
    surge = replace(CALM, arrivals=150, waiting=3, late=2)
    assert obeyed(second, surge, 100, start=100) == obeyed(first, surge, 100, start=100)


def test_rules_step_by_workers_whatever_their_slots():
    policy = build("rules", Limits(100, 6400), Goal(), 1000, per_worker=100)
    decisions = obeyed(policy, replace(IDLE, size=1000, warm=1000), 61)
    assert decisions[60].target == 900


def test_a_reason_counts_slots_in_words():
    assert resized(1, 1) == "Keep 1 slot"
    assert resized(1, 2) == "From 1 to 2 slots"
    assert resized(2, 1) == "From 2 to 1 slot"


def test_rules_keep_a_size_that_is_right():
    decisions = obeyed(Rules(LIMITS), CALM, 400)
    assert {decision.target for decision in decisions} == {15}
    assert decisions[60].reason.startswith("Keep 15 slots: utilization 67%")


def test_rules_forget_what_is_older_than_five_minutes():
    policy = Rules(LIMITS)
    policy.observe(replace(CALM, waiting=1000, now=1.0))
    told = [its.inputs["peak_demand"] for its in obeyed(policy, CALM, 360, start=1) if its.inputs]
    assert told == [1010, 1010, 1010, 1010, 10, 10]


def test_rules_tell_peak_demand_throughput_and_errors():
    policy = Rules(LIMITS)
    seen = replace(CALM, completed=100, failed=2)
    peak = replace(seen, waiting=7, now=1.0)
    policy.observe(peak)
    decisions = obeyed(policy, seen, 61, start=1)
    (inputs,) = [decision.inputs for decision in decisions if decision.inputs]
    assert inputs["peak_demand"] == 17
    assert inputs["throughput"] == pytest.approx(100)
    assert inputs["error_rate"] == pytest.approx(0.02)
