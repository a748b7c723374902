"""The commands of ``scripts/bench`` that simulate: policies and their parameters."""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks import tuning as parameters
from benchmarks.policies import comparisons, lines
from pooltasks.simulator import workloads
from pooltasks.simulator.traces import trace


@click.command()
@click.option("--workload", "names", multiple=True, help="A workload; all if none is named.")
@click.option(
    "--trace",
    "traces",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A CSV file with a count in the second column of each row, as one more workload.",
)
@click.option("--row", type=float, help="Seconds that its rows last.  [default: as it says]")
@click.option("--seeds", type=click.IntRange(min=2), default=20, show_default=True)
@click.option("--tuning-seeds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=120), default=1800.0, show_default=True)
def policies(
    *,
    names: tuple[str, ...],
    traces: tuple[Path, ...],
    row: float | None,
    seeds: int,
    tuning_seeds: int,
    seconds: float,
) -> None:
    """Simulate the default policy beside other autoscalers, each tuned for each workload."""
    catalogue = workloads.catalogue()
    if unknown := [name for name in names if name not in catalogue]:
        raise click.BadParameter(
            f"there is no {unknown[0]!r}; there are {', '.join(catalogue)}.",
            param_hint="--workload",
        )
    chosen = [catalogue[name] for name in names or (() if traces else tuple(catalogue))]
    chosen += [workloads.Workload(it.stem, trace(it, row=row)) for it in traces]
    for comparison in comparisons(chosen, seeds, tuning_seeds, seconds):
        for line in lines(comparison):
            click.echo(line)


@click.command()
@click.option("--seeds", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=120), default=1800.0, show_default=True)
@click.option(
    "--pictures",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Draw the pictures of docs/tuning.md into this folder, and no table.",
)
def tuning(seeds: int, seconds: float, pictures: Path | None) -> None:
    """Simulate what each parameter of the default policy does: the table of docs/tuning.md."""
    if pictures is None:
        for line in parameters.table(seeds, seconds):
            click.echo(line)
    else:
        for name in parameters.PICTURES:
            click.echo(parameters.draw(name, pictures))
