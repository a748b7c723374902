"""``pool dead``: lists, shows, retries and deletes the dead letters of a pool."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from pooltasks.app import settings_of
from pooltasks.broker.client import redis_client
from pooltasks.broker.dead_letters import DeadLetter, DeadLetters
from pooltasks.cli.errors import letters_of
from pooltasks.cli.options import json_option
from pooltasks.counted import counted
from pooltasks.keys import queue
from pooltasks.metrics.message_text import arguments_in, told_letter, told_message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery.bin.base import CLIContext


_KIND = click.option(
    "--kind", metavar="KIND", help="Those of one kind of errors, as `errors POOL` lists them."
)


@click.group()
def dead() -> None:
    """Look after the dead letters of a pool."""


@dead.command("list")
@click.argument("pool")
@click.option("--reason", default="", help="Only those whose reason contains this.")
@click.option("--operation", default="", help="Only those of this operation.")
@json_option
@click.pass_obj
def list_(context: CLIContext, pool: str, reason: str, operation: str, as_json: bool) -> None:
    """List the dead letters of POOL, the latest first."""
    found = _letters(context, pool).list(reason=reason, operation=operation)
    letters = [told_letter(letter) for letter in found]
    if as_json:
        click.echo(json.dumps([asdict(letter) for letter in letters], indent=2))
        return
    for letter in letters:
        click.echo(_line(letter))
    click.echo(f"{counted(len(letters), 'dead letter')} in the pool {pool}", err=True)


@dead.command(short_help="Show a dead letter: its failed attempts, its message.")
@click.argument("pool")
@click.argument("letter")
@json_option
@click.pass_obj
def show(context: CLIContext, pool: str, letter: str, as_json: bool) -> None:
    """Show the dead letter with the id LETTER, its failed attempts, arguments and message.

    Secrets are masked, and the message is shown without its body.
    """
    whole, message = _letters(context, pool).show(letter)
    its, text = told_letter(whole), told_message(message)
    arguments = arguments_in(context.app, message)
    if as_json:
        shown = {**asdict(its), "arguments": arguments, "message": text}
        click.echo(json.dumps(shown, indent=2))
    else:
        click.echo(_line(its))
        for attempt in its.history:
            click.echo(f"  {_time(attempt['at'])}  {attempt['error']}")
        click.echo(f"  arguments: {'not known' if arguments is None else arguments}")
        click.echo(text)


@dead.command()
@click.argument("pool")
@click.argument("letters", nargs=-1)
@_KIND
@click.pass_obj
def retry(context: CLIContext, pool: str, letters: tuple[str, ...], kind: str | None) -> None:
    """Send the operations with the ids LETTERS again, each once."""
    store = _letters(context, pool)
    sent = sum(store.retry(letter) for letter in _chosen(context, pool, letters, kind))
    click.echo(f"{sent} sent again")


@dead.command()
@click.argument("pool")
@click.argument("letters", nargs=-1)
@_KIND
@click.pass_obj
def drop(context: CLIContext, pool: str, letters: tuple[str, ...], kind: str | None) -> None:
    """Delete the dead letters with the ids LETTERS."""
    store = _letters(context, pool)
    dropped = sum(store.drop(letter) for letter in _chosen(context, pool, letters, kind))
    click.echo(f"{dropped} dropped")


@dead.command()
@click.argument("pool")
@click.confirmation_option(prompt="Delete all dead letters of this pool?")
@click.pass_obj
def purge(context: CLIContext, pool: str) -> None:
    """Delete all dead letters of POOL."""
    click.echo(f"{_letters(context, pool).purge()} dropped")


def _chosen(
    context: CLIContext, pool: str, letters: tuple[str, ...], kind: str | None
) -> Sequence[str]:
    if bool(letters) == bool(kind):
        raise click.UsageError("Name dead letters, or the kind of their error with --kind.")
    return letters_of(context.app, pool, kind) if kind else letters


def _letters(context: CLIContext, pool: str) -> DeadLetters:
    bounds = settings_of(context.app).pool_settings(pool).dead_letters
    return DeadLetters(redis_client(context.app), queue(pool), bounds)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(sep=" ", timespec="seconds")


def _line(letter: DeadLetter) -> str:
    return (
        f"{letter.id}  {_time(letter.at)}  {letter.operation or '(unreadable)'}  "
        f"deliveries {letter.deliveries}  {letter.reason}"
    )
