"""Real servers for the tests that need one.

``valkey`` is the embedded server. ``redis_url`` runs a test on it and, where
one is on PATH, once more on Debian's ``redis-server``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import hypothesis
import pytest
import redis

from pooltasks.embedded import EmbeddedServer, reserved_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytest.register_assert_rewrite("session_promises")
# How long an example takes says more of the machine's load than of the code.
hypothesis.settings.register_profile("pooltasks", deadline=None)
hypothesis.settings.load_profile("pooltasks")

DEADLINE = 10.0  # seconds


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """One embedded server for the whole run. Tests that empty it use ``redis_url``."""
    with EmbeddedServer(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture(scope="session", params=["valkey", "redis-server"])
def _any_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    if request.param == "valkey":
        yield request.getfixturevalue("valkey").url.removesuffix("/0")
        return
    program = shutil.which("redis-server")
    if program is None:
        reason = "no redis-server on PATH (Debian: apt-get install redis-server)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with _running_redis_server(program, tmp_path_factory.mktemp("redis-server")) as url:
        yield url


@pytest.fixture
def redis_url(_any_server: str) -> str:
    """The URL of an empty database (number 1) on each of the servers."""
    return _emptied(f"{_any_server}/1")


@pytest.fixture
def valkey_url(valkey: EmbeddedServer) -> str:
    """The URL of an empty database (number 1) on the embedded server."""
    return _emptied(valkey.url.removesuffix("/0") + "/1")


def _emptied(url: str) -> str:
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url


@contextmanager
def _running_redis_server(program: str, folder: Path) -> Iterator[str]:
    with reserved_port(None) as port:
        process = subprocess.Popen(
            [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder],
            stdout=subprocess.DEVNULL,
        )
        try:
            _wait_until_it_answers(process, port)
            yield f"redis://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(DEADLINE)


def _wait_until_it_answers(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + DEADLINE
    with redis.Redis(port=port) as client:
        while time.monotonic() < deadline:
            assert process.poll() is None, "redis-server ended before it answered"
            try:
                client.ping()
            except redis.ConnectionError:
                continue  # redis-py waits a little before it gives up
            return
    pytest.fail(f"redis-server gave no answer within {DEADLINE} s")
