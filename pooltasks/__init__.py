"""pooltasks: Celery on Redis as a warm, self-sizing, observable worker pool."""

from __future__ import annotations

__version__ = "0.1.0.dev0"

from pooltasks.app import app, install, operation
from pooltasks.pools import Pool

__all__ = ["Pool", "__version__", "app", "install", "operation"]
