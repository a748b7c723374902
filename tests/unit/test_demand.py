from __future__ import annotations

import json
from random import Random

import pytest

from pooltasks.optimizer.demand import ArrivalRate, ServiceTime


def poisson(random, mean):
    count, total = 0, random.expovariate(1.0)
    while total < mean:
        count += 1
        total += random.expovariate(1.0)
    return count


def fed(rate, counts, start=0.0):
    for index, count in enumerate(counts, start=1):
        rate.add(start + index, 1.0, count)
        estimate = rate.estimate()
    return estimate


def test_nothing_seen_is_a_rate_of_zero():
    estimate = ArrivalRate().estimate()
    assert (estimate.mean, estimate.upper, estimate.change) == (0.0, 0.0, "none")


def test_a_steady_rate_is_averaged_over_a_minute():
    estimate = fed(ArrivalRate(), [100] * 120)
    assert estimate.mean == 100
    assert estimate.horizon == 60
    assert 100 < estimate.upper < 102


def test_a_step_is_seen_in_the_first_second():
    rate = ArrivalRate()
    fed(rate, [30] * 60)
    estimate = fed(rate, [120], start=60)
    assert estimate.change == "up"
    assert estimate.mean == 120
    assert estimate.horizon == 1
    assert estimate.trend == 90


def test_a_drop_is_seen_and_has_no_trend():
    rate = ArrivalRate()
    fed(rate, [100] * 60)
    estimate = fed(rate, [10], start=60)
    assert estimate.change == "down"
    assert estimate.trend == 0


def test_a_small_rise_is_seen_on_the_fast_horizon_but_not_in_one_second():
    rate = ArrivalRate(sigmas=3.0)
    fed(rate, [100] * 60)
    assert fed(rate, [120], start=60).change == "none"
    assert fed(rate, [120, 120, 120, 120], start=61).horizon < 60


@pytest.mark.parametrize("mean", [0.5, 3.0, 30.0, 300.0])
def test_false_alarms_are_rare_at_any_rate(mean):
    random, rate, alarms = Random(7), ArrivalRate(sigmas=4.0), 0
    for second in range(1, 3001):
        rate.add(second, 1.0, poisson(random, mean))
        alarms += rate.estimate().change != "none"
    assert alarms <= 5


def test_the_upper_bound_holds_as_often_as_its_confidence_says():
    random, above = Random(3), 0
    for _ in range(400):
        rate = ArrivalRate(sigmas=10.0, confidence=2.0)
        estimate = fed(rate, [poisson(random, 20.0) for _ in range(20)])
        above += estimate.upper >= 20.0
    assert 0.95 <= above / 400 <= 1.0


def test_service_moments():
    service = ServiceTime()
    assert not service.known
    service.add(1.0, 20, 2.0, 0.2 + 20 * 0.01)
    assert service.mean == pytest.approx(0.1)
    assert service.scv == pytest.approx(1.0)


def test_service_forgets_the_old_but_never_all():
    service = ServiceTime(memory=100.0, enough=50.0)
    service.add(1.0, 1000, 100.0, 10.0)
    for _ in range(2000):
        service.add(1.0, 0, 0.0, 0.0)
    assert service.known
    assert service.mean == pytest.approx(0.1)
    service.add(1.0, 1000, 300.0, 90.0)
    assert service.mean == pytest.approx(0.29, abs=0.01)


def test_state_survives_json():
    rate, service = ArrivalRate(), ServiceTime()
    fed(rate, [5, 9, 2, 8])
    service.add(1.0, 3, 0.3, 0.05)
    other_rate, other_service = ArrivalRate(), ServiceTime()
    other_rate.restore(json.loads(json.dumps(rate.snapshot())))
    other_service.restore(json.loads(json.dumps(service.snapshot())))
    assert other_rate.estimate() == rate.estimate()
    assert other_service.mean == service.mean
