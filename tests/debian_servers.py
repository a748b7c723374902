"""Debian's programs, and its Redis server, which has TLS and can be a Sentinel."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from pooltasks.embedded import tied_to_this_process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def program(name: str) -> str:
    """Return the path of a program; without it the test is skipped, and fails in CI."""
    found = shutil.which(name)
    if found is None:
        reason = f"no {name} on PATH (Debian: apt-get install redis-server openssl)"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@contextmanager
def server(folder: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the server in a folder of its own, with options that name its port."""
    folder.mkdir(exist_ok=True)
    arguments = [program("redis-server"), *options, "--bind", "127.0.0.1", "--dir", str(folder)]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(tied_to_this_process(arguments), stdout=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
