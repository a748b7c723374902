"""The other side: the server, and orders to nodes through remote control."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kombu.utils.url import maybe_sanitize_url

from pooltasks.broker.asking import ask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery import Celery

__all__ = ["ask", "server_name", "split"]


def server_name(app: Celery) -> str:
    """Return the address of the application's server, without its password."""
    url: str = app.pooltasks.settings.redis_url.get_secret_value()
    return str(maybe_sanitize_url(url))


def split(size: int, nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Return how many of ``size`` workers each node is to have.

    Args:
        size: Workers of the pool.
        nodes: The status of each node.
    """
    # Every command of Celery loads this module, a node's too.
    from pooltasks.optimizer import splitting  # noqa: PLC0415

    return splitting.split(
        size,
        1,
        {
            name: splitting.Capacity(its["floor"], its["ceiling"], its["ceiling"], its["size"])
            for name, its in nodes.items()
        },
    )
