"""Small files of the kernel, ``/proc`` and ``/sys``, read as a node does: often."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_PIECE = 65536
"""Bytes. The kernel gives less at a time where a file has many records."""


def read(path: str | Path) -> bytes:
    """Return the content of a file with four calls to the kernel; ``open()`` takes nine.

    Raises:
        OSError: There is no such file, or no such process any more.
    """
    file = os.open(path, os.O_RDONLY)
    try:
        content = b""
        while piece := os.read(file, _PIECE):
            content += piece
    finally:
        os.close(file)
    return content
