"""A reserved message, as Celery handles it."""

from __future__ import annotations

import json
import zlib
from base64 import b64encode
from typing import Any

import pytest

from pooltasks.node.intake.message import Message, read

PAYLOAD = {
    "body": "[[], {}, {}]",
    "content-type": "application/json",
    "content-encoding": "utf-8",
    "headers": {"task": "sample.echo", "id": "11111111-1111-1111-1111-111111111111"},
    "properties": {"delivery_info": {}},
}


class Intake:
    """Notes how messages end."""

    queue = "pool.code"
    no_ack_consumers = None
    protection = None

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.reservations = self

    def basic_ack(self, delivery_tag: str, multiple: bool = False) -> None:  # noqa: ARG002  kombu's
        self.ended.append("acknowledged")

    def bury(self, *_: Any) -> None:
        self.ended.append("buried")

    def give_back(self, *_: Any) -> None:
        self.ended.append("put back")


@pytest.fixture
def intake() -> Intake:
    return Intake()


@pytest.fixture
def message(intake: Intake) -> Message:
    message = read(json.dumps(PAYLOAD).encode(), "1", intake)
    assert message is not None
    return message


def test_a_message_is_acknowledged_once(intake: Intake, message: Message) -> None:
    message.ack()
    message.ack()
    assert intake.ended == ["acknowledged"]


def test_a_dead_letter_is_not_acknowledged_as_well(intake: Intake, message: Message) -> None:
    # A poisoned operation is buried, and Celery acknowledges it at the loop's next turn.
    message.bury("killed its worker")
    message.ack()
    assert intake.ended == ["buried"]


def test_what_was_put_back_is_not_acknowledged(intake: Intake, message: Message) -> None:
    message.reject(requeue=True)
    message.ack()
    assert intake.ended == ["put back"]


def test_what_goes_back_stays_as_it_was_sent_but_for_what_the_node_notes() -> None:
    # Its body is still compressed, and may be signed with its headers.
    headers = {**PAYLOAD["headers"], "compression": "application/x-gzip"}
    body = b64encode(zlib.compress(PAYLOAD["body"].encode())).decode()
    raw = {**PAYLOAD, "headers": headers, "body": body}
    raw["properties"] = {"delivery_info": {}, "body_encoding": "base64"}
    back: list[bytes] = []

    class GivingBack(Intake):
        def give_back(self, messages: Any) -> None:
            back.extend(text for _, text in messages)

    message = read(json.dumps(raw).encode(), "1", GivingBack())
    assert message is not None
    message.give_back(2, attempts=[], suspect=True)
    again = json.loads(back[0])
    noted = {"deliveries": 2, "redelivered": True, "attempts": [], "suspect": True}
    assert again == {**raw, "deliveries": 2, "headers": {**headers, **noted}}
    assert read(back[0], "2", Intake()) is not None
