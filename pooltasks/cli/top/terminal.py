"""The terminal: takes its keys, and shows the screen when it has changed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live

from pooltasks.cli.top.feed import Feed
from pooltasks.cli.top.keyboard import pressed, raw
from pooltasks.cli.top.painting import Painting
from pooltasks.cli.top.screen import Screen

if TYPE_CHECKING:
    from celery import Celery

_LOOK = 0.25
"""Seconds without a key after which the loop looks for a new reading."""


def show(app: Celery, server: str, pool: str | None, interval: float) -> None:
    """Show the pools until the user quits.

    Args:
        app: The application.
        server: The server's address, as it may be shown.
        pool: The pool to begin with; None: the list of all.
        interval: Seconds between two readings.
    """
    console = Console()
    screen = Screen(server, pool)
    painting = Painting(screen)
    feed = Feed(app, interval)
    feed.want(screen.pool, None)
    feed.start()
    keyboard = sys.stdin.fileno()
    try:
        with raw(keyboard), Live(console=console, screen=True, auto_refresh=False) as live:
            size = None
            while not screen.is_over:
                keys = pressed(keyboard, _LOOK)
                for key in keys:
                    screen.press(key)
                feed.want(screen.pool, screen.error)
                is_new = screen.take(feed.reading)
                if keys or is_new or size != console.size:
                    size = console.size
                    live.update(painting.render(size.width, size.height), refresh=True)
    except (KeyboardInterrupt, EOFError):
        pass  # it ends
    finally:
        feed.close()
