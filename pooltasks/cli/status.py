"""``pool status``: which nodes serve the pools, how warm they are, and what size is wanted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
from redis.exceptions import RedisError

from pooltasks.app import settings_of
from pooltasks.cli.nodes import statuses
from pooltasks.pools import Pool

if TYPE_CHECKING:
    from celery import Celery
    from celery.bin.base import CLIContext

    from pooltasks.metrics.decisions import PoolDecision


@click.command()
@click.argument("pools", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def status(context: CLIContext, pools: tuple[str, ...], as_json: bool) -> None:
    """Show the nodes of POOLS (all if none is named), and what the optimizer wants of them.

    Exits with 1 if no node answers.
    """
    nodes = statuses(context.app, pools)
    decisions = _decisions(context.app, pools)
    if as_json:
        sizes = {name: decision.as_json() for name, decision in decisions.items()}
        click.echo(json.dumps({"nodes": nodes, "optimizer": sizes}, indent=2))
    elif nodes:
        click.echo(
            f"{'POOL':<16} {'NODE':<32} {'SIZE':>5} {'WARM':>5} {'WARMING':>8} {'OVERFLOW':>8}"
            "  WARM-UP"
        )
        for name, node in sorted(nodes.items(), key=lambda item: (item[1]["pool"], item[0])):
            rate = node["warm_up"]["success_rate"]
            longest = max(
                (one["finished_at"] - one["started_at"] for one in node["warm_up"]["timeline"]),
                default=0.0,
            )
            warmed = "none yet" if rate is None else f"{rate:.0%} within {longest:.3f} s"
            click.echo(
                f"{node['pool']:<16} {name:<32} {node['size']:>5} {node['warm']:>5} "
                f"{node['cold']:>8} {node['overflow']:>8}  {warmed}"
            )
        for name, decision in decisions.items():
            nodes_wanted = f", {decision.hosts} nodes wanted" if decision.hosts > 1 else ""
            watches = "" if decision.acting else " (not carried out)"
            click.echo(f"{name}: {decision.target} slots{nodes_wanted}{watches}. {decision.reason}")
    else:
        click.echo(
            "No node answers. Start one: celery -A pooltasks worker -Q pool.<name>", err=True
        )
    if not nodes:
        raise SystemExit(1)


def _decisions(app: Celery, pools: tuple[str, ...]) -> dict[str, PoolDecision]:
    """Return the optimizer's last decision on each pool that has one."""
    decisions = {}
    for name in pools or settings_of(app).pools:
        try:
            decision = Pool(name, app=app).optimized_config()
        except RedisError as error:
            raise click.ClickException(
                f"The server: {error} Is it running? See POOLTASKS_REDIS_URL."
            ) from error
        if decision:
            decisions[name] = decision
    return decisions
