"""Messages are JSON that any Celery client reads, and never too large."""

from __future__ import annotations

import decimal
import json
import uuid
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.exceptions import EncodeError
from kombu.serialization import dumps, loads

from pooltasks.broker.serialization import (
    MAX_MESSAGE_BYTES,
    SERIALIZER,
    encoding_error,
    register_serializer,
)
from pooltasks.errors import MessageTooLargeError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)


@pytest.fixture(autouse=True, scope="module")
def _registered():
    register_serializer()
    register_serializer()  # changes nothing


def encode(value):
    return dumps(value, SERIALIZER)


@given(JSON)
def test_what_is_json_comes_back_as_it_was(value):
    content_type, encoding, body = encode({"value": value})
    assert (content_type, encoding) == ("application/json", "utf-8")
    assert loads(body, content_type, encoding) == {"value": value}


@given(JSON)
def test_it_is_the_message_that_kombu_s_own_json_makes(value):
    assert encode(value) == dumps(value, "json")


@pytest.mark.parametrize(
    "value",
    [uuid.UUID(int=7), decimal.Decimal("1.5"), datetime(2026, 1, 2, tzinfo=UTC)],
)
def test_what_kombu_s_json_knows_comes_back_of_its_type(value):
    content_type, encoding, body = encode(value)
    assert loads(body, content_type, encoding) == value


@pytest.mark.parametrize("text", ["x", "ä", "\N{GRINNING FACE}"])
def test_every_character_of_a_message_is_one_byte(text):
    _, _, body = encode(text)
    assert len(body) == len(body.encode()) == len(json.dumps(text))


def test_the_largest_message_is_encoded_and_one_byte_more_is_refused():
    room = MAX_MESSAGE_BYTES - 2  # the quotation marks
    assert len(encode("x" * room)[2]) == MAX_MESSAGE_BYTES
    with pytest.raises(EncodeError) as raised:
        encode("x" * (room + 1))
    error = encoding_error(raised.value)
    assert isinstance(error, MessageTooLargeError)
    assert "has 8,388,609 bytes; the limit is 8,388,608" in str(error)


def test_what_is_not_json_is_refused():
    with pytest.raises(EncodeError) as raised:
        encode(object())
    assert encoding_error(raised.value) is raised.value


@pytest.mark.parametrize("error", [EncodeError(), EncodeError("x"), EncodeError(ValueError("x"))])
def test_an_error_that_wraps_nothing_of_ours_stays_as_it_is(error):
    assert encoding_error(error) is error
