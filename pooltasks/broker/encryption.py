"""Encryption of arguments and results with ``cryptography``'s Fernet (AES-128-CBC and HMAC-SHA256).

It is the kombu serializer :data:`ENCRYPTED`: kombu's JSON within a Fernet token. Of
several keys the first one encrypts, and each of them decrypts.

A result says in plain text whether it is a success: the scripts have to know, as a
success is final.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kombu.serialization import registry

from pooltasks.broker.serialization import MAX_MESSAGE_BYTES, decode, encode
from pooltasks.errors import ConfigurationError, MessageTooLargeError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Sequence

ENCRYPTED = "pooltasks-encrypted"
"""Name of the kombu serializer."""
CONTENT_TYPE = "application/x-pooltasks-encrypted"
_FIELD = "encrypted"
"""The field of a result that has its token."""


class Cipher:
    """Encrypts and decrypts.

    Args:
        keys: Fernet's keys; the first one encrypts.

    Raises:
        MissingExtraError: ``cryptography`` is not installed.
        ConfigurationError: A key is none of Fernet's.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        try:
            from cryptography.fernet import (  # noqa: PLC0415  an optional dependency
                Fernet,
                InvalidToken,
                MultiFernet,
            )
        except ImportError as error:
            raise MissingExtraError(
                "encryption_keys needs cryptography. "
                "Install it with: pip install 'pooltasks[encryption]'."
            ) from error
        try:
            self._fernet = MultiFernet([Fernet(key) for key in keys])
        except ValueError:
            raise ConfigurationError(
                "encryption_keys: one is no key of Fernet's: 32 bytes as URL-safe base64. Make "
                'one with: python -c "from cryptography.fernet import Fernet; '
                'print(Fernet.generate_key().decode())".'
            ) from None
        self._invalid = InvalidToken
        self.keys = tuple(keys)

    def encrypt(self, text: bytes) -> bytes:
        """Return ``text`` encrypted, in ASCII.

        Raises:
            MessageTooLargeError: It is larger than a message may be.
        """
        token: bytes = self._fernet.encrypt(text)
        if len(token) > MAX_MESSAGE_BYTES:
            raise MessageTooLargeError(
                f"The encrypted message has {len(token):,} bytes; the limit is "
                f"{MAX_MESSAGE_BYTES:,}. Store the data elsewhere and send its address."
            )
        return token

    def decrypt(self, token: bytes) -> bytes:
        """Return the text of a token.

        Raises:
            ValueError: It was altered, or encrypted with another key.
        """
        try:
            text: bytes = self._fernet.decrypt(token)
        except self._invalid:
            raise ValueError(
                "it cannot be decrypted: it was altered, or encrypted with another key"
            ) from None
        return text

    def register(self) -> None:
        """Make :data:`ENCRYPTED` known to kombu; again with the same keys changes nothing.

        Raises:
            ConfigurationError: Another application of this process has other keys: kombu
                has one serializer of a name.
        """
        present = getattr(registry._encoders.get(ENCRYPTED), "encoder", None)  # noqa: SLF001  no public question
        owner = getattr(present, "__self__", None)
        if isinstance(owner, Cipher):
            if owner.keys != self.keys:
                raise ConfigurationError(
                    "Two applications of this process have different encryption_keys. "
                    "Give them the same, or a process each."
                )
            return
        registry.register(ENCRYPTED, self._dumps, self._loads, CONTENT_TYPE, "utf-8")

    def _dumps(self, value: object) -> str:
        token = self.encrypt(encode(value).encode()).decode()
        status = value.get("status") if isinstance(value, dict) else None
        return encode({"status": status, _FIELD: token})

    def _loads(self, text: str | bytes) -> object:
        value = decode(text)
        # A result may have been stored before there were keys.
        if isinstance(value, dict) and _FIELD in value:
            return decode(self.decrypt(str(value[_FIELD]).encode()))
        return value
