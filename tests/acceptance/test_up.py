"""``pooltasks up`` runs a whole deployment and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from deployment import DEADLINE, HERE, Deployment, wait_until

import pooltasks
from pooltasks import Pool
from pooltasks.embedded import reserved_port

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.timeout(180), pytest.mark.long]

CONFIGURATION = """
    [pools.code]
    imports = ["sample_operations"]
    pool_size = 1
"""


class Up:
    """One ``pooltasks up`` on a folder of its own, and what it says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.output = folder / "up.log"
        (folder / "pools.toml").write_text(CONFIGURATION)
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("POOLTASKS_")},
            "POOLTASKS_CONFIG": str(folder / "pools.toml"),
            # Its programs import pooltasks from where the tests did.
            "PYTHONPATH": os.pathsep.join([str(Path(pooltasks.__file__).parents[1]), str(HERE)]),
        }
        self.process: subprocess.Popen[bytes] | None = None

    def command(self, *options: str) -> list[str]:
        return [sys.executable, "-m", "pooltasks", "up", f"--data-dir={self.data_dir}", *options]

    def start(self, *options: str) -> None:
        self.launch(*options)
        self.wait_for("everything is up; Ctrl-C stops it", deadline=60)

    def launch(self, *options: str) -> None:
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                self.command(*options),
                env=self.environment,
                cwd=self.folder,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def run(self, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the command until it ends by itself, with more ``variables`` in its environment."""
        return subprocess.run(
            self.command(*options),
            env={**self.environment, **variables},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

    def lines(self) -> list[str]:
        return self.output.read_text(errors="replace").splitlines()

    def wait_for(self, text: str, deadline: float = DEADLINE) -> str:
        """Return the first line with ``text`` once it is there."""

        def line() -> str | None:
            return next((line for line in self.lines() if text in line), None)

        wait_until(
            lambda: line() or self.process is None or self.process.poll() is not None,
            f"{text!r} in:\n" + "\n".join(self.lines()[-40:]),
            deadline,
        )
        found = line()
        assert found is not None, "\n".join(self.lines()[-40:])
        return found

    def pid_of(self, name: str) -> int:
        """The process id in the last line that says ``name`` is up."""
        last = [line for line in self.lines() if f"| {name} is up (process " in line][-1]
        return int(last.partition("(process ")[2].partition(")")[0])

    def pool(self) -> Pool:
        url = self.wait_for("POOLTASKS_REDIS_URL=").partition("POOLTASKS_REDIS_URL=")[2]
        deployment = Deployment(self.folder, url)
        deployment.redis.close()
        return Pool("code", app=deployment.configure(CONFIGURATION))

    def processes(self) -> list[int]:
        """The processes that come from this ``up``, itself included.

        All work in its folder or below. Their environment would not tell:
        programs that set their title write over it.
        """
        return [pid for pid in psutil.pids() if _folder_of(pid).is_relative_to(self.folder)]


def _folder_of(pid: int) -> Path:
    try:
        return Path(f"/proc/{pid}/cwd").readlink()
    except OSError:  # it has ended
        return Path()


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    up = Up(tmp_path)
    try:
        yield up
    finally:
        if up.process is not None:
            up.process.kill()
            up.process.wait()
        wait_until(lambda: not up.processes(), "no process is left")


def stop(up: Up, number: int) -> None:
    assert up.process is not None
    up.process.send_signal(number)
    assert up.process.wait(DEADLINE) == 0, "\n".join(up.lines()[-40:])


def test_everything_comes_up_serves_survives_a_death_and_stops_without_a_trace(up: Up) -> None:
    up.start("--no-dashboard")
    for name in ("server", "code", "control", "beat"):
        assert up.pid_of(name) in up.processes()
    assert not any("| dashboard" in line for line in up.lines())
    pool = up.pool()
    assert pool.execute("sample_operations.add", [1, 2], timeout=DEADLINE) == 3

    before = up.pid_of("code")
    os.kill(before, signal.SIGKILL)
    up.wait_for("code ended by SIGKILL; it starts again in 0.5 s")
    wait_until(lambda: up.pid_of("code") != before, "the node is up again")
    assert pool.execute("sample_operations.add", [3, 4], timeout=DEADLINE) == 7

    stop(up, signal.SIGINT)

    assert up.processes() == []


def test_a_second_terminal_in_its_folder_finds_it_without_an_export(up: Up) -> None:
    up.start("--no-dashboard")
    code = "import sample_operations as s; print(s.add.delay(1, 2).get(timeout=30))"
    code += "; print(__import__('pooltasks').Pool('code').execute('ping')['status'])"
    other = up.folder / "elsewhere"
    other.mkdir()
    in_it, beside = (
        subprocess.run(
            [sys.executable, "-c", code],
            env=up.environment,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )
        for folder in (up.folder, other)
    )
    assert in_it.stdout.splitlines() == ["3", "ok"], in_it.stderr
    assert in_it.stderr.count("of `pooltasks up` in this folder.") == 1
    assert beside.returncode == 1
    state = up.folder / ".pooltasks" / "up.json"
    assert state.stat().st_mode & 0o777 == 0o600
    stop(up, signal.SIGTERM)
    assert not state.exists()


def test_a_server_that_dies_starts_again_with_its_data_and_the_nodes_go_on(up: Up) -> None:
    up.start("--no-dashboard")
    pool = up.pool()
    assert pool.execute("sample_operations.add", [1], timeout=DEADLINE) == 1
    before = up.pid_of("server")

    os.kill(before, signal.SIGKILL)

    wait_until(lambda: up.pid_of("server") != before, "the server is up again")
    # Another application: this one's connections are part of what died.
    assert up.pool().execute("sample_operations.add", [2], timeout=DEADLINE) == 2
    stop(up, signal.SIGTERM)
    assert up.processes() == []


def test_nothing_is_left_when_it_is_killed(up: Up) -> None:
    up.start("--no-dashboard")
    assert len(up.processes()) >= 7  # itself, the server, two nodes with a worker each, beat
    assert up.process is not None

    up.process.kill()

    wait_until(lambda: not up.processes(), "no process is left", deadline=5)


def test_the_dashboard_answers_on_the_port_that_is_named(up: Up) -> None:
    pytest.importorskip("flower", reason="the extra 'dashboard' is not installed")
    with reserved_port(None) as port:
        pass
    up.start(f"--dashboard-port={port}")
    up.wait_for(
        f"dashboard is up (process {up.pid_of('dashboard')}): http://127.0.0.1:{port}/pools"
    )

    def answer() -> Any:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/pools") as response:
                return response.status
        except OSError:
            return None

    assert wait_until(answer, "the dashboard answers") == 200
    stop(up, signal.SIGINT)
    assert up.processes() == []


@pytest.mark.parametrize(
    ("configuration", "variables", "message"),
    [
        (
            "[pools.code]\npool_sise = 1",
            {},
            "pool_sise: unknown key; did you mean pool_size? Allowed: ",
        ),
        ("[pools.code]\nmin_pool_size = 20", {}, "pool 'code': min_pool_size is 20, above"),
        ("[pools.code", {}, "pools.toml is not valid TOML"),
        ("", {"POOLTASKS_CONFIG": "no-such.toml"}, "names no-such.toml, which does not exist"),
        ("", {"POOLTASKS_REDIS_URL": "http://example.org"}, "redis_url: not a Redis URL"),
        (
            "",
            {"POOLTASKS_POLS": "1"},
            "POOLTASKS_POLS names no setting; did you mean POOLTASKS_POOLS?",
        ),
    ],
)
def test_a_wrong_setting_is_one_readable_error_before_anything_starts(
    up: Up, configuration: str, variables: dict[str, str], message: str
) -> None:
    (up.folder / "pools.toml").write_text(configuration)
    completed = up.run(**variables)
    assert completed.returncode == 1
    assert completed.stderr.startswith("Error: ")
    assert message in completed.stderr
    assert "Traceback" not in completed.stderr
    assert completed.stdout == ""
    assert not up.data_dir.exists()


def test_a_data_folder_in_use_is_one_readable_error(up: Up) -> None:
    up.start("--no-dashboard")
    completed = up.run("--no-dashboard")
    assert completed.returncode == 1
    assert f"{up.data_dir} is in use by a server of process {up.process.pid}" in completed.stderr
    assert "Traceback" not in completed.stderr
    assert up.pool().execute("ping", timeout=DEADLINE)["status"] == "ok"


def test_a_warm_up_that_fails_is_said_and_nothing_is_called_up(up: Up) -> None:
    configuration = up.folder / "pools.toml"
    configuration.write_text(
        CONFIGURATION
        + """
    [[pools.code.warmup.commands]]
    operation = "sample_operations.warm"
    kwargs = { unless = "repaired" }
"""
    )
    up.launch("--no-dashboard")
    line = up.wait_for("code is not up: its warm-up fails in sample_operations.warm: ", deadline=60)
    assert "RuntimeError: the warm-up is told to fail" in line
    assert "sample_operations.py, line " in line
    assert not any("everything is up" in line for line in up.lines())
    stop(up, signal.SIGINT)


def test_a_dashboard_port_that_is_taken_is_said_before_anything_starts(up: Up) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        completed = up.run(f"--dashboard-port={port}")
    assert completed.returncode == 2
    assert f"cannot listen on 127.0.0.1 port {port}: Address already in use" in completed.stderr
    assert "Traceback" not in completed.stderr
    assert completed.stdout == ""
