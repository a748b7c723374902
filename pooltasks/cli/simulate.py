"""``pool simulate``: what policies cost and how well they serve, before they run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

import click

_Known = TypeVar("_Known")


@click.command()
@click.option("--policy", "names", multiple=True, help="A policy or rival; all if none is named.")
@click.option("--workload", "shapes", multiple=True, help="A workload; all if none is named.")
@click.option(
    "--trace",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A CSV file with a count a minute in its second column, as one more workload.",
)
@click.option("--rate", default=100.0, show_default=True, help="Mean operations/s of --trace.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--seconds", default=1800.0, show_default=True, type=click.FloatRange(min=120.0), help="A run."
)
@click.option(
    "--objective", default="99% < 50ms", show_default=True, help="Share and longest wait."
)
@click.option("--min", "minimum", default=2, show_default=True, type=click.IntRange(min=1))
@click.option("--max", "maximum", default=64, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--warm-up", default=0.5, show_default=True, type=click.FloatRange(min=0.0), help="Seconds."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
def simulate(
    *,
    names: tuple[str, ...],
    shapes: tuple[str, ...],
    trace: Path | None,
    rate: float,
    seeds: int,
    seconds: float,
    objective: str,
    minimum: int,
    maximum: int,
    warm_up: float,
    as_json: bool,
) -> None:
    """Try policies on workloads, all with the same operations.

    LATE is the share of operations that waited longer than the objective, COST the
    worker-seconds relative to an oracle that knows the true rate.
    """
    # Inside, because a node loads this module with every command of Celery.
    from pooltasks.optimizer.policies import Limits  # noqa: PLC0415
    from pooltasks.simulator import report, workloads  # noqa: PLC0415
    from pooltasks.simulator.conditions import Conditions  # noqa: PLC0415
    from pooltasks.simulator.planning import parse_goal  # noqa: PLC0415

    if minimum > maximum:
        raise click.BadParameter(f"{minimum} is above --max ({maximum}).", param_hint="--min")
    catalogue, builders = workloads.catalogue(), report.policies()
    chosen = _chosen("--workload", shapes or (() if trace else tuple(catalogue)), catalogue)
    if trace:
        chosen.append(workloads.Workload(trace.stem, workloads.trace(trace, mean_rate=rate)))
    wanted = names or tuple(builders)
    _chosen("--policy", wanted, builders)
    goal = parse_goal(objective)
    rows = report.compare(
        chosen,
        {name: builders[name] for name in wanted},
        range(seeds),
        seconds=seconds,
        limits=Limits(minimum, maximum),
        goal=goal,
        conditions=Conditions(wait=goal.wait, warm_up=warm_up),
    )
    lines = (json.dumps(row.as_json()) for row in rows) if as_json else report.table(rows)
    for line in lines:
        click.echo(line)


def _chosen(option: str, names: tuple[str, ...], known: dict[str, _Known]) -> list[_Known]:
    for name in names:
        if name not in known:
            raise click.BadParameter(
                f"there is no {name!r}; there are {', '.join(known)}.", param_hint=option
            )
    return [known[name] for name in names]
