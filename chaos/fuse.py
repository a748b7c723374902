"""Counts a process's writes to the server, and kills it before or after one of them.

``python -m chaos.fuse MODULE ARGUMENT...`` runs a module as ``python -m`` does, with its
writes counted. A file in shared memory says which process is to die at which write.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import runpy
import signal
import socket
import struct
import sys
from enum import IntEnum
from pathlib import Path
from typing import Any

VARIABLE = "CHAOS_FUSE"
"""Names the file in the environment."""
_LAYOUT = struct.Struct("=qqqqqqq")
"""Port, role, number of the write, whether it is made; then the writes of each role so far."""
_COUNTS = 4
_BURNT = -2
_PORT_OF_REMOTE = 1


class Role(IntEnum):
    """The kinds of processes."""

    NODE = 0
    WORKER = 1
    PRODUCER = 2


class Fuse:
    """The file: the role that is to die, at which write, and the number of writes so far.

    Args:
        path: The file; made if it is missing.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self._fd, _LAYOUT.size)
        self._memory = mmap.mmap(self._fd, _LAYOUT.size)

    def _read(self) -> list[int]:
        return list(_LAYOUT.unpack_from(self._memory))

    def light(self, port: int, role: Role | None, at: int, *, is_sent: bool) -> None:
        """Count from 0, and have a process die.

        Args:
            port: The server's port: only writes to it count.
            role: The role whose processes die; None: no process dies.
            at: At which of their writes, from 1.
            is_sent: Whether that write is made first.
        """
        place = -1 if role is None else int(role)
        _LAYOUT.pack_into(self._memory, 0, port, place, at, int(is_sent), 0, 0, 0)

    def written(self, role: Role) -> int:
        """Return how many writes there were since it was lit."""
        return self._read()[_COUNTS + role]

    def has_burnt(self) -> bool:
        """Return whether a process has died."""
        return self._read()[1] == _BURNT

    def count(self, role: Role, port: int) -> tuple[bool, bool]:
        """Count a write; return whether the process is to die, and whether it writes first."""
        fcntl.lockf(self._fd, fcntl.LOCK_EX)
        try:
            values = self._read()
            if values[0] != port:
                return False, False
            values[_COUNTS + role] += 1
            dies = values[1] == role and values[_COUNTS + role] == values[2]
            if dies:
                values[1] = _BURNT  # once
            _LAYOUT.pack_into(self._memory, 0, *values)
            return dies, bool(values[3])
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)


def install(fuse: Fuse, role: Role) -> None:
    """Count this process's writes, and those of its children as a worker's."""
    parent = os.getpid()
    write = socket.socket.sendall

    def sendall(self: socket.socket, data: Any, *flags: int) -> None:
        port = _remote_port(self)
        if port is None:
            return write(self, data, *flags)
        its = role if os.getpid() == parent else Role.WORKER
        dies, is_sent = fuse.count(its, port)
        if dies and not is_sent:
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, data, *flags)
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return None

    socket.socket.sendall = sendall  # type: ignore[method-assign,assignment]


def _remote_port(sock: socket.socket) -> int | None:
    if sock.family != socket.AF_INET:
        return None
    try:
        return int(sock.getpeername()[_PORT_OF_REMOTE])
    except OSError:
        return None  # not connected (any more): the write itself says so


def main() -> None:
    """Run a module with its writes counted."""
    module, *arguments = sys.argv[1:]
    role = Role.NODE if module == "celery" else Role.PRODUCER
    install(Fuse(Path(os.environ[VARIABLE])), role)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
