"""README.md, typed as it stands: in a fresh folder, a fresh environment and two terminals."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from deployment import DEADLINE, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(240)

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
START = 90.0  # seconds
CLONE = f'#!/bin/sh\n[ "$1" = clone ] && exec ln -s "{ROOT}" pooltasks\n'
"""In place of git: there is no network, and what is tested is this checkout."""


class Terminal:
    """A shell: what it was told about its folder and its environment holds for what follows."""

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        self.home = home
        self.environment = environment
        self.state: list[str] = []

    def script(self, command: str) -> list[str]:
        return ["bash", "-c", "\n".join(["set -e", *self.state, command])]

    def type(self, command: str) -> str:
        """Run a command; return what it says."""
        ended = subprocess.run(
            self.script(command),
            cwd=self.home,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=START,
            check=False,
        )
        assert ended.returncode == 0, f"$ {command}\n{ended.stdout}{ended.stderr}"
        if command.startswith(("cd ", ". ")):
            self.state.append(command)
        return ended.stdout

    def start(self, command: str, log: Path) -> subprocess.Popen[bytes]:
        with log.open("wb") as output:
            return subprocess.Popen(
                self.script(f"exec {command}"),
                cwd=self.home,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )


class Newcomer:
    """Somebody who types what README.md says."""

    def __init__(self, home: Path) -> None:
        self.home = home
        programs = home / "programs"
        programs.mkdir()
        (programs / "git").write_text(CLONE)
        (programs / "git").chmod(0o755)
        (programs / "python3").symlink_to(sys.executable)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("POOLTASKS_", "PYTHON"))}
        environment = {
            **kept,
            "PATH": os.pathsep.join([str(programs), os.environ["PATH"]]),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it the other way round
            "PIP_NO_DEPS": "1",  # the environment of the tests has them
            "PIP_NO_INDEX": "1",
        }
        self.first = Terminal(home, environment)
        self.second = Terminal(home, environment)
        self.up: subprocess.Popen[bytes] | None = None
        self.log = home / "up.log"

    def block(self, kind: str, text: str) -> str:
        """Do what a block says; return what is said."""
        if kind == "console":
            return "".join(self._command(line) for line in text.splitlines())
        name = re.match(r"# (\S+\.\w+)\n", text)
        if name:
            (self.home / "shop" / name[1]).write_text(text)
            return ""
        (self.home / "shop" / "typed.py").write_text(text)
        return self.second.type("python typed.py")

    def _command(self, line: str) -> str:
        command = line.removeprefix("$ ").partition("  #")[0].partition(" #")[0].strip()
        if "scripts/run" in command:
            # Its environment is that of the tests; it would change what they run with.
            job = ROOT / "scripts" / "main_job.py"
            return self.first.type(f"{sys.executable} {job} --seconds 2 {ROOT / 'pooltasks'}")
        if command == "pooltasks up":
            # Other tests may have a dashboard on its port.
            self.up = self.first.start(f"{command} --no-dashboard", self.log)
            wait_until(self._is_up_or_ended, "everything is up", START)
            assert self.up.poll() is None, self.log.read_text()
            return ""
        terminal = self.second if self.up else self.first
        said = terminal.type(command)
        if command.endswith("-m venv .venv"):
            # A .pth file of a folder found this way is not read: the editable install stays out.
            (packages,) = (self.home / ".venv" / "lib").glob("python*/site-packages")
            (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
        return said

    def _is_up_or_ended(self) -> bool:
        assert self.up is not None
        return "everything is up" in self.log.read_text() or self.up.poll() is not None


@pytest.fixture
def newcomer(tmp_path: Path) -> Iterator[Newcomer]:
    newcomer = Newcomer(tmp_path)
    yield newcomer
    if newcomer.up is not None:
        newcomer.up.send_signal(signal.SIGINT)
        try:
            assert newcomer.up.wait(DEADLINE) == 0, newcomer.log.read_text()
        finally:
            newcomer.up.kill()


def test_every_block_works_in_its_order(newcomer: Newcomer) -> None:
    said = [newcomer.block(*block) for block in BLOCK.findall((ROOT / "README.md").read_text())]
    text = "\n".join(said)
    assert "operations a second" in text  # scripts/run
    assert "its warm-up succeeds" in text  # pooltasks check
    assert "{'path': 'cat.png', 'width': 200}" in text
    assert (newcomer.home / "shop" / "mine" / "words.py").is_file()
