"""Unpacks the body of a compressed message, and never more of it than a message may hold."""

from __future__ import annotations

import bz2
import lzma
import zlib
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from kombu.compression import _aliases

if TYPE_CHECKING:
    from collections.abc import Callable

_MEMORY = 64 * 1024 * 1024
"""Bytes that unpacking lzma may take: the packed text says how much it wants."""
_ZLIB_OR_GZIP = 32 + zlib.MAX_WBITS
_MORE = 1
"""One byte above the limit shows that there is more, without unpacking it."""


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool:
        """Whether the text has ended."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Return the text so far, at most ``max_length`` bytes."""


def _zstd() -> Any:
    try:
        module = import_module("compression.zstd")
    except ImportError:
        module = import_module("backports.zstd")
    return module.ZstdDecompressor()


_DECOMPRESSORS: dict[str, Callable[[], _Decompressor]] = {
    "application/x-gzip": lambda: zlib.decompressobj(_ZLIB_OR_GZIP),
    "application/x-bz2": bz2.BZ2Decompressor,
    "application/x-lzma": lambda: lzma.LZMADecompressor(memlimit=_MEMORY),
    "application/zstd": _zstd,
}
"""Formats by the names that kombu gives them. Brotli is not here: it has no limit that holds."""


def decompress(packed: bytes, compression: str, limit: int) -> bytes:
    """Return the text of ``packed``.

    Args:
        packed: The compressed text.
        compression: Kombu's name of the method, or one of its aliases.
        limit: Bytes that the text may have.

    Raises:
        ValueError: The method is not known here, the text is larger, or the text is cut off.
        Exception: ``packed`` is no such text; the method's own error.
    """
    try:
        decompressor = _DECOMPRESSORS[_aliases.get(compression, compression)]()
    except (KeyError, ImportError):
        raise ValueError(f"its compression {compression!r} is not read here") from None
    text = decompressor.decompress(packed, limit + _MORE)
    if len(text) > limit:
        raise ValueError(f"unpacked, its body has more than {limit:,} bytes, which is the limit")
    if not decompressor.eof:
        raise ValueError("its compressed body is cut off")
    return text
