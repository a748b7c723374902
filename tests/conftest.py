"""Real servers for the tests that need one.

``valkey`` is the embedded server. ``redis_url`` runs a test on it and, where
one is on PATH, once more on Debian's ``redis-server``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING
from zlib import crc32

import hypothesis
import pytest
import redis
from celery import _state
from celery.local import Proxy

import pooltasks.operations  # noqa: F401  its tasks are shared before the first test begins
from pooltasks import extension
from pooltasks.embedded import EmbeddedServer, reserved_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import ModuleType

pytest.register_assert_rewrite("session_promises")
# How long an example takes says more of the machine's load than of the code.
hypothesis.settings.register_profile("pooltasks", deadline=None)
hypothesis.settings.load_profile("pooltasks")

DEADLINE = 10.0  # seconds
SHARE = 8  # one of so many long tests


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--share",
        metavar="SEED",
        help=f"run only one of {SHARE} of the tests marked `long`: the seed chooses which",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out most of the long tests, if that was asked for: others each time."""
    seed = config.getoption("--share")
    if seed is None:
        return

    def is_chosen(item: pytest.Item) -> bool:
        number = crc32(f"{seed} {item.nodeid}".encode())
        return item.get_closest_marker("long") is None or number % SHARE == 0

    left_out = [item for item in items if not is_chosen(item)]
    items[:] = [item for item in items if is_chosen(item)]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(autouse=True)
def no_applications_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test begins as in a process that has just imported pooltasks.

    Without applications of other tests, without the tasks that those share with all, and
    without the modules in which those tasks are.
    """
    own = extension._applications.own
    fresh = extension._Applications()
    fresh.own = own
    monkeypatch.setattr(extension, "_applications", fresh)
    before = _state._tls.current_app
    _state._set_current_app(own)
    monkeypatch.setattr(_state, "default_app", own)
    shared, imported = {*_state._on_app_finalizers}, {*sys.modules}
    yield
    _state._on_app_finalizers.intersection_update(shared)
    gone = [its for its in {*sys.modules} - imported if _has_tasks(its, sys.modules[its])]
    for module in gone:
        del sys.modules[module]  # imported again, it shares its tasks again
    # Each application that is there yet has been given them, and would be given them twice.
    for app in [*_state._get_active_apps()]:
        for task in [its for its in app._tasks if its.rpartition(".")[0] in gone]:
            del app._tasks[task]
    _state._set_current_app(before)


def _has_tasks(name: str, module: ModuleType | None) -> bool:
    """Return whether a module has shared tasks, and is neither installed nor of the library."""
    path = getattr(module, "__file__", None)
    if not path or "site-packages" in path or name.startswith("pooltasks"):
        return False
    # A look at the tasks themselves would make them those of an application.
    return any(issubclass(type(each), Proxy) for each in vars(module).values())


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
