"""A project of somebody else: its files, and the programs that it runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

import pooltasks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

DEADLINE = 40.0  # seconds
EXAMPLES = Path(__file__).parents[2] / "examples"


def files_of(example: str) -> dict[str, str]:
    """Return the files of a folder of ``examples``."""
    folder = EXAMPLES / example
    return {
        path.relative_to(folder).as_posix(): path.read_text("utf-8")
        for path in folder.rglob("*")
        if path.suffix in (".py", ".toml")
    }


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """Return what ``condition`` returns as soon as it is true."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.05)  # between looks
    pytest.fail(f"not within {DEADLINE} s: {what}")


class Project:
    """A folder with a project, and its programs."""

    def __init__(self, folder: Path, files: Mapping[str, str], **environment: str) -> None:
        self.folder = folder
        self._programs: dict[str, subprocess.Popen[bytes]] = {}
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("POOLTASKS_", "DJANGO_"))},
            "PYTHONPATH": os.pathsep.join([str(Path(pooltasks.__file__).parents[1]), str(folder)]),
            "PYTHONUNBUFFERED": "1",
            **environment,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for program in self._programs.values():
            program.send_signal(signal.SIGTERM)
        for program in self._programs.values():
            try:
                program.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()

    def start(self, name: str, *arguments: str) -> None:
        """Start a program of Python's."""
        with (self.folder / f"{name}.log").open("wb") as log:
            self._programs[name] = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                env=self.environment,
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def worker(self, name: str, *arguments: str) -> None:
        """Start a plain worker or a node, and wait until it is ready."""
        self.start(name, "celery", "worker", "-l", "info", "-n", f"{name}@test", *arguments)
        wait_until(lambda: f"{name}@test ready" in self.log(name) or self.has_ended(name), name)
        assert not self.has_ended(name), self.log(name)

    def has_ended(self, name: str) -> bool:
        return self._programs[name].poll() is not None

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=DEADLINE,
            check=False,
        )

    def python(self, code: str) -> list[str]:
        """Run code as a program of the project; return the lines that it prints."""
        done = self.run("-c", code)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()
