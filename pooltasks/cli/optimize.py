"""``pool optimize``: what the optimizer decides, and whether it may act."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click
from redis.exceptions import RedisError

from pooltasks.app import settings_of

if TYPE_CHECKING:
    from celery.bin.base import CLIContext


@click.command()
@click.argument("pool")
@click.option("--dry-run", is_flag=True, help="Decide, and change nothing.")
@click.option(
    "--pause",
    type=click.FloatRange(min=1.0),
    metavar="SECONDS",
    help="Let the optimizer only watch for so long; the pool keeps its size.",
)
@click.option("--resume", is_flag=True, help="End a pause.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def optimize(
    context: CLIContext,
    pool: str,
    *,
    dry_run: bool,
    pause: float | None,
    resume: bool,
    as_json: bool,
) -> None:
    """Have the optimizer of POOL take a turn now, as beat does every second.

    With beat and the control node running there is nothing left to decide: then
    this prints their last decision. Exits with 1 if there is none.
    """
    # Inside, because a node loads this module with every command of Celery.
    from pooltasks.optimizer.controller import Controller  # noqa: PLC0415

    if sum((dry_run, pause is not None, resume)) > 1:
        raise click.UsageError("Name one of --dry-run, --pause and --resume.")
    settings_of(context.app).pool_settings(pool)
    controller = Controller(context.app, pool)
    try:
        if pause is not None:
            controller.decisions.pause(pause)
        elif resume:
            controller.decisions.resume()
        decision = controller.dry_run() if dry_run else controller.tick()
        decision = decision or controller.decisions.current()
    except RedisError as error:
        raise click.ClickException(
            f"The server: {error} Is it running? See POOLTASKS_REDIS_URL."
        ) from error
    if decision is None:
        raise click.ClickException(
            f"There is nothing to decide on: no node of the pool {pool!r} has written a sample. "
            f"Start one: celery -A pooltasks worker -Q pool.{pool}"
        )
    if as_json:
        click.echo(json.dumps(decision.as_json(), indent=2))
        return
    click.echo(decision.reason)
    for node, workers in sorted(decision.nodes.items()):
        told = "" if node not in decision.told else " (would change)" if dry_run else " (told now)"
        click.echo(f"  {node:<40} {workers:>4} workers{told}")
    if not decision.acting:
        click.echo("  not carried out: the optimizer only watches")
