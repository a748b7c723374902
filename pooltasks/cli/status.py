"""``pool status``: which nodes serve the pools, and how warm they are."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from pooltasks.cli.nodes import statuses

if TYPE_CHECKING:
    from celery.bin.base import CLIContext


@click.command()
@click.argument("pools", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def status(context: CLIContext, pools: tuple[str, ...], as_json: bool) -> None:
    """Show the nodes of POOLS (all if none is named).

    Exits with 1 if no node answers.
    """
    nodes = statuses(context.app, pools)
    if as_json:
        click.echo(json.dumps(nodes, indent=2))
    elif nodes:
        click.echo(f"{'POOL':<16} {'NODE':<32} {'SIZE':>5} {'WARM':>5} {'WARMING':>8}  WARM-UP")
        for name, node in sorted(nodes.items(), key=lambda item: (item[1]["pool"], item[0])):
            rate = node["warm_up"]["success_rate"]
            warmed = (
                "none yet" if rate is None else f"{rate:.0%} in {node['warm_up']['seconds']:.3f} s"
            )
            click.echo(
                f"{node['pool']:<16} {name:<32} {node['size']:>5} {node['warm']:>5} "
                f"{node['cold']:>8}  {warmed}"
            )
    else:
        click.echo(
            "No node answers. Start one: celery -A pooltasks worker -Q pool.<name>", err=True
        )
    if not nodes:
        raise SystemExit(1)
