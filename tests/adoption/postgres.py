"""A PostgreSQL server of Debian's package, for as long as a test runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

DEADLINE = 30.0  # seconds


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        reason = "no PostgreSQL server (Debian: apt-get install postgresql)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found[-1].parent


@contextmanager
def running_postgres() -> Iterator[str]:
    """Run a server with a database of the user ``shop``; yield the folder of its socket."""
    programs = _programs()
    # The server refuses to run as root, and another user cannot look into pytest's folders.
    folder = tempfile.mkdtemp(prefix="pg", dir="/tmp")
    options: dict[str, Any] = {}
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
        options["user"] = "postgres"
    data = f"{folder}/data"
    try:
        subprocess.run(
            [programs / "initdb", "-D", data, "-A", "trust", "-U", "shop", "--no-sync"],
            check=True,
            capture_output=True,
            **options,
        )
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses="],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            **options,
        )
        try:
            _wait_until_it_answers(programs, folder, server)
            yield folder
        finally:
            server.terminate()
            server.wait(DEADLINE)
    finally:
        shutil.rmtree(folder)


def _wait_until_it_answers(programs: Path, folder: str, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + DEADLINE
    while subprocess.run([programs / "pg_isready", "-q", "-h", folder], check=False).returncode:
        assert server.poll() is None, "PostgreSQL ended before it answered"
        assert time.monotonic() < end, f"PostgreSQL gave no answer within {DEADLINE} s"
