"""A pool works the same over TLS, with Sentinels, with a key prefix and as a restricted user.

On Debian's Redis server, which has TLS and Sentinels. Unix sockets and
passwords are in ``test_connections.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
import redis
from celery import Celery
from debian_servers import program, server
from deployment import DEADLINE, Deployment, wait_until

from pooltasks import Pool, install
from pooltasks.app import settings_of
from pooltasks.broker.client import redis_client
from pooltasks.embedded import reserved_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.long

CONFIGURATION = """
    [pools.code]
    imports = ["sample_operations"]
    pool_size = 1
    max_pool_size = 2
"""


def answers(**options: Any) -> bool:
    with redis.Redis(host="127.0.0.1", **options) as client:
        try:
            return bool(client.ping())
        except redis.ConnectionError:
            return False


def prove(deployment: Deployment, app: Any) -> None:
    """Publish, wait, submit many, ask the nodes, and lose one that runs an operation."""
    pool = Pool("code", app=app)
    for name in ("one", "two"):
        deployment.start_node("-Q", "pool.code", "-n", f"{name}@%h")
    assert pool.execute("sample_operations.echo", ["alone"], timeout=DEADLINE) == "alone"
    app.loader.import_task_module("sample_operations")
    app.finalize()
    results = pool.submit_many(app.tasks["sample_operations.add"], [(n, 1) for n in range(50)])
    assert [result.get(timeout=DEADLINE) for result in results] == list(range(1, 51))
    wait_until(lambda: len(deployment.status_by_node()) == 2, "both nodes tell how they are")

    running = pool.submit("sample_operations.mark_and_occupy", ["mark", 0.7])
    client = redis_client(app)
    (mark,) = wait_until(lambda: client.lrange("mark", 0, -1), "it runs")
    victim = json.loads(mark)["node"]
    os.kill(victim, 9)
    running.get(timeout=DEADLINE)
    assert client.llen("mark") == 2
    survivor = next(node for node in deployment.nodes if node.pid != victim)
    assert survivor.poll() is None


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority of our own and a certificate for this machine."""
    folder = tmp_path_factory.mktemp("certificates")
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")

    def openssl(*arguments: str) -> None:
        subprocess.run(
            [program("openssl"), *arguments], cwd=folder, check=True, capture_output=True
        )

    openssl("req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=ours")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    openssl("req", *new_key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=server")
    openssl(
        *("x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key"),
        *("-CAcreateserial", "-out", "server.crt", "-extfile", "names"),
    )
    return folder


@pytest.fixture(scope="module")
def tls_port(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server that speaks TLS only."""
    authority = str(certificates / "ca.crt")
    with (
        reserved_port(None) as port,
        server(
            tmp_path_factory.mktemp("tls"),
            *("--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no"),
            *("--tls-cert-file", str(certificates / "server.crt")),
            *("--tls-key-file", str(certificates / "server.key")),
            *("--tls-ca-cert-file", authority),
        ),
    ):
        wait_until(lambda: answers(port=port, ssl=True, ssl_ca_certs=authority), "it answers")
        yield port


def test_over_tls(certificates: Path, tls_port: int, tmp_path: Path) -> None:
    url = f"rediss://127.0.0.1:{tls_port}/0?ssl_ca_certs={certificates / 'ca.crt'}"
    with Deployment(tmp_path, url) as deployment:
        prove(deployment, deployment.configure(CONFIGURATION))


def test_a_server_whose_certificate_nobody_vouches_for_is_refused(
    tls_port: int, tmp_path: Path
) -> None:
    with Deployment(tmp_path, f"rediss://127.0.0.1:{tls_port}/0") as deployment:
        deployment.configure(CONFIGURATION)
        completed = deployment.run("pooltasks", "check")
        assert completed.returncode == 1
        assert "certificate verify failed" in completed.stdout + completed.stderr


def test_the_tls_options_of_an_application_that_exists_already_are_ours_too(
    certificates: Path, tls_port: int
) -> None:
    app = Celery("theirs", broker=f"redis://127.0.0.1:{tls_port}/0", set_as_current=False)
    app.conf.broker_use_ssl = {"ssl_ca_certs": str(certificates / "ca.crt"), "ssl_cert_reqs": 2}
    install(app)
    assert redis_client(app).ping()


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of a master and its replica with a Sentinel, and the master's process."""
    with ExitStack() as stack:
        master, replica, sentinel = (stack.enter_context(reserved_port(None)) for _ in range(3))
        password = ("--requirepass", "secret", "--masterauth", "secret")
        process = stack.enter_context(server(tmp_path / "master", "--port", str(master), *password))
        wait_until(lambda: answers(port=master, password="secret"), "the master answers")  # noqa: S106
        stack.enter_context(
            server(
                *(tmp_path / "replica", "--port", str(replica), *password),
                *("--replicaof", f"127.0.0.1 {master}", "--repl-diskless-sync-delay", "0"),
            )
        )
        (tmp_path / "sentinel.conf").write_text(
            f"port {sentinel}\n"
            f"sentinel monitor ours 127.0.0.1 {master} 1\n"
            "sentinel auth-pass ours secret\n"
            "sentinel down-after-milliseconds ours 1000\n"
            "sentinel failover-timeout ours 3000\n"
        )
        stack.enter_context(
            server(tmp_path / "sentinel", str(tmp_path / "sentinel.conf"), "--sentinel")
        )

        def knows_the_replica() -> bool:
            with redis.Redis(port=sentinel) as client:
                try:
                    replicas: Any = client.sentinel_slaves("ours")
                except redis.ConnectionError:
                    return False
                return any(not each["is_disconnected"] for each in replicas)

        wait_until(knows_the_replica, "the Sentinel knows the replica")
        # The first one is not there: the second is asked.
        yield f"sentinel://:secret@127.0.0.1:1;127.0.0.1:{sentinel}/0?master_name=ours", process


def test_with_sentinels_before_and_after_a_failover(
    sentinels: tuple[str, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    url, master = sentinels
    with Deployment(tmp_path, url) as deployment:
        app = deployment.configure(CONFIGURATION)
        prove(deployment, app)
        master.kill()
        # Another application: what this one has sent to the dead master is lost with it.
        pool = Pool("code", app=deployment.configure(CONFIGURATION))

        def works_again() -> bool:
            try:
                return bool(pool.execute("ping", timeout=2))
            except Exception:  # noqa: BLE001  whatever a client sees during a failover
                return False

        wait_until(works_again, f"the replica is the master:\n{deployment.log(1)[-3000:]}")


PREFIXED = 'key_prefix = "{prefix}"\n' + CONFIGURATION


def test_two_deployments_with_prefixes_on_one_server_do_not_see_one_another(
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        port = stack.enter_context(reserved_port(None))
        stack.enter_context(server(tmp_path, "--port", str(port)))
        wait_until(lambda: answers(port=port), "it answers")
        with redis.Redis(port=port) as admin:
            # A user who may touch nothing but its own keys shows each that is not.
            rules = "on >secret allcommands ~one:* &*"
            admin.execute_command("ACL", "SETUSER", "one", *rules.split())
            for folder in ("one", "two"):
                (tmp_path / folder).mkdir()
            one = Deployment(tmp_path / "one", f"redis://one:secret@127.0.0.1:{port}/0")
            two = Deployment(tmp_path / "two", f"redis://127.0.0.1:{port}/0")
            stack.enter_context(one)
            stack.enter_context(two)
            app = one.configure(PREFIXED.format(prefix="one:"))
            other = Pool("code", app=two.configure(PREFIXED.format(prefix="two:")))
            waiting = other.submit("sample_operations.echo", ["not for one"])
            prove(one, app)
            assert two.status_by_node() == {}
            assert not waiting.ready()
            keys = {key.decode() for key in admin.keys("*")}
            assert all(key.startswith(("one:", "two:")) for key in keys), keys
            assert "one:pooltasks:{one:pool.code}:leases" in keys
            assert "two:pool.code" in keys


def test_a_prefix_that_is_no_prefix_is_refused(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path, "redis://127.0.0.1:1/0")
    deployment.configure(CONFIGURATION)
    deployment.environment["POOLTASKS_KEY_PREFIX"] = "a b"
    completed = deployment.run("pooltasks", "check")
    assert completed.returncode == 1
    assert "key_prefix: 'a b'" in completed.stderr


def test_an_application_that_exists_already_keeps_its_prefix() -> None:
    app = Celery("theirs", broker="redis://127.0.0.1:1/0", set_as_current=False)
    app.conf.broker_transport_options = {"global_keyprefix": "theirs:"}
    install(app)
    assert settings_of(app).key_prefix == "theirs:"
    assert redis_client(app).prefix == "theirs:"
