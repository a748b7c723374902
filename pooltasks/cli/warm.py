"""``pool warm``: warm the workers again and print how it went."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import click

from pooltasks.cli.nodes import ask, statuses

if TYPE_CHECKING:
    from celery.bin.base import CLIContext


@click.command()
@click.argument("pools", nargs=-1)
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait for the reports.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def warm(context: CLIContext, pools: tuple[str, ...], timeout: float, as_json: bool) -> None:
    """Run the warm-up of POOLS (all if none is named) again in every worker.

    A busy worker warms up after its operation. Exits with 1 if a warm-up
    failed, is not finished in time, or no node answers.
    """
    deadline = time.monotonic() + timeout
    nodes = list(statuses(context.app, pools))
    if not nodes:
        raise click.ClickException(
            "No node answers. Start one: celery -A pooltasks worker -Q pool.<name>"
        )
    rounds = {name: reply["round"] for name, reply in ask(context.app, "pool_warm", nodes).items()}
    reports: dict[str, dict[str, Any]] = {}
    while time.monotonic() < deadline:
        for name in rounds.keys() - {n for n, report in reports.items() if report["finished"]}:
            reports.update(ask(context.app, "pool_warm_report", [name], number=rounds[name]))
        if all(name in reports and reports[name]["finished"] for name in rounds):
            break
        time.sleep(0.1)  # between questions to nodes that are still warming
    if as_json:
        click.echo(json.dumps(reports, indent=2))
    else:
        for name in sorted(reports):
            _print(name, reports[name])
    succeeded = all(
        name in reports and reports[name]["finished"] and reports[name]["success_rate"] in (1, None)
        for name in nodes
    )
    if not succeeded:
        raise SystemExit(1)


def _print(name: str, report: dict[str, Any]) -> None:
    state = "" if report["finished"] else ", not finished"
    click.secho(
        f"{name}: {report['succeeded']} of {report['workers']} workers warmed "
        f"in {report['seconds']:.3f} s{state}",
        bold=True,
    )
    for operation, command in report["commands"].items():
        click.echo(
            f"  {operation:<40} average {command['average_seconds'] * 1e3:9.1f} ms   "
            f"maximum {command['maximum_seconds'] * 1e3:9.1f} ms   failures {command['failures']}"
        )
    if not report["commands"]:
        click.echo("  the pool has no warm-up commands")
    for worker in report["timeline"]:
        if worker["error"]:
            click.secho(f"  worker {worker['pid']} failed:\n{worker['error']}", fg="red")
