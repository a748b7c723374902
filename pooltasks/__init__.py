"""pooltasks: Celery on Redis as a warm, self-sizing, observable worker pool.

What is named here is loaded when it is used: a node chooses what Celery and redis-py load with it
before they are imported (``pooltasks.node.celery``), and a producer needs neither pools nor
settings.
"""

from __future__ import annotations

__version__ = "0.1.0"

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery import Celery

    from pooltasks.decorator import operation  # noqa: TC004  loaded by its name
    from pooltasks.installation import install  # noqa: TC004  loaded by its name
    from pooltasks.pools import Pool  # noqa: TC004  loaded by its name

    app: Celery

__all__ = ["Pool", "__version__", "app", "install", "operation"]

_APPLICATION = "pooltasks.app"
_PLACES = {
    "Pool": "pooltasks.pools",
    "install": "pooltasks.installation",
    "operation": "pooltasks.decorator",
}
_MODULES = frozenset({"metrics", "pool_settings", "pools", "settings", "telemetry", "warming"})


class _Package(ModuleType):
    """The package: ``app`` is the application, and not the module of this name that makes it."""

    @property
    def app(self) -> Celery:
        """The library's own application."""
        application: Celery = import_module(_APPLICATION).app
        return application

    @app.setter
    def app(self, module: ModuleType) -> None:
        """Do nothing: Python sets it when the module is imported."""

    def __getattr__(self, name: str) -> Any:
        if name in _PLACES:
            # First: operations and pools belong to it where the process has no other.
            import_module(_APPLICATION)
            return getattr(import_module(_PLACES[name]), name)
        if name in _MODULES:
            return import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


sys.modules[__name__].__class__ = _Package
