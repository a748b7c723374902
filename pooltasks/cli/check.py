"""``pool check``: the checklist of a deployment, before, during and after it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from pooltasks.app import settings_of
from pooltasks.cli.options import json_option

if TYPE_CHECKING:
    from celery.bin.base import CLIContext

    from pooltasks.cli.checks.finding import Finding
    from pooltasks.cli.checks.phase import Phase

_WORDS = {"ok": "ok  ", "skipped": "--  ", "warning": "WARN", "error": "FAIL"}
_COLORS = {"ok": "green", "skipped": None, "warning": "yellow", "error": "red"}


@click.command(short_help="Go through the checklist: settings, code, server, hosts, nodes.")
@click.argument("pools", nargs=-1)
@click.option(
    "--phase",
    type=click.Choice(["before", "during", "after"]),
    help="Of a deployment: before it, without the nodes; while versions run beside each other; "
    "after it, when every pool must be served by one version.  [default: whatever runs]",
)
@click.option(
    "--warm-up/--no-warm-up",
    default=True,
    help="Run the warm-up of each pool once, in a process of its own.  [default: --warm-up]",
)
@click.option(
    "--prometheus",
    metavar="URL",
    help="Ask this Prometheus whether it reads the pools, and which alerts it has loaded.",
)
@json_option
@click.pass_obj
def check(  # noqa: PLR0917  click passes them by name
    context: CLIContext,
    pools: tuple[str, ...],
    phase: Phase | None,
    warm_up: bool,
    prometheus: str | None,
    as_json: bool,
) -> None:
    """Check the settings, the code, the server, the hosts and the nodes of POOLS (default: all).

    A line says what was looked at and how it is: ok, -- where it could not be
    looked at, WARN, FAIL; the line below says what to do. A pool with nodes is sent
    one operation that does nothing. Exits with 1 if anything fails; warnings leave it 0.
    """
    # A node loads this module too.
    from pooltasks.cli.checks.checklist import Checklist
    from pooltasks.cli.checks.finding import worst

    settings = settings_of(context.app)
    for pool in pools:
        settings.pool_settings(pool)
    checklist = Checklist(
        context.app,
        pools or tuple(settings.pools),
        phase,
        warm_up=warm_up,
        prometheus=prometheus,
    )
    found = []
    for finding in checklist.findings():
        found.append(finding)
        if not as_json:
            _say(finding)
    if as_json:
        answer = {"severity": worst(found), "findings": [its.as_json() for its in found]}
        click.echo(json.dumps(answer, indent=2))
    if worst(found) == "error":
        raise SystemExit(1)


def _say(its: Finding) -> None:
    word = click.style(_WORDS[its.severity], fg=_COLORS[its.severity])
    click.echo(f"{word} {its.subject}: {its.reason}")
    if its.remedy:
        click.echo(f"       {its.remedy}")
