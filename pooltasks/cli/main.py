"""The console script ``pooltasks``."""

from __future__ import annotations

import click
from celery.app.utils import find_app
from celery.bin.base import CLIContext

from pooltasks.cli import COMMANDS
from pooltasks.cli.up import up
from pooltasks.dashboard.command import dashboard


@click.group()
@click.option("-A", "--app", default="pooltasks", show_default=True, help="The Celery application.")
@click.version_option(package_name="pooltasks")
@click.pass_context
def main(context: click.Context, app: str) -> None:
    """Run pools of Celery workers on Redis, and look after them."""
    if context.invoked_subcommand != up.name:  # its processes find the application themselves
        context.obj = CLIContext(app=find_app(app), no_color=False, workdir=None)


for command in (*COMMANDS, dashboard, up):
    main.add_command(command)
