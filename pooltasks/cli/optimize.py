"""``pool optimize``: the optimizer's decision, and whether it may act."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from pooltasks.app import settings_of
from pooltasks.cli.durations import duration, in_words
from pooltasks.cli.options import json_option
from pooltasks.counted import counted

if TYPE_CHECKING:
    from celery.bin.base import CLIContext


@click.command(short_help="Let the optimizer decide now; pause or resume it.")
@click.argument("pool")
@click.option("--dry-run", is_flag=True, help="Decide, and change nothing.")
@click.option(
    "--pause",
    callback=duration,
    metavar="DURATION",
    help="Let the optimizer only watch for so long (30s, 10m, 1h); the pool keeps its size.",
)
@click.option("--resume", is_flag=True, help="End a pause.")
@json_option
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
    from pooltasks.optimizer.controller import Controller

    if sum((dry_run, pause is not None, resume)) > 1:
        raise click.UsageError("Name one of --dry-run, --pause and --resume.")
    settings_of(context.app).pool_settings(pool)
    controller = Controller(context.app, pool)
    if pause is not None:
        controller.decisions.pause(pause)
        click.echo(
            f"The optimizer of {pool} is paused for {in_words(pause)}; the pool keeps its size. "
            f"End the pause: pooltasks optimize {pool} --resume",
            err=True,
        )
    elif resume:
        was = controller.decisions.resume()
        text = "acts again." if was else "was not paused."
        click.echo(f"The optimizer of {pool} {text}", err=True)
    fresh = controller.dry_run() if dry_run else controller.tick()
    decision = fresh or controller.decisions.current()
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
        told = _told(is_fresh=fresh is not None, dry_run=dry_run) if node in decision.told else ""
        click.echo(f"  {node:<40} {counted(workers, 'worker'):>12}{told}")
    if not decision.acting:
        click.echo("  not carried out: the optimizer only watches")


def _told(*, is_fresh: bool, dry_run: bool) -> str:
    """Return in words whether a node that is to change was told."""
    if not is_fresh:
        return " (changed by the optimizer's last turn)"
    return " (would change)" if dry_run else " (changed now)"
