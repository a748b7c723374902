"""``pool dead``: the operations that were set aside, and what becomes of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from pooltasks.app import settings_of
from pooltasks.broker.client import redis_client
from pooltasks.broker.dead_letters import DeadLetter, DeadLetters
from pooltasks.errors import DeadLetterNotFoundError
from pooltasks.keys import queue

if TYPE_CHECKING:
    from celery.bin.base import CLIContext


@click.group()
def dead() -> None:
    """Look after the dead letters of a pool."""


@dead.command("list")
@click.argument("pool")
@click.option("--reason", default="", help="Only those whose reason contains this.")
@click.option("--operation", default="", help="Only those of this operation.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def list_(context: CLIContext, pool: str, reason: str, operation: str, as_json: bool) -> None:
    """List the dead letters of POOL, the latest first."""
    letters = _letters(context, pool).list(reason=reason, operation=operation)
    if as_json:
        click.echo(json.dumps([asdict(letter) for letter in letters], indent=2))
        return
    for letter in letters:
        click.echo(_line(letter))
    click.echo(f"{len(letters)} dead letters in the pool {pool}", err=True)


@dead.command()
@click.argument("pool")
@click.argument("letter")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_obj
def show(context: CLIContext, pool: str, letter: str, as_json: bool) -> None:
    """Show the dead letter with the id LETTER, its failed attempts and its original message."""
    try:
        its, message = _letters(context, pool).show(letter)
    except DeadLetterNotFoundError as error:
        raise click.ClickException(str(error)) from error
    text = message.decode(errors="backslashreplace")
    if as_json:
        click.echo(json.dumps({**asdict(its), "message": text}, indent=2))
    else:
        click.echo(_line(its))
        for attempt in its.history:
            click.echo(f"  {_time(attempt['at'])}  {attempt['error']}")
        click.echo(text)


@dead.command()
@click.argument("pool")
@click.argument("letters", nargs=-1, required=True)
@click.pass_obj
def retry(context: CLIContext, pool: str, letters: tuple[str, ...]) -> None:
    """Send the operations with the ids LETTERS again, each once."""
    store = _letters(context, pool)
    try:
        sent = sum(store.retry(letter) for letter in letters)
    except DeadLetterNotFoundError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{sent} sent again")


@dead.command()
@click.argument("pool")
@click.argument("letters", nargs=-1, required=True)
@click.pass_obj
def drop(context: CLIContext, pool: str, letters: tuple[str, ...]) -> None:
    """Delete the dead letters with the ids LETTERS."""
    store = _letters(context, pool)
    click.echo(f"{sum(store.drop(letter) for letter in letters)} dropped")


@dead.command()
@click.argument("pool")
@click.confirmation_option(prompt="Delete all dead letters of this pool?")
@click.pass_obj
def purge(context: CLIContext, pool: str) -> None:
    """Delete all dead letters of POOL."""
    click.echo(f"{_letters(context, pool).purge()} dropped")


def _letters(context: CLIContext, pool: str) -> DeadLetters:
    settings_of(context.app).pool_settings(pool)
    return DeadLetters(redis_client(context.app), queue(pool))


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(sep=" ", timespec="seconds")


def _line(letter: DeadLetter) -> str:
    return (
        f"{letter.id}  {_time(letter.at)}  {letter.operation or '(unreadable)'}  "
        f"deliveries {letter.deliveries}  {letter.reason}"
    )
