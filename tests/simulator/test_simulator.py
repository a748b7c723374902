from __future__ import annotations

import math
import time
from array import array
from itertools import pairwise
from random import Random
from statistics import fmean, stdev

import pytest

from pooltasks.optimizer.policies import Decision, Fixed, Limits, Objective
from pooltasks.optimizer.staffing import Goal, late_share
from pooltasks.simulator.conditions import Conditions, NodeCrash
from pooltasks.simulator.engine import Simulation
from pooltasks.simulator.report import compare, policies, student_t, table
from pooltasks.simulator.workloads import (
    LOGNORMAL_SCV,
    STEP,
    Arrivals,
    Service,
    Workload,
    catalogue,
    on_off,
    steady,
    step,
)

LIMITS = Limits(2, 64)
CATALOGUE = catalogue()


class Wanted(Fixed):
    """A policy whose size is a function of time."""

    def __init__(self, size):
        self.size_at = size

    def observe(self, observation):
        return Decision(self.size_at(observation.now), "Wanted.")


class Spy(Objective):
    """The objective policy, with what it saw."""

    def __init__(self):
        super().__init__(LIMITS, Goal())
        self.seen = []

    def observe(self, observation):
        self.seen.append(observation)
        return super().observe(observation)


def simulated(workload, policy, seconds=300.0, seed=0, **conditions):
    return Simulation(
        workload.sequence(seed, seconds), policy, Conditions(**conditions), seed
    ).run()


# Six sizes, three loads, three waits: 54 points. Loads and waits are scaled so that
# no share is too rare for a standard error: slots = load + margin x sqrt(slots), and
# waits are multiples of the mean wait of those who wait.
@pytest.mark.parametrize("margin", [0.3, 0.5, 0.7])
@pytest.mark.parametrize("slots", [1, 2, 5, 10, 20, 50])
def test_waits_are_erlangs_within_three_standard_errors(slots, margin):
    load, service, runs = slots - margin * math.sqrt(slots), 0.1, 12
    workload = Workload("erlang", steady(load / service), Service(service))
    seconds = max(60.0, 2000.0 * service / load)
    waits = [multiple * service / (slots - load) for multiple in (0.0, 0.5, 1.5)]
    shares = [[] for _ in waits]
    for seed in range(runs):
        sequence = workload.sequence(seed, seconds)
        run = Simulation(sequence, Fixed(slots), Conditions(initial=slots)).run()
        settled = [
            waited
            for published, waited in zip(sequence.times, run.waits, strict=True)
            if 20.0 <= published < seconds - 5.0
        ]
        for wait, found in zip(waits, shares, strict=True):
            found.append(sum(waited > wait for waited in settled) / len(settled))
    for wait, found in zip(waits, shares, strict=True):
        error = stdev(found) / math.sqrt(runs)
        exact = late_share(load, slots, service, wait)
        assert abs(fmean(found) - exact) <= 3.0 * error, f"P(W > {wait})"


@pytest.mark.timing
def test_time_grows_no_worse_than_n_log_n_up_to_ten_thousand_workers():
    events = 100_000

    def seconds_an_event(slots):
        load = slots - math.sqrt(slots)  # Halfin and Whitt's regime
        workload = Workload("large", steady(load / 0.1))
        sequence = workload.sequence(1, events / (load / 0.1))
        taken = []
        for _ in range(3):
            simulation = Simulation(sequence, Fixed(slots), Conditions(initial=slots, warm_in=0.0))
            started = time.process_time()
            run = simulation.run()
            taken.append((time.process_time() - started) / run.events)
        return min(taken)

    # log 10,000 / log 100 is 2; the rest is for caches and a busy machine.
    assert seconds_an_event(10_000) <= 4.0 * seconds_an_event(100)


def test_the_same_seed_gives_the_same_operations_and_another_gives_others():
    workload = CATALOGUE["mmpp"]
    first, again, other = (workload.sequence(seed, 120.0) for seed in (1, 1, 2))
    assert first.times == again.times
    assert first.services == again.services
    assert first.times != other.times


