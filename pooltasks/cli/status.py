"""``pool status``: whether the pools are well, and if not, what is wrong."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from pooltasks.address import without_login
from pooltasks.app import settings_of
from pooltasks.broker.client import redis_client
from pooltasks.cli.durations import ago
from pooltasks.cli.nodes import statuses
from pooltasks.cli.options import json_option
from pooltasks.cli.standing import standings
from pooltasks.cli.table import table
from pooltasks.counted import percent
from pooltasks.keys import CONTROL_POOL
from pooltasks.remote import server_name
from pooltasks.running import running

if TYPE_CHECKING:
    from celery import Celery
    from celery.bin.base import CLIContext

    from pooltasks.cli.standing import Standing

_UNKNOWN = "-"
_MOST_ERRORS = 3
"""Kinds of errors of a pool that is named; ``errors`` shows all."""
_COLORS = {"bad": "red", "fair": "yellow", "good": "green", "off": None}
_WORDS = {"bad": "BAD", "fair": "WARN", "good": "ok", "off": "off"}
_HEADINGS = (
    "POOL",
    "STATE",
    "BACKLOG",
    "OLDEST",
    "WAIT",
    "ERRORS",
    "DEAD",
    "WARM",
    "SIZE",
    "NODES",
)
_LEFT = ("POOL", "STATE", "NODES")


@click.command(short_help="Say whether pools are well, and if not, what is wrong.")
@click.argument("pools", nargs=-1)
@json_option
@click.pass_obj
def status(context: CLIContext, pools: tuple[str, ...], as_json: bool) -> None:
    """Say whether POOLS (all if none is named) are well, and if not, what is wrong.

    The worst pool comes first. WAIT is that of the last minute at the quantile of
    the pool's objective; SIZE is in workers, and after the arrow what the optimizer
    wants. A pool that is named is shown with each of its nodes. Exits with 1 if a
    pool is bad, or no node answers.
    """
    app = context.app
    for pool in pools:
        settings_of(app).pool_settings(pool)
    from pooltasks.metrics.surroundings import ServerMemory

    # A server without memory takes no question to a node, and no answer.
    is_full = ServerMemory.read(redis_client(app)).is_full
    nodes = {} if is_full else statuses(app, pools)
    found = standings(app, pools or (*settings_of(app).pools, CONTROL_POOL), nodes)
    if as_json:
        click.echo(json.dumps(_as_json(found, nodes), indent=2))
    else:
        _say_which_server(app)
        for line in table([_HEADINGS, *map(_cells, found)], left=_LEFT):
            click.echo(line)
        for its in found:
            if its.verdict.level in ("bad", "fair"):
                color = _COLORS[its.verdict.level]
                click.secho(f"{its.evidence.pool}: {its.verdict.text}", fg=color)
                for remedy in filter(None, (its.verdict.remedy, *its.verdict.more)):
                    click.echo(f"  {remedy}")
        for its in found if pools else ():
            _details(its)
    if not nodes and not is_full:
        first = next(iter(pools or settings_of(app).pools), "<name>")
        raise click.ClickException(
            f"No node answers. Start one: celery -A {app.main or 'pooltasks'} worker "
            f"-Q pool.{first}"
        )
    if any(its.verdict.level == "bad" for its in found):
        raise SystemExit(1)


def _say_which_server(app: Celery) -> None:
    """Say which server is asked, unless it is that of `pooltasks up`: the settings have said so."""
    up = running()
    if up is None or server_name(app) != without_login(up.redis_url):
        click.echo(
            f"Application {app.main or app!r}, server {server_name(app)}. "
            "Another application: -A NAME; another server: POOLTASKS_REDIS_URL.",
            err=True,
        )


def _cells(its: Standing) -> tuple[str, ...]:
    metrics, load = its.evidence.metrics, its.evidence.metrics.load
    states = list(its.states.values())
    nodes = [f"{states.count(state)} {state}" for state in dict.fromkeys(sorted(states, key=_rank))]
    debugging = sum(said["debugging"] for said in its.nodes.values())
    nodes += [f"{debugging} debugging"] if debugging else []
    stale = len(metrics.unreadable)
    nodes += [f"{stale} unreadable"] if stale else []
    slots, target = its.evidence.settings.slots, its.decision.target if its.decision else None
    wanted = _UNKNOWN if target is None else str(-(-target // slots))
    return (
        its.evidence.pool,
        _WORDS[its.verdict.level],
        _number(load.backlog),
        _duration(load.oldest_age),
        _duration(its.evidence.wait),
        _percent(its.evidence.error_rate),
        str(its.dead_letters),
        _number(load.warm),
        f"{_number(load.size)} -> {wanted}{' paused' if its.paused else ''}",
        ", ".join(nodes) or "none",
    )


def _rank(state: str) -> int:
    return ("live", "draining", "drained", "lost").index(state)


def _details(its: Standing) -> None:
    name, settings = its.evidence.pool, its.evidence.settings
    objective = settings.objective
    click.secho(f"\n{name}", bold=True)
    click.echo(
        f"  objective: {objective.quantile * 100:g} % of the operations wait at most "
        f"{objective.wait_ms:g} ms"
    )
    if its.paused:
        click.echo(f"  optimizer: paused for {_duration(its.paused)} more")
    elif its.decision and its.decision.acting:
        click.echo(f"  optimizer: {its.decision.reason}")
    elif its.decision:
        click.echo(f"  optimizer (not carried out): {its.decision.reason}")
    else:
        why = "beat or the control node does not run" if settings.enable_optimizer else "it is off"
        click.echo(f"  optimizer: no decision, {why}")
    rollout = its.evidence.rollout
    if rollout is not None:
        click.echo(f"  rollout: {rollout.sentence()}")
    for node, state in sorted(its.states.items()):
        said = its.nodes.get(node)
        if said is None:
            click.secho(
                f"  {node}: lost, no answer for {_duration(its.evidence.lost[node])}", fg="red"
            )
            continue
        click.echo(
            f"  {node}: {state}, {said['warm']} of {said['size']} workers warm, "
            f"{said['busy']} busy, {said['reserved']} operations reserved"
            f"{', version ' + said['version'] if said.get('version') else ''}"
            f"{', a debugging node (-P solo)' if said['debugging'] else ''}"
        )
    worst = sorted(its.errors, key=lambda group: (group.recent, group.last), reverse=True)
    for group in worst[:_MOST_ERRORS]:
        last = ago(its.evidence.metrics.at - group.last)
        times = f"{group.failed} time{'' if group.failed == 1 else 's'}"
        click.echo(f"  failed {times}, the last {last}: {group.title}")
    if its.errors:
        click.echo(f"  errors in full: pooltasks errors {name}")
    if its.dead_letters:
        click.echo(f"  dead letters: {its.dead_letters}. List them: pooltasks dead list {name}")


def _as_json(found: list[Standing], nodes: dict[str, Any]) -> dict[str, Any]:
    return {
        "nodes": nodes,
        "optimizer": {its.evidence.pool: its.decision.as_json() for its in found if its.decision},
        "pools": {
            its.evidence.pool: {
                **its.verdict.as_json(),
                "backlog": its.evidence.metrics.load.backlog,
                "oldest_age": its.evidence.metrics.load.oldest_age,
                "wait": its.evidence.wait,
                "quantile": its.evidence.settings.objective.quantile,
                "error_rate": its.evidence.error_rate,
                "dead_letters": its.dead_letters,
                "size": its.evidence.metrics.load.size,
                "warm": its.evidence.metrics.load.warm,
                "paused": its.paused,
                "errors": [asdict(group) for group in its.errors],
                "nodes": its.states,
                "rollout": its.evidence.rollout.as_json() if its.evidence.rollout else None,
            }
            for its in found
        },
    }


def _number(value: int | None) -> str:
    return _UNKNOWN if value is None else str(value)


def _percent(ratio: float | None) -> str:
    return _UNKNOWN if ratio is None else f"{percent(ratio)}%"


def _duration(seconds: float | None) -> str:
    from pooltasks.dashboard.verdict import in_seconds

    return _UNKNOWN if seconds is None else in_seconds(seconds).replace(" ", "")
