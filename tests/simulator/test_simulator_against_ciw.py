"""The simulator beside one that others wrote: ciw, on M/G/c."""

from __future__ import annotations

import math
from statistics import fmean

import ciw
import pytest

from pooltasks.optimizer.policies import Fixed
from pooltasks.simulator.conditions import Conditions
from pooltasks.simulator.engine import Simulation
from pooltasks.simulator.report import Interval
from pooltasks.simulator.workloads import LOGNORMAL_SCV, Service, Workload, steady

SLOTS, MEAN = 5, 0.1
RATE = 0.75 * SLOTS / MEAN
WAIT = 0.05
WARM_IN, SECONDS = 10.0, 160.0
RUNS = 6

_VARIANCE = math.log(1.0 + LOGNORMAL_SCV)
SERVICES = {
    "deterministic": ciw.dists.Deterministic(value=MEAN),
    "exponential": ciw.dists.Exponential(rate=1.0 / MEAN),
    "lognormal": ciw.dists.Lognormal(
        mean=math.log(MEAN) - _VARIANCE / 2.0, sd=math.sqrt(_VARIANCE)
    ),
}


def late_in_ciw(distribution: str, seed: int) -> float:
    network = ciw.create_network(
        arrival_distributions=[ciw.dists.Exponential(rate=RATE)],
        service_distributions=[SERVICES[distribution]],
        number_of_servers=[SLOTS],
    )
    ciw.seed(seed)
    simulation = ciw.Simulation(network)
    simulation.simulate_until_max_time(SECONDS)
    waits = [
        record.waiting_time
        for record in simulation.get_all_records()
        if record.arrival_date >= WARM_IN
    ]
    return fmean(wait > WAIT for wait in waits)


def late_in_ours(distribution: str, seed: int) -> float:
    workload = Workload("ciw", steady(RATE), Service(MEAN, distribution))
    conditions = Conditions(wait=WAIT, initial=SLOTS, warm_in=WARM_IN)
    return Simulation(workload.sequence(seed, SECONDS), Fixed(SLOTS), conditions).run().violations


@pytest.mark.parametrize("distribution", SERVICES)
def test_late_shares_are_those_of_ciw_within_their_confidence_intervals(distribution):
    theirs = Interval.of([late_in_ciw(distribution, seed) for seed in range(RUNS)])
    ours = Interval.of([late_in_ours(distribution, seed) for seed in range(RUNS)])
    assert theirs.low > 0.05, "too few wait: the test shows nothing"
    assert ours.high - ours.low < 0.15, "the interval is so wide that the test shows nothing"
    assert ours.low <= theirs.high
    assert theirs.low <= ours.high
