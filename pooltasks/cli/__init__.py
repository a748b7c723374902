"""The commands: ``celery -A pooltasks pool …`` and ``pooltasks …`` are the same.

Celery loads this module at every command, a node's too, through its entry
point ``celery.commands``: it stays light. The console script is in ``main``.
"""

from __future__ import annotations

import click

from pooltasks.cli.acl import acl
from pooltasks.cli.bench import bench
from pooltasks.cli.check import check
from pooltasks.cli.dead import dead
from pooltasks.cli.drain import drain, quiet, resume
from pooltasks.cli.errors import errors
from pooltasks.cli.events import events
from pooltasks.cli.exporter import exporter
from pooltasks.cli.faults import Commands
from pooltasks.cli.inspect import inspect, purge
from pooltasks.cli.limit import limit
from pooltasks.cli.optimize import optimize
from pooltasks.cli.plan import plan
from pooltasks.cli.resize import resize
from pooltasks.cli.rollout import rollout
from pooltasks.cli.simulate import simulate
from pooltasks.cli.status import status
from pooltasks.cli.top.command import top
from pooltasks.cli.warm import warm

COMMANDS = (
    *(
        acl,
        bench,
        check,
        dead,
        drain,
        errors,
        events,
        exporter,
        inspect,
        limit,
        optimize,
        plan,
        purge,
    ),
    *(quiet, resize, resume, rollout, simulate, status, top, warm),
)
"""The commands that look after running pools; each finds its application in click's context."""


@click.group(cls=Commands)
def pool() -> None:
    """Look after the pools of this application."""


for command in COMMANDS:
    pool.add_command(command)
