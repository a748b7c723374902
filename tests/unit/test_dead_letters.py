from __future__ import annotations

import json

import fakeredis
import pytest

from pooltasks.broker.dead_letters import DeadLetters
from pooltasks.errors import DeadLetterNotFoundError


def message(identifier: str, task: str = "shop.resize", deliveries: int = 2) -> bytes:
    headers = {
        "id": identifier,
        "task": task,
        "deliveries": deliveries,
        "deadline": 1.0,
        "published_at": 0.5,
    }
    return json.dumps({"headers": headers, "body": "W10=", "properties": {}}).encode()


@pytest.fixture
def server() -> fakeredis.FakeRedis:
    return fakeredis.FakeRedis()


@pytest.fixture
def letters(server: fakeredis.FakeRedis) -> DeadLetters:
    return DeadLetters(server, "pool.shop")


def test_a_letter_keeps_the_reason_the_operation_and_the_original_bytes(
    letters: DeadLetters,
) -> None:
    original = message("1")
    letters.add(original, "killed its worker")
    letter, kept = letters.show("1")
    assert kept == original
    assert (letter.reason, letter.operation, letter.deliveries) == (
        "killed its worker",
        "shop.resize",
        3,
    )


@pytest.mark.parametrize("junk", [b"", b"{", b"\xff", b"[]", b'{"headers": 3}', b"[" * 100_000])
def test_an_unreadable_message_is_kept_too(letters: DeadLetters, junk: bytes) -> None:
    identifier = letters.add(junk, "unreadable")
    letter, kept = letters.show(identifier)
    assert kept == junk
    assert letter.operation is None


@pytest.mark.parametrize("count", ["x", [], {}, -4, None, 1.5])
def test_a_count_of_deliveries_that_is_nonsense_counts_as_none(
    letters: DeadLetters, count: object
) -> None:
    original = json.dumps({"headers": {"id": "1", "deliveries": count}}).encode()
    letters.add(original, "rejected")
    assert letters.show("1")[0].deliveries == 1


def test_the_list_is_filtered_by_reason_and_operation(letters: DeadLetters) -> None:
    letters.add(message("1", "shop.resize"), "Killed its worker")
    letters.add(message("2", "shop.crop"), "killed its worker")
    letters.add(b"{", "unreadable")
    assert {letter.id for letter in letters.list(reason="KILLED")} == {"1", "2"}
    assert [letter.id for letter in letters.list(operation="shop.crop")] == ["2"]
    assert len(letters.list()) == 3


def test_a_retried_letter_goes_back_once_and_counts_from_zero(
    letters: DeadLetters, server: fakeredis.FakeRedis
) -> None:
    letters.add(message("1"), "killed its worker")
    assert letters.retry("1")
    with pytest.raises(DeadLetterNotFoundError, match="no dead letter '1'"):
        letters.retry("1")
    (sent,) = server.lrange("pool.shop", 0, -1)
    assert json.loads(sent)["headers"] == {"id": "1", "task": "shop.resize"}


def test_of_two_who_retry_at_the_same_moment_one_does(
    letters: DeadLetters, server: fakeredis.FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters.add(message("1"), "killed its worker")
    found = letters.show("1")
    monkeypatch.setattr(letters, "show", lambda _: found)
    assert [letters.retry("1"), letters.retry("1")] == [True, False]
    assert server.llen("pool.shop") == 1


def test_letters_are_dropped_and_purged(letters: DeadLetters, server: fakeredis.FakeRedis) -> None:
    for number in range(3):
        letters.add(message(str(number)), "reason")
    assert letters.drop("0")
    assert not letters.drop("0")
    assert letters.purge() == 2
    assert server.keys() == []


def test_what_takes_the_message_away_is_in_the_same_transaction(
    letters: DeadLetters, server: fakeredis.FakeRedis
) -> None:
    server.hset("unacked", "r1", "x")
    letters.add(message("1"), "reason", also=lambda pipe: pipe.hdel("unacked", "r1"))
    assert not server.exists("unacked")
