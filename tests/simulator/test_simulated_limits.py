"""The simulator knows limits, and no policy grows a pool for what they hold back."""

from __future__ import annotations

import math
from array import array
from statistics import fmean, stdev

import pytest

from pooltasks.broker.limiting import bursts
from pooltasks.optimizer.policies import Fixed, Limits, Objective, Rules, Schedule
from pooltasks.optimizer.staffing import Goal, late_share
from pooltasks.simulator.conditions import Conditions, KeyLimits
from pooltasks.simulator.engine import Simulation
from pooltasks.simulator.workloads import Arrivals, Service, Workload, steady

LIMITS = Limits(2, 64)


def simulated(workload, policy, seconds=300.0, seed=0, **conditions):
    sequence = workload.sequence(seed, seconds)
    return sequence, Simulation(sequence, policy, Conditions(**conditions), seed).run()


def arrivals(times, seconds, run=0.001):
    return Arrivals(array("d", times), array("d", [run] * len(times)), [1.0], seconds, Service(run))


@pytest.mark.parametrize("places", [1, 5])
def test_a_pool_with_room_for_all_waits_as_long_as_one_of_that_many_workers(places):
    load, service, runs = places - 0.5 * math.sqrt(places), 0.1, 12
    workload = Workload("limited", steady(load / service), Service(service))
    seconds = 2000.0 * service / load
    found = []
    for seed in range(runs):
        sequence, run = simulated(
            *(workload, Fixed(50), seconds, seed),
            initial=50,
            limits=KeyLimits(concurrency=places),
        )
        settled = [
            waited
            for published, waited in zip(sequence.times, run.waits, strict=True)
            if 20.0 <= published < seconds - 5.0 and waited >= 0.0
        ]
        found.append(sum(waited > service for waited in settled) / len(settled))
    exact = late_share(load, places, service, service)
    assert abs(fmean(found) - exact) <= 3.0 * stdev(found) / math.sqrt(runs)


def test_starts_are_those_of_a_token_bucket():
    rate, times = 20.0, [0.01 * number for number in range(100)] + [9.0, 9.0, 9.0]
    run = Simulation(
        arrivals(times, 12.0),
        Fixed(8),
        Conditions(initial=8, limits=KeyLimits(rate=rate), warm_in=0.0),
    ).run()
    tokens, at, expected = float(bursts(rate)), 0.0, []
    for published in times:  # tokens drip into a bucket, and each start takes one
        start = max(published, at)
        tokens = min(float(bursts(rate)), tokens + (start - at) * rate)
        if tokens < 1.0 - 1e-9:
            start += (1.0 - tokens) / rate
            tokens = 1.0
        tokens -= 1.0
        at = start
        expected.append(start)
    starts = [published + waited for published, waited in zip(times, run.waits, strict=True)]
    assert starts == pytest.approx(expected, abs=1e-6)
    assert (run.late, run.lost) == (0, 0)


def test_keys_do_not_wait_for_each_other():
    limits = KeyLimits(keys=5, concurrency=1)
    simulation = Simulation(
        arrivals([0.0] * 200, 100.0, run=0.1), Fixed(5), Conditions(initial=5, limits=limits)
    )
    run = simulation.run()
    keys = simulation.holding.key_of
    places = [0] * 5
    for operation in range(200):
        assert run.waits[operation] == pytest.approx(0.1 * places[keys[operation]])
        places[keys[operation]] += 1
    assert min(places) > 20


def test_what_workers_and_nodes_lose_keeps_its_place_and_none_is_lost():
    workload = Workload("limited", steady(30.0), Service(0.1))
    _, run = simulated(
        *(workload, Fixed(6), 600.0),
        initial=6,
        crashes_per_hour=3600.0,
        limits=KeyLimits(keys=3, concurrency=2, rate=20.0),
    )
    assert run.lost == 0
    assert run.operations > 10_000


@pytest.mark.parametrize(
    "policy",
    [lambda: Objective(LIMITS, Goal()), lambda: Schedule(LIMITS, Goal()), lambda: Rules(LIMITS)],
    ids=["objective", "schedule", "rules"],
)
@pytest.mark.parametrize(
    "limits", [KeyLimits(concurrency=2), KeyLimits(rate=20.0)], ids=["concurrency", "rate"]
)
def test_no_policy_grows_a_pool_for_what_a_limit_holds_back(policy, limits):
    # 100 a second of 0.1 s are ten workers' load; the limit lets two workers' pass.
    workload = Workload("flood", steady(100.0), Service(0.1))
    _, run = simulated(workload, policy(), 600.0, initial=4, limits=limits)
    settled = [size for at, size in run.sizes if at > 60.0]
    assert max(settled, default=run.sizes[-1][1]) <= 7
    _, run = simulated(workload, policy(), 600.0, initial=4)
    assert max(size for _, size in run.sizes) >= 11
