"""``pool rollout``: bring a new version of a pool's code out, a share at a time."""

from __future__ import annotations

import json
import os
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from pooltasks.app import settings_of
from pooltasks.broker.client import redis_client
from pooltasks.cli.options import json_option
from pooltasks.counted import counted
from pooltasks.dashboard.audit import AuditLog, Done
from pooltasks.errors import RolloutRefusedError
from pooltasks.keys import CONTROL_POOL
from pooltasks.pools import Pool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery
    from celery.bin.base import CLIContext

    from pooltasks.metrics.rollout import Rollout

_LOOK_AGAIN = 1.0
_AWAY = 10.0
"""Seconds after which a rollout is said to have no control node that looks after it."""


@click.group(short_help="Bring out a new version, a share of operations at a time.")
def rollout() -> None:
    """Bring a new version of a pool's code out, a share of its operations at a time."""


_POOLS = click.argument("pools", nargs=-1)


@rollout.command(short_help="Begin to roll a version out.")
@click.argument("version")
@_POOLS
@click.pass_obj
def start(context: CLIContext, version: str, pools: tuple[str, ...]) -> None:
    """Begin to roll VERSION out on POOLS; start nodes with POOLTASKS_VERSION=VERSION then.

    As soon as one of them is warm it gets 5 % of the operations, then 10, 25, 50, 75
    and 100. A control node compares each step with the version before, and rolls back
    by itself what is worse. A pool has to be named if there are several.
    """
    from pooltasks import rollout_by_hand

    try:
        rollout_by_hand.check_version(version)
    except RolloutRefusedError as error:
        raise click.BadParameter(str(error), param_hint="VERSION") from error
    known = [name for name in settings_of(context.app).pools if name != CONTROL_POOL]
    if not pools and len(known) != 1:
        raise click.UsageError(f"Name the pools: {', '.join(known) or 'there are none'}.")
    names = pools or tuple(known)
    with _refusals():
        found = {name: rollout_by_hand.version_before(context.app, name, version) for name in names}
        for name, before in found.items():
            said = rollout_by_hand.start(context.app, name, version, before)
            _note(context.app, name, "start", version, f"before: {before or 'none'}")
            click.echo(f"{name}: {said}")


@rollout.command(short_help="Say how the rollouts stand.")
@_POOLS
@click.option("--wait", is_flag=True, help="Wait until no rollout goes on.")
@json_option
@click.pass_obj
def status(context: CLIContext, pools: tuple[str, ...], *, wait: bool, as_json: bool) -> None:
    """Say how the rollouts of POOLS stand, of all pools if none is named.

    Exits with 1 if one was rolled back.
    """
    found = _found(context.app, pools)
    while wait and any(its.is_live for its in found.values()):
        time.sleep(_LOOK_AGAIN)
        found = _found(context.app, pools)
    if as_json:
        click.echo(json.dumps({name: its.as_json() for name, its in found.items()}, indent=2))
    else:
        for name, its in found.items():
            _show(context.app, name, its)
        if not found:
            click.echo("There is no rollout. Begin one: pooltasks rollout start VERSION")
    if any(its.state == "aborted" for its in found.values()):
        raise SystemExit(1)


@rollout.command(short_help="Take the next step now; end a pause.")
@_POOLS
@click.pass_obj
def promote(context: CLIContext, pools: tuple[str, ...]) -> None:
    """Take the next step now, on POOLS or wherever a rollout goes on; end a pause.

    After 100 % the rollout is done.
    """
    from pooltasks import rollout_by_hand

    for name, its in _live(context.app, pools).items():
        with _refusals():
            rollout_by_hand.promote(context.app, name, its)
        _note(context.app, name, "promote", its.version, f"from {its.share} %")
        _show(context.app, name, rollout_by_hand.store_of(context.app, name).read() or its)


@rollout.command(short_help="Keep the share that the new version has.")
@_POOLS
@click.option("--undo", is_flag=True, help="Go on by itself again.")
@click.pass_obj
def pause(context: CLIContext, pools: tuple[str, ...], *, undo: bool) -> None:
    """Keep the share that the new version has, on POOLS or wherever a rollout goes on.

    A version that turns out worse is rolled back all the same.
    """
    from pooltasks import rollout_by_hand

    for name, its in _live(context.app, pools).items():
        with _refusals():
            if undo:
                said = rollout_by_hand.go_on(context.app, name, its)
            else:
                said = rollout_by_hand.pause(context.app, name, its)
        _note(context.app, name, "pause", its.version, "ended" if undo else f"at {its.share} %")
        click.echo(f"{name}: {said}{'' if undo else ' Go on: pooltasks rollout pause --undo'}")