@pytest.mark.parametrize("name", list(CATALOGUE))
def test_arrivals_follow_the_rates(name):
    sequence = CATALOGUE[name].sequence(3, 900.0)
    expected = sum(sequence.rates) * STEP
    assert len(sequence.rates) == 9000
    assert abs(len(sequence.times) - expected) <= 4.0 * math.sqrt(expected)
    assert all(before <= after for before, after in pairwise(sequence.times))
    assert sequence.times[0] >= 0.0
    assert sequence.times[-1] <= 900.0


@pytest.mark.parametrize(
    ("distribution", "scv"),
    [("deterministic", 0.0), ("exponential", 1.0), ("lognormal", LOGNORMAL_SCV), ("pareto", None)],
)
def test_service_times_have_their_moments(distribution, scv):
    random, service = Random(5), Service(0.2, distribution)
    drawn = [service.draw(random) for _ in range(50_000)]
    assert fmean(drawn) == pytest.approx(0.2, rel=0.05)
    assert min(drawn) > 0.0
    if scv is not None:  # Pareto's variance does not settle in so few
        assert (stdev(drawn) / fmean(drawn)) ** 2 == pytest.approx(scv, rel=0.2)


def test_growth_waits_for_actuation_and_warm_up():
    workload = Workload("growth", steady(50.0), Service(distribution="deterministic"))
    sequence = workload.sequence(0, 20.0)
    policy = Wanted(lambda now: 40 if now >= 5.0 else 1)
    conditions = Conditions(initial=1, actuation=0.25, warm_up=0.75, warm_in=0.0)
    run = Simulation(sequence, policy, conditions).run()
    starts = sorted(t + w for t, w in zip(sequence.times, run.waits, strict=True) if w >= 0.0)
    assert sum(4.5 <= start < 5.99 for start in starts) <= 15  # one worker does ten a second
    assert sum(6.0 <= start < 6.01 for start in starts) >= 38  # the new ones all at once


def test_a_node_forks_one_worker_after_another():
    workload = Workload("growth", steady(50.0), Service(distribution="deterministic"))
    sequence = workload.sequence(0, 20.0)
    policy = Wanted(lambda now: 21 if now >= 5.0 else 1)
    conditions = Conditions(
        initial=1, actuation=0.25, fork=0.05, warm_up=0.75, warm_in=0.0, nodes=2
    )
    run = Simulation(sequence, policy, conditions).run()
    starts = sorted(t + w for t, w in zip(sequence.times, run.waits, strict=True) if w >= 0.0)
    first = [start for start in starts if 5.99 <= start < 6.51]
    for number in range(1, 11):  # two nodes, ten forks each
        due = 6.0 + 0.05 * number
        assert sum(due - 1e-6 <= start < due + 1e-6 for start in first) >= 2


def test_spares_serve_when_nodes_act_and_others_warm_up_behind_them():
    workload = Workload("growth", steady(50.0), Service(distribution="deterministic"))
    sequence = workload.sequence(0, 20.0)
    policy = Wanted(lambda now: 40 if now >= 5.0 else 1)
    conditions = Conditions(initial=1, actuation=0.25, warm_up=2.75, warm_in=0.0, spares=7)
    run = Simulation(sequence, policy, conditions).run()
    starts = sorted(t + w for t, w in zip(sequence.times, run.waits, strict=True) if w >= 0.0)
    assert sum(5.25 <= start < 5.26 for start in starts) >= 7  # the spares, all at once
    assert sum(5.3 <= start < 7.9 for start in starts) <= 8 * 27  # eight workers serve
    assert sum(8.0 <= start < 8.01 for start in starts) >= 32  # those that were forked
    assert run.worker_seconds == pytest.approx(8 * 5.25 + 47 * 14.75, rel=0.001)


def test_spares_take_the_places_of_workers_that_die():
    without, with_spares = (
        simulated(
            *(CATALOGUE["steady"], Fixed(16)),
            initial=16,
            crashes_per_hour=1200,
            warm_up=10.0,
            spares=spares,
        )
        for spares in (0, 6)
    )
    assert with_spares.lost == 0
    assert with_spares.violations < 0.02 < without.violations


