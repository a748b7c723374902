"""Send a step of load to a pool that sizes itself; compare with the simulation of the same.

Starts ``pooltasks up`` with one pool and a server of its own, publishes operations
that sleep for 100 ms, Poisson at 5 a second, then 40, then 5, then none, and prints
how the pool followed. The simulator is given the same arrivals and the same policy, and
the idle seconds before them: a policy's history decides how it takes the step.
Run it with ``scripts/autoscale``, which makes the environment first.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from operator import le
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from pooltasks import Pool, operation
from pooltasks.broker.client import redis_client
from pooltasks.embedded import tied_to_this_process
from pooltasks.keys import CONTROL_POOL
from pooltasks.optimizer.policies import Limits, build
from pooltasks.optimizer.staffing import Goal
from pooltasks.simulator.conditions import Conditions
from pooltasks.simulator.engine import Simulation
from pooltasks.simulator.workloads import STEP, Arrivals, Service, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

POOL: Final = "step"
LOW: Final = 5.0  # operations a second
HIGH: Final = 40.0
RUN: Final = 0.1  # seconds
INITIAL: Final = 4
LIMITS: Final = Limits(2, 24)
GOAL: Final = Goal(0.05, 0.99)
START_TIMEOUT: Final = 60.0
RETURN_TIMEOUT: Final = 120.0
PHASE: Final = 0.5  # of the server's second: when nodes sample, and the simulator ticks
WAITS: Final = "autoscale:waits"
CONFIGURATION: Final = f"""
[pools.{POOL}]
imports = ["autoscale"]
pool_size = {INITIAL}
min_pool_size = {LIMITS.minimum}
max_pool_size = {LIMITS.maximum}
objective = {{ wait_ms = {GOAL.wait * 1000:g}, quantile = {GOAL.quantile:g} }}
"""


@operation(pool=POOL, name="autoscale.rest", bind=True, ignore_result=True)
def rest(self: Any, number: int) -> None:
    """Sleep, and note how long this waited."""
    time.sleep(RUN)
    redis_client(self.app).rpush(WAITS, json.dumps([number, self.request.wait_seconds]))


class Watcher(threading.Thread):
    """Notes each change of the number of a node's workers, as the kernel shows them."""

    def __init__(self, node: str) -> None:
        super().__init__(daemon=True)
        self._node = node
        self.changes: list[tuple[float, int]] = []

    def run(self) -> None:
        """Look every 20 ms."""
        while True:
            number = sum(parent == self._node for parent in _parents())
            if not self.changes or self.changes[-1][1] != number:
                self.changes.append((time.time(), number))
            time.sleep(0.02)

    def at(self, moment: float) -> int:
        """Return the number of workers at a moment."""
        return [number for at, number in self.changes if at <= moment][-1]

    def until(self, after: float, fits: Callable[[int], bool]) -> float | None:
        """Return the seconds from ``after`` until the number fits; None if it never did."""
        return next((at - after for at, n in self.changes if at >= after and fits(n)), None)

    def forks(self, after: float, before: int, size: int) -> tuple[float, float]:
        """Return the seconds from ``after`` until the first fork begins, and those of each."""
        delays = [
            delay
            for worker in range(before + 1, size + 1)
            if (delay := self.until(after, partial(le, worker)))
        ]
        if not delays:
            return 0.0, 0.0
        each = (delays[-1] - delays[0]) / max(1, len(delays) - 1)
        return max(0.0, delays[0] - each), each


