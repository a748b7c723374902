"""The fixtures of pytest: ``pooltasks_inline``, ``pooltasks_recorded``, ``pooltasks_pools``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pooltasks.extension import application
from pooltasks.testing.inline import inline
from pooltasks.testing.nodes import running
from pooltasks.testing.recorded import Recorded, recorded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery import Celery


@pytest.fixture(scope="session")
def pooltasks_app() -> Celery:
    """The application that the other fixtures serve: the only one with pools.

    Override it where a process has several, or where nothing has imported it yet.
    """
    return application()


@pytest.fixture
def pooltasks_inline(pooltasks_app: Celery) -> Iterator[Celery]:
    """Operations run in this process when they are submitted; see ``pooltasks.testing.inline``."""
    with inline(pooltasks_app):
        yield pooltasks_app


@pytest.fixture
def pooltasks_recorded(pooltasks_app: Celery) -> Iterator[Recorded]:
    """Submitted operations are noted, and none runs; see ``pooltasks.testing.recorded``."""
    with recorded(pooltasks_app) as calls:
        yield calls


@pytest.fixture(scope="session")
def pooltasks_pools(
    pooltasks_app: Celery, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Celery]:
    """Real pools: the embedded server, and a node for each pool, until the session ends."""
    with running(pooltasks_app, tmp_path_factory.mktemp("pooltasks")):
        yield pooltasks_app
