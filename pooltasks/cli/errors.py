"""``pool errors``: the errors of pools by kind."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from datetime import UTC, datetime
from textwrap import indent
from typing import TYPE_CHECKING

import click

from pooltasks.app import settings_of
from pooltasks.broker.client import redis_client
from pooltasks.broker.dead_letters import DeadLetters
from pooltasks.cli.durations import ago
from pooltasks.cli.options import json_option
from pooltasks.cli.table import table
from pooltasks.keys import CONTROL_POOL, queue
from pooltasks.metrics.error_groups import ErrorGroups

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery import Celery
    from celery.bin.base import CLIContext

    from pooltasks.broker.dead_letters import DeadLetter
    from pooltasks.metrics.error_groups import ErrorGroup, Example

_HEADINGS = ("POOL", "KIND", "FAILED", "RETRIED", "NOW", "DEAD", "LAST", "FIRST")
_LEFT = ("POOL", "KIND")
MOST_LETTERS = 2000
"""The latest dead letters whose kind of error is known."""


@click.command(short_help="Show which errors operations fail with.")
@click.argument("pool", required=False)
@click.argument("kind", required=False)
@json_option
@click.pass_obj
def errors(context: CLIContext, pool: str | None, kind: str | None, as_json: bool) -> None:
    """Show what operations of POOL (default: all pools) fail with, and one of the errors in full.

    Errors are of one KIND if operation, class, message and place are the same; numbers
    in messages do not count. NOW counts those of the last minute or two, DEAD the dead
    letters, RETRIED attempts whose operation ran again. With a KIND, the last one that was
    seen is shown in full: arguments without secrets, traceback, attempts, node, worker.
    """
    app, settings = context.app, settings_of(context.app)
    if pool is not None:
        settings.pool_settings(pool)
    if pool is not None and kind is not None:
        _show(app, pool, kind, as_json=as_json)
        return
    pools = [pool] if pool else [*settings.pools, CONTROL_POOL]
    found = {name: of_pool(app, name) for name in pools}
    if as_json:
        its = {
            name: [{**asdict(group), "dead": len(letters)} for group, letters in groups]
            for name, groups in found.items()
        }
        click.echo(json.dumps(its, indent=2))
        return
    _list(found)


def of_pool(app: Celery, pool: str) -> list[tuple[ErrorGroup, list[DeadLetter]]]:
    """Return the errors of a pool by kind, the last one first, each with its dead letters.

    Raises:
        redis.RedisError: The server does not answer.
    """
    client = redis_client(app)
    groups = ErrorGroups(client, pool).latest()
    letters = _letters(app, pool) if groups else []
    return [(group, [letter for letter in letters if group.has(letter)]) for group in groups]


def letters_of(app: Celery, pool: str, kind: str) -> list[str]:
    """Return the ids of the dead letters of one kind of errors.

    Raises:
        ErrorGroupNotFoundError: There is no such kind.
        redis.RedisError: The server does not answer.
    """
    group, _ = ErrorGroups(redis_client(app), pool).show(kind)
    return [letter.id for letter in _letters(app, pool) if group.has(letter)]


def _letters(app: Celery, pool: str) -> Sequence[DeadLetter]:
    bounds = settings_of(app).pool_settings(pool).dead_letters
    return DeadLetters(redis_client(app), queue(pool), bounds).list(most=MOST_LETTERS)


def _list(found: dict[str, list[tuple[ErrorGroup, list[DeadLetter]]]]) -> None:
    now = time.time()
    rows = [_HEADINGS]
    titles = [""]
    for pool, groups in found.items():
        for group, letters in groups:
            rows.append(
                (
                    pool,
                    group.id,
                    str(group.failed),
                    str(group.retried),
                    str(group.recent),
                    str(len(letters)),
                    ago(now - group.last),
                    ago(now - group.first),
                )
            )
            is_callers = group.category == "client"
            titles.append(f"{group.title}{' The caller is to blame.' if is_callers else ''}")
    if len(rows) == 1:
        click.echo("No operation failed in the last seven days.")
        return
    for line, title in zip(table(rows, left=_LEFT), titles, strict=True):
        click.echo(line)
        if title:
            click.secho(f"  {title}", fg="red")
    click.echo("One of them in full: pooltasks errors POOL KIND", err=True)


def _show(app: Celery, pool: str, kind: str, *, as_json: bool) -> None:
    group, example = ErrorGroups(redis_client(app), pool).show(kind)
    letters = [letter.id for letter in _letters(app, pool) if group.has(letter)]
    if as_json:
        shown = None if example is None else asdict(example)
        click.echo(json.dumps({**asdict(group), "example": shown, "letters": letters}, indent=2))
        return
    click.secho(group.title, fg="red", bold=True)
    click.echo(
        f"{group.failed} operations failed with it, {group.retried} attempts were retried; "
        f"first {_time(group.first)}, last {_time(group.last)}; category {group.category}."
    )
    if example is not None:
        _show_example(example)
    if letters:
        click.echo(
            f"\n{len(letters)} of the operations are dead letters. When the cause is mended: "
            f"pooltasks dead retry {pool} --kind {kind}"
        )


def _show_example(its: Example) -> None:
    ran = f"by worker {its.worker} of {its.node}" if its.worker else f"told by {its.node}"
    click.echo(
        f"\nOperation {its.id or '(unknown)'}, {_time(its.at)}, attempt {its.attempt}, {ran}"
    )
    click.echo(f"  arguments: {its.arguments if its.arguments is not None else 'not known'}")
    for attempt in its.attempts:
        click.echo(f"  earlier attempt, {_time(attempt['at'])}: {attempt['error']}")
    click.echo(indent(its.traceback or "no traceback", "  ").rstrip())


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(sep=" ", timespec="seconds")
