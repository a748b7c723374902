"""How a deployment reaches its server, and that the password stays secret."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
import redis
from deployment import DEADLINE, Deployment, wait_until

from pooltasks import Pool
from pooltasks.app import settings_of
from pooltasks.broker.client import redis_client
from pooltasks.embedded import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.long

CONFIGURATION = """
    [pools.code]
    imports = ["sample_operations"]
    pool_size = 1
"""
PASSWORD = "s3cret/with:every@thing ?#%"  # noqa: S105  of the tests' own server


@pytest.fixture(scope="module")
def socket_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server on a unix socket whose path needs quoting in a URL."""
    folder = tmp_path_factory.mktemp("a space & 50%")
    with EmbeddedServer(folder, unix_socket=folder / "v #1?.sock") as server:
        yield server


@pytest.fixture(scope="module")
def protected_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address, without scheme and password, of a server that wants PASSWORD."""
    with (
        EmbeddedServer(tmp_path_factory.mktemp("protected")) as server,
        redis.Redis.from_url(server.url) as client,
    ):
        client.config_set("requirepass", PASSWORD)
        yield server.url.removeprefix("redis://").removesuffix("/0")


def test_a_node_serves_over_a_unix_socket_in_the_database_that_the_url_names(
    socket_server: EmbeddedServer, tmp_path: Path
) -> None:
    url = socket_server.url.replace("db=0", "db=3")
    deployment = Deployment(tmp_path, url)
    try:
        pool = Pool("code", app=deployment.configure(CONFIGURATION))
        result = pool.submit("sample_operations.echo", ["through the socket"])
        assert deployment.redis.llen("pool.code") == 1

        deployment.start_node("-Q", "pool.code")

        assert result.get(timeout=DEADLINE) == "through the socket"
        assert deployment.redis.exists(f"celery-task-meta-{result.id}")
        assert deployment.wait_for_warm(1)["pool"] == "code"
        checked = deployment.run("pooltasks", "check")
        assert checked.returncode == 0, checked.stdout
    finally:
        deployment.stop()
    with redis.Redis.from_url(socket_server.url) as database_0:
        assert database_0.dbsize() == 0


@pytest.mark.parametrize(
    "url",
    [
        "redis://:{password}@{address}/4",
        "redis://default:{password}@{address}?db=4",
        "redis://{address}/4?password={password}",
    ],
)
def test_client_messages_and_results_use_one_database_however_the_url_names_it(
    protected_server: str, tmp_path: Path, url: str
) -> None:
    url = url.format(password=quote(PASSWORD, safe=""), address=protected_server)
    deployment = Deployment(tmp_path, url)
    deployment.redis.flushdb()
    app = deployment.configure(CONFIGURATION)
    result = Pool("code", app=app).submit("sample_operations.echo")
    assert deployment.redis.llen("pool.code") == 1
    outcome = {"task_id": result.id, "status": "SUCCESS", "result": "value", "children": []}
    deployment.redis.set(f"celery-task-meta-{result.id}", json.dumps(outcome))
    assert result.get(timeout=DEADLINE) == "value"
    assert redis_client(app).llen("pool.code") == 1
    deployment.redis.close()


def assert_is_secret(text: str) -> None:
    for form in (PASSWORD, quote(PASSWORD), quote(PASSWORD, safe=""), "s3cret"):
        assert form not in text


@pytest.mark.parametrize("in_query", [False, True], ids=["before the host", "in the query"])
def test_the_password_appears_nowhere(
    protected_server: str, tmp_path: Path, in_query: bool
) -> None:
    quoted = quote(PASSWORD, safe="")
    login, query = ("", f"?password={quoted}") if in_query else (f":{quoted}@", "")
    deployment = Deployment(tmp_path, f"redis://{login}{protected_server}/5{query}")
    try:
        app = deployment.configure(CONFIGURATION)
        deployment.start_node("-Q", "pool.code", "-l", "debug")
        assert Pool("code", app=app).execute("ping", timeout=DEADLINE)["status"] == "ok"
        for command in (
            ("pooltasks", "check"),
            ("pooltasks", "status"),
            ("celery", "-A", "pooltasks", "report"),
            ("celery", "-A", "pooltasks", "inspect", "conf"),
            ("celery", "-A", "pooltasks", "inspect", "stats"),
        ):
            completed = deployment.run(*command)
            # Check and status exit with 1 for a pool that is unwell, as on a busy machine.
            unwell = 1 if command[0] == "pooltasks" else 0
            assert completed.returncode in (0, unwell), completed.stdout + completed.stderr
            assert_is_secret(completed.stdout + completed.stderr)
        assert_is_secret(repr(settings_of(app)) + str(settings_of(app)))
        assert_is_secret(repr(app.connection()) + repr(app.backend) + app.backend.as_uri())
    finally:
        deployment.stop()
    assert "Connected to redis://" in deployment.log()
    assert_is_secret(deployment.log())


def test_a_wrong_password_is_one_message_without_it(protected_server: str, tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, f"redis://:s3cret-wrong@{protected_server}/5")
    deployment.configure(CONFIGURATION)
    for command in ("check", "status", "warm"):
        completed = deployment.run("pooltasks", command)
        assert completed.returncode == 1
        said = completed.stdout + completed.stderr
        assert "invalid username-password pair" in said
        assert "Traceback" not in said
        assert_is_secret(said)
    try:
        deployment.start_node("-Q", "pool.code")
        wait_until(
            lambda: "invalid username-password pair" in deployment.log(), "the node says what it is"
        )
    finally:
        deployment.stop()
    assert_is_secret(deployment.log())


def test_an_unreachable_server_is_named_without_the_password(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, "redis://:s3cret@127.0.0.1:1/0")
    deployment.configure(CONFIGURATION)
    for command in ("check", "status", "warm"):
        completed = deployment.run("pooltasks", command)
        assert completed.returncode == 1
        said = completed.stdout + completed.stderr
        assert "connecting to 127.0.0.1:1" in said
        assert "Traceback" not in said
        assert_is_secret(said)
    try:
        deployment.start_node("-Q", "pool.code", "-l", "debug")
        wait_until(lambda: "Cannot connect to redis://" in deployment.log(), "it tries")
    finally:
        deployment.stop()
    assert_is_secret(deployment.log())


@pytest.mark.parametrize(
    "url",
    ["redis://:s3cret@host:port/0", "http://:s3cret@host", "redis://:s3cret@host/?db=s3cret"],
)
def test_a_malformed_url_is_one_error_without_the_password(tmp_path: Path, url: str) -> None:
    deployment = Deployment(tmp_path, "redis://127.0.0.1:1/0")
    deployment.environment["POOLTASKS_REDIS_URL"] = url
    for command in (
        ("pooltasks", "check"),
        ("pooltasks", "up"),
        ("celery", "-A", "pooltasks", "worker", "-Q", "pool.code"),
    ):
        completed = deployment.run(*command)
        assert completed.returncode == 1
        assert "redis_url: " in completed.stderr
        assert "allowed: redis://HOST:PORT/DB" in completed.stderr
        assert "Traceback" not in completed.stderr
        assert_is_secret(completed.stdout + completed.stderr)
    deployment.redis.close()


def test_a_node_has_room_for_as_many_after_celerys_connection_broke(deployment: Deployment) -> None:
    app = deployment.configure(CONFIGURATION.replace("pool_size = 1", "pool_size = 4"))
    deployment.start_node("-Q", "pool.code")
    deployment.wait_for_warm(4)
    pool = Pool("code", app=app)
    results = [pool.submit("sample_operations.occupy", [8.0]) for _ in range(3)]
    wait_until(lambda: deployment.reserved() == 3, "the node has them")
    deployment.redis.client_kill_filter(_type="pubsub")
    wait_until(lambda: "Connection to broker lost" in deployment.log(), "Celery says so")
    assert wait_until(deployment.status, "the node answers again")["prefetch"] == 4
    assert all(result.get(timeout=DEADLINE) for result in results)
