"""Messages and results are JSON, and never larger than :data:`MAX_MESSAGE_BYTES`.

The wire format is kombu's own ``application/json``, so stock Celery clients
read and write it; only the encoder differs: it refuses large values.
"""

from __future__ import annotations

from json import JSONDecoder
from typing import TYPE_CHECKING, Any

from kombu.serialization import registry
from kombu.utils import json

from pooltasks.errors import MessageTooLargeError

if TYPE_CHECKING:
    from kombu.exceptions import EncodeError

SERIALIZER = "pooltasks-json"
"""Name of the kombu serializer that operations and results use."""

_CONTENT_TYPE = "application/json"

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
"""Largest encoded body of a message or of a result, in bytes.

Redis holds a message several times at once on its way (client buffer, list,
reply buffer), and so does every process it passes: larger payloads belong into
a store, their address into the message.
"""


_encoder: Any = json.JSONEncoder()
_decoder = JSONDecoder(object_hook=json.object_hook)


def encode(value: object) -> str:
    """Return ``value`` as kombu's JSON, or as that of a project that has registered its own.

    Raises:
        MessageTooLargeError: It is larger than a message may be.
        TypeError: It is not JSON.
    """
    registered = registry._encoders["json"].encoder  # noqa: SLF001  no public question
    encoded: str
    if registered is json.dumps:
        encoded = _encoder.encode(value)
    else:
        # It is read with the project's decoder; the two have to agree.
        given = registered(value)
        encoded = given if isinstance(given, str) else str(given, "utf-8")
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
    """Return the error to raise for ``error``: kombu wraps the encoder's own error in it."""
    inner = error.args[0] if error.args else None
    return inner if isinstance(inner, MessageTooLargeError) else error


def register_serializer() -> None:
    """Make :data:`SERIALIZER` known to kombu; calling it again changes nothing.

    Only the encoder, and only by its name. The decoder and the name of
    ``application/json`` stay as kombu or the project has made them.
    """
    present = registry.type_to_name.get(_CONTENT_TYPE)
    registry.register(SERIALIZER, encode, None, _CONTENT_TYPE, "utf-8")
    if present is not None:
        registry.type_to_name[_CONTENT_TYPE] = present


def is_decoded_by_kombu() -> bool:
    """Return whether JSON is read as kombu reads it, and not by a decoder of a project's."""
    return registry._decoders[_CONTENT_TYPE] in (json.loads, decode)  # noqa: SLF001  as above


def decode_faster() -> None:
    """Read ``application/json`` in half the time; for the process of a node.

    A decoder that a project has registered itself stays.
    """
    if registry._decoders[_CONTENT_TYPE] is json.loads:  # noqa: SLF001  no public question
        registry._decoders[_CONTENT_TYPE] = decode  # noqa: SLF001
