"""Applications without a server."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from pooltasks.app import Extension, PoolApp
from pooltasks.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A working directory without settings, and an environment without them."""
    for name in [name for name in os.environ if name.upper().startswith("POOLTASKS_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def make_app(
    bare_environment: Path,  # noqa: ARG001  it is cleared
) -> Iterator[Callable[..., PoolApp]]:
    """Make an application from settings; ``pool`` is the one that its process serves."""
    made: list[PoolApp] = []

    def make(pool: str | None = None, **settings: Any) -> PoolApp:
        app = PoolApp("test", set_as_current=False)
        app._extension = Extension(Settings.load(**settings), pool=pool)
        # There is no server to ask; its clock is this host's.
        now = time.monotonic()
        app._extension.clock.observe(time.time(), now, now)
        made.append(app)
        return app

    yield make
    for app in made:
        app.close()  # or Celery gives it the shared tasks of the tests that follow
