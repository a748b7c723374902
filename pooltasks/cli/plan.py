"""``pool plan``: the number of workers that a load needs, before there is a pool."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from pooltasks.cli.options import json_option
from pooltasks.counted import counted


@click.command(short_help="Say how many workers a load needs.")
@click.option("--rate", required=True, help="Operations that arrive: 500/s, 30/min, 100/h.")
@click.option("--run", "run_time", required=True, help="Mean run of one: 40ms, 1.5s.")
@click.option(
    "--objective", default="99% < 50ms", show_default=True, help="Share and longest wait."
)
@click.option(
    "--scv",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=0.0, max=100.0),
    help="Variance / mean^2 of the run: 0 always the same, 1 exponential, above 1 heavy tails.",
)
@json_option
def plan(rate: str, run_time: str, objective: str, scv: float, as_json: bool) -> None:
    """Say how many workers a load needs, how busy they are, and what shorter waits cost.

    Assumes Poisson arrivals and one slot a worker; exact for exponential runs.
    """
    from pooltasks.optimizer.staffing import (
        Goal,
        time_in_words,
    )
    from pooltasks.simulator import planning

    arrivals, run = planning.parse_rate(rate), planning.parse_time(run_time)
    goal = planning.parse_goal(objective)
    halved = Goal(goal.wait / 2, goal.quantile)
    plans = [planning.plan(arrivals, run, wanted, service_scv=scv) for wanted in (goal, halved)]
    if as_json:
        names = ("plan", "half_the_wait")
        click.echo(json.dumps({n: asdict(p) for n, p in zip(names, plans, strict=True)}, indent=2))
        return
    needed, faster = plans
    click.echo(
        f"{counted(needed.workers, 'worker')} for {goal}: {needed.utilization:.0%} utilized, "
        f"{needed.late:.2%} wait longer, {time_in_words(needed.mean_wait, 2)} on average."
    )
    more = faster.workers - needed.workers
    click.echo(
        f"Half the wait ({halved}) takes {faster.workers}: {more} more "
        f"(+{more / needed.workers:.0%}), {faster.utilization:.0%} utilized."
    )
