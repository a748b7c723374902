"""The questions that commands ask the live nodes, through Celery's remote control."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pooltasks import remote
from pooltasks.app import settings_of

if TYPE_CHECKING:
    from celery import Celery


def statuses(app: Celery, pools: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """Return the status of each live node, by node name.

    Args:
        app: The application.
        pools: Only nodes of these pools; all if empty.

    Raises:
        ConfigurationError: There is no such pool.
        kombu.exceptions.OperationalError: As :func:`ask`.
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
        kombu.exceptions.OperationalError: The server cannot be reached, or refuses.
    """
    return remote.ask(app, command, nodes, **arguments)
