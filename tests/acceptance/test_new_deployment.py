"""What ``pooltasks init`` writes works at once, by the commands that it prints."""

from __future__ import annotations

import os
import signal
import subprocess
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from deployment import DEADLINE, wait_until

import pooltasks

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(180)

START = 60.0  # seconds


class Newcomer:
    """Somebody with a shell, and nothing exported."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.log = home / "up.log"
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("POOLTASKS_")},
            "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]]),
            # The programs import pooltasks from where the tests did.
            "PYTHONPATH": str(Path(pooltasks.__file__).parents[1]),
        }
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", command],
            env=self.environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=START,
            check=False,
        )

    def start(self, command: str) -> None:
        """Start a deployment, and wait until it is up."""
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                ["sh", "-c", command],
                env=self.environment,
                cwd=self.home,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        process = self.process
        wait_until(
            lambda: "everything is up" in self.said() or process.poll() is not None,
            "everything is up",
            START,
        )
        assert process.poll() is None, self.said()

    def said(self) -> str:
        return self.log.read_text(errors="replace")


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Newcomer]:
    newcomer = Newcomer(tmp_path)
    yield newcomer
    if newcomer.process is not None:
        newcomer.process.kill()
        newcomer.process.wait()


def test_a_new_deployment_passes_its_tests_comes_up_and_serves_a_second_terminal(
    newcomer: Newcomer,
) -> None:
    written = newcomer.run("pooltasks init 'my words'")
    assert written.returncode == 0, written.stderr
    up, call = (line.strip() for line in written.stdout.splitlines()[-2:])

    tested = newcomer.run("cd 'my words' && python -m pytest")
    assert tested.returncode == 0, tested.stdout
    assert "3 passed" in tested.stdout

    # Other tests may have a dashboard on its port. `exec`, so that the shell is no parent.
    newcomer.start(up.replace("pooltasks up", "exec pooltasks up --no-dashboard"))
    called = newcomer.run(call)
    assert called.returncode == 0, called.stderr
    assert called.stdout == "{'to': 2, 'be': 2, 'or': 1}\n"
    checked = newcomer.run("cd 'my words' && pooltasks check && pooltasks status words")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "its warm-up succeeds (1 command)" in checked.stdout

    assert newcomer.process is not None
    newcomer.process.send_signal(signal.SIGINT)
    assert newcomer.process.wait(DEADLINE) == 0, newcomer.said()


def test_a_second_init_in_its_folder_is_one_sentence(newcomer: Newcomer) -> None:
    assert newcomer.run("pooltasks init shop").returncode == 0
    again = newcomer.run("pooltasks init shop")
    assert again.returncode == 2
    assert again.stdout == ""
    assert again.stderr.startswith("Error: shop has files in the way (README.md, ")
    assert len(again.stderr.splitlines()) == 1
