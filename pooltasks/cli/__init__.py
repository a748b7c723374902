"""The commands: ``celery -A pooltasks pool …`` and ``pooltasks …`` are the same.

Celery loads this module at every command, a node's too, through its entry
point ``celery.commands``: it imports no command. The console script is in ``main``.
"""

from __future__ import annotations

import click

from pooltasks.cli.commands import Commands

_ELSEWHERE = {
    "purge": "inspect",
    "quiet": "drain",
    "resume": "drain",
    "top": "top.command",
}
"""The module of a command that is not in the module of its name."""
_NAMES = (
    *("acl", "bench", "check", "dead", "drain", "errors", "events", "exporter", "inspect"),
    *("limit", "optimize", "plan", "purge", "quiet", "resize", "resume", "rollout", "simulate"),
    *("status", "top", "warm"),
)

COMMANDS = {name: f"pooltasks.cli.{_ELSEWHERE.get(name, name)}:{name}" for name in _NAMES}
"""The commands that look after running pools, and the place of each.

Each finds its application in click's context.
"""


@click.group(cls=Commands, places=COMMANDS)
def pool() -> None:
    """Look after the pools of this application."""