@rollout.command(short_help="Give all operations back to the version before.")
@_POOLS
@click.pass_obj
def abort(context: CLIContext, pools: tuple[str, ...]) -> None:
    """Give all operations back to the version before, on POOLS or wherever a rollout goes on.

    What nodes of the new version have reserved they finish. They take nothing more.
    """
    from pooltasks import rollout_by_hand

    for name, its in _live(context.app, pools).items():
        with _refusals():
            said = rollout_by_hand.abort(context.app, name, its)
        _note(context.app, name, "abort", its.version, f"at {its.share} %")
        click.echo(f"{name}: {said}")


@rollout.command(short_help="Let nodes of every version take operations again.")
@_POOLS
@click.pass_obj
def forget(context: CLIContext, pools: tuple[str, ...]) -> None:
    """Have nodes of every version take operations again, on POOLS or wherever a rollout has ended.

    For a plain restart with a version that a rollout had taken out of use.
    """
    from pooltasks import rollout_by_hand

    found = _found(context.app, pools)
    for name, its in found.items():
        with _refusals():
            said = rollout_by_hand.forget(context.app, name, its)
        _note(context.app, name, "forget", its.version, f"out of use: {', '.join(its.retired)}")
        click.echo(f"{name}: {said}")
    if not found:
        raise click.ClickException("There is no rollout to forget; nothing was changed.")


@contextmanager
def _refusals() -> Iterator[None]:
    """Say in a line why something is refused."""
    try:
        yield
    except RolloutRefusedError as error:
        raise click.ClickException(str(error)) from error


def _found(app: Celery, pools: tuple[str, ...]) -> dict[str, Rollout]:
    from pooltasks import rollout_by_hand

    settings = settings_of(app)
    for name in pools:
        settings.pool_settings(name)
    found = {name: rollout_by_hand.store_of(app, name).read() for name in pools or settings.pools}
    return {name: its for name, its in found.items() if its is not None}


def _live(app: Celery, pools: tuple[str, ...]) -> dict[str, Rollout]:
    live = {name: its for name, its in _found(app, pools).items() if its.is_live}
    missing = [name for name in pools if name not in live]
    if missing or not live:
        where = f" on {', '.join(missing)}" if missing else ""
        raise click.ClickException(
            f"No rollout goes on{where}; nothing was changed. "
            "Begin one: pooltasks rollout start VERSION"
        )
    return live


def _show(app: Celery, pool: str, its: Rollout) -> None:
    from pooltasks import rollout_by_hand

    click.secho(f"{pool}: {its.sentence()}", fg="red" if its.state == "aborted" else None)
    if its.is_live and its.at - max(its.looked, its.since) > _AWAY:
        click.secho(
            "  no control node looks after it: are beat and the control node there?", fg="yellow"
        )
    nodes = Pool(pool, app).metrics(1.0).nodes
    for side, version in (("before", its.before), ("canary", its.version)):
        own = [node for node in nodes if node.version == version]
        warm = sum(node.warm for node in own)
        name = rollout_by_hand.named(version)
        line = f"  {name}: {counted(len(own), 'node')}, {counted(warm, 'warm worker')}"
        counts = its.counted.get(side)
        if its.is_live and counts is not None and counts.finished:
            line += (
                f"; {counts.finished:,} operations since, {counts.error_rate or 0.0:.2%} failed, "
                f"p99 of the run {(counts.run.quantile(0.99) or 0.0) * 1000:,.0f} ms, "
                f"{counted(counts.recoveries, 'worker')} died"
            )
        click.echo(line)
    for step in its.steps:
        at = datetime.fromtimestamp(step.at, UTC).astimezone()
        click.echo(f"  {at:%H:%M:%S} {step.share:>4} %  {step.reason}")


def _note(app: Celery, pool: str, action: str, version: str, outcome: str) -> None:
    user = os.environ.get("USER") or str(os.getuid())
    AuditLog(redis_client(app), pool).add(
        Done(
            user,
            "the command line",
            f"rollout {action}",
            {"version": version},
            outcome,
            succeeded=True,
        )
    )
