"""What the nodes of a chaos run execute: each start is noted in a file before anything else.

The notes are files of this machine, and so survive whatever happens to the
server and to the process that writes them.
"""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path
from typing import Any

from pooltasks import operation

FOLDER_VARIABLE = "CHAOS_RUNS"
"""Names the folder of the notes in the environment of the nodes."""
NOTE_BYTES = 55
"""Length of a note: the operation's id and the time of its start. Its file is named by the process.
"""


@cache
def _file_of(process: int) -> int:
    path = Path(os.environ[FOLDER_VARIABLE]) / str(process)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def _note_start(identifier: str) -> None:
    note = f"{identifier:36.36} {time.time():17.6f}\n"
    os.write(_file_of(os.getpid()), note.encode())


@operation(pool="chaos", bind=True, store_errors_even_if_ignored=True)
def work(self: Any, fate: str = "finish", seconds: float = 0.0) -> str:
    """Take ``seconds``, then finish, fail, or kill this worker."""
    _note_start(self.request.id)
    time.sleep(seconds)
    if fate == "fail":
        raise ValueError("told to fail")
    if fate == "kill":
        os.kill(os.getpid(), 9)
    return fate
