"""``pool check``: whether this host can run the pools as they are configured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from redis.exceptions import RedisError

from pooltasks import keys
from pooltasks.app import import_operations, settings_of
from pooltasks.broker.client import redis_client
from pooltasks.errors import ConfigurationError

if TYPE_CHECKING:
    from celery.bin.base import CLIContext


@click.command()
@click.pass_obj
def check(context: CLIContext) -> None:
    """Check the settings, the server and the pools' modules.

    Exits with 1 if something is wrong, with a line for each.
    """
    settings = settings_of(context.app)
    _say(True, "settings", f"{len(settings.pools)} pools: {', '.join(settings.pools) or 'none'}")
    healthy = True
    try:
        information = redis_client(context.app).info("server")
    except RedisError as error:
        healthy = False
        _say(False, "server", f"{error}. Is it running? See POOLTASKS_REDIS_URL.")
    else:
        name = information.get("server_name", "redis")
        version = information.get("valkey_version") or information["redis_version"]
        _say(True, "server", f"{name} {version}")
    for name in settings.pools:
        try:
            import_operations(context.app, name)
        except ConfigurationError as error:
            healthy = False
            _say(False, keys.queue(name), str(error))
        else:
            _say(True, keys.queue(name), "its operations can be imported")
    if not healthy:
        raise SystemExit(1)


def _say(good: bool, what: str, text: str) -> None:
    click.echo(
        f"{click.style('ok  ' if good else 'FAIL', fg='green' if good else 'red')} {what}: {text}"
    )
