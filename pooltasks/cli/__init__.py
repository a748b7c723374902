"""The commands: ``celery -A pooltasks pool …`` and ``pooltasks …`` are the same.

Celery loads this module at every command, a node's too, through its entry
point ``celery.commands``: it stays light. The console script is in ``main``.
"""

from __future__ import annotations

import click

from pooltasks.cli.check import check
from pooltasks.cli.dead import dead
from pooltasks.cli.drain import drain
from pooltasks.cli.exporter import exporter
from pooltasks.cli.optimize import optimize
from pooltasks.cli.plan import plan
from pooltasks.cli.resize import resize
from pooltasks.cli.simulate import simulate
from pooltasks.cli.status import status
from pooltasks.cli.warm import warm

COMMANDS = (check, dead, drain, exporter, optimize, plan, resize, simulate, status, warm)
"""What looks after pools that run; each finds its application in click's context."""


@click.group()
def pool() -> None:
    """Look after the pools of this application."""


for command in COMMANDS:
    pool.add_command(command)
