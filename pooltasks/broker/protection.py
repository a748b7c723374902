"""The protection of one application's messages: encryption and a signature, each if it has keys.

Messages are protected where they are made: in a form (``message.py``), and where Celery
sends a task itself. A node opens them before it reads them.
"""

from __future__ import annotations

import json
from base64 import b64decode
from binascii import b2a_base64
from json.encoder import encode_basestring_ascii as quoted
from typing import TYPE_CHECKING, Any

from kombu.serialization import dumps
from kombu.utils.json import dumps as kombus_json

from pooltasks import keys
from pooltasks.broker.encryption import CONTENT_TYPE, Cipher
from pooltasks.broker.signing import HEADER, Signer, signed_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from pooltasks.settings import Settings

JSON = "application/json"
HIDDEN = "(encrypted)"
"""The text in place of encrypted arguments."""
_TEXTS = ("argsrepr", "kwargsrepr")
"""Headers that show the arguments of the body."""


class Protection:
    """Protects and opens messages.

    Args:
        signer: Signs and verifies; None: messages are not signed.
        cipher: Encrypts and decrypts; None: messages are not encrypted.
        required: Whether a message without a signature that fits is refused.
    """

    def __init__(
        self, signer: Signer | None, cipher: Cipher | None, *, required: bool = True
    ) -> None:
        self.signer = signer
        self.cipher = cipher
        self._required = required

    @property
    def content_type(self) -> str:
        """The content type of the bodies that are sent."""
        return CONTENT_TYPE if self.cipher else JSON

    def protect(self, queue: str, headers: dict[str, Any], text: str) -> str:
        """Return the body of a message as it is sent.

        Args:
            queue: The queue it goes to.
            headers: Its headers, which get the signature.
            text: Its body as JSON.

        Raises:
            MessageTooLargeError: It is larger than a message may be.
        """
        body = text.encode()
        if self.cipher is not None:
            body = self.cipher.encrypt(body)
            headers.update((name, HIDDEN) for name in _TEXTS if name in headers)
        if self.signer is not None:
            # As the node reads the headers: an encoder may change some keys.
            sent = json.loads(kombus_json(headers))
            headers[HEADER] = self.signer.signature(signed_text(queue, sent), body)
        return body.decode()

    def open(self, queue: str, headers: dict[str, Any], content_type: Any, body: bytes) -> bytes:
        """Return the body of a message as JSON.

        Args:
            queue: The queue in which it was found.
            headers: Its headers.
            content_type: The type that it gives for its body.
            body: Its body.

        Raises:
            UntrustedMessageError: It has to be signed, and is not, or was altered.
            ValueError: It cannot be decrypted.
        """
        if self.signer is not None and self._required:
            self.signer.verify(queue, headers, body)
        if self.cipher is not None and content_type == CONTENT_TYPE:
            return self.cipher.decrypt(body)
        return body


class FormProtection:
    """Protects the messages of a form.

    Args:
        protection: The application's.
        signed: The text that is signed besides the body, as a %-format of the form's values.
    """

    def __init__(self, protection: Protection, signed: str) -> None:
        self._protection = protection
        self._signed = signed

    def apply(self, values: dict[str, Any]) -> None:
        """Protect a message.

        Args:
            values: The values that are filled into the form; ``body`` is base64.
        """
        protection = self._protection
        body = b64decode(values["body"])
        if protection.cipher is not None:
            body = protection.cipher.encrypt(body)
            values["body"] = b2a_base64(body, newline=False).decode()
            values["args"] = values["kwargs"] = quoted(HIDDEN)
        if protection.signer is not None:
            values[HEADER] = quoted(protection.signer.signature(self._signed % values, body))


class _ProtectingProducer:
    """A producer of kombu's whose messages to pools are protected.

    Args:
        producer: The producer.
        protection: The application's.
    """

    def __init__(self, producer: Any, protection: Protection) -> None:
        self._producer = producer
        self._protection = protection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def publish(self, body: Any, **options: Any) -> Any:
        """Publish a message, as kombu's producer does."""
        queue = options.get("routing_key") or ""
        headers = options.get("headers")
        if headers is None or not queue.startswith(keys.QUEUE_PREFIX):
            return self._producer.publish(body, **options)
        content_type, encoding, text = dumps(body, options.pop("serializer", None))
        if content_type == JSON:  # a pool reads nothing else, and says so
            text = self._protection.protect(queue, headers, text)
            content_type = self._protection.content_type
        options.update(content_type=content_type, content_encoding=encoding)
        return self._producer.publish(text, **options)


def encoded(
    body: Any, serializer: str | None, content_type: str = "", content_encoding: str = "", **_: Any
) -> tuple[str, str, Any]:
    """Return content type, encoding and text of a body for kombu's producer.

    Args:
        body: The body, or its text if there is a content type.
        serializer: Name of kombu's serializer.
        content_type: Of a body that is encoded already.
        content_encoding: The same.
    """
    return (content_type, content_encoding, body) if content_type else dumps(body, serializer)


def hides_arguments(celery_app: Celery) -> bool:
    """Return whether the server is to see no argument of the application's operations."""
    protection: Protection | None = celery_app.pooltasks.protection
    return protection is not None and protection.cipher is not None


def protection_of(settings: Settings) -> Protection | None:
    """Return the protection of an application's messages; None if there are no keys.

    Raises:
        MissingExtraError: Keys of encryption are set, and ``cryptography`` is not installed.
        ConfigurationError: A key is wrong, or another application of this process has others.
    """
    signing, encrypting = (
        [key.get_secret_value() for key in secrets]
        for secrets in (settings.signing_keys, settings.encryption_keys)
    )
    if not (signing or encrypting):
        return None
    cipher = Cipher(encrypting) if encrypting else None
    if cipher is not None:
        cipher.register()
    return Protection(
        Signer(signing) if signing else None,
        cipher,
        required=settings.signing_required,
    )


def protect_what_celery_sends(celery_app: Celery, protection: Protection) -> None:
    """Have Celery's own way of sending a task protect the messages that go to pools."""
    amqp = celery_app.amqp
    make: Callable[[], Any] = amqp._create_task_sender  # noqa: SLF001  Celery's name
    senders: list[Any] = []

    def send_task_message(producer: Any, name: str, message: Any, **options: Any) -> Any:
        if not senders:
            senders.append(make())  # it needs the whole configuration
        return senders[0](_ProtectingProducer(producer, protection), name, message, **options)

    vars(amqp)["send_task_message"] = send_task_message
