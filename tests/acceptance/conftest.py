"""Deployments for the tests of this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import redis
from deployment import DEADLINE, Deployment, one_node

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pooltasks.embedded import EmbeddedServer


@pytest.fixture
def deployment(valkey_url: str, tmp_path: Path) -> Iterator[Deployment]:
    """An empty deployment on a database of its own.

    On the embedded server: what depends on the server overrides this fixture
    and runs on ``redis_url`` too.
    """
    with Deployment(tmp_path, valkey_url) as deployment:
        yield deployment


SERVING = """
[pools.code]
imports = ["sample_operations"]
pool_size = 2
checkout_timeout = 20
"""


@pytest.fixture(scope="module")
def serving(
    valkey: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """One node with two workers, shared by the tests of a module."""
    with one_node(f"{valkey.url.removesuffix('/0')}/2", tmp_path_factory, SERVING) as deployment:
        deployment.pool.execute("ping", timeout=DEADLINE)
        yield deployment


EITHER_PATH = """
broker_transport = "{transport}"

[pools.code]
imports = ["conformance_operations"]
pool_size = 3
max_deliveries = 2

[pools.other]
"""


@pytest.fixture(scope="module", params=["pooltasks", "stock"])
def either_path(
    request: pytest.FixtureRequest, valkey: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """One node with three workers on our transport, and once more on Celery's own."""
    url = valkey.url.removesuffix("/0") + "/3"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    deployment = Deployment(tmp_path_factory.mktemp(request.param), url)
    app = deployment.configure(EITHER_PATH.format(transport=request.param))
    app.loader.import_task_module("conformance_operations")
    app.finalize()
    try:
        deployment.start_node("-Q", "pool.code")
        app.tasks["conformance_operations.add"].delay(1, 1).get(timeout=DEADLINE)
        yield deployment
    finally:
        deployment.stop()
        # A result that nobody waited for unsubscribes when it is collected, and
        # would look for the server, for 20 s, when that is gone.
        app.backend.result_consumer.stop()
        app.backend.result_consumer.subscribed_to.clear()
