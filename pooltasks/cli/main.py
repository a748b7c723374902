"""The console script ``pooltasks``."""

from __future__ import annotations

import click
from celery.bin.base import CLIContext

from pooltasks.cli import COMMANDS
from pooltasks.cli.completion import completion
from pooltasks.cli.faults import Commands, load_application
from pooltasks.cli.init import init
from pooltasks.cli.up import up
from pooltasks.dashboard.command import dashboard
from pooltasks.running import running


@click.group(cls=Commands)
@click.option(
    "-A",
    "--app",
    default=lambda: its.app if (its := running()) else "pooltasks",
    show_default="that of `pooltasks up` in this folder, else pooltasks",
    help="The Celery application.",
)
@click.version_option(package_name="pooltasks")
@click.pass_context
def main(context: click.Context, app: str) -> None:
    """Run pools of Celery workers on Redis, and look after them."""
    # The processes of "up" find the application themselves; the others need none.
    if context.invoked_subcommand not in (up.name, completion.name, init.name):
        context.obj = CLIContext(app=load_application(app), no_color=False, workdir=None)


for command in (*COMMANDS, completion, dashboard, init, up):
    main.add_command(command)
