"""The commands: ``celery -A pooltasks pool …`` and ``pooltasks …`` are the same.

The first comes through Celery's ``celery.commands`` entry point, the second is
the console script; both carry the application in click's context object.
"""

from __future__ import annotations

import click
from celery.app.utils import find_app
from celery.bin.base import CLIContext

from pooltasks.cli.check import check
from pooltasks.cli.status import status
#UP from pooltasks.cli.up import up
from pooltasks.cli.warm import warm

_COMMANDS = (check, status, warm)


@click.group()
def pool() -> None:
    """Look after the pools of this application."""


@click.group()
@click.option("-A", "--app", default="pooltasks", show_default=True, help="The Celery application.")
@click.version_option(package_name="pooltasks")
@click.pass_context
def main(context: click.Context, app: str) -> None:
    """Run pools of Celery workers on Redis, and look after them."""
    if context.invoked_subcommand == "up":  # its processes find the application themselves
        return
    context.obj = CLIContext(app=find_app(app), no_color=False, workdir=None)


for command in _COMMANDS:
    pool.add_command(command)
    main.add_command(command)
#UP main.add_command(up)