def _parents() -> Iterator[str]:
    """Yield the parent of each process of this machine."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            yield stat.read_text().rpartition(")")[2].split()[1]


@contextmanager
def deployment(folder: Path) -> Iterator[str]:
    """Run ``pooltasks up``; yield the process id of the pool's node."""
    configuration = folder / "pools.toml"
    configuration.write_text(CONFIGURATION)
    os.environ["POOLTASKS_CONFIG"] = str(configuration)
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    log = folder / "up.log"
    up = [sys.executable, "-m", "pooltasks", "up", "--no-dashboard", "--data-dir"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            tied_to_this_process([*up, str(folder / "data")]),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT
        while "everything is up" not in log.read_text("utf-8", "replace"):
            if time.monotonic() > deadline or process.poll() is not None:
                raise click.ClickException(f"It did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.1)
        said = log.read_text("utf-8", "replace")
        url = re.search(r"POOLTASKS_REDIS_URL=(\S+)", said)
        node = re.search(rf"\| {POOL} is up \(process (\d+)\)", said)
        if not url or not node:
            raise click.ClickException(f"It does not say where it is:\n{said[-3000:]}")
        os.environ["POOLTASKS_REDIS_URL"] = url[1]
        yield node[1]
    finally:
        process.terminate()
        process.wait()


def planned(calm: float, busy: float, seed: int) -> Arrivals:
    """Return the operations to publish."""
    rates = [LOW] * round(calm / STEP) + [HIGH] * round(busy / STEP) + [LOW] * round(calm / STEP)
    workload = Workload("autoscale", lambda *_: rates, Service(RUN, "deterministic"))
    return workload.sequence(seed, len(rates) * STEP)


def publish(plan: Arrivals) -> tuple[float, array[float]]:
    """Publish each operation at its time; return the beginning and when each was published."""
    start = int(time.time()) + 1 + PHASE
    published = array("d")
    for number, at in enumerate(plan.times):
        time.sleep(max(0.0, start + at - time.time()))
        published.append(time.time() - start)
        rest.delay(number)
    return start, published


def measure(plan: Arrivals, calm: float, warm_up: float, node: str) -> dict[str, Any]:
    """Publish the operations, and return how the pool and the simulated one followed."""
    pool = Pool(POOL)
    client = redis_client(pool.app)
    watcher = Watcher(node)
    watcher.start()
    start, published = publish(plan)
    while client.llen(WAITS) < len(published):
        time.sleep(0.1)
    run = pool.metrics(plan.seconds).work.run
    turns = Pool(CONTROL_POOL).metrics(plan.seconds).work.run
    end = start + plan.seconds
    while time.time() < end + RETURN_TIMEOUT and watcher.at(time.time()) > LIMITS.minimum:
        time.sleep(0.1)
    waits = dict(json.loads(entry) for entry in client.lrange(WAITS, 0, -1))
    counted = [number for number, at in enumerate(published) if at >= calm / 2]

    step = start + calm
    before = watcher.at(step)
    history = pool.decisions().history()
    grown = next((d for d in history if d.at > step and d.target > d.before), None)
    actuation = each_fork = 0.0
    if grown:
        tick = start + math.floor(grown.at - start)
        actuation, each_fork = watcher.forks(tick, grown.before, grown.target)
    # The first decision ends the first second that the policy saw, as in the simulation.
    idle = float(round(start - history[0].at) + 1)

    services = array("d", [run.mean if run else RUN]) * len(published)
    simulated = Simulation(
        replace(
            plan,
            times=array("d", (idle + at for at in published)),
            services=services,
            seconds=idle + plan.seconds,
        ),
        build("objective", LIMITS, GOAL, INITIAL),
        Conditions(
            wait=GOAL.wait,
            actuation=actuation,
            fork=each_fork,
            warm_up=warm_up,
            initial=INITIAL,
            warm_in=idle + calm / 2,
        ),
    ).run()
    resized = [(round(at - idle, 2), size) for at, size in simulated.sizes]
    return {
        "operations": len(counted),
        "late_measured": sum(waits[number] > GOAL.wait for number in counted) / len(counted),
        "late_simulated": simulated.violations,
        "workers_before_the_step": before,
        "step_to_growth_s": watcher.until(step, lambda number: number > before),
        "step_to_growth_simulated_s": next(
            (at + actuation + each_fork - calm for at, n in resized if at > calm and n > before),
            None,
        ),
        "tick_to_first_fork_s": actuation,
        "fork_s": each_fork,
        "idle_before_s": idle,
        "most_workers": max(number for _, number in watcher.changes),
        "most_workers_simulated": max(size for _, size in simulated.sizes),
        "end_of_load_to_the_floor_s": watcher.until(end, lambda n: n <= LIMITS.minimum),
        "run_mean_s": run.mean if run else None,
        "turn_p50_s": turns.p50 if turns else None,
        "turn_p99_s": turns.p99 if turns else None,
        "resizes": [
            (round(decision.at - start, 2), decision.before, decision.target)
            for decision in history
            if decision.told
        ],
        "resizes_simulated": resized,
    }


@click.command()
@click.option("--calm", default=30.0, show_default=True, help="Seconds at 5 operations/s, twice.")
@click.option("--busy", default=40.0, show_default=True, help="Seconds at 40 operations/s.")
@click.option("--seed", default=1, show_default=True)
@click.option(
    "--warm-up", default=0.05, show_default=True, help="Seconds from fork to work, simulated."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(*, calm: float, busy: float, seed: int, warm_up: float, as_json: bool) -> None:
    """Send a step of load to a pool that sizes itself; compare with the simulation."""
    with (
        tempfile.TemporaryDirectory(prefix="pooltasks-autoscale-") as folder,
        deployment(Path(folder)) as node,
    ):
        report = measure(planned(calm, busy, seed), calm, warm_up, node)
    if as_json:
        click.echo(json.dumps(report))
        return
    for name, value in report.items():
        shown = f"{value:.4g}" if isinstance(value, float) else value
        click.echo(f"{name.replace('_', ' '):<32} {shown}")


if __name__ == "__main__":
    main()
