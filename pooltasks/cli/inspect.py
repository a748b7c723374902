"""``pool inspect``: where one operation is; ``pool purge``: delete what waits."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from pooltasks.app import settings_of
from pooltasks.broker import purging
from pooltasks.cli.options import json_option
from pooltasks.counted import counted

if TYPE_CHECKING:
    from celery.bin.base import CLIContext


@click.command()
@click.argument("operation_id", metavar="ID")
@json_option
@click.pass_obj
def inspect(context: CLIContext, operation_id: str, as_json: bool) -> None:
    """Say where the operation with this ID is.

    It waits in a queue or for its time, a limit holds it back, a node has reserved it or
    runs it, it has a result, or it is a dead letter. Exits with 1 if it is found nowhere:
    its result may have expired, or it was never submitted.
    """
    from pooltasks.whereabouts import found_nowhere, places_of

    places = places_of(context.app, operation_id)
    if as_json:
        click.echo(json.dumps(places, indent=2))
    for place in () if as_json else places:
        click.echo(place["text"])
    if not places:
        raise click.ClickException(found_nowhere(operation_id))


@click.command(short_help="Delete all operations that wait in a queue.")
@click.argument("pool")
@click.confirmation_option(prompt="Delete all operations that wait in the queue of this pool?")
@click.pass_obj
def purge(context: CLIContext, pool: str) -> None:
    """Delete all operations that wait in the queue of POOL; whoever waits for one is not told.

    Those that wait for their turn and those that limits hold back are deleted too. What
    nodes have reserved runs on, and what is not due yet stays. For dead letters: dead purge.
    """
    settings_of(context.app).pool_settings(pool)
    its = purging.purge(context.app, pool)
    text = f"{counted(sum(its), 'operation')} deleted from the queue of the pool {pool}"
    if its.in_lines or its.held:
        text += (
            f": {its.in_lists} in its lists, {its.in_lines} that waited for their turns, "
            f"{its.held} that limits held back"
        )
    click.echo(text)
