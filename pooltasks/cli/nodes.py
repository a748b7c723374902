"""What the commands ask the live nodes, through Celery's remote control."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from kombu.exceptions import OperationalError

from pooltasks import remote
from pooltasks.app import settings_of

if TYPE_CHECKING:
    from celery import Celery


def statuses(app: Celery, pools: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """Return what each live node says of itself, by node name.

    Args:
        app: The application.
        pools: Only nodes of these pools; all if empty.

    Raises:
        ConfigurationError: There is no such pool.
        click.ClickException: As :func:`ask`.
    """
    for pool in pools:
        settings_of(app).pool_settings(pool)
    return {
        node: reply
        for node, reply in ask(app, "pool_status").items()
        if not pools or reply["pool"] in pools
    }


def ask(
    app: Celery, command: str, nodes: list[str] | None = None, **arguments: Any
) -> dict[str, dict[str, Any]]:
    """Send a control command; return the replies by node name.

    Args:
        app: The application.
        command: Name of the control command.
        nodes: The nodes; all that answer within a second if None.
        **arguments: Of the command.

    Raises:
        click.ClickException: The server cannot be reached, or refuses.
    """
    try:
        return remote.ask(app, command, nodes, **arguments)
    except OperationalError as error:
        raise click.ClickException(
            f"The server: {error} Is it running? See POOLTASKS_REDIS_URL."
        ) from error
