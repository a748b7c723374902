"""``pool acl``: the users of the server that a deployment needs, as lines of an ACL file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pooltasks import address
from pooltasks.acl import ROLES, lines
from pooltasks.app import settings_of
from pooltasks.broker.client import key_prefix

if TYPE_CHECKING:
    from celery import Celery
    from celery.bin.base import CLIContext


@click.command(short_help="Print the users of the server for each role, as an ACL file.")
@click.argument("roles", nargs=-1, type=click.Choice([*ROLES]))
@click.option(
    "--pool",
    "pools",
    multiple=True,
    help="Only the keys of this pool, for producer, node and scaler; may be given again.",
)
@click.option(
    "--passwords",
    type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
    help="A file with a line ROLE=PASSWORD for each role. Without it the users are switched off.",
)
@click.pass_obj
def acl(
    context: CLIContext, roles: tuple[str, ...], pools: tuple[str, ...], passwords: Path | None
) -> None:
    """Print the users of the server for ROLES (default: all), as lines of an ACL file.

    Each may do what its processes do, and nothing else. The user "default" is switched
    off: without a password nobody does anything. Needs Redis 7 or Valkey.
    """
    app = context.app
    settings = settings_of(app)
    for pool in pools:
        settings.pool_settings(pool)
    click.echo("user default reset")
    for line in lines(
        roles or tuple(ROLES),
        pools=pools,
        prefix=key_prefix(app),
        result_prefix=_result_prefix(app),
        database=address.read(settings.redis_url.get_secret_value()).database,
        passwords=_passwords(passwords) if passwords else None,
    ):
        click.echo(line)


def _result_prefix(app: Celery) -> str:
    """Return the prefix of the result backend's keys, before Celery's own part."""
    options = app.conf.result_backend_transport_options or {}
    prefix = str(options.get("global_keyprefix") or "")
    # As Celery's backend does.
    return prefix if not prefix or prefix[-1] in ":_-." else f"{prefix}_"


def _passwords(path: Path) -> dict[str, str]:
    """Return the password of each role that a file has one for.

    Raises:
        click.ClickException: The file cannot be read, or a line is none of ``ROLE=PASSWORD``.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise click.ClickException(f"{path} cannot be read: {error}.") from error
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        role, _, password = line.partition("=")
        if role not in ROLES or not password:
            raise click.ClickException(
                f"{path}, line {number}: not ROLE=PASSWORD with one of {', '.join(ROLES)}."
            )
        found[role] = password
    return found
