"""A message that Celery has made, captured in place of being published."""

from __future__ import annotations

from base64 import b64encode
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from kombu.compression import compress
from kombu.exceptions import EncodeError
from kombu.utils.json import dumps as kombus_json

from pooltasks.broker.protection import encoded
from pooltasks.broker.serialization import encoding_error

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

_HIGHEST_PRIORITY = 9


class _Connection:
    """The part of a producer's connection that Celery uses."""

    def _reraise_as_library_errors(self) -> AbstractContextManager[None]:
        return nullcontext()


class Captured:
    """An object that Celery takes for a producer; it keeps the first message that it is given."""

    connection = _Connection()

    def __init__(self) -> None:
        self.text = b""
        """The message as it lies in its list."""
        self.headers: dict[str, Any] = {}
        self.priority = 0
        self.routing_key = ""

    def publish(
        self,
        body: Any,
        routing_key: str = "",
        exchange: str = "",
        *_: Any,
        headers: dict[str, Any],
        correlation_id: str,
        reply_to: str,
        compression: str | None = None,
        priority: int | None = None,
        serializer: str | None = None,
        **options: Any,
    ) -> None:
        """Note the first message instead of publishing it; the second is Celery's event of it."""
        if self.text:
            return
        try:
            content_type, encoding, text = encoded(body, serializer, **options)
        except EncodeError as error:
            raise encoding_error(error) from None
        packed = text.encode() if isinstance(text, str) else text
        if compression:
            packed, headers["compression"] = compress(packed, compression)
        self.headers = headers
        self.routing_key = routing_key
        self.priority = max(0, min(int(priority or 0), _HIGHEST_PRIORITY))
        payload = {
            "body": b64encode(packed).decode(),
            "content-encoding": encoding,
            "content-type": content_type,
            "headers": headers,
            "properties": {
                "body_encoding": "base64",
                "correlation_id": correlation_id,
                "delivery_info": {"exchange": exchange, "routing_key": routing_key},
                "delivery_mode": 2,
                "delivery_tag": str(uuid4()),
                "priority": self.priority,
                "reply_to": reply_to,
            },
        }
        self.text = kombus_json(payload).encode()
        self.on_captured()

    def on_captured(self) -> None:
        """Called with the message in place, before Celery tells the listeners."""
