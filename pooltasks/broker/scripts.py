"""Lua scripts: their text lies beside the module that calls them."""

from __future__ import annotations

import zlib
from hashlib import sha1
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pooltasks.broker.wire import pack

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from pooltasks.broker.wire import Wire

_FOLDER = Path(__file__).parent
LIMITS = ("choice.lua", "limits.lua")
"""The files of every script that counts operations with limits."""


def text_of(*names: str) -> str:
    """Return the text of files of this package, one after the other."""
    return "".join(_FOLDER.joinpath(name).read_text("utf-8") for name in names)


def load(wire: Wire, scripts: Collection[Script]) -> None:
    """Load the scripts that a server does not know.

    A fleet that comes back after a restart sends each of them once or twice, not a thousand
    times.

    Raises:
        redis.RedisError: The server is away, or refuses.
    """
    known = wire.ask(pack(("SCRIPT", "EXISTS", *(script.sha for script in scripts))))
    missing = [script for script, is_known in zip(scripts, known, strict=True) if not is_known]
    wire.send(b"".join(script.load() for script in missing))
    for _ in missing:
        wire.receive()


class Script:
    """A script, and the name by which the server knows it.

    Args:
        *names: Files of this package, in the order in which they follow each other.
        tail: The text that comes after them.
    """

    def __init__(self, *names: str, tail: str = "") -> None:
        self.text = text_of(*names) + tail

    @property
    def text(self) -> str:
        """The script."""
        return self.source.decode()

    @text.setter
    def text(self, text: str) -> None:
        source = text.encode()
        self.sha = sha1(source).hexdigest()  # noqa: S324  the server's name of a script
        # Each worker has all of them, 0.7 MB, and needs none: the server knows them.
        self._compressed = zlib.compress(source)

    @property
    def source(self) -> bytes:
        """The script as it is sent."""
        return zlib.decompress(self._compressed)

    def call(self, keys: Sequence[str | bytes], arguments: Iterable[Any]) -> bytes:
        """Return the command that runs the script, as it is sent."""
        return pack(("EVALSHA", self.sha, len(keys), *keys, *arguments))

    def load(self) -> bytes:
        """Return the command that makes the script known to the server, as it is sent."""
        return pack(("SCRIPT", "LOAD", self.source))