def test_a_temporary_worker_comes_at_the_second_look_and_goes_after_the_need():
    def waits_and_cost(**conditions):
        arrivals = Arrivals(
            array("d", [5.0, 5.01]), array("d", [5.0, 3.0]), [0.2] * 200, 20.0, Service()
        )
        run = Simulation(arrivals, Fixed(1), Conditions(initial=1, warm_in=0.0, **conditions)).run()
        return run.waits[1], run.worker_seconds

    assert waits_and_cost() == (pytest.approx(4.99), pytest.approx(20.0))
    wait, worker_seconds = waits_and_cost(overflow=3)
    # Two looks, 20 ms apart, then half a second of warm-up.
    assert 0.52 <= wait <= 0.54
    # It begins at 5.51 + wait, works for 3 s, and leaves half a second later.
    assert worker_seconds == pytest.approx(20.0 + (wait - 0.5) + 0.5 + 3.0 + 0.5, abs=0.05)
    # A spare serves at the first look and rests again: no other comes in its place.
    wait, worker_seconds = waits_and_cost(overflow=3, spares=1)
    assert 0.0 <= wait <= 0.02
    assert worker_seconds == pytest.approx(40.0, abs=0.05)


def test_a_size_that_grows_takes_the_temporary_workers_over():
    sequence = Workload("growth", steady(300.0)).sequence(0, 20.0)
    policy = Wanted(lambda now: 16 if now >= 5.0 else 2)
    conditions = Conditions(initial=2, warm_in=0.0, overflow=14, warm_up=0.0)
    run = Simulation(sequence, policy, conditions).run()
    # The fourteen come within the first second; until 5.15 they are the overflow, then
    # of the size, and fourteen others come, because even sixteen do not keep up.
    assert run.worker_seconds == pytest.approx(16 * 5.15 + 30 * 14.85, rel=0.02)


def test_each_node_has_its_own_overflow():
    sequence = Workload("more", steady(300.0)).sequence(0, 20.0)
    conditions = Conditions(initial=2, nodes=2, warm_in=0.0, overflow=3)
    run = Simulation(sequence, Fixed(2), conditions).run()
    assert run.worker_seconds == pytest.approx(8 * 20.0, rel=0.02)


def test_a_node_that_comes_back_begins_without_overflow():
    crash = NodeCrash(at=10.0, node=0, outage=5.0)
    sequence = Workload("more", steady(300.0)).sequence(0, 20.0)
    conditions = Conditions(initial=2, warm_in=0.0, overflow=4, node_crashes=(crash,))
    run = Simulation(sequence, Fixed(2), conditions).run()
    assert run.lost == 0
    assert run.worker_seconds == pytest.approx(6 * 15.0, rel=0.03)


@pytest.mark.parametrize("spares", [0, 3])
def test_shrinking_never_kills_a_busy_worker(spares):
    random = Random(11)
    run = simulated(
        CATALOGUE["steady"],
        Wanted(lambda _now: random.randint(2, 40)),
        initial=20,
        nodes=3,
        spares=spares,
        overflow=spares,
    )
    assert run.lost == 0
    assert run.resizes > 200


@pytest.mark.parametrize("nodes", [1, 4])
def test_crashes_lose_nothing_and_workers_are_replaced(nodes):
    run = simulated(CATALOGUE["steady"], Fixed(18), initial=18, nodes=nodes, crashes_per_hour=1200)
    assert run.lost == 0
    assert run.violations < 0.02
    assert run.worker_seconds == pytest.approx(18 * 240.0, rel=0.01)


