from __future__ import annotations

import json
import time

import fakeredis
import pytest

from pooltasks.broker.dead_letters import DeadLetters, with_attempt
from pooltasks.errors import DeadLetterNotFoundError
from pooltasks.pool_settings import DeadLetterBounds


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


def test_another_message_with_the_same_id_gets_an_id_of_its_own(letters: DeadLetters) -> None:
    first, second = message("1"), message("1", "shop.crop")
    assert letters.add(first, "reason") == "1"
    other = letters.add(second, "reason")
    assert other.startswith("1:")
    assert (letters.show("1")[1], letters.show(other)[1]) == (first, second)


@pytest.mark.parametrize("identifier", ["\ud800", 7, ["x"]])
def test_an_id_that_is_no_text_is_kept_as_one(letters: DeadLetters, identifier: object) -> None:
    original = json.dumps({"headers": {"id": identifier}}).encode()
    kept = letters.add(original, "unreadable")
    assert letters.show(kept)[1] == original


def test_the_history_is_that_of_the_message_unless_one_is_given(letters: DeadLetters) -> None:
    earlier = with_attempt(None, 1.0, "ValueError('first')")
    document = {"headers": {"id": "1", "attempts": earlier}}
    letters.add(json.dumps(document).encode(), "reason")
    assert letters.show("1")[0].history == [{"at": 1.0, "error": "ValueError('first')"}]
    document["headers"]["id"] = "2"
    history = with_attempt(earlier, 2.0, "ValueError('second')")
    letters.add(json.dumps(document).encode(), "reason", history=history)
    assert [attempt["at"] for attempt in letters.show("2")[0].history] == [1.0, 2.0]


@pytest.mark.parametrize(
    "claimed", [7, "x", [7], [{"at": "x", "error": "y"}], [{"at": 10**400, "error": ""}], [{}]]
)
def test_a_history_that_is_nonsense_is_none(letters: DeadLetters, claimed: object) -> None:
    original = json.dumps({"headers": {"id": "1", "attempts": claimed}}).encode()
    letters.add(original, "reason")
    assert letters.show("1")[0].history == []


def test_the_history_keeps_the_last_attempts_and_short_errors() -> None:
    history = None
    for number in range(30):
        history = with_attempt(history, float(number), "ValueError(" + "x" * 10_000)
    assert [attempt["at"] for attempt in history] == [float(n) for n in range(10, 30)]
    assert len(history[0]["error"]) == 500


# How many are kept, and for how long.


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "time", lambda: clock.now)
    return clock


class Clock:
    now = 1_800_000_000.0


def test_the_oldest_of_too_many_are_deleted_with_all_that_they_hold(
    server: fakeredis.FakeRedis, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    letters = DeadLetters(server, "pool.shop", DeadLetterBounds(most=3))
    for number in range(5):
        clock.now += 1
        letters.add(message(str(number)), "rejected")
    assert [letter.id for letter in letters.list()] == ["4", "3", "2"]
    assert letters.count() == 3
    assert server.hlen("pooltasks:{pool.shop}:dead:messages") == 3
    assert "keeps the last 3 of 30.0 days" in caplog.text


def test_a_letter_is_kept_for_its_time(server: fakeredis.FakeRedis, clock: Clock) -> None:
    letters = DeadLetters(server, "pool.shop", DeadLetterBounds(age=100))
    letters.add(message("1"), "rejected")
    clock.now += 60
    letters.add(message("2"), "rejected")
    clock.now += 60
    assert [letter.id for letter in letters.list()] == ["2"]


def test_letters_of_a_pool_that_adds_none_go_by_themselves(server: fakeredis.FakeRedis) -> None:
    letters = DeadLetters(server, "pool.shop", DeadLetterBounds(age=100))
    letters.add(message("1"), "rejected")
    ours = list(server.keys("pooltasks:{*}:dead*"))
    assert len(ours) == 3
    assert all(0 < server.ttl(key) <= 100 for key in ours)


def test_a_list_reads_no_more_letters_than_it_shows(
    server: fakeredis.FakeRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = DeadLetters(server, "pool.shop")
    for number in range(1200):
        letters.add(message(str(number)), "rejected")
    read: list[int] = []
    hmget = server.hmget
    monkeypatch.setattr(
        server, "hmget", lambda key, names: (read.append(len(names)), hmget(key, names))[1]
    )
    assert len(letters.list(most=500)) == 500
    assert sum(read) == 500
    assert len(letters.list()) == 1200


def test_letters_of_a_version_without_an_order_have_their_places(
    server: fakeredis.FakeRedis, letters: DeadLetters, clock: Clock
) -> None:
    for number in range(3):
        clock.now += 1
        letters.add(message(str(number)), "rejected")
    server.delete("pooltasks:{pool.shop}:dead:order")
    clock.now += 1
    letters.add(message("new"), "rejected")
    assert [letter.id for letter in letters.list()] == ["new", "2", "1", "0"]


def test_what_is_retried_dropped_or_purged_leaves_the_order_too(
    server: fakeredis.FakeRedis, letters: DeadLetters
) -> None:
    for number in range(4):
        letters.add(message(str(number)), "rejected")
    letters.retry("0")
    letters.drop("1")
    assert server.zcard("pooltasks:{pool.shop}:dead:order") == 2
    letters.purge()
    assert not server.exists("pooltasks:{pool.shop}:dead:order")
