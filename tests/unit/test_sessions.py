"""What sessions promise, on fakeredis."""

from __future__ import annotations

import fakeredis
import pytest
from session_promises import *  # noqa: F403  its tests and fixtures are this module's


@pytest.fixture
def client():
    with fakeredis.FakeRedis() as client:
        yield client
