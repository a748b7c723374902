"""``pool warm``: warms the workers again and prints the outcome."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from pooltasks.app import settings_of
from pooltasks.cli.calls import parse_call
from pooltasks.cli.nodes import statuses
from pooltasks.cli.options import json_option
from pooltasks.warming import Batch, well
from pooltasks.warming import warm as warm_nodes

if TYPE_CHECKING:
    from celery.bin.base import CLIContext


def _command(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> Any:
    """Return the commands of the option, as the settings have them; None without any."""
    if not values:
        return None
    if len(values) == 1 and values[0].partition(":")[0] == "dspy":
        return values[0]
    return [_parsed(value) for value in values]


def _parsed(value: str) -> dict[str, Any]:
    call = parse_call(value)
    return {"operation": call.operation, "args": list(call.args), "kwargs": call.kwargs}


@click.command(short_help="Run the warm-up again in every worker.")
@click.argument("pools", nargs=-1)
@click.option(
    "--strategy",
    type=click.Choice(["parallel", "sequential", "staged"]),
    help="All workers of a pool at once, one at a time, or a third; by default as it is set.",
)
@click.option(
    "--command",
    "commands",
    multiple=True,
    callback=_command,
    metavar="OPERATION [JSON]",
    help="Run this instead of what is set, with these arguments (a list or an object); "
    "dspy: the commands of that name. Repeat for more.",
)
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait for the reports.")
@json_option
@click.pass_obj
def warm(  # noqa: PLR0917  click passes them by name
    context: CLIContext,
    pools: tuple[str, ...],
    strategy: str | None,
    commands: Any,
    timeout: float,
    as_json: bool,
) -> None:
    """Run the warm-up of POOLS (all if none is named) again in every worker.

    A busy worker warms up after its operation. Exits with 1 if a warm-up
    failed, is not finished in time, or no node answers.
    """
    nodes = statuses(context.app, pools)
    if not nodes:
        raise click.ClickException(
            "No node answers. Start one: celery -A pooltasks worker -Q pool.<name>"
        )
    batches = [
        Batch(
            {name: its["size"] for name, its in nodes.items() if its["pool"] == pool},
            strategy or settings_of(context.app).pool_settings(pool).warmup.strategy,
        )
        for pool in sorted({its["pool"] for its in nodes.values()})
    ]
    reports = warm_nodes(
        context.app, batches, strategy=strategy, commands=commands, timeout=timeout
    )
    if as_json:
        click.echo(json.dumps(reports, indent=2))
    else:
        for name in sorted(nodes):
            _print(name, reports.get(name))
    if not well(reports, list(nodes)):
        raise SystemExit(1)


def _print(name: str, report: dict[str, Any] | None) -> None:
    if report is None:
        click.secho(f"{name}: it did not begin in time, or does not answer", fg="red")
        return
    if report["refused"] is not None:
        click.secho(f"{name}: nothing was done: {report['refused']}", fg="red")
        return
    state = "" if report["finished"] else ", not finished"
    click.secho(
        f"{name}: {report['succeeded']} of {report['workers']} workers warmed "
        f"in {report['seconds']:.3f} s{state}",
        bold=True,
    )
    width = max(map(len, report["commands"]), default=0)
    for operation, command in report["commands"].items():
        click.echo(
            f"  {operation:<{width}}  average {command['average_seconds'] * 1e3:.1f} ms, "
            f"maximum {command['maximum_seconds'] * 1e3:.1f} ms, failures {command['failures']}"
        )
    if not report["commands"]:
        click.echo("  there are no warm-up commands")
    for worker in report["timeline"]:
        if worker["error"]:
            click.secho(f"  worker {worker['pid']} failed:\n{worker['error']}", fg="red")
