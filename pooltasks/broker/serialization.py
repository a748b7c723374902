"""Messages and results are JSON, and never larger than :data:`MAX_MESSAGE_BYTES`.

The wire format is kombu's own ``application/json``, so stock Celery clients
read and write it; only the encoder differs, by refusing what is too large.
"""

from __future__ import annotations

from json import JSONDecoder
from typing import TYPE_CHECKING, Any

from kombu.serialization import register
from kombu.utils import json

from pooltasks.errors import MessageTooLargeError

if TYPE_CHECKING:
    from kombu.exceptions import EncodeError

SERIALIZER = "pooltasks-json"
"""Name of the kombu serializer that operations and results use."""

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
"""Largest encoded body of a message or of a result, in bytes.

Redis holds a message several times at once on its way (client buffer, list,
reply buffer), and so does every process it passes: larger payloads belong into
a store, their address into the message.
"""


_encoder: Any = json.JSONEncoder()
_decoder = JSONDecoder(object_hook=json.object_hook)


def encode(value: object) -> str:
    """Return ``value`` as kombu's JSON.

    Raises:
        MessageTooLargeError: It is larger than a message may be.
        TypeError: It is not JSON.
    """
    encoded: str = _encoder.encode(value)
    # Characters are bytes here: kombu's JSON escapes everything outside ASCII.
    if len(encoded) > MAX_MESSAGE_BYTES:
        raise MessageTooLargeError(
            f"The encoded message has {len(encoded):,} bytes; the limit is "
            f"{MAX_MESSAGE_BYTES:,}. Store the data elsewhere and send its address."
        )
    return encoded


def decode(text: str | bytes | bytearray | memoryview) -> object:
    """Return the value of kombu's JSON.

    Raises:
        ValueError: It is not JSON.
    """
    return _decoder.decode(text if isinstance(text, str) else str(text, "utf-8"))


def encoding_error(error: EncodeError) -> EncodeError:
    """Return what is to be raised for ``error``: kombu wraps the encoder's own error in it."""
    inner = error.args[0] if error.args else None
    return inner if isinstance(inner, MessageTooLargeError) else error


def register_serializer() -> None:
    """Make :data:`SERIALIZER` known to kombu; calling it again changes nothing."""
    register(
        SERIALIZER,
        encode,
        decode,
        content_type="application/json",
        content_encoding="utf-8",
    )