def test_the_work_of_a_dead_node_moves_to_the_others_within_seconds():
    crash = NodeCrash(at=100.0, node=1, outage=60.0)
    sequence = CATALOGUE["steady"].sequence(0, 200.0)
    conditions = Conditions(initial=14, nodes=2, node_crashes=(crash,))
    run = Simulation(sequence, Fixed(14), conditions).run()
    late = [t for t, w in zip(sequence.times, run.waits, strict=True) if w > 0.3]
    assert run.lost == 0
    assert late
    assert min(late) > 99.0
    assert max(late) < 105.0


def test_observations_add_up_even_when_samples_are_lost_or_late():
    policy = Spy()
    sequence = CATALOGUE["steady"].sequence(0, 300.0)
    conditions = Conditions(initial=15, nodes=3, lost_metrics=0.2, late_metrics=2.0)
    Simulation(sequence, policy, conditions).run()
    assert not all(seen.complete for seen in policy.seen)
    arrivals = sum(seen.arrivals for seen in policy.seen)
    assert len(sequence.times) - 600 <= arrivals <= len(sequence.times)


def test_the_objective_bears_lost_and_late_samples():
    run = simulated(
        CATALOGUE["steady"],
        Objective(LIMITS, Goal()),
        600.0,
        initial=15,
        nodes=4,
        lost_metrics=0.1,
        late_metrics=1.0,
    )
    assert run.violations <= 0.01
    assert run.worker_seconds <= 1.25 * 15 * 540.0


def test_every_policy_and_rival_runs_within_the_limits():
    rows = list(compare([CATALOGUE["flash"]], policies(), [1], seconds=300.0))
    assert [row.policy for row in rows] == list(policies())
    for row in rows:
        assert 0.0 <= row.violations.mean <= 1.0
        assert 0.1 <= row.cost.mean <= 10.0
    oracle = next(row for row in rows if row.policy == "oracle")
    assert oracle.cost.mean == 1.0
    assert len(list(table(rows))) == 1 + len(rows)


def test_the_oracle_meets_the_objective_where_the_rate_is_steady():
    chosen = [w for name, w in CATALOGUE.items() if name.startswith("steady")]
    builders = {"oracle": policies()["oracle"]}
    for row in compare(chosen, builders, range(3), seconds=600.0):
        assert row.violations.mean <= 0.0115, row.workload


@pytest.mark.parametrize("name", ["steady", "step", "diurnal", "steady-lognormal"])
def test_the_objective_policy_meets_its_objective_at_little_cost(name):
    builders = {"objective": policies()["objective"]}
    (row,) = compare([CATALOGUE[name]], builders, range(3), seconds=900.0)
    assert row.violations.mean <= 0.01
    assert row.cost.mean <= 1.12  # 1.10 in the long run; a quarter of an hour begins unlearned
    assert row.resizes_per_hour.mean <= 70


def test_a_fourfold_step_is_recovered_in_three_seconds():
    builders = {"objective": policies()["objective"]}
    (row,) = compare([Workload("step", step())], builders, range(10), seconds=150.0)
    assert row.recovery is not None
    assert row.recovery <= 3.0


def test_runs_that_become_four_times_as_long_are_followed_within_a_minute():
    sequence = CATALOGUE["steady"].sequence(5, 600.0)
    for index, published in enumerate(sequence.times):
        sequence.services[index] *= 0.5 if published < 300.0 else 2.0
    run = Simulation(sequence, Objective(LIMITS, Goal()), Conditions(initial=9)).run()
    settled = [w for t, w in zip(sequence.times, run.waits, strict=True) if t >= 360.0]
    assert sum(not 0.0 <= wait <= 0.05 for wait in settled) / len(settled) <= 0.015


def test_recovery_that_never_comes_counts_to_the_end():
    builders = {"stuck": lambda _setting: Fixed(2)}
    (row,) = compare([Workload("bursts", on_off())], builders, [0], seconds=600.0)
    assert row.worst_recovery is not None
    assert row.worst_recovery > 100.0


@pytest.mark.parametrize(("degrees", "point"), [(1, 12.706), (2, 4.303), (4, 2.776), (19, 2.093)])
def test_student_t_of_the_tables(degrees, point):
    assert student_t(degrees) == pytest.approx(point, rel=0.006)
