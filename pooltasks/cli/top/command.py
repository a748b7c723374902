"""The command ``pool top``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from pooltasks.app import settings_of
from pooltasks.remote import server_name

if TYPE_CHECKING:
    from celery.bin.base import CLIContext


@click.command(short_help="Show pools, nodes and workers live on the whole terminal.")
@click.argument("pool", required=False)
@click.option(
    "--interval",
    default=2.0,
    show_default=True,
    type=click.FloatRange(min=0.5),
    help="Seconds between two readings at the least; with many pools it is more.",
)
@click.pass_obj
def top(context: CLIContext, pool: str | None, interval: float) -> None:
    """Show all pools on the whole screen, or begin with POOL: nodes, workers, what they run.

    Arrows choose, Enter goes into a pool, a node or an error, Esc goes back. s sorts, / filters,
    q ends, ? lists all keys.
    """
    app = context.app
    if pool is not None:
        settings_of(app).pool_settings(pool)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.ClickException("top needs a terminal. For a script: pooltasks status --json")
    try:
        from pooltasks.cli.top.terminal import show
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"top needs {error.name}: pip install 'pooltasks[top]'"
        ) from error
    show(app, server_name(app), pool, interval)
