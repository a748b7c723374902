"""The operations of a chaos run: each start is noted in a file before anything else.

The notes are files of this machine, and so survive the death of the server and
of the process that writes them.
"""

from __future__ import annotations

import os
import re
import time
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

from pooltasks import operation

FOLDER_VARIABLE = "CHAOS_RUNS"
"""Names the folder of the notes in the environment of the nodes."""
NOTE_BYTES = 55
"""Length of a note: the operation's id and the time of its start. Its file is named by the process.
"""
_ID = re.compile(r"[0-9a-f-]{36}")


@cache
def _file_of(process: int) -> int:
    path = Path(os.environ[FOLDER_VARIABLE]) / str(process)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def noted(identifier: str) -> str:
    """Return an operation's id as it is in a note: a hostile one has any length and letters."""
    if _ID.fullmatch(identifier):
        return identifier
    return blake2b(identifier.encode(errors="surrogatepass"), digest_size=18).hexdigest()


def note_start(identifier: str) -> None:
    """Note that an operation starts."""
    note = f"{noted(identifier)} {time.time():17.6f}\n"
    os.write(_file_of(os.getpid()), note.encode())


@operation(pool="chaos", bind=True, store_errors_even_if_ignored=True)
def work(self: Any, fate: str = "finish", seconds: float = 0.0) -> str:
    """Take ``seconds``, then finish, fail, or kill this worker."""
    note_start(self.request.id)
    time.sleep(seconds)
    if fate == "fail":
        raise ValueError("told to fail")
    if fate == "kill":
        os.kill(os.getpid(), 9)
    return fate
