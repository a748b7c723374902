"""pooltasks: Celery on Redis as a warm, self-sizing, observable worker pool."""

from __future__ import annotations

__version__ = "0.1.0"

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

_PROGRAM = "pooltasks.node.celery"
"""A node's program, which says what Celery and redis-py load, before they are imported. Python
imports the package to find it; it imports the package again (``python -m`` has this argument
only while it looks for the module)."""

if sys.argv[:1] != ["-m"] or _PROGRAM not in sys.orig_argv:
    from pooltasks.app import app
    from pooltasks.decorator import operation
    from pooltasks.installation import install

if TYPE_CHECKING:
    from pooltasks.pools import Pool

__all__ = ["Pool", "__version__", "app", "install", "operation"]


_LOADED_LATER = frozenset({"metrics", "pool_settings", "pools", "settings", "warming"})
"""Modules that are loaded when they are first named: not every producer needs them, and they
bring pydantic and what reads samples, as long to import as the rest of pooltasks."""


def __getattr__(name: str) -> Any:
    if name == "Pool":
        return import_module("pooltasks.pools").Pool
    if name in _LOADED_LATER:
        return import_module(f"pooltasks.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
