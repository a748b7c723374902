"""The messages of a node's session to the node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection

    from pooltasks.broker.link import Link
    from pooltasks.broker.scripts import Script


class Owner(Protocol):
    """The node, as its session sees it."""

    def scripts(self) -> Collection[Script]:
        """Return the scripts that it uses beside the session's."""

    def on_opened(self, link: Link) -> None:
        """Called when a connection is open."""

    def on_closing(self, link: Link) -> None:
        """Called before a connection is closed."""

    def on_joined(self, reservations: Collection[str]) -> None:
        """Called when the intake is open again: ids of what the server has as reserved here."""

    def on_taken_for_dead(self) -> None:
        """Called when others have given the node's operations away; it has a new identity."""

    def on_refusal(self, error: Exception) -> None:
        """Called when the server refuses a command: its memory is full, it has no replica …."""

    def on_time(self, server: float, sent: float, received: float) -> None:
        """Called with the server's time in seconds, and monotonic seconds around the question."""
