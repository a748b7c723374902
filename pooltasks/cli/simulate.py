"""``pool simulate``: the cost and the service of policies, before they run."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from pooltasks.app import settings_of
from pooltasks.cli.conditions import conditions

if TYPE_CHECKING:
    from celery import Celery
    from celery.bin.base import CLIContext

    from pooltasks.optimizer.policies import Limits
    from pooltasks.optimizer.staffing import Goal
    from pooltasks.simulator.conditions import Conditions
    from pooltasks.simulator.recorded import Replay
    from pooltasks.simulator.run import Run
    from pooltasks.simulator.workloads import Arrivals, Distribution, Source, Workload

_Known = TypeVar("_Known")


@click.command()
@click.option(
    "--policy",
    "names",
    multiple=True,
    metavar="NAME",
    help="A policy (objective, schedule, rules, fixed) or a rival (hpa, keda, knative, aws, "
    "celery, latency, oracle); all if none is named.",
)
@click.option(
    "--workload",
    "shapes",
    multiple=True,
    metavar="NAME",
    help="steady, step, ramp, diurnal, flash, on-off, mmpp, random-walk, or steady- with "
    "deterministic, lognormal or pareto; all if none is named.",
)
@click.option(
    "--trace",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A CSV file with a count in the second column of each row, as one more workload.",
)
@click.option(
    "--row",
    help="How long a row of --trace lasts: 5min.  [default: what lies between the dates in its "
    "first column, a minute without dates]",
)
@click.option(
    "--events",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A CSV file with a row for each operation, its time in the first column, as one more.",
)
@click.option(
    "--replay", "span", help="This long of a pool's own traffic, 2min to 1h, as workload."
)
@click.option("--pool", "pool_name", help="The pool of --replay, if there are several.")
@click.option(
    "--rate", help="Mean arrivals: 500/s, 30/min.  [default: the workload's; 100/s for traces]"
)
@click.option("--run", "run_time", help="Mean run: 40ms, 1.5s.  [default: 100ms]")
@click.option(
    "--service",
    type=click.Choice(["deterministic", "exponential", "lognormal", "pareto"]),
    help="How runs vary.  [default: the workload's; exponential for traces]",
)
@click.option(
    "--size", "sizes", multiple=True, type=click.IntRange(min=1), help="A fixed size too."
)
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--seconds", default=1800.0, show_default=True, type=click.FloatRange(min=120.0), help="A run."
)
@click.option(
    "--objective", help="Share and longest wait; 99% < 50ms by default, with --replay the pool's."
)
@click.option("--min", "minimum", type=click.IntRange(min=1), help="Slots: 2, or the pool's.")
@click.option("--max", "maximum", type=click.IntRange(min=1), help="Slots: 64, or the pool's.")
@conditions
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
@click.option(
    "--plot",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Draw the first seed of each workload into this SVG file.",
)
@click.pass_obj
def simulate(
    context: CLIContext,
    *,
    names: tuple[str, ...],
    shapes: tuple[str, ...],
    trace: Path | None,
    row: str | None,
    events: Path | None,
    span: str | None,
    pool_name: str | None,
    rate: str | None,
    run_time: str | None,
    service: Distribution | None,
    sizes: tuple[int, ...],
    seeds: int,
    seconds: float,
    objective: str | None,
    minimum: int | None,
    maximum: int | None,
    conditions: Conditions,
    as_json: bool,
    plot: Path | None,
) -> None:
    """Try policies on workloads, all with the same operations.

    LATE is the share of operations that waited longer than the objective, COST the
    worker-seconds relative to an oracle that knows the true rate, RECOVERY the time
    from a doubling of the rate until the objective holds again: its mean, and the
    longest. With --replay the row "as it was" is what the pool itself did; there a worker
    is a slot, and nodes, spares and overflow are the pool's unless they are named.
    """
    # Inside, because a node loads this module with every command of Celery.
    from pooltasks.optimizer.policies import Limits
    from pooltasks.optimizer.staffing import Goal
    from pooltasks.simulator import plot as picture
    from pooltasks.simulator import report
    from pooltasks.simulator.planning import parse_goal, parse_rate, parse_time

    builders = report.policies()
    wanted = _chosen("--policy", names or (() if sizes else tuple(builders)), builders)
    wanted |= {f"size {size}": report.fixed(size) for size in sizes}
    goal, limits, replay = Goal(), Limits(2, 64), None
    sources: list[Source] = [
        workload.changed(
            mean_rate=parse_rate(rate) if rate else None,
            mean_run=parse_time(run_time) if run_time else None,
            distribution=service,
        )
        for workload in _workloads(shapes, trace, row, events, every=not span)
    ]
    if span:
        if sources or rate or run_time or service:
            raise click.BadParameter(
                "it stands alone: rate, runs and arrivals are the pool's.", param_hint="--replay"
            )
        replay, goal, limits, its = _recorded(context.app, pool_name, span)
        conditions = replace(conditions, **_not_named(its))
        sources, seconds = [replay], replay.recording.seconds
    if objective:
        goal = parse_goal(objective)
    limits = _within(Limits(minimum or limits.minimum, maximum or limits.maximum))
    conditions = replace(conditions, wait=goal.wait)
    panels: dict[str, picture.Panel] = {}
    most = 0.0

    def watch(workload: str, policy: str, seed: int, arrivals: Arrivals, run: Run) -> None:
        nonlocal most
        most = max(most, max(arrivals.rates) * arrivals.service.mean)
        if plot and seed == 0:
            panel = panels.setdefault(workload, picture.Panel(workload, arrivals, goal.wait))
            panel.runs.append((policy, run))

    rows = report.compare(
        sources,
        wanted,
        range(seeds),
        seconds=seconds,
        limits=limits,
        goal=goal,
        conditions=conditions,
        watch=watch,
    )
    if replay:
        rows = chain([report.recorded_row(replay, limits, goal, conditions)], rows)
    lines = (json.dumps(row.as_json()) for row in rows) if as_json else report.table(rows)
    for line in lines:
        click.echo(line)
    if most > limits.maximum:
        click.echo(
            f"At times {most:.0f} workers would be busy, and --max is {limits.maximum}: "
            "no policy could meet the objective then.",
            err=True,
        )
    if plot:
        plot.write_text(picture.svg(list(panels.values())), "utf-8")


def _workloads(
    names: tuple[str, ...],
    trace: Path | None,
    row: str | None,
    events: Path | None,
    *,
    every: bool,
) -> list[Workload]:
    """Return the traces and the workloads of these names; if there is neither, ``every`` one."""
    from pooltasks.simulator import traces, workloads
    from pooltasks.simulator.planning import parse_time

    if row and not trace:
        raise click.BadParameter("there is no --trace.", param_hint="--row")
    catalogue = workloads.catalogue()
    every = every and not (trace or events)
    chosen = names or (tuple(catalogue) if every else ())
    found = list(_chosen("--workload", chosen, catalogue).values())
    if trace:
        lasts = parse_time(row) if row else None
        found.append(workloads.Workload(trace.stem, traces.trace(trace, row=lasts)))
    if events:
        found.append(workloads.Workload(events.stem, traces.events(events)))
    return found


def _not_named(its: dict[str, int]) -> dict[str, Any]:
    """Return the conditions among ``its`` for which the command line has no option."""
    source = click.get_current_context().get_parameter_source
    return {name: its[name] for name in its if source(name) is ParameterSource.DEFAULT}


def _recorded(
    app: Celery, name: str | None, span: str
) -> tuple[Replay, Goal, Limits, dict[str, int]]:
    """Return a pool's last ``span`` with its objective, its limits and its conditions, in slots."""
    from pooltasks import Pool
    from pooltasks.metrics.samples import HISTORY
    from pooltasks.optimizer.policies import Limits
    from pooltasks.optimizer.staffing import Goal
    from pooltasks.simulator.planning import parse_time
    from pooltasks.simulator.recorded import SHORTEST, Replay, record

    seconds = parse_time(span)
    if not SHORTEST <= seconds <= HISTORY:
        raise click.BadParameter(f"{span!r} is not between 2min and 1h.", param_hint="--replay")
    pools = list(settings_of(app).pools)
    if name is None and len(pools) != 1:
        raise click.BadParameter(
            f"name one of the pools: {', '.join(pools) or 'none is configured'}.",
            param_hint="--pool",
        )
    pool = Pool(name or pools[0], app=app)
    # The first sample covers a second that began before the span, so a part is not known.
    queue, samples = pool.samples(seconds + 2.0)
    its = pool.settings
    goal = Goal(its.objective.wait_ms / 1000.0, its.objective.quantile)
    recording = record(pool.name, samples, queue.at, seconds)
    # The settings are a node's, in workers; policies size the pool, in slots.
    slots = recording.nodes * its.slots
    limits = Limits(its.min_pool_size * slots, its.max_pool_size * slots)
    conditions = {
        "nodes": recording.nodes,
        "spares": its.spares * its.slots,
        "overflow": its.max_overflow * its.slots,
    }
    return Replay(recording), goal, limits, conditions


def _within(limits: Limits) -> Limits:
    if limits.minimum > limits.maximum:
        raise click.BadParameter(
            f"{limits.minimum} is above --max ({limits.maximum}).", param_hint="--min"
        )
    return limits


def _chosen(option: str, names: tuple[str, ...], known: dict[str, _Known]) -> dict[str, _Known]:
    for name in names:
        if name not in known:
            raise click.BadParameter(
                f"there is no {name!r}; there are {', '.join(known)}.", param_hint=option
            )
    return {name: known[name] for name in names}
