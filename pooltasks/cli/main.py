"""The console script ``pooltasks``."""

from __future__ import annotations

import click
from celery.bin.base import CLIContext

from pooltasks.cli import COMMANDS
from pooltasks.cli.commands import Commands
from pooltasks.cli.faults import load_application
from pooltasks.running import running

_WITHOUT_APPLICATION = {
    name: f"pooltasks.cli.{name}:{name}" for name in ("completion", "init", "up")
}
"""The commands that load no application: the processes of ``up`` load it themselves."""
_PLACES = {
    **COMMANDS,
    **_WITHOUT_APPLICATION,
    "dashboard": "pooltasks.dashboard.command:dashboard",
}


@click.group(cls=Commands, places=_PLACES)
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
    if context.invoked_subcommand not in _WITHOUT_APPLICATION:
        context.obj = CLIContext(app=load_application(app), no_color=False, workdir=None)
