"""Signatures of messages: a node runs nothing that was sent without a key.

A signature is an HMAC-SHA256 over the queue, the headers and the body, with a key that
producers and nodes share. It is the header ``signature``. Of several keys the first one
signs, and each of them verifies: that is how a key is replaced while operations wait.

A message that is copied still carries its signature: signing does not prevent that an
operation runs again.
"""

from __future__ import annotations

import hmac
from binascii import b2a_base64
from typing import TYPE_CHECKING, Any

from kombu.utils import json

from pooltasks.errors import UntrustedMessageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

HEADER = "signature"
NOT_SIGNED = frozenset(
    {
        HEADER,
        # Nodes and their scripts write these when a message goes back to its list.
        *("attempts", "deliveries", "interrupted", "redelivered", "suspect"),
        # An operation loses these when its dead letter is sent again.
        *("deadline", "deadline_given", "published_at", "retries", "submitted_at"),
        "compression",  # the text is signed as it was before it was packed
    }
)
"""Headers that may change on the way. All others are signed, those of the caller's too."""


def signed_text(queue: str, headers: Mapping[str, Any]) -> str:
    """Return the part of a message that is signed besides its body, as JSON.

    Args:
        queue: Name of the queue, without the deployment's key prefix.
        headers: Of the message, as they are sent or as they were read.
    """
    signed = {name: value for name, value in headers.items() if name not in NOT_SIGNED}
    text: str = json.dumps([queue, signed], sort_keys=True)
    return text


class Signer:
    """Signs and verifies.

    Args:
        keys: The keys; the first one signs.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = [key.encode() for key in keys]

    def signature(self, text: str, body: bytes) -> str:
        """Return the signature of a message.

        Args:
            text: The text of :func:`signed_text`.
            body: Its body, as it is sent but not compressed and not as base64.
        """
        return _mac(self._keys[0], text, body)

    def verify(self, queue: str, headers: Mapping[str, Any], body: bytes) -> None:
        """Check a message.

        Args:
            queue: The queue in which it was found.
            headers: Its headers.
            body: Its body, as :meth:`signature` takes it.

        Raises:
            UntrustedMessageError: It has no signature, or none that fits.
        """
        given = headers.get(HEADER)
        if not isinstance(given, str) or not given.isascii():
            raise UntrustedMessageError("it is not signed")
        text = signed_text(queue, headers)
        if not any(hmac.compare_digest(given, _mac(key, text, body)) for key in self._keys):
            raise UntrustedMessageError(
                "its signature does not fit: it was altered, comes from another queue, or was "
                "signed with a key that this node does not have"
            )


def _mac(key: bytes, text: str, body: bytes) -> str:
    # JSON has no line break of its own: it is clear where the body begins.
    digest = hmac.digest(key, b"%b\n%b" % (text.encode(), body), "sha256")
    return b2a_base64(digest, newline=False).decode()
