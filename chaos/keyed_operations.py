"""Operations under flow control, for chaos runs: each notes its start and its end in a file.

The files lie beside the notes of ``operations.py``, and survive the same deaths.
"""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path
from typing import Any

from chaos.operations import FOLDER_VARIABLE
from pooltasks import operation

FOLDER = "keyed"
"""Of the notes, beside the folder that the environment names."""
CONCURRENCY, PER_SECOND, BURST = 10, 100, 10
"""The limits of each tenant: how many run at once, start in a second, start at once."""


@cache
def _file_of(process: int) -> int:
    folder = Path(os.environ[FOLDER_VARIABLE]).with_name(FOLDER)
    return os.open(folder / str(process), os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def _note(what: str, identifier: str, key: str) -> None:
    # The monotonic clock of the machine is one for all of its processes (clock_gettime(2)).
    note = f"{what} {identifier} {key} {time.monotonic():.6f} {os.getppid()}\n"
    os.write(_file_of(os.getpid()), note.encode())


@operation(
    pool="chaos",
    bind=True,
    key="tenant",
    concurrency=CONCURRENCY,
    rate=f"{PER_SECOND}/s",
    burst=BURST,
    fair=True,
)
def limited(self: Any, tenant: str, seconds: float) -> None:
    """Take ``seconds``."""
    _note("start", self.request.id, tenant)
    time.sleep(seconds)
    _note("end", self.request.id, tenant)


@operation(pool="chaos", bind=True, unique="key")
def once(self: Any, key: str, seconds: float) -> None:
    """Take ``seconds``."""
    _note("start", self.request.id, key)
    time.sleep(seconds)
    _note("end", self.request.id, key)
